"""The projection's commits are on the disk when they return: SQLite in WAL mode with synchronous=FULL.

What the operating system did is not watched here, only what SQLite was told: FULL makes it sync its log at each commit.
"""

from pathlib import Path

from sqlalchemy import text

from ledger_commit.store import Projection

FULL = 2


async def test_every_connection_of_the_projection_syncs_its_commits(tmp_path: Path) -> None:
    projection = Projection(f"sqlite:///{tmp_path}/projection.db")
    await projection.open()
    async with projection.engine.connect() as one, projection.engine.connect() as other:
        for connection in (one, other):
            assert await connection.scalar(text("PRAGMA synchronous")) == FULL
            assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
    await projection.close()
