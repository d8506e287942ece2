"""How long projector, keeper and status feed rest after a round, so that under load fewer rounds have more in them (ADR 0015)."""

from typing import Final

RESTS_S: Final = ((1_000, 0.5), (50, 0.25))
"""From so many items in the last round on, so long."""


def rest_s(items: int) -> float:
    """Nothing where little came: then the next step of a claim is told at once."""
    return next((seconds for least, seconds in RESTS_S if items >= least), 0.0)
