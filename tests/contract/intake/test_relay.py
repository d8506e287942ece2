"""The relay against the real broker: at least once, in the payer's topic, sealed. (Its deaths: test_relay_deaths.py.)"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from claim_intake.keyring import KeyRing
from claim_intake.relay import Relay
from claim_intake.store.database import Database
from claim_intake.wiring import now_ms, prepare
from claimledger.intake.v1 import intake_pb2
from claims.claim import CLAIM
from claims.identifiers import control_number
from runtime.broker import LocalKafka
from runtime.kafka import SealingProducer, make_producer
from runtime.topics import SUBMITTED, NamedTopic
from tests.contract.intake.intake_world import INTAKE_ORGANISATION, World, make_world
from tests.contract.intake.pipeline import create_world_topics, eventually, keys_of, read_all, submitted_claims
from tests.contract.intake.running import client, serving
from tests.unit.intake.sample_claims import sample_claim

pytestmark = pytest.mark.kafka


def requests(world: World, *keys: str) -> intake_pb2.SubmitClaimsRequest:
    message = intake_pb2.SubmitClaimsRequest(sequence=1)
    for key in keys:
        message.claims.add(client_key=key, claim=sample_claim(world.named("payer-one")))
    return message


async def submit(world: World, *keys: str, organisation: str = "clinic-a") -> list[str]:
    """Control numbers of accepted claims, in order."""
    async with client(world, organisation) as clinic:
        answers = [a async for a in clinic.SubmitClaims(iter([requests(world, *keys)]))]
    return [a.accepted.control_number for a in answers[0].answers]


async def sent(world: World) -> list[tuple[str, int]]:
    """(control number, attempt) of everything in claims.submitted, in no particular order."""
    return sorted((control_number(c.claim_ref), attempt) for c, attempt in await submitted_claims(world))


async def outbox_rows(world: World) -> int:
    database = Database(world.settings().database_url)
    async with database.reading() as connection:
        rows = int((await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one())
    await database.close()
    return rows


async def test_an_accepted_claim_reaches_the_payers_topic_and_leaves_the_outbox(kafka_world: World) -> None:
    """With its canonical bytes, its salt and day, in the partition of its member, and RECEIVED is reported."""
    world = kafka_world
    await create_world_topics(world)
    async with serving(world):
        numbers = await submit(world, "a", "b", "c")
        assert await eventually(lambda: sent(world), sorted((n, 1) for n in numbers)) == sorted((n, 1) for n in numbers)
        assert await eventually(lambda: outbox_rows(world), 0) == 0
    (accepted, _), *_ = await submitted_claims(world)
    claim = CLAIM.decode(accepted.claim)
    assert (accepted.submitter, claim.header.payer) == (world.named("clinic-a"), world.named("payer-one"))
    raw = await read_all(world, NamedTopic(SUBMITTED, world.named("payer-one")), "validation")
    assert len({record.partition for record, _ in raw}) == 1  # one member, one bucket
    assert all(b"99213" not in record.value for record, _ in raw)


async def test_claims_are_accepted_while_the_broker_is_away_and_sent_when_it_comes(
    tmp_path: Any, own_kafka: LocalKafka
) -> None:
    """Nothing accepted is lost. (Absent at start: tests/e2e/test_broker_away.py.)"""
    world = make_world(tmp_path / "run", own_kafka.address)
    await create_world_topics(world)
    async with serving(world):
        numbers = await submit(world, "before")
        assert await eventually(lambda: sent(world), [(numbers[0], 1)], 40) == [(numbers[0], 1)]
        own_kafka.stop(kill=True)
        numbers += await submit(world, "lost-1", "lost-2")
        own_kafka.start()
        found = await eventually(lambda: _distinct(world), sorted(numbers), 60)
    assert found == sorted(numbers)


async def test_claims_are_accepted_while_their_topics_key_cannot_be_used_and_sent_when_it_is_mended(
    kafka_world: World,
) -> None:
    """Its wraps are damaged. Intake says so and goes on."""
    world = kafka_world
    await create_world_topics(world)
    async with key_damaged(world, SUBMITTED.name(world.named("payer-one"))) as mend, serving(world):
        with capture_logs() as logs:
            numbers = await submit(world, "a")
            assert await eventually(lambda: said(logs, "cannot_seal"), True)
        numbers += await submit(world, "b")
        mend()
        expected = sorted((number, 1) for number in numbers)
        assert await eventually(lambda: sent(world), expected) == expected


@asynccontextmanager
async def key_damaged(world: World, topic: str) -> AsyncIterator[Callable[[], object]]:
    """The key of the day of a topic that intake writes to; what is given mends it."""
    keys_of(world, INTAKE_ORGANISATION, "intake").seal(topic, b"", "", b"")
    (wraps,) = (world.run / "keys" / "topics" / topic).iterdir()
    whole = wraps.read_text()
    wraps.write_text(whole[:40])
    yield lambda: wraps.write_text(whole)


async def said(logs: Sequence[Mapping[str, Any]], event: str) -> bool:
    return any(row["event"] == event for row in logs)


async def test_a_scan_that_fails_ends_the_relay(world: World) -> None:
    """Else a process would go on that never sends what is overdue; the broker is away here, as nobody listens."""
    ground = await prepare(world.settings())
    keys = KeyRing(ground.network, ground.organisation, ground.private, now_ms)

    def no_clock() -> int:
        raise ArithmeticError("a mistake of ours")

    def producer() -> SealingProducer:
        return SealingProducer(make_producer(ground.kafka, "test"), ground.topic_keys, "test")

    relay = Relay(ground.database, keys, producer, ground.network.buckets, no_clock)
    try:
        with pytest.raises(ArithmeticError):
            await asyncio.wait_for(relay.run(), 5)
    finally:
        await ground.database.close()


async def _distinct(world: World) -> list[str]:
    return sorted({number for number, _ in await sent(world)})
