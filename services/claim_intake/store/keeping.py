"""What intake still owes: open claims, the evidence that ends them, and those that are overdue."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, bindparam, delete, func, literal, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.store.accepting import chunks
from claim_intake.store.tables import ClaimRow, EvidenceRow, OpenClaimRow, OutboxRow, table_of
from claims.quick import quick
from runtime.bulk import Bulk, Row, insert, upsert

_CLAIM: Final = table_of(ClaimRow)
_OPEN: Final = table_of(OpenClaimRow)
_OUTBOX: Final = table_of(OutboxRow)
_EVIDENCE: Final = table_of(EvidenceRow)
_KEEP_NEWER: Final = upsert(_EVIDENCE, newer=lambda came: _EVIDENCE.c.step < came.step)
"""Of two documents about a claim the one about its later result stays."""
_ADD_TO_OUTBOX: Final = insert(_OUTBOX)
_PUT_OFF: Final = Bulk(
    ("attempt", "due_ms", "id"),
    lambda _: (
        update(_OPEN)
        .where(_OPEN.c.claim_id == bindparam("id"))
        .values(attempt=bindparam("attempt"), due_ms=bindparam("due_ms"))
    ),
)
FAR_AWAY_MS: Final = 2**62
"""The due time of a claim that waits for a person."""


@dataclass(frozen=True, slots=True)
class Duty:
    """An accepted claim with what its evidence must name. `attempts` counts emissions; `is_open` while it is owed."""

    claim_id: int
    claim_ref: bytes
    version: int
    submitter: str
    payer: str
    commitment: bytes
    is_open: bool
    attempts: int
    received_ms: int
    evidence_step: int
    """The result of which evidence is held, −1 for none."""

    @property
    def is_first_end(self) -> bool:
        """Whether its end tells how long claims are on their way: it was sent once, and no person kept it waiting."""
        return self.attempts == 1 and self.evidence_step < 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A verified document about a claim. `final` ends the duty; otherwise (pended) it only stops the sending."""

    duty: Duty
    outcome: int
    step: int
    document: bytes
    final: bool


@dataclass(frozen=True, slots=True)
class Overdue:
    claim_id: int
    attempt: int


_made_duty = quick(Duty)


async def submitters_among(connection: AsyncConnection, organisations: Iterable[str]) -> list[str]:
    """Those of the organisations that have submitted a claim here: a look into the index for each."""
    looks = [
        select(literal(o)).where(select(_CLAIM.c.id).where(_CLAIM.c.submitter == o).exists()) for o in organisations
    ]
    return list((await connection.execute(union_all(*looks))).scalars()) if looks else []


async def load_duties(connection: AsyncConnection, keys: Iterable[tuple[bytes, int]]) -> dict[tuple[bytes, int], Duty]:
    """The duties for the claims named by (claim_ref, version), as far as they exist."""
    wanted = set(keys)
    found: dict[tuple[bytes, int], Duty] = {}
    for refs in chunks(sorted({ref for ref, _ in wanted})):
        for row in await connection.execute(_DUTY, {"refs": refs}):
            duty = _duty(row)
            if (duty.claim_ref, duty.version) in wanted:
                found[duty.claim_ref, duty.version] = duty
    return found


_DUTY: Final = (
    select(
        _CLAIM.c.id, _CLAIM.c.claim_ref, _CLAIM.c.version, _CLAIM.c.submitter, _CLAIM.c.payer, _CLAIM.c.commitment,
        _CLAIM.c.received_ms,
        _OPEN.c.attempt, _EVIDENCE.c.step, _EVIDENCE.c.attempts,
    )
    .outerjoin(_OPEN, _OPEN.c.claim_id == _CLAIM.c.id)
    .outerjoin(_EVIDENCE, _EVIDENCE.c.claim_id == _CLAIM.c.id)
    .where(_CLAIM.c.claim_ref.in_(bindparam("refs", expanding=True)))
)  # fmt: skip


def _duty(row: Any) -> Duty:
    number, ref, version, submitter, payer, commitment, received_ms, open_attempt, step, attempts = row
    return _made_duty(
        number, bytes(ref), version, submitter, payer, bytes(commitment), open_attempt is not None,
        open_attempt or attempts or 1, received_ms, -1 if step is None else step,
    )  # fmt: skip


async def record(connection: AsyncConnection, evidence: Sequence[Evidence], now_ms: int) -> None:
    """Keeps the documents, closes what is final and parks what waits for a person. The caller commits."""
    if not evidence:
        return
    await _KEEP_NEWER.run(connection, [_evidence_row(e, now_ms) for e in evidence])
    for some in chunks([e.duty.claim_id for e in evidence if e.final]):
        await connection.execute(delete(_OPEN).where(_OPEN.c.claim_id.in_(some)))
        await connection.execute(delete(_OUTBOX).where(_OUTBOX.c.claim_id.in_(some)))
    for some in chunks([e.duty.claim_id for e in evidence if not e.final]):
        parked = update(_OPEN).where(_OPEN.c.claim_id.in_(some)).values(pended=True, due_ms=FAR_AWAY_MS)
        await connection.execute(parked)


def _evidence_row(evidence: Evidence, now_ms: int) -> Row:
    duty = evidence.duty
    return duty.claim_id, now_ms, evidence.outcome, evidence.step, duty.attempts, evidence.document


async def overdue(connection: AsyncConnection, now_ms: int, limit: int) -> list[Overdue]:
    """Open claims whose time has come, longest overdue first; one that still waits in the outbox has not been late."""
    question = (
        select(_OPEN.c.claim_id, _OPEN.c.attempt)
        .outerjoin(_OUTBOX, _OUTBOX.c.claim_id == _OPEN.c.claim_id)
        .where(and_(_OPEN.c.due_ms <= now_ms, _OUTBOX.c.claim_id.is_(None)))
        .order_by(_OPEN.c.due_ms)
        .limit(limit)
    )
    return [Overdue(row.claim_id, row.attempt) for row in await connection.execute(question)]


async def send_again(connection: AsyncConnection, claims: Sequence[tuple[Overdue, int]]) -> None:
    """Puts overdue claims into the outbox with the next attempt; each comes with its next due time."""
    await _ADD_TO_OUTBOX.run(connection, [(late.claim_id, late.attempt + 1, 0) for late, _ in claims])
    await _PUT_OFF.run(connection, [(late.attempt + 1, due_ms, late.claim_id) for late, due_ms in claims])


async def open_counts(connection: AsyncConnection) -> tuple[int, int, int]:
    """Open claims, those of them that wait for a person, and those sent more than once."""
    pended = func.count().filter(_OPEN.c.pended)
    again = func.count().filter(_OPEN.c.attempt > 1)
    row = (await connection.execute(select(func.count(), pended, again).select_from(_OPEN))).one()
    return int(row[0]), int(row[1]), int(row[2])
