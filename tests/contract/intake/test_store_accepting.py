"""Accepting claims, the same on SQLite and PostgreSQL: one transaction for many, keys spent once, outbox and duty."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from claim_intake.group_commit import Accepted, GroupCommit, OutboxFullError, StoreFailedError
from claim_intake.intake import Verdict
from claim_intake.store import keeping, outbox, tables
from claim_intake.store.database import Database
from tests.contract.intake.candidates import candidate

V = Verdict


@asynccontextmanager
async def writing(database: Database, outbox_limit: int = 1_000) -> AsyncIterator[tuple[GroupCommit, list[Accepted]]]:
    accepted: list[Accepted] = []
    writer = GroupCommit(
        database, accepted.extend, lambda: 1_000, outbox_limit=outbox_limit, lease_ms=500, overdue_ms=10_000
    )
    task = asyncio.create_task(writer.run())
    try:
        yield writer, accepted
    finally:
        task.cancel()


async def count(database: Database, table: str) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


OF_INTAKE = {m.__table__.name for m in vars(tables).values() if hasattr(m, "__table__")}


def _is_of_intake(found: Any, _name: str | None, kind: str, reflected: bool, _other: Any) -> bool:
    """All that the database has; of the models not those of other services, which share the metadata in this process."""
    return reflected or (found.name if kind == "table" else found.table.name) in OF_INTAKE


async def test_the_tables_are_those_that_the_models_declare(database: Database) -> None:
    """Migrations and models do not drift apart; migrating again changes nothing."""
    await database.migrate()

    def differences(connection: Connection) -> list[object]:
        opts = {"version_table": "intake_revision", "include_object": _is_of_intake}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, SQLModel.metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_claim_is_accepted_with_envelope_outbox_and_duty_in_one_transaction(database: Database) -> None:
    async with writing(database) as (writer, accepted):
        before = database.commits
        (decision,) = await writer.submit([made := candidate()])
        assert database.commits == before + 1
    assert (decision.verdict, decision.claim_ref) == (V.NEW, made.claim_ref)
    assert [a.claim_id for a in accepted] == [decision.claim_id]
    for table in ("claim", "envelope", "wrapping_key", "client_key", "outbox", "open_claim"):
        assert await count(database, table) == 1


async def test_a_batch_is_one_transaction_and_so_one_fsync(database: Database) -> None:
    """With synchronous=FULL (asserted below) a commit is one fsync of the log; 500 claims share it."""
    async with writing(database) as (writer, _):
        before = database.commits
        await writer.submit([candidate() for _ in range(500)])
        assert database.commits == before + 1


async def test_concurrent_batches_share_transactions(database: Database) -> None:
    """While one transaction is written, the batches behind it gather for the next."""
    async with writing(database) as (writer, _):
        before = database.commits
        await asyncio.gather(*[writer.submit([candidate()]) for _ in range(100)])
        assert database.commits - before <= 5
    assert await count(database, "claim") == 100


async def test_sqlite_commits_reach_the_disk(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("a setting of SQLite")
    async with database.writing() as connection:
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"


async def test_the_same_key_has_the_first_answer_for_ever(database: Database) -> None:
    """Repeated in the same batch, in a later batch, and after a restart of the writer."""
    async with writing(database) as (writer, _):
        first, again = await writer.submit([candidate("k"), candidate("k")])
        (later,) = await writer.submit([candidate("k")])
    async with writing(database) as (writer, accepted):
        (restarted, other) = await writer.submit([candidate("k"), candidate("k", b"another body")])
        assert accepted == []
    assert [d.verdict for d in (first, again, later, restarted, other)] == [
        V.NEW, V.REPEATED, V.REPEATED, V.REPEATED, V.CONFLICT,
    ]  # fmt: skip
    assert {d.claim_ref for d in (again, later, restarted)} == {first.claim_ref}
    assert await count(database, "claim") == 1


async def test_two_organisations_may_use_the_same_key(database: Database) -> None:
    async with writing(database) as (writer, _):
        decisions = await writer.submit([candidate("k"), candidate("k", submitter="clinic-b")])
    assert [d.verdict for d in decisions] == [V.NEW, V.NEW]


async def test_a_thousand_concurrent_resends_make_one_claim(database: Database) -> None:
    """B1, over two writers as two processes would have."""
    async with writing(database) as (one, _), writing(database) as (two, _):
        writers = [one, two]
        answers = await asyncio.gather(*[writers[i % 2].submit([candidate("k")]) for i in range(1_000)])
    verdicts = [answer[0].verdict for answer in answers]
    assert (verdicts.count(V.NEW), verdicts.count(V.REPEATED)) == (1, 999)
    assert len({answer[0].claim_ref for answer in answers}) == 1
    assert await count(database, "claim") == 1


async def test_a_full_outbox_refuses_and_takes_again_when_rows_are_sent(database: Database) -> None:
    async with writing(database, outbox_limit=10) as (writer, accepted):
        await writer.submit([candidate() for _ in range(8)])
        with pytest.raises(OutboxFullError) as caught:
            await writer.submit([candidate() for _ in range(3)])
        assert caught.value.retry_after_ms > 0
        writer.finish([(a.claim_id, 1) for a in accepted])
        await asyncio.sleep(0.4)
        assert await count(database, "outbox") == 0
        await writer.submit([candidate() for _ in range(3)])
    assert await count(database, "claim") == 11


async def test_a_failed_transaction_accepts_nothing_and_says_so(database: Database) -> None:
    """The same reference twice breaks a constraint, as a broken disk would break the commit."""
    made = candidate()
    async with writing(database) as (writer, accepted):
        await writer.submit([made])
        with pytest.raises(StoreFailedError):
            await writer.submit([candidate(), replace(candidate(), claim_ref=made.claim_ref)])
        assert len(accepted) == 1
        await writer.submit([candidate()])
    assert await count(database, "claim") == 2
    assert await count(database, "client_key") == 2


async def test_a_leased_row_is_not_taken_twice_until_its_lease_ends(database: Database) -> None:
    async with writing(database) as (writer, _):  # accepts at 1,000 ms with a lease until 1,500 ms
        await writer.submit([made := candidate(body=b"the claim")])
    async with database.writing() as connection:
        assert await outbox.lease(connection, 1_499, 2_000, 10) == []
    async with database.writing() as connection:
        keys = await outbox.lease(connection, 1_500, 2_000, 10)
        assert [attempt for _, attempt in keys] == [1]
        assert await outbox.lease(connection, 1_999, 2_500, 10) == []
        (stored,) = await outbox.load(connection, keys)
    assert (stored.claim_ref, stored.envelope) == (made.claim_ref, made.sealed.envelope)


async def test_an_overdue_claim_goes_into_the_outbox_again_with_the_next_attempt(database: Database) -> None:
    async with writing(database) as (writer, accepted):
        await writer.submit([candidate(), candidate()])
        async with database.reading() as connection:
            assert await keeping.overdue(connection, 20_000, 10) == []  # both still wait in the outbox
        writer.finish([(accepted[0].claim_id, 1)])
        await asyncio.sleep(0.3)
    async with database.writing() as connection:
        assert await keeping.overdue(connection, 10_999, 10) == []
        (late,) = await keeping.overdue(connection, 11_000, 10)
        assert (late.claim_id, late.attempt) == (accepted[0].claim_id, 1)
        await keeping.send_again(connection, [(late, 31_000)])
    async with database.writing() as connection:
        assert await outbox.lease(connection, 2_000, 9_000, 10) == [
            (accepted[0].claim_id, 2),
            (accepted[1].claim_id, 1),
        ]


async def test_final_evidence_closes_and_a_pend_parks(database: Database) -> None:
    """A pended claim is never overdue; its review closes it; an older result does not replace a newer one."""
    async with writing(database) as (writer, accepted):
        await writer.submit([made := candidate()])
    key = (made.claim_ref, 1)
    async with database.writing() as connection:
        duty = (await keeping.load_duties(connection, [key]))[key]
        assert (duty.is_open, duty.commitment) == (True, made.sealed.commitment)
        await keeping.record(connection, [keeping.Evidence(duty, 3, 0, b"pended", final=False)], 5)
        await connection.execute(text("DELETE FROM outbox"))
        assert await keeping.overdue(connection, 2**60, 10) == []
        assert await keeping.open_counts(connection) == (1, 1, 0)
        await keeping.record(connection, [keeping.Evidence(duty, 1, 1, b"settled", final=True)], 6)
        await keeping.record(connection, [keeping.Evidence(duty, 3, 0, b"pended", final=False)], 7)
        assert await keeping.open_counts(connection) == (0, 0, 0)
        document = (await connection.execute(text("SELECT document FROM evidence"))).scalar_one()
        assert bytes(document) == b"settled"
    assert accepted
