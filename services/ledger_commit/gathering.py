"""How long this replica, as a leader, gathers payload before it proposes.

What a block costs every replica (signatures, syncs, messages) does not depend on what is in it. So a block comes soon while
little is ordered, and the more is ordered the longer it waits for company.
"""

from dataclasses import dataclass, field
from typing import Final

from runtime.rate import Rate

SHORTEST_MS: Final = 20
FULL_RATE: Final = 1_500
FULL_RATE_MS: Final = 300
"""Gathered at FULL_RATE claims a second; at other rates by their square, for the work that this saves is wanted only where
much else is to be done."""
MEMORY_S: Final = 1.0


@dataclass(slots=True)
class Gathering:
    """`longest_ms` bounds it; 0 gathers nothing."""

    longest_ms: int
    _ordered: Rate = field(default_factory=lambda: Rate(MEMORY_S))

    def committed(self, claims: int, now_ms: int) -> int:
        """Takes in what was committed at a moment; returns how many milliseconds to gather from now on."""
        self._ordered.add(claims, now_ms / 1000)
        return min(self.longest_ms, max(SHORTEST_MS, int(FULL_RATE_MS * (self._ordered.per_s / FULL_RATE) ** 2)))
