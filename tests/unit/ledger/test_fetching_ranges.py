"""A range of heights that a peer only claims to have takes nothing away from what a vote needs."""

import asyncio
from pathlib import Path

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit.consensus.events import FetchBatches, FetchRange
from ledger_commit.node import FETCHES_AT_ONCE
from tests.unit.ledger.machines import Machine, Neighbour
from tests.unit.ledger.test_durability import made


class Silent(Neighbour):
    """Takes a question for heights and does not answer."""

    asked = 0

    async def blocks(self, request: ledger_pb2.FetchBlocksRequest) -> list[ledger_pb2.FetchBlocksResponse]:
        self.asked += 1
        await asyncio.Event().wait()
        return []


class Around:
    """The peers of a machine: the silent one is asked first."""

    def __init__(self, silent: Silent, honest: Neighbour) -> None:
        self._all = [silent, honest]

    def first(self, _hint: int) -> list[Neighbour]:
        return self._all


def opened(place: Path) -> tuple[Machine, Machine, Silent]:
    """A machine, an honest peer of it, and a silent one."""
    asking, honest, hostile = made(place)[:3]
    for machine in (asking, honest):
        machine.start([])
    silent = Silent(asking, hostile)
    asking.node.peers = Around(silent, Neighbour(asking, honest))  # type: ignore[assignment]
    return asking, honest, silent


async def test_ranges_that_hang_leave_room_for_the_payload_of_a_vote(tmp_path: Path) -> None:
    asking, honest, silent = opened(tmp_path)
    silent.batches = Neighbour(asking, honest).batches  # type: ignore[method-assign]
    honest.node.lane.add(b"entry", 1, lambda: None)
    honest.node.lane.flush()
    (ref,) = honest.node.disk.log.refs.values()
    for number in range(FETCHES_AT_ONCE + 1):
        asking.node._do(FetchRange(1, 100 + number, 2))
        await asyncio.sleep(0)
    assert silent.asked == 1, "one range at a time"
    asking.node._do(FetchBatches((ref,), 2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert asking.node.disk.log.has_batch(ref.digest)
    await asking.node.close()


async def test_the_next_range_is_fetched_once_the_last_one_is_through(tmp_path: Path) -> None:
    asking, _honest, silent = opened(tmp_path)
    asking.node._do(FetchRange(1, 100, 2))
    await asyncio.sleep(0)
    running = asking.node._range_fetch
    assert running is not None
    running.cancel()
    await asyncio.wait([running])
    asking.node._do(FetchRange(1, 100, 2))
    await asyncio.sleep(0)
    assert silent.asked == 2
    await asking.node.close()
