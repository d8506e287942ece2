"""The second process: projector, status feed and keeper. One of its kind works on a database."""

import asyncio

from sqlalchemy import text

from claim_intake.evidence import Verify
from claim_intake.feed import NAME as FEED
from claim_intake.feed import StatusFeed
from claim_intake.keeper import Keeper
from claim_intake.projector import Projector
from claim_intake.rounds import Rounds
from claim_intake.wiring import AlreadyRunningError, Ground, now_ms, only_one
from runtime.metrics import STAGE_LAG
from runtime.process import announce, run_until

_LOCK_NUMBER = 0x70726F6A


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
        if ground.database.is_sqlite:
            await _work(ground, stop, verify)
            return
        async with ground.database.reading() as connection:  # held as long as the work: one projector per database
            if not (await connection.execute(text(f"SELECT pg_try_advisory_xact_lock({_LOCK_NUMBER})"))).scalar_one():
                raise AlreadyRunningError("another projector works on this database")
            await _work(ground, stop, verify)
    finally:
        place.close()
        await ground.database.close()


async def _work(ground: Ground, stop: asyncio.Event, verify: Verify) -> None:
    rounds = Rounds(ground.database, now_ms)
    await rounds.start()
    feed = StatusFeed(ground, rounds.recent_after, now_ms)
    STAGE_LAG.labels(FEED).set_function(lambda: max(0, rounds.last_event_id - feed.position))
    projector = Projector(ground, rounds, feed.wake, now_ms)
    keeper = Keeper(ground, verify, now_ms)
    await run_until(stop, projector.run(), feed.run(), keeper.run(), keeper.watch())
