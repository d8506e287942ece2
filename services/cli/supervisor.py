"""Starts again what has ended, in the background: `python -m cli.supervisor`, which `claimledger up` runs and `down` ends.

A process that was stopped on purpose has no pid file any more and is left alone; one whose pid file is there while it does
not run has ended by itself. What it did stands in `supervision.json` for `claimledger status`, and in its log. Its settings
are CLAIMLEDGER_SUPERVISOR_….
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cli.network_commands import local_broker
from cli.processes import SUPERVISOR, Processes
from cli.supervised import STATE_FILE, Told
from cli.supervision import LONGEST_HISTORY, Action, Policy, Watch
from runtime.broker import BrokerError
from runtime.log import configure_logging, get_logger

LOOK_S: Final = 0.25


class SupervisorSettings(BaseSettings):
    """How often and how patiently processes are started again."""

    model_config = SettingsConfigDict(env_prefix="CLAIMLEDGER_SUPERVISOR_", frozen=True, extra="ignore")

    restarts: int = Field(default=5, ge=1, le=LONGEST_HISTORY)
    window_s: float = Field(default=300.0, gt=0)
    first_pause_s: float = Field(default=1.0, ge=0)
    longest_pause_s: float = Field(default=30.0, ge=0)

    @property
    def policy(self) -> Policy:
        return Policy(self.restarts, self.window_s, self.first_pause_s, self.longest_pause_s)


class Supervisor:
    """Watches the processes of one run directory."""

    def __init__(self, processes: Processes, policy: Policy) -> None:
        self._processes = processes
        self._policy = policy
        self._watches = {name: Watch() for name in processes.supervised}
        self._told: dict[str, Told] = {}
        self._untold = False
        self._failed: set[str] = set()
        """Those whose last start raised, which leaves no pid file."""
        self._log = get_logger("supervisor")

    def run(self, stop: threading.Event) -> None:
        """Looks until `stop` is set, and never while somebody else starts or stops the processes."""
        self._tell()
        while not stop.wait(LOOK_S):
            with self._processes.alone(wait=False) as mine:
                if mine:
                    self._look()

    def _look(self) -> None:
        if self._untold:
            self._tell()
        for name, watch in self._watches.items():
            ended = self._has_ended(name)
            if ended and not (watch.is_down or watch.given_up):
                self._ended(name)
            match watch.look(self._policy, time.monotonic(), ended=ended):
                case Action.START:
                    self._start(name)
                case Action.GIVE_UP:
                    self._give_up(name)
                case Action.FORGIVE:
                    self._failed.discard(name)
                    self._told[name].given_up = False
                    self._tell()

    def _has_ended(self, name: str) -> bool:
        failed = name in self._failed and self._processes.process(name) is None
        return failed or self._processes.has_ended(name)

    def _ended(self, name: str) -> None:
        told = self._told.setdefault(name, Told())
        told.last_end_ms, told.log = time.time_ns() // 1_000_000, str(self._processes.log(name))
        self._log.warning("process_ended", process=name, log=told.log)
        self._tell()

    def _start(self, name: str) -> None:
        self._told[name].restarts = self._watches[name].restarts
        self._tell()
        self._failed.discard(name)
        try:
            self._processes.start(name)
        except (BrokerError, OSError) as error:
            self._failed.add(name)
            self._log.error("process_cannot_start", process=name, reason=str(error))
        else:
            self._log.info("process_started_again", process=name, restarts=self._told[name].restarts)

    def _give_up(self, name: str) -> None:
        told = self._told[name]
        told.given_up = True
        self._log.error(
            "process_given_up", process=name, restarts=self._policy.most, within_s=self._policy.window_s, log=told.log,
            remedy="repair what the end of that log says, then `claimledger up`",
        )  # fmt: skip
        self._tell()

    def _tell(self) -> None:
        """For `status`; who reads meanwhile finds the old file or the new one. Where it cannot be written, as on a full disk, the
        old one stays until a later look can write it; what has ended is started again all the same."""
        path = self._processes.run / STATE_FILE
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps({name: asdict(told) for name, told in self._told.items()}))
            temporary.replace(path)
        except OSError as error:
            if not self._untold:
                self._log.error("cannot_tell", reason=str(error))
            self._untold = True
        else:
            self._untold = False


def main() -> None:
    """`python -m cli.supervisor <run> <kafka, or empty>`."""
    run, kafka = Path(sys.argv[1]), sys.argv[2]
    configure_logging(SUPERVISOR)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    processes = Processes(run, local_broker(run, kafka), elsewhere=kafka)
    Supervisor(processes, SupervisorSettings().policy).run(stop)


if __name__ == "__main__":
    main()
