"""One question for all who wait: has the projector written new events?

The projector is another process, so the newest event id is asked for while somebody waits, and only then.
"""

import asyncio
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from claim_intake.store.database import Database
from claim_intake.store.reading import newest_event
from runtime.database import root_type
from runtime.log import get_logger

POLL_SECONDS: Final = 0.05
SLOW_POLL_SECONDS: Final = 1.0
"""After an error of the database."""


class EventTail:
    """Wakes every waiting stream when events beyond its place exist."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest = 0
        self._waiting = 0
        self._someone = asyncio.Event()
        self._moved = asyncio.Event()
        """Of the next move only. A Condition takes its lock again when a waiter is cancelled, and may then wait for ever."""

    async def wait_beyond(self, event_id: int) -> None:
        """Returns once an event with a higher id is there."""
        self._waiting += 1
        self._someone.set()
        try:
            while self._newest <= event_id:
                await self._moved.wait()
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Asks while somebody waits, until cancelled; who waits while the database is away goes on waiting."""
        log = get_logger("event_tail")
        while True:
            if not self._waiting:
                self._someone.clear()
                await self._someone.wait()
            try:
                await self._ask()
                await asyncio.sleep(POLL_SECONDS)
            except SQLAlchemyError as error:
                log.warning("database_away", type=root_type(error))
                await asyncio.sleep(SLOW_POLL_SECONDS)

    async def _ask(self) -> None:
        async with self._database.reading() as connection:
            newest = await newest_event(connection)
        if newest != self._newest:
            self._newest = newest
            self._moved.set()
            self._moved = asyncio.Event()
