"""A process known by pid and start time, so that another one that got its pid later is never taken for it."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class PidFile:
    path: Path

    def write(self, pid: int) -> None:
        """Remembers a running process. Who reads meanwhile finds the old file or the new one, never half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(f"{pid} {psutil.Process(pid).create_time()}")
        temporary.replace(self.path)

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            pid, created = self.path.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) < 1 and not has_ended(process):
                return process
        return None

    def signal(self, *, kill: bool = False) -> psutil.Process | None:
        """Asks the process to end, or ends it; returns it, or None where none runs."""
        process = self.process()
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None:
                process.kill() if kill else process.terminate()
        return process

    def stop(self, *, kill: bool = False) -> bool:
        """Ends the process and waits for it; False if none ran. Either way it is remembered no more."""
        process = self.signal(kill=kill)
        if process is None:
            self.forget()
            return False
        self.wait_ended(process)
        return True

    def wait_ended(self, process: psutil.Process) -> None:
        """Waits for a process that was asked to end; one that does not end in time is killed.

        It is not asked a second time: a second signal means "at once".
        """
        if not _ends_within(process, STOP_TIMEOUT_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            _ends_within(process, STOP_TIMEOUT_S)
        self.forget()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def has_ended(process: psutil.Process) -> bool:
    """Whether nothing of the process runs any more, so that its ports and locks are free. A child of this process is
    reaped; somebody else's may stay a zombie for ever.

    The first thread of a killed process is a zombie while the others still die.
    """
    try:
        process.wait(0)
    except psutil.TimeoutExpired:
        with contextlib.suppress(psutil.NoSuchProcess):
            dead = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
            return bool(dead and process.ppid() != os.getpid())
    return True


def _ends_within(process: psutil.Process, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not has_ended(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
