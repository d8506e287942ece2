"""A leader gathers the longer the more is ordered, within its bounds."""

import pytest

from ledger_commit.gathering import SHORTEST_MS, Gathering


def paced(claims_per_s: int, longest_ms: int = 300) -> int:
    """What it has come to after five seconds of this rate in blocks that take what they gather and 30 ms."""
    gathering, now_ms, gather_ms = Gathering(longest_ms), 1_000_000, SHORTEST_MS
    while now_ms < 1_005_000:
        now_ms += gather_ms + 30
        gather_ms = gathering.committed(claims_per_s * (gather_ms + 30) // 1000, now_ms)
    return gather_ms


@pytest.mark.parametrize("rate", [0, 1, 200, 380])
def test_a_block_comes_soon_while_little_is_ordered(rate: int) -> None:
    assert paced(rate) == SHORTEST_MS


def test_the_more_is_ordered_the_longer_is_gathered() -> None:
    waits = [paced(rate) for rate in (450, 600, 900, 1200)]
    assert waits == sorted(set(waits))
    assert 46 <= paced(600) <= 50


def test_the_wait_is_bounded_and_none_where_none_is_wanted() -> None:
    assert paced(50_000) == 300
    assert paced(50_000, longest_ms=0) == 0


def test_after_a_rest_a_block_comes_soon_again() -> None:
    gathering = Gathering(300)
    gathering.committed(10_000, 1_000)
    assert gathering.committed(1, 60_000) == SHORTEST_MS
