"""Accepting claims: key, claim, envelope, outbox and duty rows in one transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, select, update
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
from claims.quick import quick
from runtime.bulk import Bulk, Row, insert, insert_or_ignore

_CLAIM: Final = table_of(ClaimRow)
_NUMBER: Final = table_of(ClaimNumber)
_ENVELOPE: Final = table_of(EnvelopeRow)
_WRAPPING: Final = table_of(WrappingKeyRow)
_KEY: Final = table_of(ClientKeyRow)
_OUTBOX: Final = table_of(OutboxRow)
_OPEN: Final = table_of(OpenClaimRow)
_IN_LIMIT: Final = 1_000
_SPEND_KEYS: Final = insert_or_ignore(_KEY)
_ADD_WRAPPING_KEYS: Final = insert_or_ignore(_WRAPPING)
_ADD_CLAIMS: Final = insert(_CLAIM)
_ADD_ENVELOPES: Final = insert(_ENVELOPE)
_ADD_TO_OUTBOX: Final = insert(_OUTBOX)
_ADD_DUTIES: Final = insert(_OPEN)
_FINISH: Final = Bulk(
    ("id", "n"),
    lambda _: delete(_OUTBOX).where(_OUTBOX.c.claim_id == bindparam("id"), _OUTBOX.c.attempt == bindparam("n")),
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


_decided = quick(Decision)


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
    await _FINISH.run(connection, sent)


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
    rows = [(c.fingerprint.key, c.fingerprint.body, c.claim_ref, c.version) for c in candidates]
    added = await _SPEND_KEYS.run(connection, rows)
    if added == len(rows):  # only SQLite counts the rows of many inserts
        return [_decided(Verdict.NEW, c.claim_ref, c.version, first_id + i) for i, c in enumerate(candidates)]
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
    return _decided(judged, bytes(kept.claim_ref), kept.version, claim_id if judged is Verdict.NEW else 0)


async def _insert_new(
    connection: AsyncConnection, new: Sequence[tuple[int, Candidate]], lease_until_ms: int, due_ms: int
) -> None:
    keys = {c.wrapping_key.id: c for _, c in new}
    await _ADD_WRAPPING_KEYS.run(connection, [_wrapping_row(c) for c in keys.values()])
    await _ADD_CLAIMS.run(connection, [_claim_row(claim_id, c) for claim_id, c in new])
    await _ADD_ENVELOPES.run(connection, [_envelope_row(claim_id, c) for claim_id, c in new])
    await _ADD_TO_OUTBOX.run(connection, [(claim_id, 1, lease_until_ms) for claim_id, _ in new])
    await _ADD_DUTIES.run(connection, [(claim_id, 1, due_ms, False) for claim_id, _ in new])


# Rows in the order of their tables' columns.


def _wrapping_row(candidate: Candidate) -> Row:
    key = candidate.wrapping_key
    return key.id, key.payer, key.submitter, candidate.received_ms, key.wraps


def _claim_row(claim_id: int, c: Candidate) -> Row:
    return (
        claim_id, c.claim_ref, c.version, c.submitter, c.payer, c.bucket, c.received_ms, c.received_day,
        c.sealed.commitment, c.sealed.digest,
    )  # fmt: skip


def _envelope_row(claim_id: int, c: Candidate) -> Row:
    return claim_id, c.wrapping_key.id, c.sealed.key_wrap, c.sealed.envelope
