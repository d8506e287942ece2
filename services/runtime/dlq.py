"""Dead letters: records that cannot be decoded or processed, kept with the reason, and sent again after repair.

A dead letter's value is the original value as it was, still sealed, sealed once more under the dead-letter topic's key; of a
record that was divided it is the part that failed, sealed as the record was. Its headers tell reason, error type and the
original coordinates; the original headers follow under the prefix `orig-`. A replay sends the original record, byte for byte,
to its topic and partition, and leaves a marker in the dead-letter topic.
Source: architecture.md, Parts.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka import TopicPartition

from runtime.kafka import make_consumer
from runtime.stage import Headers, Out
from runtime.topic_keys import SealedValueError, TopicKeys
from runtime.topics import DEAD_LETTER_SUFFIX

SCHEMA: Final = "claimledger.dead-letter"
_ORIGINAL: Final = "orig-"
_REPLAYED: Final = "dlq-replayed"
LONGEST_REASON: Final = 300
LONGEST_VALUE: Final = 900_000
"""Bytes kept of a value, so that no record is too large to be set aside; what was cut cannot be replayed."""
LONGEST_KEY: Final = 16_384
LONGEST_HEADERS: Final = 16_384
"""Longer ones are left out as a whole."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as read back. `position` is `<topic>:<offset>` in its own topic and names it for `replay`."""

    position: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    reason: str
    type: str
    stage: str
    time_ms: int
    headers: Headers
    value: bytes
    """The original value, still sealed under its own topic."""
    replayed: bool
    cut: bool = False
    """Value, key or headers were too long to be kept whole, so it cannot be replayed."""


def dead_letter(record: Any, error: Exception, stage: str) -> Out:
    """The record to produce for `record` (a ConsumerRecord) that failed with `error`."""
    kind = getattr(error, "kind", type(error).__name__)
    key, value, original = record.key or b"", record.value or b"", _original_headers(record)
    whole = original is not None and len(key) <= LONGEST_KEY and len(value) <= LONGEST_VALUE
    headers = {
        "dlq-reason": str(error)[:LONGEST_REASON],
        "dlq-type": str(kind),
        "dlq-stage": stage,
        "dlq-topic": record.topic,
        "dlq-partition": str(record.partition),
        "dlq-offset": str(record.offset),
        "dlq-no-key": "1" if record.key is None else "",
        "dlq-cut": "" if whole else "1",
    }
    return Out(
        topic=record.topic + DEAD_LETTER_SUFFIX,
        key=key[:LONGEST_KEY],
        value=value[:LONGEST_VALUE],
        schema=SCHEMA,
        event_id=f"{record.topic}/{record.partition}/{record.offset}",
        partition=0,
        headers=(*((k, v.encode()) for k, v in headers.items()), *(original or ())),
    )


def _original_headers(record: Any) -> Headers | None:
    """Under the prefix; None where they are too long. Kafka's may be null, and are empty then."""
    found = tuple((_ORIGINAL + name, content or b"") for name, content in record.headers)
    return found if sum(len(name) + len(content) for name, content in found) <= LONGEST_HEADERS else None


async def list_dead_letters(kafka: str, keys: TopicKeys, topics: Sequence[str]) -> list[DeadLetter]:
    """All dead letters of these topics (names without `.dlq`), oldest first.

    A letter that does not open for this service is listed with an empty value.
    """
    found: list[DeadLetter] = []
    replayed: set[str] = set()
    async for record in _read_all(kafka, [topic + DEAD_LETTER_SUFFIX for topic in topics]):
        headers = {name: content or b"" for name, content in record.headers}
        if _REPLAYED in headers:
            replayed.add(f"{record.topic}:{headers[_REPLAYED].decode('ascii', 'replace')}")
        else:
            found.append(_letter(record, headers, keys))
    found.sort(key=lambda letter: letter.time_ms)
    return [_marked(letter) if letter.position in replayed else letter for letter in found]


async def replay_dead_letters(
    kafka: str, keys: TopicKeys, producer: Any, topics: Sequence[str], wanted: Callable[[DeadLetter], bool]
) -> list[DeadLetter]:
    """Sends each wanted letter that was not replayed before to where it came from; returns those it sent.

    A crash between sending and marking sends a letter twice at most, which consumers absorb as any repeat.
    """
    letters = await list_dead_letters(kafka, keys, topics)
    chosen = [letter for letter in letters if not (letter.replayed or letter.cut) and letter.value and wanted(letter)]
    for letter in chosen:
        key = letter.key
        await producer.send_and_wait(
            letter.topic, letter.value, key=key, partition=letter.partition, headers=list(letter.headers)
        )
        own = letter.topic + DEAD_LETTER_SUFFIX
        marker = [(_REPLAYED, letter.position.rpartition(":")[2].encode())]
        await producer.send_and_wait(own, b"", key=key, partition=0, headers=marker)
    return chosen


def _letter(record: Any, headers: dict[str, bytes], keys: TopicKeys) -> DeadLetter:
    text = {name: value.decode("utf-8", "replace") for name, value in headers.items() if name.startswith("dlq-")}
    try:
        value = keys.open(record.topic, record.key, SCHEMA, record.value or b"", record.headers)
    except SealedValueError:
        value = b""
    return DeadLetter(
        position=f"{record.topic}:{record.offset}",
        topic=text.get("dlq-topic", record.topic.removesuffix(DEAD_LETTER_SUFFIX)),
        partition=_number(text.get("dlq-partition", ""), 0),
        offset=_number(text.get("dlq-offset", ""), -1),
        key=None if text.get("dlq-no-key") else record.key,
        reason=text.get("dlq-reason", ""),
        type=text.get("dlq-type", ""),
        stage=text.get("dlq-stage", ""),
        time_ms=record.timestamp,
        headers=tuple((n.removeprefix(_ORIGINAL), v or b"") for n, v in record.headers if n.startswith(_ORIGINAL)),
        value=value,
        replayed=False,
        cut=bool(text.get("dlq-cut")),
    )


def _number(text: str, otherwise: int) -> int:
    """What a header says that anybody may have written."""
    return int(text) if text.isdecimal() and len(text) < 19 else otherwise


def _marked(letter: DeadLetter) -> DeadLetter:
    return replace(letter, replayed=True)


async def _read_all(kafka: str, topics: Sequence[str]) -> AsyncIterator[Any]:
    """Every record that the topics hold now; each topic's in its order. A topic that does not exist has none."""
    consumer = make_consumer(kafka, group=None, client_id="claimledger-dlq")
    await consumer.start()
    try:
        existing = await consumer.topics()
        partitions = [TopicPartition(topic, 0) for topic in topics if topic in existing]  # dead letters have one each
        if partitions:
            async for record in read_to_end(consumer, partitions):
                yield record
    finally:
        await consumer.stop()


async def read_to_end(consumer: Any, partitions: Sequence[TopicPartition]) -> AsyncIterator[Any]:
    """Every record of the partitions from the beginning to their end as it is now, on a started consumer without group."""
    consumer.assign(list(partitions))
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(list(partitions))
    while any([await consumer.position(p) < ends[p] for p in partitions]):
        for partition, records in (await consumer.getmany(timeout_ms=500)).items():
            for record in records:
                if record.offset < ends[partition]:
                    yield record
