"""The second process: projector, status feed and keeper. One of its kind works on a database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from claim_intake.evidence import Verify
from claim_intake.feed import NAME as FEED
from claim_intake.feed import StatusFeed
from claim_intake.keeper import Keeper
from claim_intake.projector import Projector
from claim_intake.rounds import Rounds
from claim_intake.store.database import Database
from claim_intake.wiring import AlreadyRunningError, Ground, now_ms, only_one
from runtime.database import root_type
from runtime.log import get_logger
from runtime.metrics import STAGE_LAG
from runtime.process import announce, run_together

PAUSE_SECONDS: Final = 1.0
PLACE_CHECK_SECONDS: Final = 1.0
LOCK_NUMBER: Final = 0x70726F6A


async def project(ground: Ground, stop: asyncio.Event, verify: Verify) -> None:
    """Projects, feeds and keeps until `stop`."""
    place = only_one(ground.settings.data, "project")
    try:
        announce(
            "claim-intake-projector",
            metrics=ground.settings.metrics_port,
            database=ground.database.url.render_as_string(),
            kafka=ground.kafka,
            logs=str(ground.settings.run / "logs"),
        )
        await _work_until(ground, stop, verify)
    finally:
        place.close()
        await ground.database.close()


async def _work_until(ground: Ground, stop: asyncio.Event, verify: Verify) -> None:
    """Waits where the database is away, and begins anew: a transaction may be in it of which no confirmation came, and the
    place is free for others while it is away."""
    while not stop.is_set():
        try:
            async with _place(ground.database) as holding:
                await _work(ground, stop, verify, holding)
        except SQLAlchemyError as error:
            get_logger("project").warning("database_away", type=root_type(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE_SECONDS)


@asynccontextmanager
async def _place(database: Database) -> AsyncIterator[AsyncConnection | None]:
    """The place of the one projector of a database: on PostgreSQL a lock that lasts as long as its connection.

    Raises AlreadyRunningError.
    """
    if database.is_sqlite:
        yield None
        return
    async with database.reading() as connection:
        if not (await connection.execute(text(f"SELECT pg_try_advisory_xact_lock({LOCK_NUMBER})"))).scalar_one():
            raise AlreadyRunningError("another projector works on this database")
        yield connection


async def _work(ground: Ground, stop: asyncio.Event, verify: Verify, holding: AsyncConnection | None) -> None:
    rounds = Rounds(ground.database, now_ms)
    await rounds.start()
    feed = StatusFeed(ground, rounds.recent_after, now_ms)
    STAGE_LAG.labels(FEED).set_function(lambda: max(0, rounds.last_event_id - feed.position))
    projector = Projector(ground, rounds, feed.wake, now_ms)
    keeper = Keeper(ground, verify, now_ms)
    parts = [projector.run(), feed.run(), keeper.run(), keeper.watch(), _until_set(stop)]
    if holding is not None:
        parts.append(_check(holding))
    await run_together(*parts)


async def _check(holding: AsyncConnection) -> None:
    """Finds out that the place is lost, which the pool hides once the database is back."""
    while True:
        await asyncio.sleep(PLACE_CHECK_SECONDS)
        await holding.execute(text("SELECT 1"))


async def _until_set(stop: asyncio.Event) -> None:
    await stop.wait()
