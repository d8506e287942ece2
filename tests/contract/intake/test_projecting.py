"""Projector, status feed and keeper against the real broker."""

import asyncio
import dataclasses
import hashlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from claim_intake import feed as feed_module
from claim_intake import reader as reader_module
from claim_intake.evidence import Verify
from claimledger.events.v1 import events_pb2
from claimledger.intake.v1 import intake_pb2
from claimledger.ledger.v1 import ledger_pb2
from claims.claim import AcceptedClaim, commitment
from claims.identifiers import claim_ref_of
from claims.rejection import REJECTION, Rejection, RejectionReason, rejection_message
from claims.result import CLAIM_RESULT, ClaimResult, Outcome
from claims.status import STEP_OF, Status, StatusEvent
from claims.transaction import ReasonClass
from runtime.dlq import list_dead_letters
from runtime.kafka import confirmed
from runtime.pki import load_signing_key
from runtime.stage import Out
from runtime.topics import LATEST_STATUS, RAW_STATUS, REJECTED, SETTLEMENTS, STATUS, Topic
from tests.contract.intake.intake_world import INTAKE_ORGANISATION, World
from tests.contract.intake.pipeline import (
    create_world_topics,
    eventually,
    keys_of,
    producing,
    public_events,
    report,
    submitted_claims,
)
from tests.contract.intake.running import client, projecting, serving
from tests.contract.intake.test_relay import key_damaged, said, submit
from tests.fixtures.kafka import now_ms

pytestmark = pytest.mark.kafka
S = Status
LIFE = [S.RECEIVED, S.VALIDATED, S.SCORED, S.ORDERED, S.SETTLED]


def no_proof(_: ledger_pb2.SettlementProof, __: int) -> None:
    raise ValueError("no proof is expected here")


def step(world: World, number: str, status: Status, at: int | None = None) -> StatusEvent:
    return StatusEvent(
        claim_ref_of(number), 1, status, STEP_OF[status] if at is None else at, 1_000, world.named("clinic-a"),
        world.named("payer-one"), world.named("clinic-b") if status is not S.RECEIVED else "", f"at {status.name}",
    )  # fmt: skip


async def view(world: World, number: str, organisation: str = "clinic-a") -> Any:
    async with client(world, organisation) as clinic:
        return (await clinic.GetClaim(intake_pb2.GetClaimRequest(control_number=number))).claim


async def statuses_in_topic(world: World, organisation: str) -> list[int]:
    return [e.status for e in await public_events(world, STATUS, organisation)]


async def test_reports_in_any_order_become_one_stream_for_every_party(kafka_world: World) -> None:
    """RECEIVED from the relay itself; the rest shuffled and repeated; the payee joins when validation names it."""
    world = kafka_world
    await create_world_topics(world)
    async with serving(world), projecting(world, no_proof):
        (number,) = await submit(world, "k")
        shuffled = [S.SETTLED, S.SCORED, S.VALIDATED, S.SCORED, S.ORDERED, S.VALIDATED]
        await report(world, *[step(world, number, s) for s in shuffled])
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE) == LIFE
        assert await statuses_in_topic(world, "payer-one") == LIFE
        assert await eventually(lambda: statuses_in_topic(world, "clinic-b"), LIFE[1:]) == LIFE[1:]
        latest = await public_events(world, LATEST_STATUS, "clinic-a")
        assert int(latest[-1].status) == S.SETTLED
        found = await view(world, number)
        async with client(world, "clinic-b") as payee:
            stream = payee.TrackClaims(intake_pb2.TrackClaimsRequest())
            tracked = [(await stream.read()).status for _ in LIFE[1:]]
            stream.cancel()
    assert (found.status, found.payee, found.detail) == (S.SETTLED, world.named("clinic-b"), "at SETTLED")
    assert tracked == LIFE[1:]


async def test_steps_are_fed_once_the_key_of_their_topic_can_be_used(kafka_world: World) -> None:
    """Meanwhile the process says so and goes on: it keeps and projects for everybody."""
    world = kafka_world
    await create_world_topics(world)
    topic = STATUS.name(world.named("clinic-a"))
    async with key_damaged(world, topic) as mend, serving(world):
        with capture_logs() as logs:
            async with projecting(world, no_proof):
                await submit(world, "k")
                assert await eventually(lambda: said(logs, "cannot_seal"), True)
                mend()
                assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE[:1]) == LIFE[:1]


@pytest.mark.parametrize("row", [RAW_STATUS, REJECTED], ids=["projector", "keeper"])
async def test_a_letter_waits_until_the_key_of_its_topic_can_be_used(kafka_world: World, row: Topic) -> None:
    """What cannot be set aside is not passed over, and ends nobody."""
    world = kafka_world
    await create_world_topics(world)
    payer = world.named("payer-one")
    topic = row.name(payer)

    async def letters() -> list[str]:
        keys = keys_of(world, INTAKE_ORGANISATION, "intake")
        return [letter.type for letter in await list_dead_letters(world.network.kafka, keys, [topic])]

    async with key_damaged(world, f"{topic}.dlq") as mend, producing(world, payer, "validation") as producer:
        await producer.producer.send_and_wait(topic, b"not sealed at all", key=b"k", partition=0)
        with capture_logs() as logs:
            async with projecting(world, no_proof):
                assert await eventually(lambda: said(logs, "cannot_seal"), True)
                mend()
                assert await eventually(letters, ["no-key-id"]) == ["no-key-id"]


async def test_a_settlement_whose_key_is_away_ends_the_claim_once_the_key_is_back(kafka_world: World) -> None:
    """It would not come again. Nothing is set aside meanwhile, and other topics go on, also one that is read from then on."""
    world = kafka_world
    await create_world_topics(world)
    genuine: list[bytes] = []
    topic, keys = SETTLEMENTS.name(world.named("clinic-a")), keys_of(world, "regulator", "intake")

    async def settle(organisation: str) -> tuple[str, tuple[bool, int, bytes]]:
        (number,) = await submit(world, organisation, organisation=organisation)
        await eventually(lambda: _count(world), len(genuine) + 1)
        accepted = next(a for a, _ in await submitted_claims(world) if a.claim_ref == claim_ref_of(number))
        genuine.append(proof_of(result_of(world, accepted, Outcome.SETTLED)))
        await publish(world, genuine[-1], organisation=organisation)
        return number, (True, 1, genuine[-1])

    async with serving(world):
        number, expected = await settle("clinic-a")
        async with key_damaged(world, topic) as mend:
            with capture_logs() as logs:
                async with projecting(world, trusting(genuine)):
                    assert await eventually(lambda: said(logs, "cannot_open"), True)
                    other, its = await settle("clinic-b")
                    assert await eventually(lambda: verified(world, other, "clinic-b"), its) == its
                    assert not (await verified(world, number))[0]
                    assert await _letter_types(world, keys, topic) == []
                    mend()
                    assert await eventually(lambda: verified(world, number), expected) == expected


async def test_reports_whose_key_is_away_are_projected_in_order_once_the_key_is_back(kafka_world: World) -> None:
    world = kafka_world
    await create_world_topics(world)
    topic, keys = RAW_STATUS.name(world.named("payer-one")), keys_of(world, "regulator", "intake")
    async with serving(world):
        (number,) = await submit(world, "k")
        await report(world, step(world, number, S.VALIDATED))
        await report(world, step(world, number, S.SCORED))
        async with key_damaged(world, topic) as mend:
            with capture_logs() as logs:
                async with projecting(world, no_proof):
                    assert await eventually(lambda: said(logs, "cannot_open"), True)
                    assert await _letter_types(world, keys, topic) == []
                    mend()
                    assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE[:3]) == LIFE[:3]


async def test_a_key_that_nobody_has_is_not_waited_for_without_end(
    kafka_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes to a topic can name one, and would stop what comes behind it."""
    world = kafka_world
    await create_world_topics(world)
    monkeypatch.setattr(reader_module, "KEY_PATIENCE_S", 0.0)
    payer = world.named("payer-one")
    topic, keys = RAW_STATUS.name(payer), keys_of(world, "regulator", "intake")
    async with serving(world):
        (number,) = await submit(world, "k")
        async with producing(world, payer, "validation") as producer:
            await producer.producer.send_and_wait(
                topic, bytes(40), key=b"k", partition=0, headers=[("key-id", b"2001-01-01.00000000")]
            )
        await report(world, step(world, number, S.VALIDATED))
        async with projecting(world, no_proof):
            assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE[:2]) == LIFE[:2]
    assert await _letter_types(world, keys, topic) == ["unknown-key"]


async def test_a_report_of_another_payer_or_of_no_claim_changes_nothing(kafka_world: World) -> None:
    world = kafka_world
    await create_world_topics(world)
    async with serving(world), projecting(world, no_proof):
        (number,) = await submit(world, "k")
        forged = step(world, number, S.VALIDATED)
        other = world.named("payer-two")
        batch = events_pb2.StatusBatch()
        batch.events.add(claim_ref=forged.claim_ref, version=1, status=3, step=1, time_ms=1, payer=forged.payer)
        out = Out(RAW_STATUS.name(other), b"k", batch.SerializeToString(), RAW_STATUS.schema, "forged", 0)
        async with producing(world, other, "validation") as producer:
            await producer.send_all([out], now_ms())
        await report(world, dataclasses.replace(forged, claim_ref=bytes(16)))
        await report(world, step(world, number, S.VALIDATED), step(world, number, S.SCORED))
        expected = LIFE[:3]
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), expected) == expected
    events = await public_events(world, STATUS, "clinic-a")
    assert [e.detail for e in events] == ["", "at VALIDATED", "at SCORED"]


async def test_an_undecodable_report_goes_to_the_dead_letters_and_the_stream_goes_on(kafka_world: World) -> None:
    """K7 for status.raw. A text that PostgreSQL does not take is one: it would stop the steps of every payer."""
    world = kafka_world
    await create_world_topics(world)
    payer = world.named("payer-one")
    topic = RAW_STATUS.name(payer)
    async with serving(world), projecting(world, no_proof):
        (number,) = await submit(world, "k")
        async with producing(world, payer, "validation") as producer:
            await producer.producer.send_and_wait(topic, b"not sealed at all", key=b"k", partition=0)
            await producer.send_all([Out(topic, b"k", b"\xff\xff", RAW_STATUS.schema, "e", 0)], now_ms())
        await report(world, dataclasses.replace(step(world, number, S.SCORED), detail="a\0b"))
        for payee in ("a\0b", "p" * 33):
            await report(world, dataclasses.replace(step(world, number, S.SCORED), payee=payee))
        await report(world, step(world, number, S.VALIDATED))
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE[:2]) == LIFE[:2]
    letters = await list_dead_letters(world.network.kafka, keys_of(world, "regulator", "intake"), [topic])
    assert sorted(letter.type for letter in letters) == ["no-key-id", *["undecodable"] * 4]


async def test_a_missing_step_is_implied_once_waiting_has_lasted_too_long(kafka_world: World) -> None:
    world = kafka_world
    await create_world_topics(world)
    async with serving(world), projecting(world, no_proof, intake_hold_ms=500):
        (number,) = await submit(world, "k")
        await report(world, step(world, number, S.SETTLED))
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE) == LIFE


async def test_a_feed_that_dies_in_a_transaction_leaves_no_gap_and_no_repeat(
    kafka_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after the records were confirmed and before the commit; readers of committed records never see those."""
    world = kafka_world
    await create_world_topics(world)
    real = confirmed
    calls = 0

    async def dying(futures: Any) -> None:
        nonlocal calls
        await real(futures)
        calls += 1
        if calls in {1, 3}:
            raise ConnectionError("killed")

    monkeypatch.setattr(feed_module, "confirmed", dying)
    monkeypatch.setattr(feed_module, "MAX_EVENTS", 2)
    async with serving(world), projecting(world, no_proof):
        (number,) = await submit(world, "k")
        for status in LIFE[1:]:
            await report(world, step(world, number, status))
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), LIFE, 30) == LIFE
    assert calls >= 3
    async with projecting(world, no_proof):  # a restart adds nothing
        await report(world, step(world, number, S.SETTLED), step(world, number, S.REVERSED))
        expected = [*LIFE, S.REVERSED]
        assert await eventually(lambda: statuses_in_topic(world, "clinic-a"), expected) == expected


async def first_accepted(world: World) -> AcceptedClaim:
    await eventually(lambda: _count(world), 1)
    return (await submitted_claims(world))[0][0]


async def _count_at_rest(world: World) -> int:
    """How many emissions there are once what was on its way before has arrived."""
    before = -1
    while (count := await _count(world)) != before:
        before = count
        await asyncio.sleep(0.5)
    return count


async def _count(world: World) -> int:
    return len(await submitted_claims(world))


def result_of(world: World, accepted: AcceptedClaim, outcome: Outcome, result_step: int = 0) -> ClaimResult:
    return ClaimResult(
        height=1, index=0, outcome=outcome, claim_ref=accepted.claim_ref, version=1, step=result_step,
        submitter=accepted.submitter, payer=world.named("payer-one"), payee=world.named("clinic-b"), plan="gold-2026",
        reason=ReasonClass.NONE, refusal=0, linked=None, commitment=commitment(accepted.salt, accepted.claim),
        charge_cents=1, paid_cents=1, patient_cents=0, lines=(), postings=(),
    )  # fmt: skip


def proof_of(result: ClaimResult) -> bytes:
    return ledger_pb2.SettlementProof(result=CLAIM_RESULT.encode(result), leaf_index=7).SerializeToString()


async def publish(world: World, proof: bytes, party: bytes = b"submitter", organisation: str = "clinic-a") -> None:
    topic = SETTLEMENTS.name(world.named(organisation))
    out = Out(topic, b"r", proof, SETTLEMENTS.schema, hashlib.sha256(proof).hexdigest(), 0, (("party", party),))
    async with producing(world, "regulator", "intake") as producer:
        await producer.send_all([out], now_ms())


def trusting(proofs: list[bytes]) -> Verify:
    """A verifier that knows which proofs are genuine, also later ones; the real one has tests of its own."""

    def verify(proof: ledger_pb2.SettlementProof, result_height: int) -> None:
        if proof.SerializeToString(deterministic=True) not in proofs:
            raise ValueError("path does not lead to the root")

    return verify


async def verified(world: World, number: str, organisation: str = "clinic-a") -> tuple[bool, int, bytes]:
    found = await view(world, number, organisation)
    return found.verified, found.attempts, found.settlement_proof


async def test_only_a_proof_about_this_very_claim_ends_the_duty(kafka_world: World) -> None:
    """A bad proof, another commitment, another party's copy: the claim stays open. Then the real one closes it."""
    world = kafka_world
    await create_world_topics(world)
    genuine: list[bytes] = []

    async with serving(world), projecting(world, trusting(genuine)):
        (number,) = await submit(world, "k")
        accepted = await first_accepted(world)
        result = result_of(world, accepted, Outcome.SETTLED)
        other = proof_of(dataclasses.replace(result, commitment=bytes(32)))
        copied = proof_of(dataclasses.replace(result, height=2))
        good = proof_of(dataclasses.replace(result, height=3))
        genuine += [other, copied, good]
        await publish(world, proof_of(result))  # not genuine
        await publish(world, other)
        await publish(world, copied, party=b"payer")
        await publish(world, copied, organisation="payer-one")
        topic = SETTLEMENTS.name(world.named("clinic-a"))
        keys = keys_of(world, "regulator", "intake")
        letters = await eventually(lambda: _letter_types(world, keys, topic), ["bad-proof", "wrong-commitment"])
        assert letters == ["bad-proof", "wrong-commitment"]
        assert await verified(world, number) == (False, 1, b"")
        await publish(world, good)
        assert await eventually(lambda: verified(world, number), (True, 1, good)) == (True, 1, good)


async def test_an_organisations_settlements_are_read_from_its_first_claim_on(kafka_world: World) -> None:
    """Until then the copies in its topic concern nobody here; from then on none is missed, and others' go on."""
    world = kafka_world
    await create_world_topics(world)
    genuine: list[bytes] = []
    topic, keys = SETTLEMENTS.name(world.named("clinic-b")), keys_of(world, "regulator", "intake")
    await publish(world, b"\xff junk", organisation="clinic-b")

    async with serving(world), projecting(world, trusting(genuine)):
        for key in ("first", "second"):
            (number,) = await submit(world, key)
            accepted = next(a for a, _ in await submitted_claims(world) if a.claim_ref == claim_ref_of(number))
            genuine.append(proof_of(result_of(world, accepted, Outcome.SETTLED)))
            await publish(world, genuine[-1])
            expected = (True, 1, genuine[-1])
            assert await eventually(lambda: verified(world, number), expected) == expected  # noqa: B023
            if key == "first":
                assert await _letter_types(world, keys, topic) == []
                await submit(world, "other", organisation="clinic-b")
                letters = await eventually(lambda: _letter_types(world, keys, topic), ["undecodable"])
                assert letters == ["undecodable"]


async def _letter_types(world: World, keys: Any, topic: str) -> list[str]:
    return sorted(letter.type for letter in await list_dead_letters(world.network.kafka, keys, [topic]))


async def test_a_pended_claim_stays_open_until_its_review(kafka_world: World) -> None:
    """It is shown with its proof, is never overdue, and the review's result replaces the first."""
    world = kafka_world
    await create_world_topics(world)
    genuine: list[bytes] = []
    times: dict[str, Any] = {"intake_overdue_ms": 1_000, "intake_overdue_cap_ms": 1_000}
    async with serving(world, **times), projecting(world, trusting(genuine), **times):
        (number,) = await submit(world, "k")
        accepted = await first_accepted(world)
        pended = proof_of(result_of(world, accepted, Outcome.PENDED))
        settled = proof_of(result_of(world, accepted, Outcome.SETTLED, 1))
        genuine += [pended, settled]
        await publish(world, pended)
        attempts = (await eventually(lambda: verified(world, number), (True, 1, pended)))[1]
        sent = await _count_at_rest(world)
        await asyncio.sleep(2.5)  # two and a half times overdue
        assert await _count(world) == sent
        await publish(world, settled)
        expected = (True, attempts, settled)
        assert await eventually(lambda: verified(world, number), expected) == expected


async def test_a_rejection_ends_the_duty_only_under_the_payers_key(kafka_world: World) -> None:
    world = kafka_world
    await create_world_topics(world)
    payer = world.named("payer-one")
    async with serving(world), projecting(world, no_proof):
        (number,) = await submit(world, "k")
        accepted = await first_accepted(world)
        reasons = (RejectionReason("npi.check", "claim.parties.billing_npi", "16", "N290", "check digit"),)
        rejection = REJECTION.encode(
            Rejection(
                bytes.fromhex(world.network.chain_id), accepted.claim_ref, 1, payer, accepted.submitter,
                commitment(accepted.salt, accepted.claim), reasons,
            )
        )  # fmt: skip
        key = load_signing_key(world.run / "orgs" / payer / "pricing.ed25519")
        wrong = load_signing_key(world.run / "orgs" / world.named("payer-two") / "pricing.ed25519")
        for signer in (wrong, key):
            assert not (await view(world, number)).verified
            message = events_pb2.RejectedClaim(rejection=rejection, signature=signer.sign(rejection_message(rejection)))
            out = Out(REJECTED.name(payer), b"r", message.SerializeToString(), REJECTED.schema, "r", 0)
            async with producing(world, payer, "validation") as producer:
                await producer.send_all([out], now_ms())
            if signer is wrong:
                keys, topic = keys_of(world, "regulator", "intake"), REJECTED.name(payer)
                found = await eventually(lambda: _letter_types(world, keys, topic), ["bad-signature"])  # noqa: B023
                assert found == ["bad-signature"]
        assert await eventually(lambda: verified(world, number), (True, 1, b"")) == (True, 1, b"")


async def test_an_overdue_claim_is_sent_again_with_the_next_attempt(kafka_world: World) -> None:
    """Nobody answers here: attempts 1, 2 and 3 come, each later than the one before."""
    world = kafka_world
    await create_world_topics(world)
    times: dict[str, Any] = {"intake_overdue_ms": 300, "intake_overdue_cap_ms": 10_000}
    async with serving(world, **times), projecting(world, no_proof, **times):
        (number,) = await submit(world, "k")
        await eventually(lambda: _count(world), 3)
        attempts = [attempt for _, attempt in await submitted_claims(world)]
        assert (await view(world, number)).attempts >= 3
    assert attempts[:3] == [1, 2, 3]
