"""The relay dies at each point of its work, as a process and by SIGKILL, against the real broker; the next one makes good."""

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from claim_intake.store import keeping
from claim_intake.store.database import Database
from claimledger.intake.v1 import intake_pb2
from claims.claim import AcceptedClaim, commitment
from claims.identifiers import control_number
from claims.result import ClaimResult, Outcome
from tests.contract.intake import dying_intake
from tests.contract.intake.intake_world import INTAKE_ORGANISATION, World
from tests.contract.intake.pipeline import create_world_topics, eventually, submitted_claims
from tests.contract.intake.running import client, serving
from tests.contract.intake.test_relay import outbox_rows
from tests.fixtures.kafka import now_ms
from tests.fixtures.ledger_world import LedgerWorld, claim, line, scored_entry
from tests.unit.intake.sample_claims import sample_claim

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).resolve().parents[3]
KEYS = [f"claim-{number}" for number in range(6)]
STARTED_WITHIN_S = 30


@asynccontextmanager
async def dying(world: World, point: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process that will die at this point, once it answers."""
    around = os.environ | {
        "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'proto' / 'python'}:{ROOT}",
        "CLAIMLEDGER_RUN": str(world.run),
        "CLAIMLEDGER_INTAKE_ORGANISATION": INTAKE_ORGANISATION,
    }
    program = [sys.executable, dying_intake.__file__, point]
    process = await asyncio.create_subprocess_exec(*program, env=around, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with client(world, "clinic-a") as clinic, asyncio.timeout(STARTED_WITHIN_S):
            await clinic.channel.channel_ready()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def batch(world: World) -> intake_pb2.SubmitClaimsRequest:
    """Claims of several members."""
    message = intake_pb2.SubmitClaimsRequest(sequence=1)
    for number, key in enumerate(KEYS):
        sample = sample_claim(world.named("payer-one"))
        sample.parties.patient.member_id = f"M{number}"
        message.claims.add(client_key=key, claim=sample)
    return message


async def submit(world: World) -> list[Any]:
    """The answers to the batch; none where the other side died over it."""
    async with client(world, "clinic-a") as clinic:
        try:
            answers = [a async for a in clinic.SubmitClaims(iter([batch(world)]))]
        except grpc.aio.AioRpcError:
            return []
    return [answer.accepted for answer in answers[0].answers]


async def sent(world: World) -> dict[str, list[tuple[AcceptedClaim, int]]]:
    """What lies in claims.submitted of each claim, in its order: the claim as it was accepted, and the attempt."""
    found = defaultdict(list)
    for accepted, attempt in await submitted_claims(world):
        found[control_number(accepted.claim_ref)].append((accepted, attempt))
    return found


async def attempts(world: World) -> dict[str, list[int]]:
    return {number: [attempt for _, attempt in times] for number, times in (await sent(world)).items()}


async def send_again(world: World) -> None:
    """As the keeper does with what is overdue."""
    database = Database(world.settings().database_url)
    async with database.writing() as connection:
        late = await keeping.overdue(connection, now_ms() + 10**9, len(KEYS))
        await keeping.send_again(connection, [(each, now_ms() + 10**9) for each in late])
    await database.close()


def settled(arrived: Sequence[AcceptedClaim]) -> dict[str, int]:
    """How often the contract settles each claim, where every one that arrived is ordered, priced as the payer would."""
    ledger = LedgerWorld()
    ledger.plan()
    ledger.enroll("ada")
    priced = [
        claim("", [line()], claim_ref=a.claim_ref, version=a.version, commitment=commitment(a.salt, a.claim))
        for a in arrived
    ]
    outcomes = ledger.block(*(scored_entry([each]) for each in priced)).outcomes
    results = [outcome for outcome in outcomes if isinstance(outcome, ClaimResult)]
    assert {result.outcome for result in results} == {Outcome.SETTLED}
    return Counter(control_number(result.claim_ref) for result in results)


POINTS = [("before the send", {0}), ("in the middle of a flush", {1, 2}), ("before the mark", {len(KEYS)})]
"""Where it dies, and how many of the claims may have reached the broker by then: a record holds two at most."""


@pytest.mark.parametrize(("point", "sent_before"), POINTS)
async def test_what_was_accepted_is_sent_whatever_the_relay_dies_in(
    kafka_world: World, point: str, sent_before: set[int]
) -> None:
    """At least once, to the byte the same each time, and settled once; and the attempts of a claim come in their order."""
    world = kafka_world
    await create_world_topics(world)
    async with dying(world, point) as process:
        told = await submit(world)
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL
    before = await attempts(world)
    assert len(before) in sent_before
    assert await outbox_rows(world) == len(KEYS)

    async with serving(world):
        answers = await submit(world)
        assert all(answer.repeated_submission for answer in answers)
        numbers = [answer.control_number for answer in answers]
        assert not told or [answer.control_number for answer in told] == numbers
        again = {number: [1] * (1 + (number in before)) for number in numbers}
        assert await eventually(lambda: attempts(world), again) == again
        assert await eventually(lambda: outbox_rows(world), 0) == 0
        await send_again(world)
        last = {number: [*times, 2] for number, times in again.items()}
        assert await eventually(lambda: attempts(world), last) == last
    arrived = await sent(world)
    assert all(len({accepted for accepted, _ in times}) == 1 for times in arrived.values())
    assert settled([accepted for times in arrived.values() for accepted, _ in times]) == dict.fromkeys(numbers, 1)
