"""How long a round may last.

Source: consensus.md §7, P2 and P7; §8, Time.
"""

from dataclasses import dataclass
from typing import Final

GROWTH: Final = 1.5
CLOCK_AHEAD_MS: Final = 500
CLOCK_BEHIND_MS: Final = 2000


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of a round in milliseconds."""

    base_ms: int = 500
    max_ms: int = 20_000
    idle_ms: int = 5_000
    gather_ms: int = 0
    """How long a leader gathers payload before it proposes: fewer, larger blocks for a little latency."""

    def round_ms(self, rounds_since_commit: int) -> int:
        """min(max, base · 1.5^max(0, k−2)). Two rounds without a commit are the normal case."""
        exponent = min(max(0, rounds_since_commit - 2), 64)
        return min(self.max_ms, int(self.base_ms * GROWTH**exponent))


def clock_behind_ms(rounds_since_commit: int) -> int:
    """How old a fresh proposal's time may be; grows while nothing commits, so old timestamps cannot stall the chain."""
    return int(CLOCK_BEHIND_MS * GROWTH ** min(max(0, rounds_since_commit), 64))
