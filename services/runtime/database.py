"""What the databases of the services have in common: a transaction that says when its database is away, and large integers.

Whatever a transaction raises of a database is an SQLAlchemyError, also where the driver's own errors come through SQLAlchemy as
they are.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from sqlalchemy import BigInteger, Integer
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LARGE_INTEGER: Final = BigInteger().with_variant(Integer(), "sqlite")
"""An INTEGER of PostgreSQL ends at 2^31, one of SQLite at 2^63, and SQLite numbers rows by itself only where the type is INTEGER."""

_DATABASE_AWAY: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What comes of a server that is gone, ends or begins: SQLAlchemy wraps errors of a connection, not those of connecting."""


class DatabaseAwayError(SQLAlchemyError):
    """The database does not answer; its cause is what the driver raised."""


def root_type(error: BaseException) -> str:
    """The name of the error that lies under the wrapping ones, for the log."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Committed at the end of the block and rolled back where it raises."""
    try:
        async with engine.begin() as connection:
            yield connection
    except _DATABASE_AWAY as error:
        raise DatabaseAwayError(str(error)) from error
