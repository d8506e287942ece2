"""Rounds of the projector on both databases: steps and offsets in one transaction, memory only after it."""

import dataclasses

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from claim_intake import rounds as rounds_module
from claim_intake.rounds import FOREIGN_PAYER, READER, UNKNOWN_CLAIM, Reported, Rounds
from claim_intake.store.database import Database
from claim_intake.store.projecting import feed_after, load_cursor, load_offsets, save_cursor
from claim_intake.store.reading import events_after, find, page
from claims.status import STEP_OF, Status, StatusEvent
from tests.contract.intake.candidates import candidate
from tests.contract.intake.test_store_accepting import writing

S = Status
LIFE = [S.RECEIVED, S.VALIDATED, S.SCORED, S.ORDERED, S.SETTLED]
TOPIC = "p.payer-one.status.raw"


async def accepted(database: Database, count: int = 1) -> list[bytes]:
    """References of claims in the database."""
    made = [candidate() for _ in range(count)]
    async with writing(database) as (writer, _):
        await writer.submit(made)
    return [c.claim_ref for c in made]


def told(claim_ref: bytes, status: Status, payer: str = "payer-one") -> Reported:
    payee = "clinic-b" if status is not S.RECEIVED else ""
    event = StatusEvent(claim_ref, 1, status, STEP_OF[status], 5, "forged", "forged", payee, status.name)
    return Reported(payer, event)


async def started(database: Database, now_ms: int = 0) -> Rounds:
    rounds = Rounds(database, lambda: now_ms)
    await rounds.start()
    return rounds


async def life(database: Database, organisation: str = "clinic-a") -> list[Status]:
    async with database.reading() as connection:
        events, _ = await events_after(connection, 0, organisation, None)
    return [event.status for _, event in events]


async def test_a_life_told_step_by_step_by_restarting_projectors(database: Database) -> None:
    """Each step by a projector that knows nothing but the database, in reverse: all but the first are held."""
    (ref,) = await accepted(database)
    for offset, status in enumerate(reversed(LIFE), 1):
        result = await (await started(database)).take([told(ref, status)], {(TOPIC, 0): offset})
    assert result.applied == len(LIFE)
    assert await life(database) == LIFE
    assert await life(database, "clinic-b") == LIFE[1:]
    async with database.reading() as connection:
        assert await load_offsets(connection, READER) == {(TOPIC, 0): len(LIFE)}
        assert (await connection.execute(text("SELECT count(*) FROM held_event"))).scalar_one() == 0
        view = await find(connection, ref, "clinic-b")
    assert view is not None
    assert (view.status, view.payee, view.submitter, view.detail) == (S.SETTLED, "clinic-b", "clinic-a", "SETTLED")


async def test_reported_parties_are_not_believed(database: Database) -> None:
    """Submitter and payer are those of the accepted claim; another payer's word and unknown claims are dropped."""
    (ref,) = await accepted(database)
    rounds = await started(database)
    result = await rounds.take(
        [told(ref, S.RECEIVED), told(ref, S.VALIDATED, "payer-two"), told(bytes(16), S.RECEIVED)], {}
    )
    assert (result.applied, result.dropped) == (1, {FOREIGN_PAYER: 1, UNKNOWN_CLAIM: 1})
    async with database.reading() as connection:
        ((_, event),), _ = await events_after(connection, 0, "clinic-a", None)
    assert (event.submitter, event.payer) == ("clinic-a", "payer-one")


async def test_a_round_that_is_not_committed_happens_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies between the events and the offsets; then it reads the same records once more."""
    (ref,) = await accepted(database)
    rounds = await started(database)
    await rounds.take([told(ref, S.RECEIVED)], {(TOPIC, 0): 1})

    async def dying(*_: object) -> None:
        raise SQLAlchemyError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(rounds_module, "save_offsets", dying)
        with pytest.raises(SQLAlchemyError):
            await rounds.take([told(ref, S.VALIDATED)], {(TOPIC, 0): 2})
    assert await life(database) == LIFE[:1]
    await rounds.take([told(ref, S.VALIDATED)], {(TOPIC, 0): 2})
    await rounds.take([told(ref, S.VALIDATED), told(ref, S.SCORED)], {(TOPIC, 0): 3})
    assert await life(database) == LIFE[:3]


async def test_event_ids_rise_without_gap_over_restarts(database: Database) -> None:
    refs = await accepted(database, 3)
    for status in LIFE:
        await (await started(database)).take([told(ref, status) for ref in refs], {})
    async with database.reading() as connection:
        ids = [row[0] for row in await connection.execute(text("SELECT id FROM status_event ORDER BY id"))]
    assert ids == list(range(1, 16))


async def test_a_gap_is_closed_after_the_time_and_not_before(database: Database) -> None:
    (ref,) = await accepted(database)
    await (await started(database, 1_000)).take([told(ref, S.RECEIVED), told(ref, S.SCORED)], {})
    assert (await (await started(database, 1_500)).close_gaps(600)).applied == 0
    assert (await (await started(database, 1_700)).close_gaps(600)).applied == 2
    assert await life(database) == LIFE[:3]
    assert (await (await started(database, 9_000)).close_gaps(600)).applied == 0


async def test_pages_hold_what_a_party_may_see_in_the_order_of_acceptance(database: Database) -> None:
    """As submitter, as payer, and as payee, each without the others' claims."""
    refs = await accepted(database, 5)
    async with writing(database) as (writer, _):
        await writer.submit([dataclasses.replace(candidate(submitter="clinic-c"), payer="payer-two")])
    rounds = await started(database)
    await rounds.take([told(ref, s) for ref in refs[1:3] for s in LIFE[:2]], {})
    async with database.reading() as connection:
        mine, after = await page(connection, "clinic-a", 0, 3, [])
        rest, end = await page(connection, "clinic-a", after or 0, 3, [])
        paid, _ = await page(connection, "clinic-b", 0, 10, [])
        validated, _ = await page(connection, "payer-one", 0, 10, [S.VALIDATED])
        other, _ = await page(connection, "payer-two", 0, 10, [])
    assert [v.claim_ref for v in mine + rest] == refs
    assert end is None
    assert [v.claim_ref for v in paid] == [v.claim_ref for v in validated] == refs[1:3]
    assert len(other) == 1


async def test_a_cursor_is_kept(database: Database) -> None:
    async with database.writing() as connection:
        assert await load_cursor(connection, "feed") == 0
        await save_cursor(connection, "feed", 7)
        await save_cursor(connection, "feed", 9)
        assert await load_cursor(connection, "feed") == 9


async def test_memory_and_database_tell_the_same_events(database: Database) -> None:
    """The newest events come from memory, as they were committed; what was written before this start does not."""
    refs = await accepted(database, 3)
    await (await started(database)).take([told(ref, S.RECEIVED) for ref in refs], {})
    rounds = await started(database)
    assert rounds.recent_after(0, 10) is None
    await rounds.take([told(ref, S.VALIDATED) for ref in refs], {})
    await rounds.take([told(ref, S.SCORED) for ref in refs], {})
    for after_id, limit in ((3, 10), (3, 2), (5, 3), (8, 1), (9, 5), (12, 5)):
        async with database.reading() as connection:
            assert rounds.recent_after(after_id, limit) == await feed_after(connection, after_id, limit)
    assert rounds.recent_after(2, 10) is None
