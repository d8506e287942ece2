"""Claims from Kafka into this replica's lane.

The replicas share one consumer group on every payer's `claims.scored`; an offset is acknowledged only when a block has
ordered the claims of its record. Who acknowledges and drops is found out by intake, which sends overdue claims again
over `claims.retry`; that topic every replica reads in a group of its own, and a replica waits its turn before it orders
what another may order first. The contract absorbs what comes twice.

Source: architecture.md, Delivery; consensus.md §8.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from google.protobuf.message import DecodeError as ProtoDecodeError

from claimledger.events.v1 import events_pb2
from claims.encoding import DecodeError
from claims.transaction import ENTRY_SCORED_RECORD, SCORED_RECORD, ScoredRecord
from ledger_commit.lane import Lane
from ledger_commit.seen import SeenRecords
from ledger_commit.settlement.authenticity import Forgery
from runtime.ack_window import AckWindow
from runtime.dlq import dead_letter
from runtime.failing import SURROUNDINGS, KeepsFailingError, StageBrokenError
from runtime.kafka import SealingProducer, make_consumer
from runtime.log import get_logger
from runtime.metrics import DEAD_LETTERS
from runtime.network import Network
from runtime.process import run_together
from runtime.stage import DataError
from runtime.topic_keys import KEY_IS_AWAY, SealedValueError, TopicKeys
from runtime.topics import RETRY, SCORED, Topic

GROUP: Final = "ledger-commit"
RETRY_GROUP: Final = "ledger-retry"
"""With the organisation behind it."""
POLL_MS: Final = 500
POLL_RECORDS: Final = 100
MAX_UNFINISHED: Final = 1000
"""Records taken and not yet ordered, in the lane or waiting their turn; beyond that Kafka keeps what waits."""
COMMIT_INTERVAL_S: Final = 0.5
SESSION_TIMEOUT_MS: Final = 6000
RETRY_TURN_S: Final = 1.5
MOST_AWAY: Final = 10
"""Records in a row whose key is away that are set aside; with one more it is this replica's keys, and not the records."""


Judge = Callable[[ScoredRecord], Forgery | None]
"""Whether the payer stands behind a record, by the keys that the ledger knows. May raise DecodeError."""


def entry_of(value: bytes, judge: Judge) -> tuple[bytes, int]:
    """The ledger entry in a record's clear value, and about how many claims it holds. Raises DataError.

    What nobody signed would be dropped by every replica; it is not ordered in the first place.
    """
    try:
        encoded = events_pb2.ScoredRecord.FromString(value).scored_record
        scored = SCORED_RECORD.decode(encoded)
        forgery = judge(scored)
    except (ProtoDecodeError, DecodeError) as error:
        raise DataError(str(error)) from error
    if forgery is not None:
        raise DataError(f"{forgery.field}: {forgery.why}", "forged")
    return bytes((ENTRY_SCORED_RECORD,)) + encoded, max(1, 8 * len(scored.pend_bits))


class Feeder(ConsumerRebalanceListener):
    """One consumer on one row of the topic table. `turn_s` delays an entry that another replica may order first."""

    def __init__(
        self,
        kafka: str,
        group: str,
        topic: Topic,
        network: Network,
        keys: TopicKeys,
        lane: Lane,
        producer: SealingProducer,
        *,
        judge: Judge,
        drop: bool = False,
        turn_s: Callable[[bytes], float] | None = None,
        seen: SeenRecords | None = None,
    ) -> None:
        self._topics = [network.topic(topic, payer).name for payer in network.payers]
        self._schema = topic.schema
        self._consumer: Any = make_consumer(kafka, group=group, client_id=group, session_timeout_ms=SESSION_TIMEOUT_MS)
        self._keys = keys
        self._lane = lane
        self._producer = producer
        self._judge = judge
        self._drop = drop
        self._turn_s = turn_s
        self._seen = seen
        self._away_in_a_row = 0
        self._windows: dict[TopicPartition, AckWindow] = {}
        self._fewer = asyncio.Event()
        self._generation = 0
        self._waiting: set[asyncio.Task[None]] = set()
        self._log = get_logger("feeder").bind(topic=topic.suffix)

    async def run(self) -> None:
        """Until cancelled, or until taking or acknowledging fails: one that only takes would be full after a while, and silent.

        Raises StageBrokenError where the keys are away, having left the group: another member may have them.
        """
        self._consumer.subscribe(self._topics, listener=self)
        try:
            await self._consumer.start()
            await run_together(self._take_forever(), self._commit_now_and_then())
        except StageBrokenError:
            await self._commit({})  # or the same letters would be written each time it comes back
            raise
        finally:
            for task in self._waiting:
                task.cancel()
            await self._consumer.stop()

    async def _take_forever(self) -> None:
        while True:
            await self._room()
            polled = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            await self._take_all([record for records in polled.values() for record in records])

    async def _room(self) -> None:
        """Returns when there is room for another poll, here and in the lane."""
        await self._lane.room()
        while sum(map(len, self._windows.values())) >= MAX_UNFINISHED:
            self._fewer.clear()
            await self._fewer.wait()

    async def _take_all(self, records: list[Any]) -> None:
        """What is left of a poll when its partitions go is not taken: their next owner, who may be this one, reads it again."""
        generation = self._generation
        for record in records:
            if generation != self._generation:
                return
            await self._take(record)

    async def _take(self, record: Any) -> None:
        partition = TopicPartition(record.topic, record.partition)
        self._windows.setdefault(partition, AckWindow()).take(record.offset)
        finished = partial(self._finished, self._generation, partition, record.offset)
        if self._drop:
            self._log.warning("dropping_claims", offset=record.offset)
            finished()
            return
        try:
            value, headers = record.value or b"", tuple(record.headers)
            clear = self._keys.open(record.topic, record.key, self._schema, value, headers)
            self._away_in_a_row = 0
            entry, claims = entry_of(clear, self._judge)
        except (DataError, SealedValueError) as error:
            self._count_away(record, error)
            await self._set_aside(record, error)
            finished()
            return
        except SURROUNDINGS:
            raise
        except Exception as error:  # noqa: BLE001 - nothing but the record went in, so nothing else would come of it
            await self._set_aside(record, KeepsFailingError(1, error))
            finished()
            return
        if self._turn_s is None:
            await self._lane.room()
            self._lane.add(entry, claims, finished)
        else:
            self._later(entry, claims, finished, self._turn_s(entry))

    def _count_away(self, record: Any, error: DataError | SealedValueError) -> None:
        """Anybody can name a key that is not there, so single records go aside for it. Raises StageBrokenError where too many do."""
        if error.kind not in KEY_IS_AWAY:
            return
        if self._away_in_a_row == MOST_AWAY:
            at = f"offset {record.offset} of partition {record.partition} of {record.topic}"
            raise StageBrokenError(
                f"the keys of more than {MOST_AWAY} records in a row are away, the last at {at}: {error}"
            )
        self._away_in_a_row += 1

    async def _set_aside(self, record: Any, error: DataError | SealedValueError | KeepsFailingError) -> None:
        """To the dead-letter topic; the stream goes on once the letter is confirmed.

        What reading raises is one replica's trouble with a record that all would take in turn: it must not end them all.
        """
        DEAD_LETTERS.labels(record.topic, error.kind).inc()
        tell = self._log.error if isinstance(error, KeepsFailingError) else self._log.warning
        tell("dead_letter", partition=record.partition, offset=record.offset, kind=error.kind, why=str(error))
        await self._producer.send_all([dead_letter(record, error, GROUP)], time.time_ns() // 1_000_000)

    def _later(self, entry: bytes, claims: int, finished: Callable[[], None], delay_s: float) -> None:
        task = asyncio.ensure_future(self._in_turn(entry, claims, finished, delay_s))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _in_turn(self, entry: bytes, claims: int, finished: Callable[[], None], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._seen is not None and entry in self._seen:
            finished()
            return
        await self._lane.room()
        self._lane.add(entry, claims, finished)

    def _finished(self, generation: int, partition: TopicPartition, offset: int) -> None:
        """Ordered; counts only while the partition has not been away in between."""
        if generation == self._generation and partition in self._windows:
            self._windows[partition].finish(offset)
            self._fewer.set()

    async def _commit_now_and_then(self) -> None:
        committed: dict[TopicPartition, int] = {}
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit(committed)

    async def _commit(self, committed: dict[TopicPartition, int]) -> None:
        """Acknowledges what is finished beyond what has been committed, which is brought up to date."""
        ahead = {
            partition: window.position
            for partition, window in self._windows.items()
            if window.position is not None and window.position != committed.get(partition)
        }
        if not ahead:
            return
        try:
            await self._consumer.commit(ahead)
        except (CommitFailedError, IllegalStateError) as error:
            self._log.warning("commit_refused", type=type(error).__name__)
        except KafkaError as error:
            self._log.warning("commit_delayed", type=type(error).__name__)
        else:
            committed.update(ahead)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """What is in flight will still be ordered; the next owner reads it again, and the contract absorbs it."""
        self._generation += 1
        self._windows.clear()
        self._fewer.set()
        self._log.info("partitions_revoked", count=len(list(revoked)))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._log.info("partitions_assigned", count=len(list(assigned)))


def feeders(
    kafka: str,
    organisation: str,
    rank: int,
    replicas: int,
    network: Network,
    keys: TopicKeys,
    lane: Lane,
    producer: SealingProducer,
    seen: SeenRecords,
    judge: Judge,
    *,
    drop: bool,
) -> list[Feeder]:
    """The shared group on `claims.scored`, and this replica's own on `claims.retry`."""

    def turn_s(entry: bytes) -> float:
        """Each entry has an order of replicas of its own, so that retries spread."""
        first = hashlib.sha256(entry).digest()[0]
        return ((rank - first) % replicas) * RETRY_TURN_S

    scored = Feeder(kafka, network.in_kafka(GROUP), SCORED, network, keys, lane, producer, judge=judge, drop=drop)
    group = network.in_kafka(f"{RETRY_GROUP}-{organisation}")
    retry = Feeder(kafka, group, RETRY, network, keys, lane, producer, judge=judge, drop=drop, turn_s=turn_s, seen=seen)
    return [scored, retry]
