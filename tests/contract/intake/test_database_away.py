"""Intake's two processes while their PostgreSQL crashes and comes back, with the real broker beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest
from sqlalchemy.exc import SQLAlchemyError

from claim_intake.projecting import LOCK_NUMBER, project
from claim_intake.rounds import Rounds
from claim_intake.store.database import Database
from claim_intake.wiring import AlreadyRunningError, prepare
from claimledger.intake.v1 import intake_pb2
from claims.claim import AcceptedClaim
from claims.identifiers import claim_ref_of, control_number
from claims.result import Outcome
from runtime.database import root_type
from runtime.errors import RemoteError, read_error
from runtime.topics import STATUS
from tests.contract.intake.intake_world import World
from tests.contract.intake.pipeline import create_world_topics, eventually, public_events, report, submitted_claims
from tests.contract.intake.running import client, projecting, serving
from tests.contract.intake.test_projecting import (
    LIFE,
    proof_of,
    publish,
    result_of,
    step,
    trusting,
    verified,
)
from tests.contract.intake.test_relay import sent, submit
from tests.fixtures.postgres import LocalPostgres
from tests.unit.intake.sample_claims import sample_claim

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
PLACE = "FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"


class Submitter:
    """Hands in one claim after another and notes each answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0
        self.accepted: list[str] = []
        self.refused: list[RemoteError] = []

    async def run(self) -> None:
        async with client(self._world, "clinic-a") as clinic:
            while True:
                await self._submit(clinic)

    async def _submit(self, clinic: Any) -> None:
        self._number += 1
        claim = sample_claim(self._world.named("payer-one"))
        request = intake_pb2.SubmitClaimRequest(client_key=f"one-of-many-{self._number}", claim=claim)
        try:
            answer = await clinic.SubmitClaim(request)
        except grpc.aio.AioRpcError as error:
            self.refused.append(read_error(error))
        else:
            self.accepted.append(answer.accepted.control_number)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def submitting(world: World) -> AsyncIterator[Submitter]:
    submitter = Submitter(world)
    task = asyncio.create_task(submitter.run())
    try:
        yield submitter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def in_database(url: str, statement: str, *arguments: object) -> list[Any]:
    """The first column of what a statement returns."""
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def tracked(clinic: Any, number: str, steps: int) -> list[int]:
    """The claim's first steps, as a caller reads them who resumes a broken stream where it ended."""
    statuses: list[int] = []
    cursor = ""
    while True:
        asked = intake_pb2.TrackClaimsRequest(control_number=number, cursor=cursor)
        try:
            async for event in clinic.TrackClaims(asked):
                cursor = event.cursor
                statuses.append(event.status)
                if len(statuses) == steps:
                    return statuses
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.2)


async def accepted_claim(world: World, number: str) -> AcceptedClaim:
    return next(c for c, _ in await submitted_claims(world) if control_number(c.claim_ref) == number)


async def told_in_topic(world: World, number: str) -> list[int]:
    events = await public_events(world, STATUS, "clinic-a")
    return [event.status for event in events if event.claim_ref == claim_ref_of(number)]


async def test_intake_outlives_a_crash_of_its_database(
    kafka_world: World, own_postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away callers are told UNAVAILABLE; afterwards each loop of both processes works again, on what came
    meanwhile too, and what was accepted is there and was sent."""
    world = kafka_world
    await create_world_topics(world)
    url = own_postgres.start()
    monkeypatch.setattr(Rounds, "recent_after", lambda *_: None)  # a feed that has fallen behind asks the database
    genuine: list[bytes] = []
    settings: dict[str, Any] = {"database": url, "intake_overdue_ms": 60_000}
    async with serving(world, **settings), projecting(world, trusting(genuine), **settings):
        kept, dropped = await submit(world, "kept", "dropped")
        assert await eventually(lambda: told_in_topic(world, kept), LIFE[:1]) == LIFE[:1]
        genuine.append(proof_of(result_of(world, await accepted_claim(world, kept), Outcome.SETTLED)))
        async with client(world, "clinic-a") as clinic, submitting(world) as submitter:
            tracking = asyncio.create_task(tracked(clinic, kept, len(LIFE)))
            await asyncio.sleep(0.3)

            own_postgres.halt()
            before = len(submitter.accepted)
            await publish(world, genuine[0])
            await report(world, *[step(world, kept, status) for status in LIFE[1:]])
            await asyncio.sleep(1)
            with pytest.raises(grpc.aio.AioRpcError) as unread:
                await clinic.GetClaim(intake_pb2.GetClaimRequest(control_number=kept))
            assert read_error(unread.value).code == "UNAVAILABLE"
            own_postgres.start()

            assert await asyncio.wait_for(tracking, 30) == LIFE
            await asyncio.sleep(0.5)
        assert before < len(submitter.accepted)
        assert {(e.code, e.reason, e.retry_after_ms) for e in submitter.refused} == {("UNAVAILABLE", "STORE", 1_000)}

        expected = (True, 1, genuine[0])
        assert await eventually(lambda: verified(world, kept), expected) == expected
        assert await eventually(lambda: told_in_topic(world, kept), LIFE) == LIFE
        due = "UPDATE open_claim SET due_ms = 0 WHERE claim_id = (SELECT id FROM claim WHERE claim_ref = $1)"
        await in_database(url, due, claim_ref_of(dropped))
        assert await eventually(lambda: has_been_sent(world, (dropped, 2)), wanted=True)
        assert await eventually(lambda: place_holders(url), wanted=1) == 1
        assert set(submitter.accepted) <= {number for number, _ in await sent(world)}
    refs = [claim_ref_of(number) for number in submitter.accepted]
    stored = await in_database(url, "SELECT claim_ref FROM claim WHERE claim_ref = ANY($1)", refs)
    assert sorted(stored) == sorted(refs)


async def test_a_projector_that_lost_its_place_to_another_ends(world: World, postgres_url: str) -> None:
    """The connection that held it broke, while the pool's others work; both would give out the same numbers for events."""
    stop = asyncio.Event()
    projector = asyncio.create_task(project(await prepare(world.settings(postgres_url)), stop, trusting([])))
    assert await eventually(lambda: place_holders(postgres_url), wanted=1) == 1
    (first,) = await in_database(postgres_url, f"SELECT pid {PLACE}")
    other = await asyncpg.connect(postgres_url)
    try:
        waiting = asyncio.create_task(other.fetch("SELECT pg_advisory_lock($1)", LOCK_NUMBER))
        await in_database(postgres_url, "SELECT pg_terminate_backend($1)", first)
        await waiting
        await asyncio.wait([projector], timeout=5)
        assert projector.done()  # by itself: one that is cancelled finds out as well
        with pytest.raises(AlreadyRunningError):
            await projector
    finally:
        stop.set()
        await other.close()


async def test_whatever_a_database_that_is_away_raises_is_one_kind_of_error(own_postgres: LocalPostgres) -> None:
    """One that shuts down turns clients away with the driver's error, one that is gone with the system's."""
    url = own_postgres.start()
    last_client = await asyncpg.connect(url)
    own_postgres.retire()
    assert await away_with(url) == "CannotConnectNowError"
    await last_client.close()
    own_postgres.halt()
    assert await away_with(url) == "ConnectionRefusedError"


async def away_with(url: str) -> str:
    database = Database(url)
    with pytest.raises(SQLAlchemyError) as away:
        async with database.reading():
            pass
    await database.close()
    return root_type(away.value)


async def place_holders(url: str) -> int:
    return len(await in_database(url, f"SELECT pid {PLACE}"))


async def has_been_sent(world: World, emission: tuple[str, int]) -> bool:
    return emission in await sent(world)
