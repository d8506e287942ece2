"""Reading Kafka with the offsets in our own database: what a round wrote and how far it had read are one transaction.

No consumer group is involved: one process reads all partitions, and continues where its last transaction ended.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition

from claim_intake.store.projecting import Partition
from runtime.dlq import dead_letter
from runtime.kafka import SealingProducer, make_consumer
from runtime.log import get_logger
from runtime.metrics import DEAD_LETTERS, STAGE_LAG, STAGE_PARTITIONS
from runtime.stage import DataError
from runtime.topic_keys import KEY_IS_AWAY, SealedValueError, TopicKeys
from runtime.topics import NamedTopic

POLL_RECORDS: Final = 4_000
KEY_PAUSE_S: Final = 1.0
"""Before a partition is read again at the record whose key was away."""
KEY_PATIENCE_S: Final = 600.0
"""For the key of one record. Anybody who writes to a topic can name a key that nobody has: waiting for it has an end."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to read: topics of the table, each with all its partitions."""

    topics: Sequence[NamedTopic]
    partitions: int


@dataclass(frozen=True, slots=True)
class Poll:
    """Records as they came, and where the next poll begins once they have been dealt with."""

    records: list[Any]
    offsets: dict[Partition, int]


class OffsetReader:
    """A consumer over a source. `name` is the client's and the dead letters' name."""

    def __init__(self, name: str, kafka: str, keys: TopicKeys, source: Source, *, read_committed: bool = False) -> None:
        self._name = name
        self._keys = keys
        self._partitions = source.partitions
        self._topics = {topic.name: topic for topic in source.topics}
        self._next: dict[TopicPartition, int] = {}
        """Where each partition continues that has been read here."""
        self._resting: dict[TopicPartition, float] = {}
        """Partitions at a record whose key is away, and when they are read again."""
        self._away: dict[TopicPartition, tuple[int, float]] = {}
        """The last such record of each partition, and since when its key has been missed."""
        self._consumer = make_consumer(kafka, group=None, client_id=name, read_committed=read_committed, gather=True)
        self._log = get_logger(name)

    async def start(self, offsets: Mapping[Partition, int]) -> None:
        """Connects and goes to where the last transaction ended; to the beginning of what is new."""
        await self._consumer.start()
        await self._assign(offsets)

    async def widen(self, topics: Iterable[NamedTopic], offsets: Mapping[Partition, int]) -> None:
        """Reads more topics from now on; what is read already goes on where it is."""
        self._topics |= {topic.name: topic for topic in topics}
        await self._assign(offsets)

    async def _assign(self, offsets: Mapping[Partition, int]) -> None:
        partitions = [TopicPartition(name, p) for name in self._topics for p in range(self._partitions)]
        self._consumer.assign(partitions)
        self._resting.clear()  # an assignment begins awake
        for p in partitions:
            if p not in self._next and (offset := offsets.get((p.topic, p.partition))) is not None:
                self._next[p] = offset
        for p in partitions:
            if p in self._next:
                self._consumer.seek(p, self._next[p])
        if fresh := [p for p in partitions if p not in self._next]:
            await self._consumer.seek_to_beginning(*fresh)
        STAGE_PARTITIONS.labels(self._name).set(len(partitions))

    async def stop(self) -> None:
        await self._consumer.stop()

    async def poll(self, timeout_ms: int) -> Poll:
        """What has come, at most POLL_RECORDS; what came before has been dealt with."""
        await self._observe_lag()
        self._wake()
        polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=POLL_RECORDS)
        records = [record for some in polled.values() for record in some]
        came = {p: some[-1].offset + 1 for p, some in polled.items() if some}
        self._next |= came
        return Poll(records, {(p.topic, p.partition): offset for p, offset in came.items()})

    async def _observe_lag(self) -> None:
        """The position is behind the markers of transactions too, which the offsets in the database are not."""
        lag = 0
        for partition in self._consumer.assignment():
            end = self._consumer.highwater(partition)
            if end is not None:
                lag += max(0, end - await self._consumer.position(partition))
        STAGE_LAG.labels(self._name).set(lag)

    def topic_of(self, record: Any) -> NamedTopic:
        """The table's topic of a record; `tenant` says whose it is."""
        return self._topics[record.topic]

    def open(self, record: Any, poll: Poll) -> bytes | None:
        """A record's value in clear; None where its key, or that of one before it in its partition, is away.

        Then the record comes again, and the poll's offset stays before it. Raises SealedValueError for what is to be set aside.
        """
        partition = TopicPartition(record.topic, record.partition)
        if partition in self._resting:
            return None
        schema = self.topic_of(record).row.schema
        try:
            return self._keys.open(record.topic, record.key, schema, record.value or b"", record.headers)
        except SealedValueError as error:
            if error.kind not in KEY_IS_AWAY or not self._is_awaited(partition, record.offset):
                raise
            self._rest(partition, record.offset, poll)
            self._log.error("cannot_open", topic=record.topic, offset=record.offset, kind=error.kind, reason=str(error))
            return None

    def _is_awaited(self, partition: TopicPartition, offset: int) -> bool:
        now_s = time.monotonic()
        missed, since_s = self._away.get(partition, (None, now_s))
        if missed != offset:
            self._away[partition] = offset, now_s
            return True
        return now_s - since_s < KEY_PATIENCE_S

    def _rest(self, partition: TopicPartition, offset: int, poll: Poll) -> None:
        """Leaves the partition at this offset; the others go on."""
        self._resting[partition] = time.monotonic() + KEY_PAUSE_S
        self._next[partition] = poll.offsets[partition.topic, partition.partition] = offset
        self._consumer.seek(partition, offset)
        self._consumer.pause(partition)

    def _wake(self) -> None:
        now_s = time.monotonic()
        for partition in [p for p, until_s in self._resting.items() if until_s <= now_s]:
            del self._resting[partition]
            self._consumer.resume(partition)

    async def bury(
        self, dead: Sequence[tuple[Any, DataError | SealedValueError]], producer: SealingProducer, time_ms: int
    ) -> None:
        """Sends what can never be read to the dead-letter topic, before its offset is passed."""
        for record, error in dead:
            DEAD_LETTERS.labels(record.topic, error.kind).inc()
            self._log.warning("dead_letter", topic=record.topic, offset=record.offset, kind=error.kind, why=str(error))
        if dead:
            await producer.send_all([dead_letter(record, error, self._name) for record, error in dead], time_ms)
