"""The first tables of intake."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "claim",
        sa.Column("id", _Id, autoincrement=False, nullable=False),
        sa.Column("claim_ref", sa.LargeBinary(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("submitter", sa.String(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_day", sa.Integer(), nullable=False),
        sa.Column("commitment", sa.LargeBinary(length=32), nullable=False),
        sa.Column("envelope_digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("claim_ref", "version", name="uq_claim_ref"),
    )
    op.create_index("ix_claim_payer", "claim", ["payer", "id"], unique=False)
    op.create_index("ix_claim_submitter", "claim", ["submitter", "id"], unique=False)
    op.create_table(
        "claim_number",
        sa.Column("one", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("one"),
    )
    op.create_table(
        "claim_state",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("payee", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id"),
    )
    op.create_index("ix_claim_state_payee", "claim_state", ["payee", "claim_id"], unique=False)
    op.create_table(
        "client_key",
        sa.Column("key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("body", sa.LargeBinary(length=32), nullable=False),
        sa.Column("claim_ref", sa.LargeBinary(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "envelope",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("wrapping_key", sa.LargeBinary(length=16), nullable=False),
        sa.Column("key_wrap", sa.LargeBinary(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id"),
    )
    op.create_table(
        "evidence",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("verified_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id"),
    )
    op.create_table(
        "feed_cursor",
        sa.Column("feed", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("feed"),
    )
    op.create_table(
        "held_event",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("payee", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("held_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id", "step"),
    )
    op.create_table(
        "open_claim",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("pended", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id"),
    )
    op.create_index("ix_open_claim_due", "open_claim", ["due_ms"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("claim_id", _Id, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("claim_id", "attempt"),
    )
    op.create_index("ix_outbox_lease", "outbox", ["lease_ms"], unique=False)
    op.create_table(
        "reader_offset",
        sa.Column("reader", sa.String(), nullable=False),
        sa.Column("topic", sa.String(), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reader", "topic", "partition"),
    )
    op.create_table(
        "status_event",
        sa.Column("id", _Id, autoincrement=False, nullable=False),
        sa.Column("claim_id", sa.BigInteger(), nullable=False),
        sa.Column("claim_ref", sa.LargeBinary(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("time_ms", sa.BigInteger(), nullable=False),
        sa.Column("submitter", sa.String(), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("payee", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("claim_id", "step", name="uq_status_event_step"),
    )
    op.create_table(
        "wrapping_key",
        sa.Column("id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("payer", sa.String(), nullable=False),
        sa.Column("submitter", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("wraps", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO claim_number (one, last) VALUES (1, 0)")


def downgrade() -> None:
    op.drop_table("wrapping_key")
    op.drop_table("status_event")
    op.drop_table("reader_offset")
    op.drop_index("ix_outbox_lease", table_name="outbox")
    op.drop_table("outbox")
    op.drop_index("ix_open_claim_due", table_name="open_claim")
    op.drop_table("open_claim")
    op.drop_table("held_event")
    op.drop_table("feed_cursor")
    op.drop_table("evidence")
    op.drop_table("envelope")
    op.drop_table("client_key")
    op.drop_index("ix_claim_state_payee", table_name="claim_state")
    op.drop_table("claim_state")
    op.drop_table("claim_number")
    op.drop_index("ix_claim_submitter", table_name="claim")
    op.drop_index("ix_claim_payer", table_name="claim")
    op.drop_table("claim")
