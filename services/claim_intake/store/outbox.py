"""The outbox as the relay reads it when a claim does not come from memory: after a restart, a lease run out, an overdue
claim, a backlog."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.store.tables import ClaimRow, EnvelopeRow, OutboxRow, WrappingKeyRow, table_of

_CLAIM: Final = table_of(ClaimRow)
_ENVELOPE: Final = table_of(EnvelopeRow)
_WRAPPING: Final = table_of(WrappingKeyRow)
_OUTBOX: Final = table_of(OutboxRow)


@dataclass(frozen=True, slots=True)
class StoredClaim:
    """A claim that is to be sent, as it lies in the database."""

    claim_id: int
    attempt: int
    claim_ref: bytes
    version: int
    submitter: str
    payer: str
    bucket: int
    received_ms: int
    received_day: int
    envelope_digest: bytes
    envelope: bytes
    key_wrap: bytes
    wrapping_key: bytes
    wraps: bytes


async def size(connection: AsyncConnection) -> int:
    """How many claims wait to be sent."""
    return int((await connection.execute(select(func.count()).select_from(_OUTBOX))).scalar_one())


async def release_leases(connection: AsyncConnection) -> None:
    """Frees every row; for the only relay of a database, which starts with nothing in hand."""
    await connection.execute(update(_OUTBOX).values(lease_ms=0))


async def lease_wanted(connection: AsyncConnection, now_ms: int) -> bool:
    """Whether any row is free; asked first, so that an idle scan writes nothing."""
    question = select(_OUTBOX.c.claim_id).where(_OUTBOX.c.lease_ms <= now_ms).limit(1)
    return (await connection.execute(question)).first() is not None


async def lease(connection: AsyncConnection, now_ms: int, until_ms: int, limit: int) -> list[tuple[int, int]]:
    """Takes up to `limit` free rows, oldest first, and holds them until `until_ms`: (claim_id, attempt) each."""
    free = (
        select(_OUTBOX.c.claim_id, _OUTBOX.c.attempt)
        .where(_OUTBOX.c.lease_ms <= now_ms)
        .order_by(_OUTBOX.c.claim_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = [(row.claim_id, row.attempt) for row in await connection.execute(free)]
    if keys:
        named = tuple_(_OUTBOX.c.claim_id, _OUTBOX.c.attempt).in_(keys)
        await connection.execute(update(_OUTBOX).where(named).values(lease_ms=until_ms))
    return keys


async def load(connection: AsyncConnection, keys: Sequence[tuple[int, int]]) -> list[StoredClaim]:
    """The claims behind outbox rows; one whose envelope was shredded is left out."""
    attempts = dict(keys)
    joined = (
        select(_CLAIM, _ENVELOPE.c.envelope, _ENVELOPE.c.key_wrap, _ENVELOPE.c.wrapping_key, _WRAPPING.c.wraps)
        .join(_ENVELOPE, _ENVELOPE.c.claim_id == _CLAIM.c.id)
        .join(_WRAPPING, _WRAPPING.c.id == _ENVELOPE.c.wrapping_key)
        .where(_CLAIM.c.id.in_(list(attempts)))
        .order_by(_CLAIM.c.id)
    )
    return [_stored(row, attempts[row.id]) for row in await connection.execute(joined)]


def _stored(row: Any, attempt: int) -> StoredClaim:
    return StoredClaim(
        row.id, attempt, bytes(row.claim_ref), row.version, row.submitter, row.payer, row.bucket, row.received_ms,
        row.received_day, bytes(row.envelope_digest), bytes(row.envelope), bytes(row.key_wrap), bytes(row.wrapping_key),
        bytes(row.wraps),
    )  # fmt: skip
