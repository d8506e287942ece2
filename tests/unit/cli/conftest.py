"""The command line in the test's own process: what it prints, and how it ends."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from cli.bootstrap import make_certs

UNREACHABLE = "127.0.0.1:1"
"""Nobody listens on this port."""
BASE_PORT = 20_100
"""Of a network of which nothing runs; the ports are not opened."""


@dataclass(frozen=True)
class Said:
    """One command's end and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The documents of --json, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The message of --json's one error."""
        (line,) = self.err.splitlines()
        told: str = json.loads(line)["error"]
        return told


Say = Callable[..., Said]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """Runs `claimledger` with arguments, wide enough that nothing is wrapped, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CLAIMLEDGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["claimledger", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        written = capsys.readouterr()
        return Said(int(code), written.out, written.err)

    return run


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a development network of which nothing runs, as `claimledger certs` makes it."""
    run = tmp_path_factory.mktemp("network") / "run"
    make_certs(run, 1, 45, BASE_PORT, UNREACHABLE, 2)
    return run
