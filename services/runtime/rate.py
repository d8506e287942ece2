"""How much comes a second, smoothed: what waits that grow with the load go by (ADR 0015)."""

from dataclasses import dataclass

SHORTEST_S = 0.001
"""Between two moments; what comes closer together counts as this far apart."""


@dataclass(slots=True)
class Rate:
    """`memory_s` is how long what came before still counts."""

    memory_s: float
    per_s: float = 0.0
    _last_s: float = 0.0

    def add(self, count: int, now_s: float) -> None:
        """Takes in what came since the last moment."""
        elapsed_s = max(now_s - self._last_s, SHORTEST_S)
        weight = min(1.0, elapsed_s / self.memory_s)
        self.per_s += weight * (count / elapsed_s - self.per_s)
        self._last_s = now_s
