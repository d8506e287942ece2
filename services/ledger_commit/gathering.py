"""How long this replica, as a leader, gathers payload before it proposes.

What a block costs every replica (signatures, syncs, messages) does not depend on what is in it. So a block comes soon while
little is ordered, and the more is ordered the longer it waits for company.
"""

from dataclasses import dataclass
from typing import Final

SHORTEST_MS: Final = 20
RATE_PER_MS: Final = 10
"""Claims a second for which a leader gathers one millisecond longer: 150 ms at 1,500 a second."""
MEMORY_MS: Final = 1_000


@dataclass(slots=True)
class Gathering:
    """`longest_ms` bounds it; 0 gathers nothing."""

    longest_ms: int
    _rate: float = 0.0
    """Claims a second, smoothed."""
    _last_ms: int = 0

    def committed(self, claims: int, now_ms: int) -> int:
        """Takes in what was committed at a moment; returns how many milliseconds to gather from now on."""
        elapsed_ms = max(1, now_ms - self._last_ms)
        weight = min(1.0, elapsed_ms / MEMORY_MS)
        self._rate += weight * (claims * 1000 / elapsed_ms - self._rate)
        self._last_ms = now_ms
        return min(self.longest_ms, max(SHORTEST_MS, int(self._rate / RATE_PER_MS)))
