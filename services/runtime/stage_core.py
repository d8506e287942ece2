"""What both runners share: opening, decoding, applying and sending the records of a partition, and its state.

Records of a poll are applied together. Where one of them fails, each is tried again by itself from the state that Kafka
has; what keeps failing is divided where it can be, and set aside.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiokafka import TopicPartition

from runtime.dlq import dead_letter, read_to_end
from runtime.failing import SURROUNDINGS, KeepsFailingError, StageBrokenError, StateUnreadableError, place_of
from runtime.kafka import SealingProducer, confirmed, make_consumer
from runtime.log import get_logger
from runtime.metrics import DEAD_LETTERS, STAGE_FAILURES, STAGE_OUTPUTS, STAGE_RECORDS
from runtime.stage import AnyStage, DataError, Incoming, Out
from runtime.topic_keys import KEY_ID, KEY_IS_AWAY, SealedValueError, TopicKeys

PAUSES_S: Final[tuple[float, ...]] = (0.0, 0.2, 1.0)
"""Before each attempt at a record by itself: three of them, behind the one together with its poll."""
MOST_IN_A_ROW: Final = 10
"""Records that may keep failing, or for which the key is away, without one between them that goes through; with one more the
stage itself is at fault, or its keys."""
MOST_STATE_ASIDE: Final = 10
"""Records of a partition's state that one rebuilding may set aside; where more are unreadable, it is not they that are wrong."""
Aside = tuple[Any, DataError | SealedValueError]


@dataclass(frozen=True, slots=True)
class _Decoded:
    raw: Any
    record: Incoming
    message: Any


@dataclass(slots=True)
class _Applied:
    """What came of records: what to send, and which of them can never be processed."""

    outs: list[Out] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a divided record, in the form of a ConsumerRecord of its own, at the same place."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int
    number: int


class StageCore:
    """A stage with its open partitions. `kafka` is the broker's address, for rebuilding state."""

    def __init__(self, stage: AnyStage, kafka: str, keys: TopicKeys, producer: SealingProducer) -> None:
        self.stage = stage
        self._kafka = kafka
        self._keys = keys
        self._producer = producer
        self._states: dict[tuple[str, int], Any] = {}
        self._in_a_row = 0
        self._log = get_logger("stage").bind(stage=stage.name)

    async def process(self, records: Sequence[Any]) -> list[Any]:
        """Applies ConsumerRecords of one partition, in order; returns futures of what they gave, sent but unconfirmed.

        A record that can never be processed or keeps failing becomes a dead letter. Raises SURROUNDINGS.
        """
        futures: list[Any] = []
        try:
            applied = await self._applied(records)
            if self._divisible(applied.aside):
                await self._each_alone(records)
            else:
                self._count_away(applied.aside, len(records))
                futures = await self._send(records[0], applied)
        except SURROUNDINGS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one record's
            self._failed(records[0], error)
            await self._each_alone(records)
        STAGE_RECORDS.labels(self.stage.name, records[0].topic).inc(len(records))
        return futures

    def close(self, topic: str, partition: int) -> None:
        """Drops a partition's state, if it was open."""
        state = self._states.pop((topic, partition), None)
        if state is not None:
            self.stage.close_partition(topic, partition, state)

    def close_all(self) -> None:
        """Drops all state."""
        for topic, partition in list(self._states):
            self.close(topic, partition)

    async def _applied(self, records: Sequence[Any]) -> _Applied:
        found = _Applied()
        decoded = [d for raw in records if (d := self._decode(raw, found.aside)) is not None]
        messages = await self.stage.prepare([d.message for d in decoded]) if decoded else []
        for item, message in zip(decoded, messages, strict=True):
            state = await self._state(item.record.topic, item.record.partition)
            try:
                found.outs += self.stage.apply(state, item.record, message)
            except DataError as error:
                found.aside.append((item.raw, error))
        return found

    def _decode(self, raw: Any, aside: list[Aside]) -> _Decoded | None:
        try:
            record = self._open(raw)
            return _Decoded(raw, record, self.stage.decode(record))
        except (DataError, SealedValueError) as error:
            aside.append((raw, error))
            return None

    async def _send(self, first: Any, applied: _Applied) -> list[Any]:
        outs = [*applied.outs, *(self._letter(raw, error) for raw, error in applied.aside)]
        trace = next((v for k, v in first.headers if k == "traceparent"), None)
        futures = await self._producer.begin(outs, _now_ms(), trace)
        STAGE_OUTPUTS.labels(self.stage.name).inc(len(outs))
        return list(futures)

    async def _each_alone(self, records: Sequence[Any]) -> None:
        """Each by itself, confirmed before the next, so that only what fails is set aside."""
        await self._begin_anew(records[0])
        for raw in records:
            await self._alone(raw)

    async def _alone(self, raw: Any) -> None:
        failure = await self._tried(raw)
        if failure is None:
            self._in_a_row = 0
            return
        parts = self._divided(raw)
        for part in parts:
            await self._alone(part)
        if not parts:
            await self._set_aside(raw, failure)

    async def _tried(self, raw: Any) -> Exception | None:
        """The record's last failure after all attempts, None where one went through."""
        failure: Exception | None = None
        for pause_s in PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                applied = await self._applied([raw])
                if applied.aside:
                    return applied.aside[0][1]
                await confirmed(await self._send(raw, applied))
            except SURROUNDINGS:
                raise
            except Exception as error:  # noqa: BLE001 - the record's own failure
                failure = error
                self._failed(raw, error)
                await self._begin_anew(raw)
            else:
                return None
        return failure

    async def _begin_anew(self, raw: Any) -> None:
        """Drops the partition's state, which the failure may have left half changed; the next use rebuilds it."""
        await self._producer.producer.flush()  # or the rebuilt state would lack what is on its way
        self.close(raw.topic, raw.partition)

    def _failed(self, raw: Any, error: Exception) -> None:
        STAGE_FAILURES.labels(self.stage.name, type(error).__name__).inc()
        self._log.warning(
            "record_failed", topic=raw.topic, partition=raw.partition, offset=raw.offset, type=type(error).__name__,
            place=place_of(error),
        )  # fmt: skip

    def _count_away(self, aside: Sequence[Aside], records: int) -> None:
        """Anybody can name a key that is not there, so single records go aside for it. Raises StageBrokenError where too many in
        a row do: then the keys are away, and the records are as good as any."""
        if len(aside) < records:
            self._in_a_row = 0
            return
        away = [error for _, error in aside if error.kind in KEY_IS_AWAY]
        if away and self._in_a_row + len(away) > MOST_IN_A_ROW:
            self._log.error("stage_broken", topic=aside[0][0].topic, why=str(away[-1]))
            raise StageBrokenError(f"the keys of more than {MOST_IN_A_ROW} records in a row are away: {away[-1]}")
        self._in_a_row += len(away)

    async def _set_aside(self, raw: Any, failure: Exception) -> None:
        """Leaves a dead letter. Raises StageBrokenError where too many records came to this in a row."""
        told: Any = failure
        if not isinstance(failure, DataError | SealedValueError):
            told = KeepsFailingError(len(PAUSES_S), failure)
            if self._in_a_row >= MOST_IN_A_ROW:
                self._log.error("stage_broken", set_aside_in_a_row=MOST_IN_A_ROW, topic=raw.topic, why=str(told))
                raise StageBrokenError(f"{MOST_IN_A_ROW} records were set aside in a row, and another one {told}")
            self._in_a_row += 1
        await confirmed(await self._producer.begin([self._letter(raw, told)], _now_ms()))
        STAGE_OUTPUTS.labels(self.stage.name).inc()

    def _letter(self, raw: Any, error: DataError | SealedValueError | KeepsFailingError) -> Out:
        """The dead letter, counted and told of: what keeps failing is an error of ours and louder than what is undecodable."""
        DEAD_LETTERS.labels(raw.topic, error.kind).inc()
        tell = self._log.error if isinstance(error, KeepsFailingError) else self._log.warning
        place = {"topic": raw.topic, "partition": raw.partition, "offset": raw.offset}
        tell("dead_letter", **place, kind=error.kind, why=str(error))
        letter = dead_letter(raw, error, self.stage.name)
        return replace(letter, event_id=f"{letter.event_id}/{raw.number}") if isinstance(raw, _Part) else letter

    def _divisible(self, aside: Sequence[Aside]) -> bool:
        return any(isinstance(error, DataError) and self._divided(raw) for raw, error in aside)

    def _divided(self, raw: Any) -> list[_Part]:
        """The record's parts, sealed as the record was; none where it has only one or does not open."""
        try:
            record = self._open(raw)
        except SealedValueError:
            return []
        values = self.stage.divide(record)
        schema = self.stage.schemas[raw.topic]
        sealed = [self._keys.seal(raw.topic, raw.key, schema, v) for v in values] if len(values) > 1 else []
        kept = tuple((name, v) for name, v in raw.headers if name != KEY_ID)
        at = (raw.topic, raw.partition, raw.offset, raw.key)
        return [_Part(*at, value, (*kept, *key), raw.timestamp, n) for n, (value, key) in enumerate(sealed)]

    def _open(self, raw: Any) -> Incoming:
        headers = tuple((name, content or b"") for name, content in raw.headers)  # Kafka's may be null
        value = raw.value or b""
        if raw.value is not None:
            value = self._keys.open(raw.topic, raw.key, self.stage.schemas[raw.topic], raw.value, headers)
        return Incoming(raw.topic, raw.partition, raw.offset, raw.key, value, headers, raw.timestamp)

    async def _state(self, topic: str, partition: int) -> Any:
        found = self._states.get((topic, partition))
        if found is None:
            found = self.stage.open_partition(topic, partition)
            await self._restore(topic, partition, found)
            self._states[topic, partition] = found
        return found

    async def _restore(self, topic: str, partition: int, state: Any) -> None:
        """Rebuilds state from the stage's state topic.

        A record of it that cannot be read is set aside, and its key is unknown from then on, as behind a tombstone.
        Raises StateUnreadableError where the keys are away or more is unreadable than single records.
        """
        source = self.stage.state_topic(topic)
        if source is None:
            return
        consumer = make_consumer(self._kafka, group=None, client_id=f"{self.stage.name}-restore")
        await consumer.start()
        count, damaged = 0, _Damaged(source, partition)
        try:
            async for raw in read_to_end(consumer, [TopicPartition(source, partition)]):
                damaged.take(raw, self._restored(state, raw))
                count += 1
        except StateUnreadableError as error:
            self._log.error("state_unreadable", place=error.place, why=error.why, remedy=error.remedy)
            raise
        finally:
            await consumer.stop()
        for raw, why in damaged.records:
            await self._set_state_aside(raw, why)
        self._log.info("state_restored", topic=source, partition=partition, records=count)

    def _restored(self, state: Any, raw: Any) -> DataError | SealedValueError | None:
        """Takes one record into the state; why it could not be."""
        try:
            self.stage.restore(state, self._open(raw))
        except (DataError, SealedValueError) as error:
            with contextlib.suppress(DataError):
                self.stage.restore(state, Incoming(raw.topic, raw.partition, raw.offset, raw.key, b""))
            return error
        return None

    async def _set_state_aside(self, raw: Any, error: DataError | SealedValueError) -> None:
        """A dead letter, then a tombstone, so that the next rebuilding does not find the record again."""
        self._log.error("state_set_aside", topic=raw.topic, partition=raw.partition, offset=raw.offset, kind=error.kind)
        await confirmed(await self._producer.begin([self._letter(raw, error)], _now_ms()))
        event = f"{raw.topic}/{raw.partition}/{raw.offset}/aside"
        gone = Out(raw.topic, raw.key or b"", None, self.stage.schemas[raw.topic], event, partition=raw.partition)
        await confirmed(await self._producer.begin([gone], _now_ms()))


class _Damaged:
    """Records of a partition's state that cannot be read and are still the last of their key."""

    def __init__(self, topic: str, partition: int) -> None:
        self._place = f"partition {partition} of {topic}"
        self._by_key: dict[bytes | None, Aside] = {}

    def take(self, raw: Any, error: DataError | SealedValueError | None) -> None:
        """Raises StateUnreadableError for what is no single record's damage."""
        self._by_key.pop(raw.key, None)
        if error is None:
            return
        at = f"offset {raw.offset} of {self._place}"
        if error.kind in KEY_IS_AWAY:
            raise StateUnreadableError(at, str(error), "put the key back and start again")
        if len(self._by_key) == MOST_STATE_ASIDE:
            remedy = "run the version that wrote them, or restore the topic; nothing was set aside"
            raise StateUnreadableError(at, f"and {MOST_STATE_ASIDE} records before it: {error}", remedy)
        self._by_key[raw.key] = raw, error

    @property
    def records(self) -> list[Aside]:
        return list(self._by_key.values())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
