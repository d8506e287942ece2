"""What parties may see: views of claims and the ordered events, each bounded in what one question can cost.

A party is the submitter, the payer, or the organisation that is paid, once validation has found it. For every other
organisation the claim does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, or_, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.store.tables import ClaimRow, ClaimStateRow, EvidenceRow, OpenClaimRow, StatusEventRow, table_of
from claims.status import Status, StatusEvent

EVENT_WINDOW: Final = 2_000
"""Events looked at in one question; of other organisations' events none is returned."""
MAX_EVENTS: Final = 500
"""Events given in one answer: what a stream holds whose reader does not read."""
_CLAIM: Final = table_of(ClaimRow)
_STATE: Final = table_of(ClaimStateRow)
_EVIDENCE: Final = table_of(EvidenceRow)
_OPEN: Final = table_of(OpenClaimRow)
_EVENT: Final = table_of(StatusEventRow)


@dataclass(frozen=True, slots=True)
class StoredView:
    """A claim as its parties see it."""

    claim_id: int
    claim_ref: bytes
    version: int
    status: Status
    submitter: str
    payer: str
    payee: str
    received_ms: int
    status_ms: int
    detail: str
    attempts: int
    verified: bool
    settlement_proof: bytes


async def find(connection: AsyncConnection, claim_ref: bytes, organisation: str) -> StoredView | None:
    """The newest version of a claim, or None where it does not exist for this organisation."""
    question = (
        _views(with_proof=True)
        .where(_CLAIM.c.claim_ref == claim_ref, _is_party(organisation))
        .order_by(_CLAIM.c.version.desc())
        .limit(1)
    )
    row = (await connection.execute(question)).first()
    return None if row is None else _view(row)


async def page(
    connection: AsyncConnection, organisation: str, after_id: int, size: int, statuses: Sequence[Status]
) -> tuple[list[StoredView], int | None]:
    """Up to `size` of the organisation's claims after `after_id`, and where the next page begins, None at the end.

    Statuses are sifted within the page, so a page may be short or empty and yet not be the last.
    """
    ids = await _party_ids(connection, organisation, after_id, size)
    if not ids:
        return [], None
    rows = await connection.execute(_views(with_proof=False).where(_CLAIM.c.id.in_(ids)).order_by(_CLAIM.c.id))
    views = [_view(row) for row in rows]
    return [v for v in views if not statuses or v.status in statuses], (ids[-1] if len(ids) == size else None)


async def _party_ids(connection: AsyncConnection, organisation: str, after_id: int, size: int) -> list[int]:
    """Three walks along an index each, merged; an OR over three columns would walk none."""
    walks = (
        select(_CLAIM.c.id).where(_CLAIM.c.submitter == organisation),
        select(_CLAIM.c.id).where(_CLAIM.c.payer == organisation),
        select(_STATE.c.claim_id.label("id")).where(_STATE.c.payee == organisation),
    )
    parts = [_first(walk, after_id, size) for walk in walks]
    merged = union(*parts).subquery()
    rows = await connection.execute(select(merged.c.id).order_by(merged.c.id).limit(size))
    return [row.id for row in rows]


def _first(walk: Select[Any], after_id: int, size: int) -> Select[Any]:
    column = next(iter(walk.selected_columns))
    inner = walk.where(column > after_id).order_by(column).limit(size).subquery()
    return select(inner.c.id)


async def newest_event(connection: AsyncConnection) -> int:
    """The id of the last ordered event, 0 where there is none."""
    return int((await connection.execute(select(func.coalesce(func.max(_EVENT.c.id), 0)))).scalar_one())


async def events_after(
    connection: AsyncConnection, after_id: int, organisation: str, claim_ref: bytes | None
) -> tuple[list[tuple[int, StatusEvent]], int]:
    """The organisation's first events of the next window, and the id up to which everything has been looked at."""
    newest = await newest_event(connection)
    until = min(after_id + EVENT_WINDOW, newest)
    if until <= after_id:
        return [], after_id
    wanted = [_EVENT.c.id > after_id, _EVENT.c.id <= until, _is_event_party(organisation)]
    if claim_ref is not None:
        wanted.append(_EVENT.c.claim_ref == claim_ref)
    rows = (await connection.execute(select(_EVENT).where(*wanted).order_by(_EVENT.c.id).limit(MAX_EVENTS))).all()
    return [(row.id, stored_event(row)) for row in rows], (rows[-1].id if len(rows) == MAX_EVENTS else until)


def stored_event(row: Any) -> StatusEvent:
    """The domain event of a row of status_event."""
    return StatusEvent(
        bytes(row.claim_ref), row.version, Status(row.status), row.step, row.time_ms, row.submitter, row.payer,
        row.payee, row.detail,
    )  # fmt: skip


def _is_party(organisation: str) -> ColumnElement[bool]:
    return or_(_CLAIM.c.submitter == organisation, _CLAIM.c.payer == organisation, _STATE.c.payee == organisation)


def _is_event_party(organisation: str) -> ColumnElement[bool]:
    return or_(_EVENT.c.submitter == organisation, _EVENT.c.payer == organisation, _EVENT.c.payee == organisation)


def _views(*, with_proof: bool) -> Select[Any]:
    proof = [_EVIDENCE.c.document] if with_proof else []
    state = (_STATE.c.status, _STATE.c.time_ms, _STATE.c.payee, _STATE.c.detail)
    evidence = (_EVIDENCE.c.verified_ms, _EVIDENCE.c.outcome, _EVIDENCE.c.attempts)
    return (
        select(_CLAIM, *state, *evidence, *proof, _OPEN.c.attempt)
        .outerjoin(_STATE, _STATE.c.claim_id == _CLAIM.c.id)
        .outerjoin(_EVIDENCE, _EVIDENCE.c.claim_id == _CLAIM.c.id)
        .outerjoin(_OPEN, _OPEN.c.claim_id == _CLAIM.c.id)
    )


def _view(row: Any) -> StoredView:
    """A claim of which the projector has heard nothing yet is RECEIVED: its row is the proof of it."""
    return StoredView(
        row.id, bytes(row.claim_ref), row.version, Status(row.status or Status.RECEIVED), row.submitter, row.payer,
        row.payee or "", row.received_ms, row.time_ms or row.received_ms, row.detail or "", row.attempt or row.attempts or 1,
        row.verified_ms is not None, _proof(row),
    )  # fmt: skip


def _proof(row: Any) -> bytes:
    """A settlement's proof; a rejection is evidence too, but no proof of a settlement."""
    document = getattr(row, "document", None)
    return bytes(document) if document is not None and row.outcome else b""
