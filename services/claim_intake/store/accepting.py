"""Accepting claims: key, claim, envelope, outbox and duty rows in one transaction."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.envelope import SealedClaim, WrappingKey
from claim_intake.intake import Fingerprint, Verdict, verdict
from claim_intake.store.tables import (
    ClaimNumber,
    ClaimRow,
    ClientKeyRow,
    EnvelopeRow,
    OpenClaimRow,
    OutboxRow,
    WrappingKeyRow,
    table_of,
)

_CLAIM: Final = table_of(ClaimRow)
_NUMBER: Final = table_of(ClaimNumber)
_ENVELOPE: Final = table_of(EnvelopeRow)
_WRAPPING: Final = table_of(WrappingKeyRow)
_KEY: Final = table_of(ClientKeyRow)
_OUTBOX: Final = table_of(OutboxRow)
_OPEN: Final = table_of(OpenClaimRow)
_IN_LIMIT: Final = 1_000
_FINISH: Final = delete(_OUTBOX).where(
    _OUTBOX.c.claim_id == bindparam("finished_id"), _OUTBOX.c.attempt == bindparam("finished_attempt")
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A well-formed claim with everything drawn that its acceptance needs."""

    fingerprint: Fingerprint
    claim_ref: bytes
    version: int
    submitter: str
    payer: str
    bucket: int
    received_ms: int
    received_day: int
    salt: bytes
    canonical: bytes
    sealed: SealedClaim
    wrapping_key: WrappingKey


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a candidate: its own reference where new, the first one's where repeated."""

    verdict: Verdict
    claim_ref: bytes
    version: int
    claim_id: int
    """0 unless new."""


async def accept(
    connection: AsyncConnection, candidates: Sequence[Candidate], lease_until_ms: int, due_ms: int
) -> list[Decision]:
    """Takes what is new into all tables and says for each candidate what it is. The caller commits."""
    first_id = await _next_numbers(connection, len(candidates))
    decisions = await _spend_keys(connection, candidates, first_id)
    new = [(d.claim_id, c) for d, c in zip(decisions, candidates, strict=True) if d.verdict is Verdict.NEW]
    if new:
        await _insert_new(connection, new, lease_until_ms, due_ms)
    return decisions


async def finish(connection: AsyncConnection, sent: Sequence[tuple[int, int]]) -> None:
    """Removes outbox rows, named by (claim_id, attempt), that the broker has confirmed."""
    if sent:
        await connection.execute(_FINISH, [{"finished_id": i, "finished_attempt": a} for i, a in sent])


def insert_or_ignore(connection: AsyncConnection, table: Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING in the database's own dialect."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Pieces small enough for one IN list."""
    for start in range(0, len(items), _IN_LIMIT):
        yield items[start : start + _IN_LIMIT]


async def _next_numbers(connection: AsyncConnection, count: int) -> int:
    """The first of `count` claim numbers. Its row lock puts several intakes' commits in one order."""
    raised = update(_NUMBER).where(_NUMBER.c.one == 1).values(last=_NUMBER.c.last + count).returning(_NUMBER.c.last)
    last: int = (await connection.execute(raised)).scalar_one()
    return last - count + 1


async def _spend_keys(connection: AsyncConnection, candidates: Sequence[Candidate], first_id: int) -> list[Decision]:
    rows = [
        {"key": c.fingerprint.key, "body": c.fingerprint.body, "claim_ref": c.claim_ref, "version": c.version}
        for c in candidates
    ]
    result = await connection.execute(insert_or_ignore(connection, _KEY), rows)
    if result.rowcount == len(rows):  # only SQLite counts the rows of many inserts
        return [Decision(Verdict.NEW, c.claim_ref, c.version, first_id + i) for i, c in enumerate(candidates)]
    kept = await _kept_keys(connection, [c.fingerprint.key for c in candidates])
    return [_decision(c, first_id + i, kept[c.fingerprint.key]) for i, c in enumerate(candidates)]


async def _kept_keys(connection: AsyncConnection, keys: Sequence[bytes]) -> dict[bytes, Any]:
    kept: dict[bytes, Any] = {}
    for some in chunks(keys):
        rows = await connection.execute(select(_KEY).where(_KEY.c.key.in_(some)))
        kept.update((bytes(row.key), row) for row in rows)
    return kept


def _decision(candidate: Candidate, claim_id: int, kept: Any) -> Decision:
    judged = verdict(candidate.claim_ref, candidate.fingerprint.body, bytes(kept.claim_ref), bytes(kept.body))
    return Decision(judged, bytes(kept.claim_ref), kept.version, claim_id if judged is Verdict.NEW else 0)


async def _insert_new(
    connection: AsyncConnection, new: Sequence[tuple[int, Candidate]], lease_until_ms: int, due_ms: int
) -> None:
    keys = {c.wrapping_key.id: c for _, c in new}
    await connection.execute(insert_or_ignore(connection, _WRAPPING), [_wrapping_row(c) for c in keys.values()])
    await connection.execute(_CLAIM.insert(), list(_claim_rows(new)))
    await connection.execute(_ENVELOPE.insert(), list(_envelope_rows(new)))
    await connection.execute(
        _OUTBOX.insert(), [{"claim_id": i, "attempt": 1, "lease_ms": lease_until_ms} for i, _ in new]
    )
    await connection.execute(
        _OPEN.insert(), [{"claim_id": i, "attempt": 1, "due_ms": due_ms, "pended": False} for i, _ in new]
    )


def _wrapping_row(candidate: Candidate) -> dict[str, Any]:
    key = candidate.wrapping_key
    return {
        "id": key.id,
        "payer": key.payer,
        "submitter": key.submitter,
        "created_ms": candidate.received_ms,
        "wraps": key.wraps,
    }


def _claim_rows(new: Iterable[tuple[int, Candidate]]) -> Iterator[dict[str, Any]]:
    for claim_id, c in new:
        yield {
            "id": claim_id,
            "claim_ref": c.claim_ref,
            "version": c.version,
            "submitter": c.submitter,
            "payer": c.payer,
            "bucket": c.bucket,
            "received_ms": c.received_ms,
            "received_day": c.received_day,
            "commitment": c.sealed.commitment,
            "envelope_digest": c.sealed.digest,
        }


def _envelope_rows(new: Iterable[tuple[int, Candidate]]) -> Iterator[dict[str, Any]]:
    for claim_id, c in new:
        yield {
            "claim_id": claim_id,
            "wrapping_key": c.wrapping_key.id,
            "key_wrap": c.sealed.key_wrap,
            "envelope": c.sealed.envelope,
        }
