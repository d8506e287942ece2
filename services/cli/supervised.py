"""What others have to do with the supervisor: starting it, and reading what it tells."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.processes import ROOT, SUPERVISOR, Processes

STATE_FILE: Final = "supervision.json"
"""In the run directory."""


@dataclass(slots=True)
class Told:
    """What `status` says of a process that has ended at least once."""

    restarts: int = 0
    last_end_ms: int = 0
    given_up: bool = False
    log: str = ""


def told_of(run: Path) -> Mapping[str, Told]:
    """What the supervisor has told of the processes of a run directory; empty where there was none."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return {name: Told(**told) for name, told in json.loads((run / STATE_FILE).read_text()).items()}
    return {}


def supervise(processes: Processes) -> None:
    """Starts the supervisor in the background where it does not run yet; of two who do at a time, one."""
    with processes.alone():
        if processes.process(SUPERVISOR) is None:
            _start(processes)


def _start(processes: Processes) -> None:
    around = {**os.environ, "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'proto' / 'python'}",
              "CLAIMLEDGER_RUN": str(processes.run)}  # fmt: skip
    kafka = "" if processes.kafka else processes.kafka_address
    processes.log(SUPERVISOR).parent.mkdir(parents=True, exist_ok=True)
    with processes.log(SUPERVISOR).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "cli.supervisor", str(processes.run), kafka], cwd=ROOT, env=around,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    processes.remember(SUPERVISOR, child.pid)
    child.returncode = 0  # from here on the pid file stands for the process, not this object
