"""A process known by pid and start time, so that another one that got its pid later is never taken for it."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class PidFile:
    path: Path

    def write(self, pid: int) -> None:
        """Remembers a running process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"{pid} {psutil.Process(pid).create_time()}")

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            pid, created = self.path.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(created)) < 1 and process.status() != psutil.STATUS_ZOMBIE:
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
        """Ends the process and waits for it; one that does not end in time is killed. False if none ran."""
        process = self.signal(kill=kill)
        if process is None:
            return False
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        self.forget()
        return True

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
