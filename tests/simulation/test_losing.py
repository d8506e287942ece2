"""A member that lost its record or its disk: nothing is signed twice, the chain goes on, and the member with it.

Source: consensus.md §8 and §11; the argument is in ledger_commit/consensus/rejoining.py.
"""

from dataclasses import replace

import pytest

from tests.simulation.cluster import Faults
from tests.simulation.losing import Losing

SEEDS = 3
ROUGH = Faults(loss=0.1, delay_ms=(1, 300), crash=0.001, partitions=True, slow_executor_ms=50)
IMPATIENT = Faults(loss=0.05, lost_kinds=("Vote",), delay_ms=(20, 300), base_ms=60, heal_ms=9000)


@pytest.mark.parametrize("what", ["record", "disk"])
@pytest.mark.parametrize("size", [4, 7])
def test_a_member_that_lost_what_it_signed_signs_again_and_nothing_twice(what: str, size: int) -> None:
    """With one liar of seven beside it; its new lane's payload is committed, which the cluster waits for."""
    for seed in range(SEEDS):
        seen = Losing(seed, size, replace(ROUGH, lies=size == 7), what=what).run().seen
        assert seen[f"lost_{what}"]
        assert seen["signed_after_rejoining"]


@pytest.mark.parametrize(("faults", "seeds"), [(ROUGH, SEEDS), (IMPATIENT, 3)], ids=["rough", "impatient"])
def test_the_round_and_the_certificates_bear_it_alone(faults: Faults, seeds: int) -> None:
    """It was ahead of everyone when it lost its record, and begins before its statement is even ordered."""
    lost = 0
    for seed in range(seeds):
        lost += Losing(seed, faults=faults, ahead=True, eager=True).run().seen["rejoined"]
    assert lost


def test_too_few_to_ask_leave_it_silent_and_the_chain_goes_on() -> None:
    """Another member is away for good: four cannot give three others, and two of the three left make no quorum. They stop,
    and fork nothing; the member signs nothing."""
    cluster = Losing(2, faults=Faults(heal_ms=9000, end_ms=14_000))
    away = cluster.hosts[0]
    cluster.at(2500, away.stop)
    away.start = lambda: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="stands at height"):
        cluster.run()
    assert cluster.seen["too_few_to_rejoin"]
    assert not cluster.seen["rejoined"]
    assert not cluster.losing.disk.trusted
