"""The projector's side of the database: how far claims have come, and one transaction for what a round made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.projection import Progress
from claim_intake.store.accepting import chunks
from claim_intake.store.reading import newest_event, stored_event
from claim_intake.store.tables import (
    ClaimRow,
    ClaimStateRow,
    FeedCursorRow,
    HeldEventRow,
    ReaderOffsetRow,
    StatusEventRow,
    table_of,
)
from claims.status import Status, StatusEvent
from runtime.bulk import Row, insert, upsert

_CLAIM: Final = table_of(ClaimRow)
_STATE: Final = table_of(ClaimStateRow)
_EVENT: Final = table_of(StatusEventRow)
_HELD: Final = table_of(HeldEventRow)
_OFFSET: Final = table_of(ReaderOffsetRow)
_CURSOR: Final = table_of(FeedCursorRow)
_ADD_EVENTS: Final = insert(_EVENT)
_SET_STATES: Final = upsert(_STATE)
_HOLD: Final = upsert(_HELD)
_SET_OFFSETS: Final = upsert(_OFFSET)
_SET_CURSOR: Final = upsert(_CURSOR)

ClaimKey = tuple[bytes, int]
"""claim_ref and version."""
Partition = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class KnownClaim:
    """A claim as the projector knows it; the parties are those of intake's own record, not of any report."""

    claim_id: int
    submitter: str
    payer: str
    payee: str
    progress: Progress
    held: tuple[StatusEvent, ...]
    held_ms: int
    """Since when something is held; 0 where nothing is."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of reading changed; written whole or not at all."""

    applied: Sequence[tuple[int, StatusEvent]]
    """(claim id, event) in the order in which they get their ids."""
    claims: Mapping[ClaimKey, KnownClaim]
    """The changed claims as they are afterwards."""
    held: Sequence[tuple[int, StatusEvent, int]]
    """Newly held: claim id, event, since when."""
    released: Sequence[int]
    """Ids of claims of which held events were taken or dropped."""


async def load_claims(connection: AsyncConnection, keys: Iterable[ClaimKey]) -> dict[ClaimKey, KnownClaim]:
    """Those of the claims that exist."""
    wanted = set(keys)
    found: dict[ClaimKey, KnownClaim] = {}
    for refs in chunks(sorted({ref for ref, _ in wanted})):
        rows = (await connection.execute(_KNOWN, {"refs": refs})).all()
        held = await _held(connection, {row.id: row for row in rows})
        for row in rows:
            if (key := (bytes(row.claim_ref), row.version)) in wanted:
                found[key] = _known(row, held.get(row.id, []))
    return found


async def long_held(connection: AsyncConnection, before_ms: int, limit: int) -> list[ClaimKey]:
    """Claims of which something is held since before `before_ms`."""
    ids = select(_HELD.c.claim_id).group_by(_HELD.c.claim_id).having(func.max(_HELD.c.held_ms) < before_ms).limit(limit)
    rows = await connection.execute(select(_CLAIM.c.claim_ref, _CLAIM.c.version).where(_CLAIM.c.id.in_(ids)))
    return [(bytes(row.claim_ref), row.version) for row in rows]


async def write_round(connection: AsyncConnection, round_: Round, next_event_id: int) -> None:
    """Writes a round; its events get ids from `next_event_id` on. The caller commits."""
    if round_.applied:
        await _ADD_EVENTS.run(connection, [_event_row(n, *a) for n, a in enumerate(round_.applied, next_event_id)])
        await _SET_STATES.run(connection, _state_rows(round_))
    for some in chunks(round_.released):
        await connection.execute(delete(_HELD).where(_HELD.c.claim_id.in_(some)))
    await _HOLD.run(connection, [_held_row(*held) for held in round_.held])


async def save_offsets(connection: AsyncConnection, reader: str, offsets: Mapping[Partition, int]) -> None:
    """Where `reader` continues in each partition."""
    rows = [(reader, topic, partition, offset) for (topic, partition), offset in offsets.items()]
    await _SET_OFFSETS.run(connection, rows)


async def load_offsets(connection: AsyncConnection, reader: str) -> dict[Partition, int]:
    rows = await connection.execute(select(_OFFSET).where(_OFFSET.c.reader == reader))
    return {(row.topic, row.partition): row.next_offset for row in rows}


async def load_cursor(connection: AsyncConnection, feed: str) -> int:
    """How far a feed has certainly come, 0 at first."""
    row = (await connection.execute(select(_CURSOR.c.position).where(_CURSOR.c.feed == feed))).first()
    return 0 if row is None else int(row.position)


async def save_cursor(connection: AsyncConnection, feed: str, position: int) -> None:
    await _SET_CURSOR.run(connection, [(feed, position)])


async def feed_after(connection: AsyncConnection, after_id: int, limit: int) -> list[tuple[int, StatusEvent]]:
    """The next events of all organisations, in order."""
    question = select(_EVENT).where(_EVENT.c.id > after_id).order_by(_EVENT.c.id).limit(limit)
    return [(row.id, stored_event(row)) for row in await connection.execute(question)]


async def last_event_id(connection: AsyncConnection) -> int:
    return await newest_event(connection)


_KNOWN: Final = select(
    _CLAIM.c.id, _CLAIM.c.claim_ref, _CLAIM.c.version, _CLAIM.c.submitter, _CLAIM.c.payer,
    _STATE.c.status, _STATE.c.step, _STATE.c.payee,
).outerjoin(_STATE, _STATE.c.claim_id == _CLAIM.c.id).where(
    _CLAIM.c.claim_ref.in_(bindparam("refs", expanding=True))
)  # fmt: skip
_HELD_OF: Final = select(_HELD).where(_HELD.c.claim_id.in_(bindparam("ids", expanding=True))).order_by(_HELD.c.step)


async def _held(connection: AsyncConnection, claims: Mapping[int, Any]) -> dict[int, list[Any]]:
    held: dict[int, list[Any]] = {}
    if claims:
        for row in await connection.execute(_HELD_OF, {"ids": list(claims)}):
            held.setdefault(row.claim_id, []).append(row)
    return held


def _known(row: Any, held: Sequence[Any]) -> KnownClaim:
    progress = Progress() if row.status is None else Progress(Status(row.status), row.step)
    events = tuple(
        StatusEvent(
            bytes(row.claim_ref), row.version, Status(h.status), h.step, h.time_ms, row.submitter, row.payer, h.payee,
            h.detail,
        )
        for h in held
    )  # fmt: skip
    since = min((h.held_ms for h in held), default=0)
    return KnownClaim(row.id, row.submitter, row.payer, row.payee or "", progress, events, since)


# Rows in the order of their tables' columns.


def _event_row(event_id: int, claim_id: int, e: StatusEvent) -> Row:
    return (
        event_id, claim_id, e.claim_ref, e.version, e.step, int(e.status), e.time_ms, e.submitter, e.payer, e.payee,
        e.detail,
    )  # fmt: skip


def _state_rows(round_: Round) -> list[Row]:
    """For each claim of which a step was applied, its last one."""
    last = dict(round_.applied)
    payees = {known.claim_id: known.payee for known in round_.claims.values()}
    return [(claim_id, int(e.status), e.step, e.time_ms, payees[claim_id], e.detail) for claim_id, e in last.items()]


def _held_row(claim_id: int, event: StatusEvent, held_ms: int) -> Row:
    return claim_id, event.step, int(event.status), event.time_ms, event.payee, event.detail, held_ms
