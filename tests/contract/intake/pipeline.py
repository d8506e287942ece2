"""The other ends of intake's topics, as the tests play them: readers, reporters, a ledger's publisher."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition

from claimledger.events.v1 import events_pb2
from claims.claim import ACCEPTED_CLAIM, AcceptedClaim
from claims.status import StatusEvent
from runtime.kafka import SealingProducer, create_topics, make_consumer, make_producer
from runtime.stage import Out
from runtime.tenant_keys import service_keys
from runtime.topic_keys import TopicKeys
from runtime.topics import RAW_STATUS, SUBMITTED, NamedTopic, Topic, named_topics
from tests.contract.intake.intake_world import World


async def create_world_topics(world: World) -> None:
    network = world.network
    topics = named_topics(network.payers, [o.id for o in network.organisations])
    await create_topics(network.kafka, topics, network.buckets)


def keys_of(world: World, organisation: str, service: str) -> TopicKeys:
    """Topic keys as a service of another organisation holds them."""
    return service_keys(world.run, world.network, organisation, service)


@asynccontextmanager
async def producing(world: World, organisation: str, service: str) -> AsyncIterator[SealingProducer]:
    producer = SealingProducer(
        make_producer(world.network.kafka, service), keys_of(world, organisation, service), service
    )
    async with producer:
        yield producer


async def report(world: World, *events: StatusEvent) -> None:
    """Raw status as a stage of the payer sends it, one record for each event."""
    payer = world.named("payer-one")
    outs = [
        Out(RAW_STATUS.name(payer), b"k", status_batch(event), RAW_STATUS.schema, event.id.hex(), partition=0)
        for event in events
    ]
    async with producing(world, payer, "validation") as producer:
        await producer.send_all(outs, time.time_ns() // 1_000_000)


def status_batch(*events: StatusEvent) -> bytes:
    batch = events_pb2.StatusBatch()
    for e in events:
        batch.events.add(
            claim_ref=e.claim_ref, version=e.version, status=int(e.status), step=e.step, time_ms=e.time_ms,
            submitter=e.submitter, payer=e.payer, payee=e.payee, detail=e.detail,
        )  # fmt: skip
    return batch.SerializeToString()


async def read_all(world: World, topic: NamedTopic, service: str) -> list[tuple[Any, bytes]]:
    """Every committed record of a topic with its value in clear, as a service of its tenant opens it."""
    consumer = make_consumer(world.network.kafka, group=None, client_id="test", read_committed=True)
    await consumer.start()
    keys = keys_of(world, topic.tenant, service)
    try:
        partitions = [TopicPartition(topic.name, p) for p in range(world.network.buckets)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[tuple[Any, bytes]] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for records in (await consumer.getmany(timeout_ms=300)).values():
                found += [(r, keys.open(r.topic, r.key, topic.row.schema, r.value, r.headers)) for r in records]
        return found
    finally:
        await consumer.stop()


async def submitted_claims(world: World) -> list[tuple[AcceptedClaim, int]]:
    """What validation of payer-one reads: claims with their attempts."""
    topic = NamedTopic(SUBMITTED, world.named("payer-one"))
    values = [value for _, value in await read_all(world, topic, "validation")]
    batches = [events_pb2.SubmittedBatch.FromString(value) for value in values]
    return [(ACCEPTED_CLAIM.decode(c.accepted), c.attempt) for batch in batches for c in batch.claims]


async def public_events(world: World, row: Topic, organisation: str) -> list[events_pb2.StatusEvent]:
    """What an organisation's own systems read from its status topics."""
    records = await read_all(world, NamedTopic(row, world.named(organisation)), "client")
    return [events_pb2.StatusEvent.FromString(value) for _, value in records]


async def eventually(question: Any, wanted: Any, seconds: float = 15) -> Any:
    """Asks until the answer is `wanted`; the last answer where time runs out, for the assertion to show."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await question()
        if answer == wanted or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(0.2)
