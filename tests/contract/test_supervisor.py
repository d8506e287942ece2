"""The supervisor as `up` runs it, over real processes: what is killed comes back, what cannot run is given up, `down` ends all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.__main__ import app
from cli.bootstrap import make_certs
from cli.processes import BROKER, SUPERVISOR, Processes
from cli.supervised import STATE_FILE, supervise, told_of
from cli.supervision import Policy
from cli.supervisor import Supervisor
from runtime.broker import LocalKafka
from runtime.network import organisation_directory
from tests.fixtures.kafka import free_ports
from tests.fixtures.ports import neighbouring_ports

pytestmark = pytest.mark.slow
NAME = "tags"
"""Serves over gRPC and needs nothing but its key."""
WITHIN_S = 40.0
WAITING = [sys.executable, "-c", "import sys; sys.stdin.read()"]
"""Until its standard input is closed."""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """A network of which the tag service runs, under a supervisor in a hurry; its Kafka is elsewhere, and away."""
    monkeypatch.setenv("CLAIMLEDGER_SUPERVISOR_FIRST_PAUSE_S", "0.3")
    monkeypatch.setenv("CLAIMLEDGER_SUPERVISOR_LONGEST_PAUSE_S", "0.3")
    monkeypatch.setenv("CLAIMLEDGER_SUPERVISOR_RESTARTS", "2")
    run = tmp_path / "run"
    make_certs(run, 7, 12, neighbouring_ports(60), "127.0.0.1:1", 2)
    made = Processes(run, None)
    try:
        made.start(NAME)
        supervise(made)
        yield made
    finally:
        made.stop_all(lambda _: None)
    assert [
        p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("CLAIMLEDGER_RUN") == str(run)
    ] == []


def test_a_broker_that_ends_while_it_starts_is_given_up_until_somebody_has_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failed start takes the pid file away; that is not taken for a broker that was stopped on purpose, or that runs."""
    run = tmp_path / "run"
    make_certs(run, 7, 12, neighbouring_ports(60), "127.0.0.1:1", 2)
    monkeypatch.setattr(LocalKafka, "prepare", lambda _: None)
    monkeypatch.setattr(LocalKafka, "command", lambda _: [sys.executable, "-c", "raise SystemExit(1)"])
    processes = Processes(run, LocalKafka(run / "kafka", *free_ports(2)))
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as ended:
        processes.remember(BROKER, ended.pid)
    supervisor = Supervisor(processes, Policy(most=1, first_pause_s=0.0))
    for _ in range(4):
        supervisor._look()
    told = told_of(run)[BROKER]
    assert (told.restarts, told.given_up) == (1, True)
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as running:
        processes.remember(BROKER, running.pid)
        supervisor._look()
    assert not told_of(run)[BROKER].given_up


def test_what_cannot_be_told_is_started_again_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk may be full; `status` has the old file then. Told once it can be."""
    run = tmp_path / "run"
    make_certs(run, 7, 12, neighbouring_ports(60), "127.0.0.1:1", 2)
    monkeypatch.setattr(LocalKafka, "prepare", lambda _: None)
    monkeypatch.setattr(LocalKafka, "command", lambda _: [sys.executable, "-c", "raise SystemExit(1)"])
    processes = Processes(run, LocalKafka(run / "kafka", *free_ports(2)))
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as ended:
        processes.remember(BROKER, ended.pid)
    supervisor = Supervisor(processes, Policy(most=1, first_pause_s=0.0))
    in_the_way = (run / STATE_FILE).with_suffix(f".{os.getpid()}.tmp")
    in_the_way.mkdir()
    with capture_logs() as logs:
        for _ in range(3):
            supervisor._look()
    events = [row["event"] for row in logs]
    assert (events.count("cannot_tell"), events.count("process_cannot_start"), told_of(run)) == (1, 1, {})
    in_the_way.rmdir()
    supervisor._look()
    assert told_of(run)[BROKER].given_up


def eventually(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def test_who_starts_a_supervisor_waits_for_another_who_does(processes: Processes) -> None:
    """Two would watch, and the pid file would name one of them."""
    processes.stop(SUPERVISOR)
    with processes.alone():
        waiting = threading.Thread(target=supervise, args=(processes,))
        waiting.start()
        time.sleep(0.3)
        assert processes.process(SUPERVISOR) is None
    waiting.join()
    assert processes.process(SUPERVISOR) is not None


def pid_of(processes: Processes, name: str) -> int | None:
    found = processes.process(name)
    return found.pid if found else None


def log_rows(processes: Processes, event: str) -> list[dict[str, Any]]:
    rows = map(json.loads, processes.log(SUPERVISOR).read_text().splitlines())
    return [row for row in rows if row["event"] == event]


def test_what_is_killed_serves_again_and_what_cannot_start_is_given_up_and_both_are_told(processes: Processes) -> None:
    """Killed, it serves again under another pid. Stopped on purpose, it stays away. With a broken key it is tried twice and
    then left, with the place of its log; started by hand it is watched again. `status` tells each, and `down` ends all."""
    eventually(lambda: processes.answers(NAME), "it does not serve")
    eventually(lambda: told_of(processes.run) == {} and (processes.run / "supervision.json").exists(), "nobody watches")
    first = pid_of(processes, NAME)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: pid_of(processes, NAME) not in {None, first} and processes.answers(NAME), "it is not back")
    assert told_of(processes.run)[NAME].restarts == 1

    processes.stop(NAME)
    time.sleep(1.0)
    assert pid_of(processes, NAME) is None, "what was stopped on purpose stays away"

    key = organisation_directory(processes.run, "meridian") / "tags.hmac"
    whole = key.read_text()
    key.write_text("00")
    processes.start(NAME)
    eventually(lambda: told_of(processes.run)[NAME].given_up, "it is not given up")
    (row,) = log_rows(processes, "process_given_up")
    assert (row["process"], row["restarts"], row["log"]) == (NAME, 2, str(processes.log(NAME)))
    said = CliRunner().invoke(
        app, ["status", "--run", str(processes.run), "--kafka", "127.0.0.1:1"], env={"COLUMNS": "200"}
    )
    assert said.exit_code == 3
    assert f"{NAME} cannot run and was given up: see the end of {processes.log(NAME)}" in said.stderr
    assert "KeyFileError" in processes.log(NAME).read_text()

    key.write_text(whole)
    processes.start(NAME)
    eventually(lambda: not told_of(processes.run)[NAME].given_up, "it is not watched again")
    eventually(lambda: processes.answers(NAME), "it does not serve after repair")
    told: list[str] = []
    processes.stop_all(told.append)
    assert told == ["supervisor stopped", f"{NAME} stopped"]
