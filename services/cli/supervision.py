"""When a process that has ended is started again, and when it is left alone. Pure: the shell is `supervisor.py`.

The first restart comes after a short pause and each further one within the window after twice as long. Who needs more
restarts in a window than are allowed cannot run, and is left to a person; `up` starts it again and is a new beginning.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

LONGEST_HISTORY: Final = 100
"""Starts of a process that are remembered; no policy may allow more."""


class Action(Enum):
    """What is to be done about a process now."""

    NOTHING = "nothing"
    START = "start"
    GIVE_UP = "give up"
    FORGIVE = "forgive"
    """It was given up and runs: a person has started it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `most` restarts within `window_s`; before each a pause that doubles from `first_pause_s` to `longest_pause_s`."""

    most: int = 5
    window_s: float = 300.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0


@dataclass(slots=True)
class Watch:
    """What is known of one process. Times are seconds of one clock that never goes back."""

    restarts: int = 0
    """Of all time."""
    given_up: bool = False
    _recent: list[float] = field(default_factory=list)
    _down_since: float | None = None

    def look(self, policy: Policy, now_s: float, *, ended: bool) -> Action:
        """`ended` is whether it should run and does not. A START counts as done."""
        if not ended:
            self._down_since = None
            return self._forgiven() if self.given_up else Action.NOTHING
        if self.given_up:
            return Action.NOTHING
        if self._down_since is None:
            self._down_since = now_s
        self._recent = [moment for moment in self._recent if moment > now_s - policy.window_s][-LONGEST_HISTORY:]
        if len(self._recent) >= policy.most:
            self.given_up = True
            return Action.GIVE_UP
        pause_s = min(policy.longest_pause_s, policy.first_pause_s * 2 ** len(self._recent))
        if now_s - self._down_since < pause_s:
            return Action.NOTHING
        self._recent.append(now_s)
        self.restarts += 1
        self._down_since = None
        return Action.START

    def _forgiven(self) -> Action:
        self.given_up = False
        self._recent.clear()
        return Action.FORGIVE

    @property
    def is_down(self) -> bool:
        """It was seen down and not started since."""
        return self._down_since is not None
