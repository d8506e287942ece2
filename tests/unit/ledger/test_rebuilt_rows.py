"""What a replica rebuilds of its blocks at start is what it told of them when it executed them."""

from pathlib import Path

from ledger_commit.app import _projected_from_log
from ledger_commit.store import Projected
from tests.unit.ledger.test_durability import made, work

CLAIMS = 7


async def test_a_row_that_is_rebuilt_equals_the_live_one(tmp_path: Path) -> None:
    """Entries are records in both; how many claims a batch's maker counts in them is its own word."""
    machines = made(tmp_path)
    live: list[Projected] = []
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    watched = machines[0]
    watched.node._on_executed = live.extend
    for machine in machines:
        machine.node.lane.add(b"of several claims %d" % machine.me, CLAIMS, lambda: None)
    await work(machines, 0.5)
    assert any(row.entries for row in live)
    counted = {row.id: sum(r.count for r in block.batches) for row in live if (block := watched.node.block(row.id))}
    assert any(counted[row.id] > row.entries for row in live), "claims and records differ"
    await watched.node.close()
    watched.start([])
    rebuilt = _projected_from_log(watched.node.disk, watched.node)
    assert rebuilt[: len(live)] == live[: len(rebuilt)]
    assert len(rebuilt) >= len(live)
