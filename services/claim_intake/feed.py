"""From the ordered events to each party's topics: `org.<id>.status` and the compacted `org.<id>.status.latest`.

The place that has been reached is committed as a group offset inside the same Kafka transaction as the records, so a
reader of committed records sees every event once, whenever this process dies. The database keeps a lower bound of it
for the case that Kafka has forgotten the group after a long rest.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from claim_intake.patience import patiently
from claim_intake.resting import rest_s
from claim_intake.store.projecting import feed_after, last_event_id, load_cursor, save_cursor
from claim_intake.wiring import Ground
from claimledger.events.v1 import events_pb2
from claimledger.intake.v1 import intake_pb2
from claims.status import StatusEvent
from runtime.kafka import SealingProducer, confirmed, make_producer
from runtime.log import get_logger
from runtime.metrics import STAGE_OUTPUTS
from runtime.network import Network
from runtime.publishing_cursor import wait_for_own_topics
from runtime.stage import Out, make_out
from runtime.topics import LATEST_STATUS, RAW_STATUS, STATUS, bucket_of

NAME: Final = "claim-intake-status-feed"
MAX_EVENTS: Final = 10_000
"""In one transaction."""
IDLE_POLL_S: Final = 0.5
SAVE_CURSOR_S: Final = 5.0
REFRESH_S: Final = 3_600.0
"""How often the group's offset is committed again while nothing happens; Kafka forgets it after days."""


Recent = Callable[[int, int], list[tuple[int, StatusEvent]] | None]
"""Events after an id, at most so many, from memory; None where memory does not reach back so far."""


class StatusFeed:
    """The one feeder; a second one with the same transactional id fences it, and it ends its process."""

    def __init__(self, ground: Ground, recent: Recent, clock_ms: Callable[[], int]) -> None:
        self._ground = ground
        self._recent = recent
        self._clock_ms = clock_ms
        self._place = TopicPartition(ground.network.topic(RAW_STATUS, ground.network.payers[0]).name, 0)
        self._name = ground.network.in_kafka(NAME)
        """Of the group and of the transactional id."""
        self._wake = asyncio.Event()
        self._log = get_logger("status_feed")
        self.position = 0
        """The id of the last event that is certainly in the topics."""

    def wake(self) -> None:
        """New events are there."""
        self._wake.set()

    async def run(self) -> None:
        """Feeds until cancelled; waits where the broker is away or a topic's key cannot be used.

        Raises ProducerFenced where another feeder began, SQLAlchemyError where the database is away.
        """
        await patiently(self._feed_forever, self._log, ends=ProducerFenced)

    async def _feed_forever(self) -> None:
        ground = self._ground
        await wait_for_own_topics(ground.kafka, ground.network)
        producer = make_producer(ground.kafka, NAME, transactional_id=self._name)
        feed = SealingProducer(producer, ground.topic_keys, NAME)
        try:
            await producer.start()  # ends a transaction that a predecessor left open
            self.position = await self._start_position()
            self._log.info("feed_connected", position=self.position)
            await self._transactions_forever(feed)
        finally:
            await producer.stop()

    async def _transactions_forever(self, feed: SealingProducer) -> None:
        saved = written = time.monotonic()
        while True:
            self._wake.clear()
            events = await self._next_events()
            now = time.monotonic()
            if events or now - written > REFRESH_S:
                await self._transaction(feed, events)
                written = now
            if now - saved > SAVE_CURSOR_S and events:
                saved = now
                await self._save()
            await self._rest(len(events))

    async def _next_events(self) -> list[tuple[int, StatusEvent]]:
        """From memory where the projector still has them, which spares reading back what was just written."""
        recent = self._recent(self.position, MAX_EVENTS)
        if recent is not None:
            return recent
        async with self._ground.database.reading() as connection:
            return await feed_after(connection, self.position, MAX_EVENTS)

    async def _rest(self, events: int) -> None:
        if events:
            await asyncio.sleep(rest_s(events, MAX_EVENTS))
        else:
            try:
                await asyncio.wait_for(self._wake.wait(), IDLE_POLL_S)
            except TimeoutError:
                return

    async def _transaction(self, feed: SealingProducer, events: Sequence[tuple[int, StatusEvent]]) -> None:
        """The events' records and the new place, together or not at all."""
        position = events[-1][0] if events else self.position
        outs = records_of([event for _, event in events], self._ground.network)
        async with feed.producer.transaction():
            await confirmed(await feed.begin(outs, self._clock_ms()))
            await feed.producer.send_offsets_to_transaction({self._place: OffsetAndMetadata(position, "")}, self._name)
        self.position = position
        STAGE_OUTPUTS.labels(NAME).inc(len(outs))

    async def _start_position(self) -> int:
        committed = await committed_position(self._ground.kafka, self._name, self._place)
        async with self._ground.database.reading() as connection:
            bound = await load_cursor(connection, NAME)
            newest = await last_event_id(connection)
        position = max(committed, bound)
        if position > newest:
            self._log.error("feed_ahead_of_database", position=position, newest=newest)
            return bound
        return position

    async def _save(self) -> None:
        async with self._ground.database.writing() as connection:
            await save_cursor(connection, NAME, self.position)


async def committed_position(kafka: str, group: str, place: TopicPartition) -> int:
    """The offset that the last committed transaction left for the feed's group, 0 where there is none."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka, client_id=NAME)
    await admin.start()
    try:
        offsets: dict[TopicPartition, Any] = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    found = offsets.get(place)
    return max(0, found.offset) if found is not None else 0


def records_of(events: Sequence[StatusEvent], network: Network) -> list[Out]:
    """For each event a record to each of its parties, and for each claim and party the latest of them."""
    organisations, buckets = frozenset(o.id for o in network.organisations), network.buckets
    steps = {party: network.topic(STATUS, party).name for party in organisations}
    latest = {party: network.topic(LATEST_STATUS, party).name for party in organisations}
    outs: list[Out] = []
    last: dict[bytes, tuple[list[str], bytes, str, int]] = {}
    for event in events:
        key, value, event_id = event.claim_ref, _message(event).SerializeToString(), event.id.hex()
        before = last.get(key)
        partition = before[3] if before else bucket_of(key, buckets)
        parties = _parties(event, organisations)
        last[key] = parties, value, event_id, partition
        outs += [make_out(steps[party], key, value, STATUS.schema, event_id, partition) for party in parties]
    for key, (parties, value, event_id, partition) in last.items():
        outs += [make_out(latest[party], key, value, LATEST_STATUS.schema, event_id, partition) for party in parties]
    return outs


def _parties(event: StatusEvent, organisations: frozenset[str]) -> list[str]:
    """Who may read the event, each once."""
    return [party for party in {event.submitter, event.payer, event.payee} if party in organisations]


def _message(event: StatusEvent) -> events_pb2.StatusEvent:
    return events_pb2.StatusEvent(
        claim_ref=event.claim_ref,
        version=event.version,
        status=intake_pb2.ClaimStatus.ValueType(event.status),
        step=event.step,
        time_ms=event.time_ms,
        submitter=event.submitter,
        payer=event.payer,
        payee=event.payee,
        detail=event.detail,
    )
