"""How long claims are on their way at present, so that what merely waits in a long queue is not sent a second time.

Sending again what is queued makes the queue longer: without this, a load above capacity would end in nothing but repeats. What
was lost is still found: others that came later end before it, and where nothing ends at all the delay counts as none.
"""

from collections.abc import Iterable
from typing import Final

MEMORY_MS: Final = 10_000


class Backlog:
    """Fed with the ends of claims as they are verified."""

    def __init__(self) -> None:
        self._delay_ms = 0
        self._measured_ms = 0

    def ended(self, ages_ms: Iterable[int], now_ms: int) -> None:
        """Takes in how old claims were that ended now. Leave out those sent more than once: they say nothing of the queue."""
        oldest = max(ages_ms, default=None)
        if oldest is None:
            return
        self._delay_ms = max(oldest, 0)
        self._measured_ms = now_ms

    def delay_ms(self, now_ms: int) -> int:
        """The delay when it was last measured; none where nothing has ended for MEMORY_MS."""
        return self._delay_ms if now_ms - self._measured_ms <= MEMORY_MS else 0
