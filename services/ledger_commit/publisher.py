"""The one publisher of a Kafka cluster: whoever holds the single partition of `ledger.publisher`.

On assignment it takes over the fixed transactional id, which fences its predecessor, reads the cursor with committed
reads, and goes on from there; what it publishes and the new cursor are one Kafka transaction. Fenced, it leaves the
group. Over topics whose cursor names another chain it does not even stand for the role: it would take it from the other
network's publisher. "Settled once" does not rest on this: the ledger decides that, and every record carries its proof.

Source: settlement.md, Publishing.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from sqlalchemy.exc import SQLAlchemyError

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.publications import block_records, cursor_record, settlement_records, status_records
from ledger_commit.results import ProvenResults, block_messages
from ledger_commit.store import Projection
from runtime.database import root_type
from runtime.kafka import SealingProducer, confirmed, make_consumer, make_producer
from runtime.log import get_logger
from runtime.network import Network
from runtime.publishing_cursor import ForeignTopicsError, cursor_place, newest_cursor, require_own, wait_for_own_topics
from runtime.topic_keys import SealedValueError, TopicKeys

NAME: Final = "settlement-publisher"
SESSION_TIMEOUT_MS: Final = 6000
TRANSACTION_TIMEOUT_MS: Final = 10_000
MAX_RESULTS: Final = 500
"""Results of one transaction."""
MAX_BLOCKS: Final = 100
IDLE_S: Final = 0.25
PAUSES_S: Final = (0.1, 0.25)
"""Between transactions while there is something to publish, and under load: each costs the broker a marker in every partition
that it touched."""
LOADED_RESULTS: Final = 100
"""In one transaction."""
PAUSE_S: Final = 1.0


class Publisher(ConsumerRebalanceListener):
    """Stands for the role all the time, and has it while the partition is assigned."""

    def __init__(
        self,
        kafka: str,
        network: Network,
        keys: TopicKeys,
        results: ProvenResults,
        projection: Projection,
        projected_height: Callable[[], int],
    ) -> None:
        self._kafka = kafka
        self._network = network
        self._name = network.in_kafka(NAME)
        """Of the group and of the transactional id."""
        self._keys = keys
        self._results = results
        self._projection = projection
        self._projected_height = projected_height
        self._place = cursor_place(network)
        self._log = get_logger("publisher")
        self._consumer: Any = None
        self.has_role = False
        self.next_leaf = 0
        self.block_height = 0

    async def run(self) -> None:
        """Until cancelled. A lost broker or role is waited out, and so is a projection whose database is away or a key that cannot
        be used: the role is another's then."""
        while True:
            await wait_for_own_topics(self._kafka, self._network)
            consumer = make_consumer(
                self._kafka, group=self._name, client_id=NAME, session_timeout_ms=SESSION_TIMEOUT_MS
            )
            consumer.subscribe([self._place.topic], listener=self)
            self._consumer = consumer
            try:
                await consumer.start()
                await self._stand(consumer)
            except ProducerFenced:
                self._log.warning("fenced")
            except ForeignTopicsError as error:
                self._log.error("foreign_topics", owner=error.owner, reason=str(error))
            except SealedValueError as error:
                self._log.error("cannot_seal", kind=error.kind, reason=str(error))
            except SQLAlchemyError as error:
                self._log.warning("database_away", type=root_type(error))
            except (KafkaError, OSError) as error:
                self._log.warning("broker_away", type=type(error).__name__)
            finally:
                self.has_role = False
                await consumer.stop()
            await asyncio.sleep(PAUSE_S)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self._place in set(revoked):
            self.has_role = False
            self._log.info("role_lost")

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Holding the partition is the role; nothing is read over the group, where all old cursors would come again."""
        self.has_role = self._place in set(assigned)
        if self.has_role:
            self._consumer.pause(self._place)

    async def _stand(self, consumer: Any) -> None:
        while True:
            await consumer.getmany(timeout_ms=int(IDLE_S * 1000))
            if self.has_role:
                await self._publish_while_in_role(consumer)

    async def _publish_while_in_role(self, consumer: Any) -> None:
        producer = make_producer(
            self._kafka, NAME, transactional_id=self._name, transaction_timeout_ms=TRANSACTION_TIMEOUT_MS
        )
        sealing = SealingProducer(producer, self._keys, NAME)
        try:
            await producer.start()  # init transactions: fences the one before
            await self._read_cursor()
            self._log.info("role_taken", next_leaf=self.next_leaf, block_height=self.block_height)
            while self.has_role:
                worked = await self._publish_once(sealing)
                await consumer.getmany(timeout_ms=0)
                if not worked:
                    await self._results.wait(IDLE_S)
                else:
                    await asyncio.sleep(0 if worked >= MAX_RESULTS else PAUSES_S[worked >= LOADED_RESULTS])
        finally:
            await producer.stop()

    async def _read_cursor(self) -> None:
        """What the last committed transaction left, or the beginning. Raises ForeignTopicsError."""
        consumer = make_consumer(self._kafka, group=None, client_id=f"{NAME}-cursor", read_committed=True)
        try:
            await consumer.start()
            consumer.assign([self._place])
            end = (await consumer.end_offsets([self._place]))[self._place]
            found = await newest_cursor(consumer, self._place, end, self._undecodable)
        finally:
            await consumer.stop()
        require_own(found, self._kafka, self._network)
        self.next_leaf, self.block_height = found.next_leaf, found.block_height

    def _undecodable(self, offset: int) -> None:
        self._log.error("undecodable_cursor", offset=offset)

    async def _publish_once(self, sealing: SealingProducer) -> int:
        """One transaction; returns how many results and blocks it carried."""
        proven, next_leaf = await self._results.proven(self.next_leaf, MAX_RESULTS)
        blocks = await self._new_blocks()
        if next_leaf == self.next_leaf and not blocks:
            return 0
        height = blocks[-1].height if blocks else self.block_height
        outs = settlement_records(proven, self._network)
        outs += status_records(proven, self._network)
        outs += block_records([b for b in blocks if b.commit_qc], self._network)
        outs.append(cursor_record(next_leaf, height, self._network))
        async with sealing.producer.transaction():
            await confirmed(await sealing.begin(outs, time.time_ns() // 1_000_000))
        count = next_leaf - self.next_leaf + len(blocks)
        self.next_leaf, self.block_height = next_leaf, height
        return count

    async def _new_blocks(self) -> list[ledger_pb2.Block]:
        """Projected blocks after the cursor."""
        if self._projected_height() <= self.block_height:
            return []
        rows = await self._projection.blocks(self.block_height + 1, MAX_BLOCKS)
        return await block_messages(self._projection, rows)
