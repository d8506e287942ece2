"""One database for intake: SQLite beside the process by default, PostgreSQL by URL.

SQLite runs in WAL mode with synchronous=FULL, so a commit is on the disk when it returns, at the price of one fsync
for the transaction. Write transactions begin IMMEDIATE: the lock is taken at once and not in the middle.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from runtime.database import transaction

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"
BUSY_TIMEOUT_MS: Final = 10_000
_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class Database:
    """An open database. Writers share one connection on SQLite and a pool on PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.commits = 0
        """Write transactions committed; what tests count fsyncs by."""
        self._writers = self._engine(writes=True)
        self._readers = self._engine(writes=False) if self.is_sqlite else self._writers

    def _engine(self, *, writes: bool) -> AsyncEngine:
        if not self.is_sqlite:
            return create_async_engine(self.url, pool_size=8, max_overflow=0, pool_pre_ping=True)
        engine = create_async_engine(self.url, pool_size=1 if writes else 4, max_overflow=0)
        _prepare_sqlite(engine, writes=writes)
        return engine

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction, committed at the end of the block and rolled back where it raises."""
        async with transaction(self._writers) as connection:
            yield connection
        self.commits += 1

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of what is committed."""
        async with transaction(self._readers) as connection:
            yield connection

    async def migrate(self) -> None:
        """Brings the tables up to the newest revision."""
        async with self._writers.connect() as connection:
            await connection.run_sync(_upgrade)
            await connection.commit()

    async def close(self) -> None:
        await self._writers.dispose()
        if self._readers is not self._writers:
            await self._readers.dispose()


def _with_driver(url: str) -> URL:
    """The URL with the asynchronous driver that we use. Raises ValueError for other databases."""
    parsed = make_url(url)
    driver = _DRIVERS.get(parsed.drivername.split("+")[0])
    if driver is None:
        raise ValueError(f"{parsed.drivername!r} is no supported database: use sqlite:///… or postgresql://…")
    if driver.startswith("sqlite") and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    return parsed.set(drivername=driver)


def _prepare_sqlite(engine: AsyncEngine, *, writes: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA wal_autocheckpoint=4000")
        cursor.execute("PRAGMA cache_size=-32000")
        cursor.execute("PRAGMA mmap_size=268435456")  # the other process' commits empty the cache; mapped pages stay
        if not writes:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
