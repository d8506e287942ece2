"""Every field of the contracts says what it holds: its unit, its bounds, or what its absence means."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import generate

CONTRACTS = sorted((generate.PROTO / "claimledger").rglob("*.proto"))
FIELD = re.compile(r"\s+(?:repeated |optional )?[\w.]+ (\w+) = \d+;")


def silent_fields(text: str) -> Iterator[str]:
    """Fields without a comment on the line before."""
    lines = text.splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        field = FIELD.match(line)
        if field and not before.strip().startswith("//"):
            yield field[1]


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.stem)
def test_every_field_has_a_comment(path: Path) -> None:
    assert list(silent_fields(path.read_text())) == []


def test_a_field_without_a_comment_is_found() -> None:
    assert list(silent_fields("message M {\n  // Cents.\n  int64 a = 1;\n  repeated x.Y b = 2;\n}")) == ["b"]
