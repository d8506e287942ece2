"""How many streams may be open at one time, of one organisation and of all together.

A stream holds a page of answers and a place in the loop for as long as its reader likes. Without a bound one organisation
could take all of either. Source: security.md, G3.
"""

from collections import Counter
from typing import Any

from runtime.errors import ResourceExhaustedError

RETRY_MS = 1_000


class StreamLimits:
    """Counts the streams of one service in one process."""

    def __init__(self, of_one: int, of_all: int) -> None:
        self._of_one = of_one
        self._of_all = of_all
        self.open: Counter[str] = Counter()
        """By organisation."""

    def admit(self, organisation: str, context: Any) -> None:
        """Counts the RPC until it ends, however it ends. Raises ResourceExhaustedError."""
        if self.open[organisation] >= self._of_one:
            raise _too_many(f"{organisation} has {self._of_one} streams open, the most that one organisation may have")
        if self.open.total() >= self._of_all:
            raise _too_many(f"{self._of_all} streams are open, the most that this process serves")
        self.open[organisation] += 1
        context.add_done_callback(lambda _: self._ended(organisation))

    def _ended(self, organisation: str) -> None:
        self.open[organisation] -= 1
        if not self.open[organisation]:
            del self.open[organisation]


def _too_many(message: str) -> ResourceExhaustedError:
    return ResourceExhaustedError(message, reason="TOO_MANY_STREAMS", retry_after_ms=RETRY_MS)
