"""A batch can be on disk and not known to the core, which keeps a bounded number of each member's."""

from dataclasses import replace
from pathlib import Path

from ledger_commit.consensus.events import BatchStored, FetchBatches
from tests.unit.ledger.machines import Machine


async def test_a_batch_that_the_core_left_out_is_told_again_when_it_asks(tmp_path: Path) -> None:
    """Else no peer would be asked, since it is here, and the block that names it would never get this replica's vote."""
    machine = Machine(0, tmp_path / "0")
    machine.start([])
    node = machine.node
    node._started = node._busy = True  # events stay where they can be seen
    node.lane.add(b"entry", 1, lambda: None)
    node.lane.flush()
    (stored,) = node._events
    assert isinstance(stored, BatchStored)
    node._events.clear()
    absent = replace(stored.ref, digest=bytes(32))
    await node.fetching.batches(FetchBatches((absent, stored.ref), 1))
    assert list(node._events) == [stored]
