"""How far publishing has come and whose topics these are, as the newest committed record of `ledger.publisher` tells.

The cursor is looked for from the end, since a compacted topic may hold hundreds of thousands of older ones. It names the
chain whose results are published. Whoever works on the topics asks for that first: a network that is set to another's
topics would mix its records into them and take partitions and the publisher's place from the other's processes.

Source: settlement.md, Publishing.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from google.protobuf.message import DecodeError

from claimledger.ledger.v1 import ledger_pb2
from runtime.kafka import make_consumer, wait_for_topics
from runtime.log import get_logger
from runtime.network import Network
from runtime.topics import PUBLISHER

NAME: Final = "publishing-cursor"
TAIL: Final = 64
"""Offsets looked at first; where they hold no cursor, WIDER times as many before them, up to WIDEST."""
WIDER: Final = 16
WIDEST: Final = 16_384
PATIENCE_S: Final = 20.0
FOREIGN_PAUSE_S: Final = 5.0
"""Between looks at topics that are another network's; each look says so in the log."""
PAUSE_S: Final = 1.0


class ForeignTopicsError(Exception):
    """The topics are another network's: says which one's, and what to do."""

    def __init__(self, kafka: str, network: Network, owner: str) -> None:
        self.owner = owner
        """The chain id that the cursor names, hex."""
        which = f"with the prefix {network.topic_prefix!r}" if network.topic_prefix else "without a prefix"
        super().__init__(
            f"the topics {which} on the Kafka at {kafka} belong to the network with chain id {owner}, and this one has "
            f"{network.chain_id}: use another Kafka, or another prefix (topic_prefix in network.json; for a network that is "
            "yet to be made --topic-prefix or CLAIMLEDGER_TOPIC_PREFIX)"
        )


def require_own(cursor: ledger_pb2.PublisherCursor, kafka: str, network: Network) -> None:
    """Raises ForeignTopicsError for the cursor of another chain. One that names none is from before cursors named chains."""
    if cursor.chain_id and cursor.chain_id.hex() != network.chain_id:
        raise ForeignTopicsError(kafka, network, cursor.chain_id.hex())


def cursor_place(network: Network) -> TopicPartition:
    """Where the network's cursors are."""
    return TopicPartition(network.topic(PUBLISHER).name, 0)


async def check_owner(kafka: str, network: Network) -> None:
    """Returns where the network's topics are its own or nobody's yet. Raises ForeignTopicsError, KafkaError, OSError."""
    place = cursor_place(network)
    consumer = make_consumer(kafka, group=None, client_id=NAME, read_committed=True)
    try:
        await consumer.start()
        if place.topic not in await consumer.topics():
            return
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        require_own(await newest_cursor(consumer, place, end, lambda _offset: None), kafka, network)
    finally:
        await consumer.stop()


async def wait_for_own_topics(kafka: str, network: Network, topics: Iterable[str] = ()) -> None:
    """Returns when a broker answers and has these topics and the publisher's, and they are not another network's.

    Says in the log what it waits for.
    """
    wanted = {*topics, cursor_place(network).topic}
    while True:
        await wait_for_topics(kafka, wanted)
        try:
            await check_owner(kafka, network)
        except ForeignTopicsError as error:
            get_logger("kafka").error("foreign_topics", owner=error.owner, reason=str(error))
            await asyncio.sleep(FOREIGN_PAUSE_S)
        except (KafkaError, OSError) as error:
            get_logger("kafka").warning("waiting_for_kafka", error=str(error))
            await asyncio.sleep(PAUSE_S)
        else:
            return


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
