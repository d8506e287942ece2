"""Every transcript, command by command, against real replicas.

A transcript is a text file: comments, and blocks of a command, `----`, and what it prints. After a change of the protocol
look at what `CLAIMLEDGER_REWRITE_TRANSCRIPTS=1 pytest tests/scenarios/consensus` makes of them: it writes the present
output in the place of the expected one, and the diff is what changed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scenarios.consensus.stage import ScriptError, Stage

HERE = Path(__file__).parent
TRANSCRIPTS = sorted(HERE.glob("*.txt"))
REWRITE = os.environ.get("CLAIMLEDGER_REWRITE_TRANSCRIPTS") == "1"
SEPARATOR = "----"


@dataclass(frozen=True)
class Block:
    """Comments and blank lines before a command, the command, what it is to print."""

    before: str
    command: str
    expected: str


def parse(text: str) -> list[Block]:
    """The blocks of a transcript. What follows the last command is kept as one without a command."""
    blocks: list[Block] = []
    before: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            before.append(line)
            continue
        assert next(lines, "") == SEPARATOR, f"{line!r} is not followed by {SEPARATOR}"
        expected = []
        for output in lines:
            if not output:
                break
            expected.append(output)
        blocks.append(Block("\n".join(before), line, "\n".join(expected)))
        before = []
    return [*blocks, Block("\n".join(before), "", "")]


def written(blocks: list[Block]) -> str:
    parts = []
    for block in blocks:
        if block.before:
            parts.append(block.before + "\n")
        if block.command:
            parts.append(f"{block.command}\n{SEPARATOR}\n{block.expected}\n\n")
    return "".join(parts).rstrip("\n") + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    stage = Stage()
    blocks = parse(path.read_text())
    printed = [Block(b.before, b.command, stage.execute(b.command) if b.command else "") for b in blocks]
    if REWRITE:
        path.write_text(written(printed))
    else:
        assert written(printed) == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 8


def test_a_command_that_the_stage_does_not_know_is_an_error() -> None:
    with pytest.raises(ScriptError, match="no such command: fly 3"):
        Stage().execute("fly 3")
