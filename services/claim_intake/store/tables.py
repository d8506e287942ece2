"""The tables of intake. SQLModel declares them; rows are written through Core, many at a time.

Random keys (claim_ref, client key) stand in narrow tables or indexes only, since each one touches a page of its own;
everything else is keyed by `claim.id`, which rises in the order of commits. No table holds a claim's contents but
`envelope`, which is ciphertext.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from runtime.database import LARGE_INTEGER


def table_of(model: type[SQLModel]) -> Table:
    """The Core table of a model."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table


class ClaimRow(SQLModel, table=True):
    """An accepted claim version, without its contents."""

    __tablename__ = "claim"
    __table_args__ = (
        UniqueConstraint("claim_ref", "version", name="uq_claim_ref"),
        Index("ix_claim_submitter", "submitter", "id"),
        Index("ix_claim_payer", "payer", "id"),
    )
    id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    claim_ref: bytes = Field(sa_column=Column(LargeBinary(16), nullable=False))
    version: int
    submitter: str
    payer: str
    bucket: int
    """Member bucket: the partition of claims.submitted."""
    received_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    received_day: int
    """Days since 1970-01-01 in the payer's zone."""
    commitment: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    envelope_digest: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))


class ClaimNumber(SQLModel, table=True):
    """One row: the last claim.id given out. Its lock puts the commits of several intakes in one order."""

    __tablename__ = "claim_number"
    one: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    last: int = Field(sa_column=Column(BigInteger, nullable=False))


class EnvelopeRow(SQLModel, table=True):
    """The encrypted claim and the wrap of its key; deleted to shred a claim."""

    __tablename__ = "envelope"
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    wrapping_key: bytes = Field(sa_column=Column(LargeBinary(16), nullable=False))
    key_wrap: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    envelope: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class WrappingKeyRow(SQLModel, table=True):
    """A key-encryption key, wrapped for each recipient."""

    __tablename__ = "wrapping_key"
    id: bytes = Field(sa_column=Column(LargeBinary(16), primary_key=True))
    payer: str
    submitter: str
    created_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    wraps: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class ClientKeyRow(SQLModel, table=True):
    """Which claim an idempotency key was spent on; outlives everything else."""

    __tablename__ = "client_key"
    __table_args__ = {"sqlite_with_rowid": False}
    key: bytes = Field(sa_column=Column(LargeBinary(16), primary_key=True))
    body: bytes = Field(sa_column=Column(LargeBinary(32), nullable=False))
    claim_ref: bytes = Field(sa_column=Column(LargeBinary(16), nullable=False))
    version: int


class OutboxRow(SQLModel, table=True):
    """A claim that is to be sent into the pipeline and of which the broker has not yet confirmed the receipt."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_lease", "lease_ms"),)
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    attempt: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    lease_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    """Until when a relay has it in hand; afterwards any relay may take it."""


class OpenClaimRow(SQLModel, table=True):
    """A claim for which intake is still responsible. `due_ms` is far away while a person reviews it (pended)."""

    __tablename__ = "open_claim"
    __table_args__ = (Index("ix_open_claim_due", "due_ms"),)
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    attempt: int
    due_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    pended: bool = False


class EvidenceRow(SQLModel, table=True):
    """What intake verified about a claim's end: the latest settlement proof, or the payer's signed rejection."""

    __tablename__ = "evidence"
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    verified_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    outcome: int
    """A claims.result.Outcome; 0 for a rejection."""
    step: int
    """Which result of the version it is, so that an older one does not replace a newer one."""
    attempts: int
    """How often the claim had been sent by then."""
    document: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """SettlementProof or RejectedClaim, serialised."""


class ClaimStateRow(SQLModel, table=True):
    """The latest ordered step of a claim."""

    __tablename__ = "claim_state"
    __table_args__ = (Index("ix_claim_state_payee", "payee", "claim_id"),)
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    status: int
    step: int
    time_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    payee: str
    detail: str = Field(sa_column=Column(Text, nullable=False))


class StatusEventRow(SQLModel, table=True):
    """An ordered step. `id` is the cursor of TrackClaims and of the status feed; one writer gives it out."""

    __tablename__ = "status_event"
    __table_args__ = (UniqueConstraint("claim_id", "step", name="uq_status_event_step"),)
    id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    claim_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    claim_ref: bytes = Field(sa_column=Column(LargeBinary(16), nullable=False))
    version: int
    step: int
    status: int
    time_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    submitter: str
    payer: str
    payee: str
    detail: str = Field(sa_column=Column(Text, nullable=False))


class HeldEventRow(SQLModel, table=True):
    """A reported step whose predecessor has not come yet."""

    __tablename__ = "held_event"
    claim_id: int = Field(sa_column=Column(LARGE_INTEGER, primary_key=True, autoincrement=False))
    step: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    status: int
    time_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    payee: str
    detail: str = Field(sa_column=Column(Text, nullable=False))
    held_ms: int = Field(sa_column=Column(BigInteger, nullable=False))


class ReaderOffsetRow(SQLModel, table=True):
    """Where a reader continues in a partition; written in the transaction of what it read."""

    __tablename__ = "reader_offset"
    reader: str = Field(primary_key=True)
    topic: str = Field(primary_key=True)
    partition: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    next_offset: int = Field(sa_column=Column(BigInteger, nullable=False))


class FeedCursorRow(SQLModel, table=True):
    """How far a feed has certainly come; Kafka holds the exact place."""

    __tablename__ = "feed_cursor"
    feed: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
