"""Runs the migrations on the connection that `Database.migrate` hands over; two processes may start at once."""

from alembic import context
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from claim_intake.store import tables

_LOCK_NUMBER = 0x636C61696D


def _run(connection: Connection) -> None:
    assert tables.ClaimRow.metadata is SQLModel.metadata  # the import declares the tables
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    context.configure(connection=connection, target_metadata=SQLModel.metadata, version_table="intake_revision")
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
