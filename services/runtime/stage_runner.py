"""Runs a Stage on bare aiokafka.

One lock stands for "no poll is half done": the loop holds it from taking records to their confirmed effects, and a
rebalance waits for it before partitions go, so a new owner never starts before the old one's effects and offsets are in
Kafka. Offsets are committed from an AckWindow for each partition, every half second, on revocation and at the end.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from runtime.ack_window import AckWindow
from runtime.kafka import SealingProducer, confirmed, make_consumer, make_producer
from runtime.log import get_logger
from runtime.metrics import STAGE_LAG, STAGE_LAST_ACK, STAGE_PARTITIONS, STAGE_SECONDS
from runtime.network import Network
from runtime.stage import AnyStage
from runtime.stage_core import StageCore
from runtime.stage_place import group_of, wait_for_sources
from runtime.topic_keys import TopicKeys

POLL_MS: Final = 100
POLL_RECORDS: Final = 200
COMMIT_INTERVAL_S: Final = 0.5


async def run_stage(
    stage: AnyStage,
    *,
    kafka: str,
    keys: TopicKeys,
    stop: asyncio.Event,
    network: Network | None = None,
    client_id: str = "",
) -> None:
    """Runs until `stop`; then finishes the current poll, commits and returns.

    The group is the stage's name, as `network` calls it in its Kafka. Raises what the stage raises, without acknowledging the
    records in hand.
    """
    waiting = asyncio.ensure_future(wait_for_sources(stage, kafka, network))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, stopping):
        task.cancel()
    if stop.is_set():
        return
    name = client_id or stage.name
    producer = SealingProducer(make_producer(kafka, name), keys, stage.name)
    consumer = make_consumer(kafka, group=group_of(stage, network), client_id=name, session_timeout_ms=6000)
    async with producer:
        runner = _Runner(StageCore(stage, kafka, keys, producer), consumer)
        consumer.subscribe(list(stage.topics), listener=runner)
        await consumer.start()
        try:
            while not stop.is_set():
                await runner.step()
                await asyncio.sleep(0)  # let a waiting rebalance have the lock
            await runner.commit()
        finally:
            await consumer.stop()
            runner.core.close_all()


class _Runner(ConsumerRebalanceListener):
    def __init__(self, core: StageCore, consumer: Any) -> None:
        self.core = core
        self._consumer = consumer
        self._lock = asyncio.Lock()
        self._windows: dict[TopicPartition, AckWindow] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._last_commit = time.monotonic()
        self._log = get_logger("stage").bind(stage=core.stage.name)

    async def step(self) -> None:
        """One poll: take, apply, send, confirm, and sometimes commit."""
        async with self._lock:
            polled = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            began = time.perf_counter()
            futures: list[Any] = []
            try:
                for records in polled.values():
                    futures += await self.core.process(records)
            finally:
                await confirmed(futures)
            for partition, records in polled.items():
                self._finish(partition, [record.offset for record in records])
            if polled:
                STAGE_SECONDS.labels(self.core.stage.name).observe(time.perf_counter() - began)
            if time.monotonic() - self._last_commit > COMMIT_INTERVAL_S:
                await self.commit()

    def _finish(self, partition: TopicPartition, offsets: list[int]) -> None:
        window = self._windows.setdefault(partition, AckWindow())
        for offset in offsets:
            window.take(offset)
        for offset in offsets:
            window.finish(offset)

    async def commit(self) -> None:
        """Commits what is finished and not yet committed. A commit refused by a rebalance means the records come again."""
        self._last_commit = time.monotonic()
        ahead = {
            partition: window.position
            for partition, window in self._windows.items()
            if window.position is not None and window.position != self._committed.get(partition)
        }
        self._observe_lag()
        if not ahead:
            return
        try:
            await self._consumer.commit(ahead)
        except (CommitFailedError, IllegalStateError) as error:
            self._log.warning("commit_refused", type=type(error).__name__)
            return
        except KafkaError as error:
            if not error.retriable:
                raise
            self._log.warning("commit_delayed", type=type(error).__name__)
            return
        self._committed.update(ahead)
        STAGE_LAST_ACK.labels(self.core.stage.name).set(time.time())

    def _observe_lag(self) -> None:
        lag = 0
        for partition in self._consumer.assignment():
            end = self._consumer.highwater(partition)
            window = self._windows.get(partition)
            if end is not None and window is not None and window.position is not None:
                lag += max(0, end - window.position)
        STAGE_LAG.labels(self.core.stage.name).set(lag)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Waits for the poll in hand, commits, and drops the partitions' state."""
        async with self._lock:
            await self.commit()
            STAGE_PARTITIONS.labels(self.core.stage.name).set(0)
            for partition in revoked:
                self._windows.pop(partition, None)
                self._committed.pop(partition, None)
                self.core.close(partition.topic, partition.partition)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """State is opened with a partition's first record."""
        count = len(list(assigned))
        STAGE_PARTITIONS.labels(self.core.stage.name).set(count)
        self._log.info("partitions_assigned", count=count)
