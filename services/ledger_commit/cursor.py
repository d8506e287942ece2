"""How far publishing has come, as the topic `ledger.publisher` tells, and the alarm of a replica that sees it stand still.

The cursor is the newest committed record of the topic. It is looked for from the end, since a compacted topic may hold
hundreds of thousands of older ones. Every replica watches it, whoever publishes: what a replica could have published itself
5 s ago has to be in Kafka by now.

Source: settlement.md, Publishing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from google.protobuf.message import DecodeError

from claimledger.ledger.v1 import ledger_pb2
from runtime.kafka import make_consumer
from runtime.log import get_logger
from runtime.metrics import LEDGER_PUBLISHED, LEDGER_PUBLISHER_TRAILS
from runtime.topics import PUBLISHER

NAME: Final = "publishing-watch"
TAIL: Final = 64
"""Offsets looked at first; where they hold no cursor, WIDER times as many before them, up to WIDEST."""
WIDER: Final = 16
WIDEST: Final = 16_384
PATIENCE_S: Final = 20.0
LOOK_S: Final = 1.0
ALARM_S: Final = 5.0
PAUSE_S: Final = 1.0


async def newest_cursor(
    consumer: Any, place: TopicPartition, end: int, undecodable: Callable[[int], None]
) -> ledger_pb2.PublisherCursor:
    """The newest cursor before offset `end`, or the beginning; the consumer has the partition assigned and reads committed.

    A record that is no cursor counts for nothing: it must not keep every replica from the role. `undecodable` is told its
    offset.
    """
    first, reach = end, TAIL
    while first > 0:
        last, first = first, max(0, first - reach)
        reach = min(reach * WIDER, WIDEST)
        for record in reversed(await _records(consumer, place, first, last)):
            try:
                if record.value:
                    return ledger_pb2.PublisherCursor.FromString(record.value)
            except DecodeError:
                undecodable(record.offset)
    return ledger_pb2.PublisherCursor()


async def _records(consumer: Any, place: TopicPartition, first: int, last: int) -> list[Any]:
    """The committed records from offset `first` to before `last`, which is no more than the end.

    Raises TimeoutError where they do not come, as when the topic was made anew meanwhile and is shorter now.
    """
    found: list[Any] = []
    consumer.seek(place, first)
    async with asyncio.timeout(PATIENCE_S):
        while await consumer.position(place) < last:
            polled = await consumer.getmany(place, timeout_ms=500)
            found += [record for record in polled.get(place, ()) if record.offset < last]
    return found


@dataclass(frozen=True, slots=True)
class Progress:
    """Leaves and blocks below these have been published, or could be."""

    next_leaf: int = 0
    block_height: int = 0

    def trails(self, other: "Progress") -> bool:
        return self.next_leaf < other.next_leaf or self.block_height < other.block_height


class PublishingWatch:
    """`own` tells how far this replica could publish now."""

    def __init__(self, kafka: str, own: Callable[[], Progress], clock: Callable[[], float] = time.monotonic) -> None:
        self._kafka = kafka
        self._own = own
        self._clock = clock
        self._place = TopicPartition(PUBLISHER.name(), 0)
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
                found = await newest_cursor(consumer, self._place, end, lambda _offset: None)
                seen, self.published = end, Progress(found.next_leaf, found.block_height)
                LEDGER_PUBLISHED.set(found.block_height)
            consumer.pause(self._place)
            await asyncio.sleep(LOOK_S)

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
