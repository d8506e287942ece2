"""How far publishing has come, as every replica sees it, and the alarm of one that sees it stand still.

Every replica watches the cursor, whoever publishes: what a replica could have published itself 5 s ago has to be in Kafka by
now. A cursor of another chain says nothing about this one.

Source: settlement.md, Publishing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.errors import KafkaError

from runtime.kafka import make_consumer
from runtime.log import get_logger
from runtime.metrics import LEDGER_PUBLISHED, LEDGER_PUBLISHER_TRAILS
from runtime.network import Network
from runtime.publishing_cursor import ForeignTopicsError, cursor_place, newest_cursor, require_own

NAME: Final = "publishing-watch"
LOOK_S: Final = 1.0
ALARM_S: Final = 5.0
PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Leaves and blocks below these have been published, or could be."""

    next_leaf: int = 0
    block_height: int = 0

    def trails(self, other: "Progress") -> bool:
        return self.next_leaf < other.next_leaf or self.block_height < other.block_height


class PublishingWatch:
    """`own` tells how far this replica could publish now."""

    def __init__(
        self, kafka: str, network: Network, own: Callable[[], Progress], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kafka = kafka
        self._network = network
        self._own = own
        self._clock = clock
        self._place = cursor_place(network)
        self._log = get_logger("publishing_watch")
        self._before: deque[tuple[float, Progress]] = deque()
        self.published = Progress()
        self.alarmed = False

    async def run(self) -> None:
        """Until cancelled. While no broker answers the last cursor stands, and time runs on against it."""
        await asyncio.gather(self._follow(), self._compare_now_and_then())

    async def _follow(self) -> None:
        while True:
            consumer = make_consumer(self._kafka, group=None, client_id=NAME, read_committed=True)
            try:
                await consumer.start()
                consumer.assign([self._place])
                await self._look_now_and_then(consumer)
            except (KafkaError, OSError) as error:
                self._log.warning("broker_away", type=type(error).__name__)
            finally:
                await consumer.stop()
            await asyncio.sleep(PAUSE_S)

    async def _look_now_and_then(self, consumer: Any) -> None:
        """One small request while nothing is new. The consumer rests in between: it would ask four times a second."""
        seen = -1
        while True:
            end = (await consumer.end_offsets([self._place]))[self._place]
            if end != seen:
                consumer.resume(self._place)
                seen, self.published = end, await self._newest(consumer, end)
                LEDGER_PUBLISHED.set(self.published.block_height)
            consumer.pause(self._place)
            await asyncio.sleep(LOOK_S)

    async def _newest(self, consumer: Any, end: int) -> Progress:
        found = await newest_cursor(consumer, self._place, end, lambda _offset: None)
        try:
            require_own(found, self._kafka, self._network)
        except ForeignTopicsError as error:
            self._log.error("foreign_topics", owner=error.owner, reason=str(error))
            return Progress()
        return Progress(found.next_leaf, found.block_height)

    async def _compare_now_and_then(self) -> None:
        while True:
            self.compare()
            await asyncio.sleep(LOOK_S)

    def compare(self) -> None:
        """Raises the alarm where something is not published that this replica could have published ALARM_S ago."""
        now, before = self._clock(), self._before
        before.append((now, self._own()))
        while len(before) > 1 and before[1][0] <= now - ALARM_S:
            before.popleft()
        then, due = before[0]
        trails = then <= now - ALARM_S and self.published.trails(due)
        if trails == self.alarmed:
            return
        self.alarmed = trails
        LEDGER_PUBLISHER_TRAILS.set(trails)
        told = {"next_leaf": self.published.next_leaf, "block_height": self.published.block_height}
        if trails:
            self._log.error("publisher_trails", due_leaf=due.next_leaf, due_height=due.block_height, **told)
        else:
            self._log.info("publisher_caught_up", **told)
