"""Processes are asked to end once, counted as ended when nothing of them runs, and never mistaken for others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runtime.pid_file import PidFile, has_ended

COUNTS_SIGNALS = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.3)
print(len(asked), flush=True)
"""
KEEPS_A_ZOMBIE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
MANY_THREADS = "import threading, time; [threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(20)]"


@pytest.fixture
def pid_file(tmp_path: Path) -> PidFile:
    return PidFile(tmp_path / "pids" / "one.pid")


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    started = subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    yield started
    started.kill()
    started.wait()
    started.stdout.close()


def told(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize("child", [COUNTS_SIGNALS], indirect=True)
def test_a_process_is_asked_once_and_then_waited_for(child: "subprocess.Popen[str]", pid_file: PidFile) -> None:
    """A second SIGTERM means "at once", so asking everyone first and waiting later must not ask again."""
    assert told(child) == "ready"
    pid_file.write(child.pid)
    process = pid_file.signal()
    assert process is not None
    pid_file.wait_ended(process)
    assert told(child) == "1"
    assert pid_file.process() is None
    assert not pid_file.path.exists()


@pytest.mark.parametrize("child", [MANY_THREADS], indirect=True)
def test_a_killed_process_is_gone_with_all_its_threads(child: "subprocess.Popen[str]", pid_file: PidFile) -> None:
    """Its first thread is a zombie early; its ports are free, and it is reaped, only when the last one is dead."""
    pid_file.write(child.pid)
    time.sleep(0.2)
    assert pid_file.stop(kill=True)
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize("child", [KEEPS_A_ZOMBIE], indirect=True)
def test_somebody_elses_zombie_has_ended(child: "subprocess.Popen[str]", pid_file: PidFile) -> None:
    """In a container whose first process does not reap, every stopped process stays a zombie."""
    grandchild = int(told(child))
    pid_file.write(grandchild)
    began = time.monotonic()
    assert pid_file.stop()
    assert time.monotonic() - began < 5
    assert psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_pid_that_was_given_to_another_process_is_not_ours(pid_file: PidFile) -> None:
    """Same pid, another start: never signalled."""
    pid_file.write(os.getpid())
    assert pid_file.process() == psutil.Process()
    pid, created = pid_file.path.read_text().split()
    pid_file.path.write_text(f"{pid} {float(created) - 5}")
    assert pid_file.process() is None
    assert not pid_file.stop(kill=True)


@pytest.mark.parametrize("content", ["", "12", "x y", "999999999 1.0"])
def test_a_file_that_names_nobody_is_nobody(pid_file: PidFile, content: str) -> None:
    pid_file.path.parent.mkdir()
    pid_file.path.write_text(content)
    assert pid_file.process() is None
    assert not pid_file.stop()


def test_a_running_process_has_not_ended() -> None:
    assert not has_ended(psutil.Process())
