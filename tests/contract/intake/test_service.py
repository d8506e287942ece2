"""IntakeService over real mutual TLS; no broker is needed to accept claims."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from claim_intake.servicer import STREAMS_OF_ONE
from claim_intake.store import reading
from claim_intake.store.database import Database
from claim_intake.store.reading import MAX_EVENTS
from claimledger.claims.v1 import claim_pb2
from claimledger.intake.v1 import intake_pb2
from claims.status import STEP_OF, Status
from runtime.errors import read_error
from runtime.grpc_channel import open_channel
from runtime.identity import Identity, Role, server_name
from runtime.pki import TlsFiles, issue, make_authority
from tests.contract.intake.intake_world import World, make_world
from tests.contract.intake.running import Client, client, serving
from tests.fixtures.kafka import free_ports
from tests.unit.intake.sample_claims import sample_claim

Code = grpc.StatusCode


def submit(key: str = "k", claim: claim_pb2.Claim | None = None) -> intake_pb2.SubmitClaimRequest:
    return intake_pb2.SubmitClaimRequest(client_key=key, claim=claim or sample_claim())


@pytest.fixture
async def served(world: World) -> AsyncIterator[World]:
    async with serving(world):
        yield world


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call, also of one that streams."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _exhaust(call)
    return caught.value


async def _exhaust(call: Any) -> None:
    if not hasattr(call, "__aiter__"):
        await call
        return
    async for _ in call:
        pass


async def test_a_claim_is_accepted_and_seen_by_its_parties_only(served: World) -> None:
    """A foreign claim and one that does not exist look the same: NOT_FOUND (B3)."""
    async with client(served, "clinic-a") as clinic, client(served, "clinic-b") as stranger:
        accepted = (await clinic.SubmitClaim(submit())).accepted
        asked = intake_pb2.GetClaimRequest(control_number=accepted.control_number)
        view = (await clinic.GetClaim(asked)).claim
        foreign = await failure(stranger.GetClaim(asked))
        absent = await failure(stranger.GetClaim(intake_pb2.GetClaimRequest(control_number="A" * 26)))
        tracked = await failure(stranger.TrackClaims(intake_pb2.TrackClaimsRequest(
            control_number=accepted.control_number)))  # fmt: skip
    async with client(served, "payer-one") as payer:
        assert (await payer.GetClaim(asked)).claim.submitter == "clinic-a"
    assert (view.status, view.payer, view.attempts, view.verified) == (1, "payer-one", 1, False)
    assert foreign.code() is absent.code() is tracked.code() is Code.NOT_FOUND
    assert foreign.details() == absent.details()


async def test_the_same_key_and_body_has_the_same_answer_and_another_body_is_refused(served: World) -> None:
    async with client(served, "clinic-a") as clinic, client(served, "clinic-b") as other:
        first = (await clinic.SubmitClaim(submit())).accepted
        again = (await clinic.SubmitClaim(submit())).accepted
        changed = await failure(clinic.SubmitClaim(submit(claim=sample_claim(lines=3))))
        theirs = (await other.SubmitClaim(submit())).accepted
    assert (again.control_number, again.repeated_submission) == (first.control_number, True)
    assert not first.repeated_submission
    assert changed.code() is Code.ALREADY_EXISTS
    assert theirs.control_number != first.control_number


async def test_a_bad_claim_is_answered_with_each_field(served: World) -> None:
    claim = sample_claim(payer="payer-none")
    async with client(served, "clinic-a") as clinic:
        unknown = read_error(await failure(clinic.SubmitClaim(submit(claim=claim))))
        claim.lines[1].units = 0
        claim.lines[0].charge_cents = -5
        error = read_error(await failure(clinic.SubmitClaim(submit("", claim))))
        key = read_error(await failure(clinic.SubmitClaim(submit(""))))
        await clinic.SubmitClaim(submit())
    assert (unknown.code, [v.field for v in unknown.violations]) == ("INVALID_ARGUMENT", ["claim.header.payer"])
    assert [(v.field, v.rule) for v in key.violations] == [("client_key", "intake.client_key")]
    assert error.code == "INVALID_ARGUMENT"
    assert error.violations


async def test_a_client_cannot_set_what_only_the_system_sets(served: World) -> None:
    """B4: a field that the schema does not have, such as a status or a score, is refused by its number."""
    request = submit()
    request.claim.header.MergeFromString(b"\xa0\x06\x06")  # field 100, varint 6
    async with client(served, "clinic-a") as clinic:
        error = read_error(await failure(clinic.SubmitClaim(request)))
        asked = intake_pb2.GetClaimRequest(control_number="A" * 26)
        asked.MergeFromString(b"\xa0\x06\x06")
        other = read_error(await failure(clinic.GetClaim(asked)))
    assert [v.field for v in error.violations] == ["claim.header"]
    assert "100" in error.violations[0].description
    assert (other.code, [v.field for v in other.violations]) == ("INVALID_ARGUMENT", ["request"])


async def test_ten_thousand_lines_are_refused_and_an_oversized_message_too(served: World) -> None:
    async with client(served, "clinic-a") as clinic:
        many = read_error(await failure(clinic.SubmitClaim(submit(claim=sample_claim(lines=10_000)))))
        huge = sample_claim()
        huge.header.authorization = "x" * (17 * 1024 * 1024)
        large = await failure(clinic.SubmitClaim(submit(claim=huge)))
        await clinic.SubmitClaim(submit())  # the service goes on
    assert "claim.lines" in [v.field for v in many.violations]
    assert large.code() is Code.RESOURCE_EXHAUSTED


async def batches(*sizes: int) -> AsyncIterator[intake_pb2.SubmitClaimsRequest]:
    for sequence, size in enumerate(sizes, 1):
        request = intake_pb2.SubmitClaimsRequest(sequence=sequence)
        request.claims.extend(submit(f"{sequence}-{i}") for i in range(size))
        yield request


async def test_a_stream_answers_each_claim_and_acknowledges_cumulatively(served: World) -> None:
    async def requests() -> AsyncIterator[intake_pb2.SubmitClaimsRequest]:
        async for request in batches(3, 1, 40):
            if request.sequence == 1:
                request.claims[1].claim.lines[0].units = 0
                request.claims[2].client_key = request.claims[0].client_key
                request.claims[2].claim.header.plan = "another"
            yield request

    async with client(served, "clinic-a") as clinic:
        answers = [answer async for answer in clinic.SubmitClaims(requests())]
        page = await clinic.ListClaims(intake_pb2.ListClaimsRequest(page_size=500))
    assert [(a.sequence, a.acked_sequence, len(a.answers)) for a in answers] == [(1, 1, 3), (2, 2, 1), (3, 3, 40)]
    first = answers[0].answers
    assert first[0].WhichOneof("answer") == "accepted"
    (violation,) = first[1].error.violations
    assert (first[1].error.code, violation.field, violation.rule) == (3, "claim.lines[0].units", "intake.range")
    assert first[2].error.code == 6
    assert len(page.claims) == 42


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: setattr(r, "sequence", 7), "sequence"),
        (lambda r: r.ClearField("claims"), "claims"),
        (lambda r: r.claims.extend(submit() for _ in range(500)), "claims"),
        (lambda r: r.MergeFromString(b"\xa0\x06\x06"), "request"),
    ],
)
async def test_a_malformed_batch_ends_the_stream(served: World, change: Callable[[Any], None], field: str) -> None:
    async def requests() -> AsyncIterator[intake_pb2.SubmitClaimsRequest]:
        async for request in batches(1):
            change(request)
            yield request

    async with client(served, "clinic-a") as clinic:
        error = read_error(await failure(clinic.SubmitClaims(requests())))
    assert (error.code, [v.field for v in error.violations]) == ("INVALID_ARGUMENT", [field])


async def test_a_full_outbox_says_when_to_try_again(world: World) -> None:
    """No broker takes anything off the outbox here."""
    async with serving(world, intake_outbox_limit=2), client(world, "clinic-a") as clinic:
        answers = [a async for a in clinic.SubmitClaims(batches(2, 1))]
        error = read_error(await failure(clinic.SubmitClaim(submit())))
    assert [a.answers[0].WhichOneof("answer") for a in answers] == ["accepted", "error"]
    refused = answers[1].answers[0].error
    assert (refused.code, refused.retry_after_ms > 0) == (8, True)
    assert (error.code, error.reason, bool(error.retry_after_ms)) == ("RESOURCE_EXHAUSTED", "OUTBOX_FULL", True)


async def test_accepted_claims_survive_the_process(world: World) -> None:
    """What was answered is there after a restart, and its key is still spent."""
    async with serving(world), client(world, "clinic-a") as clinic:
        first = (await clinic.SubmitClaim(submit())).accepted
    async with serving(world), client(world, "clinic-a") as clinic:
        again = (await clinic.SubmitClaim(submit())).accepted
    assert (again.control_number, again.repeated_submission) == (first.control_number, True)


async def test_nothing_of_a_claim_lies_in_the_database_in_clear(world: World) -> None:
    """L1 for this store: names and numbers of persons are only inside envelopes."""
    claim = sample_claim()
    claim.parties.patient.family_name = "Canaryname"
    claim.parties.patient.member_id = "CANARY-MEMBER"
    async with serving(world), client(world, "clinic-a") as clinic:
        await clinic.SubmitClaim(submit("CANARY-KEY", claim))
    stored = b"".join(path.read_bytes() for path in (world.run / "data" / "intake").iterdir())
    for canary in (b"Canaryname", b"CANARY-MEMBER", b"CANARY-KEY", b"PCN-000123"):
        assert canary not in stored


async def test_pages_follow_one_another_without_gap_or_repeat(served: World) -> None:
    async with client(served, "clinic-a") as clinic, client(served, "clinic-b") as other:
        accepted = [a.accepted.control_number async for r in clinic.SubmitClaims(batches(7)) for a in r.answers]
        seen: list[str] = []
        token = ""
        while True:
            page = await clinic.ListClaims(intake_pb2.ListClaimsRequest(page_size=3, page_token=token))
            seen += [c.control_number for c in page.claims]
            token = page.next_page_token
            if not token:
                break
        empty = await other.ListClaims(intake_pb2.ListClaimsRequest())
        known = intake_pb2.ClaimStatus.values()[1:]
        pended = intake_pb2.ListClaimsRequest(statuses=[intake_pb2.CLAIM_STATUS_PENDED])
        assert not (await clinic.ListClaims(pended)).claims
        bad = await failure(clinic.ListClaims(intake_pb2.ListClaimsRequest(page_token="bogus")))
        large = await failure(clinic.ListClaims(intake_pb2.ListClaimsRequest(page_size=501)))
        await clinic.ListClaims(intake_pb2.ListClaimsRequest(page_size=500, statuses=known))
        many = await failure(clinic.ListClaims(intake_pb2.ListClaimsRequest(statuses=known[:1] * 12)))
    assert seen == accepted
    assert not empty.claims
    assert bad.code() is large.code() is many.code() is Code.INVALID_ARGUMENT


async def test_streams_of_an_organisation_are_bounded_and_leave_room_for_others(served: World) -> None:
    """Streams of both kinds count together; unary calls and other organisations go on."""
    async with client(served, "clinic-a") as clinic, client(served, "clinic-b") as other:
        await clinic.SubmitClaim(submit())
        await other.SubmitClaim(submit())
        database = Database(served.settings().database_url)
        await write_events(database, 1, [Status.RECEIVED])
        await database.close()
        open_streams = [clinic.TrackClaims(intake_pb2.TrackClaimsRequest()) for _ in range(STREAMS_OF_ONE)]
        for stream in open_streams:
            await asyncio.wait_for(stream.read(), 5)
        one_more = clinic.TrackClaims(intake_pb2.TrackClaimsRequest())
        more = read_error(await asyncio.wait_for(failure(one_more), 5))
        batch = read_error(await failure(clinic.SubmitClaims(batches(1))))
        await clinic.SubmitClaim(submit("beside"))
        await asyncio.wait_for(other.TrackClaims(intake_pb2.TrackClaimsRequest()).read(), 5)
    assert more.code == batch.code == "RESOURCE_EXHAUSTED"
    assert f"clinic-a has {STREAMS_OF_ONE} streams open" in more.message


@pytest.mark.parametrize("at_once", [1, MAX_EVENTS])
async def test_tracking_resumes_after_a_cursor_and_goes_on_as_events_come(
    served: World, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are written here as the projector would; another organisation's are not shown. However few come at once."""
    monkeypatch.setattr(reading, "MAX_EVENTS", at_once)
    async with client(served, "clinic-a") as clinic, client(served, "clinic-b") as other:
        mine = (await clinic.SubmitClaim(submit())).accepted.control_number
        await other.SubmitClaim(submit())
        database = Database(served.settings().database_url)
        await write_events(database, 1, [Status.RECEIVED, Status.VALIDATED])
        stream = clinic.TrackClaims(intake_pb2.TrackClaimsRequest())
        seen = [await asyncio.wait_for(stream.read(), 5) for _ in range(2)]
        waiting = asyncio.create_task(stream.read())
        await asyncio.sleep(0.1)
        await write_events(database, 11, [Status.SCORED])
        third = await asyncio.wait_for(waiting, 5)
        stream.cancel()
        resumed = clinic.TrackClaims(intake_pb2.TrackClaimsRequest(cursor=seen[0].cursor, control_number=mine))
        again = [await asyncio.wait_for(resumed.read(), 5) for _ in range(2)]
        resumed.cancel()
        bad = await failure(clinic.TrackClaims(intake_pb2.TrackClaimsRequest(cursor="bogus")))
        await database.close()
    assert [e.status for e in (*seen, third)] == [1, 3, 4]
    assert [(e.status, e.control_number) for e in again] == [(3, mine), (4, mine)]
    assert bad.code() is Code.INVALID_ARGUMENT


async def write_events(database: Database, first_id: int, statuses: list[Status]) -> None:
    """Each status for every claim, as event rows."""
    columns = "id, claim_id, claim_ref, version, step, status, time_ms, submitter, payer, payee, detail"
    async with database.writing() as connection:
        claims = (await connection.execute(text("SELECT id, claim_ref, submitter, payer FROM claim"))).all()
        number = first_id
        for status in statuses:
            for claim in claims:
                row = {"i": number, "c": claim.id, "r": claim.claim_ref, "s": claim.submitter, "p": claim.payer}
                values = f":i, :c, :r, 1, {STEP_OF[status]}, {int(status)}, 5, :s, :p, '', ''"
                await connection.execute(text(f"INSERT INTO status_event ({columns}) VALUES ({values})"), row)
                number += 1


async def test_a_certificate_of_another_authority_does_not_get_in(served: World, tmp_path: Path) -> None:
    make_authority(tmp_path / "other.pem", tmp_path / "other.key")
    other = make_world(tmp_path / "elsewhere")
    stranger = other.caller("clinic-a")
    mixed = TlsFiles(stranger.certificate, stranger.key, served.run / "ca.pem")
    channel = open_channel(served.network.intake_address, mixed, server_name("intake"))
    error = await failure(Client(channel).GetClaim(intake_pb2.GetClaimRequest(control_number="A" * 26), timeout=3))
    await channel.close()
    assert error.code() in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}


async def test_a_certificate_without_an_organisation_is_refused(served: World, tmp_path: Path) -> None:
    """The CA signed it, but it names no caller of ours."""

    class Nobody(Identity):
        @property
        def spiffe_id(self) -> str:
            return "spiffe://elsewhere/workload"

    files = TlsFiles(tmp_path / "n.pem", tmp_path / "n.key", served.run / "ca.pem")
    issue(served.authority, Nobody("clinic-a", Role.PROVIDER), files.certificate, files.key)
    channel = open_channel(served.network.intake_address, files, server_name("intake"))
    error = await failure(Client(channel).GetClaim(intake_pb2.GetClaimRequest(control_number="A" * 26), timeout=3))
    await channel.close()
    assert error.code() is Code.UNAUTHENTICATED


@pytest.mark.postgres
async def test_two_processes_over_one_postgresql_are_one_intake(tmp_path: Path, postgres_url: str) -> None:
    """A key that was spent at the one is spent at the other; both see all claims."""
    world = make_world(tmp_path / "run")
    beside = World(world.run, replace(world.network, intake_address=f"127.0.0.1:{free_ports(1)[0]}"), world.authority)
    async with (
        serving(world, postgres_url),
        serving(beside, postgres_url, intake_address=beside.network.intake_address),
        client(world, "clinic-a") as one,
        client(beside, "clinic-a") as two,
    ):
        first = (await one.SubmitClaim(submit())).accepted
        again = (await two.SubmitClaim(submit())).accepted
        changed = await failure(two.SubmitClaim(submit(claim=sample_claim(lines=1))))
        await asyncio.gather(*[stub.SubmitClaim(submit(f"k{i}")) for i in range(20) for stub in (one, two)])
        seen = await two.ListClaims(intake_pb2.ListClaimsRequest(page_size=100))
    assert (again.control_number, again.repeated_submission) == (first.control_number, True)
    assert changed.code() is Code.ALREADY_EXISTS
    assert len(seen.claims) == 21
