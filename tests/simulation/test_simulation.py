"""Many seeds, each a different bad day; and the mutants that prove that the judge looks.

CLAIMLEDGER_SIM_SEEDS sets how many seeds run (`make sim SEEDS=500`).
"""

import os
from collections import Counter

import pytest

from tests.simulation.cluster import Cluster, Faults, Violation, scenario
from tests.simulation.mutants import MUTANTS, hunt

SEEDS = int(os.environ.get("CLAIMLEDGER_SIM_SEEDS", "100"))
CHUNK = 20
RARE = (
    "tc",
    "tc_with_groups",
    "proposal_with_tc",
    "commit_of_1",
    "commit_of_2",
    "commit_of_3",
    "crash_before_Persist",
    "crash_before_Broadcast",
    "crash_before_Commit",
    "marker_lost",
    "block_fetched",
    "range_fetched",
    "batch_fetched",
    "double_vote",
    "double_proposal",
)
_SEEN: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_invariants_hold_on_every_seed(first: int) -> None:
    """Safety at every effect, and progress once the network heals."""
    for seed in range(first, min(first + CHUNK, SEEDS)):
        _SEEN.update(scenario(seed).run().seen)


def test_rare_branches_were_reached() -> None:
    """A simulation that never loses a marker or fetches a range shows nothing about them."""
    if not _SEEN:
        pytest.skip("needs the seeds of this module to have run in this process")
    missing = [name for name in RARE if not _SEEN[name]]
    assert not missing


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = scenario(7).run(), scenario(7).run()
    assert first.trace.digest() == second.trace.digest()
    assert first.trace.digest() != scenario(8).run().trace.digest()


def test_too_many_crashed_members_stop_the_chain_and_do_not_fork_it() -> None:
    """f + 1 members that never come back: no commits, and no violation but missing progress."""
    cluster = Cluster(3, faults=Faults(heal_ms=4000, end_ms=12_000))
    for host in cluster.hosts[2:]:
        host.start = lambda: None  # type: ignore[method-assign]
    with pytest.raises(Violation, match="stands at height 0"):
        cluster.run()
    assert all(not host.disk.committed for host in cluster.hosts)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_the_simulator_kills(name: str) -> None:
    """Each broken rule is found within a bounded number of seeds."""
    assert hunt(name) is not None, f"mutant {name} survived"
