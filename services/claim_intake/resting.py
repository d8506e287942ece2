"""How long projector, keeper and status feed rest after a round, so that under load fewer rounds have more in them (ADR 0015)."""

import math
from typing import Final

RESTS_S: Final = ((3_000, 1.0), (1_000, 0.5), (50, 0.25))
"""From so many items in the last round on, so long."""


def rest_s(items: int, most: float = math.inf) -> float:
    """Nothing where little came, so that the next step of a claim is told at once, nor where `most` came and more waits."""
    if items >= most:
        return 0.0
    return next((seconds for least, seconds in RESTS_S if items >= least), 0.0)
