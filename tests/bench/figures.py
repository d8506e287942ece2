"""Figures: what was measured, on which commit, one JSON object a line and a table on screen."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of `runs` values; `spread` is the largest less the smallest of them."""

    name: str
    value: float
    unit: str
    spread: float
    runs: int
    commit: str


def commit_of(root: Path) -> str:
    """The short id of the checkout's commit, with a + where the tree has changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def figure(name: str, unit: str, values: Sequence[float], commit: str) -> Figure:
    """Raises statistics.StatisticsError for no values."""
    return Figure(name, round(median(values), 1), unit, round(max(values) - min(values), 1), len(values), commit)


def append(path: Path, figures: Sequence[Figure]) -> None:
    """Adds the figures to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.writelines(json.dumps(asdict(item)) + "\n" for item in figures)
