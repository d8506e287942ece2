"""A network of real processes on free ports of loopback: started, looked at, and stopped, whatever the test does."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import grpc
import psutil

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2
from cli.__main__ import main
from cli.bootstrap import founding_transactions, load_world, make_certs, order
from cli.generator import PlannedClaim
from cli.network_commands import BUCKETS
from cli.processes import ROOT, Processes
from cli.session import Session, open_session
from cli.world import World
from runtime.broker import JARS, LocalKafka
from runtime.topics import Topic
from tests.fixtures.absent import absent
from tests.fixtures.kafka import NO_JARS
from tests.fixtures.ports import neighbouring_ports

PORTS: Final = 62
"""Those of the network, then the broker's two."""
HEAP_MB: Final = 384
SEED: Final = 5
TOPIC_PREFIX: Final = "e2e"
"""Every network here has one: whoever forgot it would read and write where no topic is."""
CALL_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 90.0
POLL_S: Final = 0.1


@dataclass(frozen=True)
class Running:
    """A network in its run directory, with what stops, starts and asks its processes."""

    run: Path
    processes: Processes
    world: World
    base_port: int

    def session(self, organisation: str = "aurora") -> Session:
        return open_session(self.run, organisation)

    @property
    def kafka(self) -> LocalKafka:
        assert self.processes.kafka is not None
        return self.processes.kafka

    @property
    def replicas(self) -> dict[str, str]:
        """Process name → address."""
        return {n: a for n, a in self.processes.addresses.items() if n.startswith("replica-")}

    def start(self, *names: str) -> None:
        """Starts these and waits until they answer."""
        for name in names:
            if name == "broker":
                self.kafka.start()
            else:
                self.processes.start(name)
        self.processes.wait_ready([name for name in names if name != "broker"])

    def topic(self, row: Topic, tenant: str = "") -> str:
        """What the topic is called here."""
        return self.processes.network.topic(row, tenant).name

    def found(self) -> None:
        """Plans and members onto the ledger."""
        session = self.session()
        with session.replica() as channel:
            order(channel, list(founding_transactions(self.run, session.network, self.world)))

    def submit(self, planned: PlannedClaim, key: str) -> str:
        """Submits one claim; its control number."""
        request = intake_pb2.SubmitClaimRequest(client_key=key, claim=planned.claim)
        with self.session(planned.submitter).intake() as channel:
            answer = intake_pb2_grpc.IntakeServiceStub(channel).SubmitClaim(request, timeout=CALL_TIMEOUT_S)
        return str(answer.accepted.control_number)

    def status_of(self, name: str) -> ledger_pb2.GetStatusResponse | None:
        """What a replica tells of itself; None where it does not answer."""
        try:
            return self.session("meridian").replica_status(self.replicas[name])
        except grpc.RpcError:
            return None

    def log_of(self, name: str) -> str:
        return (self.kafka.log if name == "broker" else self.processes.log(name)).read_text(errors="replace")

    def claimledger(self, *arguments: str, **environment: str) -> "Said":
        """The command line as a person runs it, on this network."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments], cwd=ROOT, env=self._around(environment), capture_output=True,
            text=True, check=False, timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def following(self, *arguments: str) -> Iterator["Follower"]:
        """A command that has no end, as a process; killed at the end where it still runs."""
        command = [sys.executable, "-m", "cli", *arguments]
        around = self._around({"PYTHONUNBUFFERED": ""})
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=around, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield Follower(process)
            finally:
                process.kill()

    def _around(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables of a command on this network."""
        around = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
        around |= {
            "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'proto' / 'python'}",
            "CLAIMLEDGER_RUN": str(self.run),
            "CLAIMLEDGER_BASE_PORT": str(self.base_port),
            "CLAIMLEDGER_KAFKA_PORT": str(self.kafka.port),
            "CLAIMLEDGER_KAFKA_CONTROLLER_PORT": str(self.kafka.controller_port),
            "CLAIMLEDGER_KAFKA_HEAP_MB": str(HEAP_MB),
            "COLUMNS": "200",
            **environment,
        }
        return around

    def said_here(self, *arguments: str) -> "Said":
        """The same within this process: a tenth of the time, for tests that run many commands."""
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            patch.object(sys, "argv", ["claimledger", *arguments]),
            patch.dict(os.environ, {"CLAIMLEDGER_RUN": str(self.run), "COLUMNS": "200"}),
        ):
            os.environ.pop("KAFKA_BOOTSTRAP_SERVERS", None)
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return Said(code, out.getvalue(), err.getvalue())

    def leftovers(self) -> list[str]:
        """Processes that belong to this run directory, whoever remembers them."""
        return [" ".join(p.cmdline()) for p in psutil.process_iter() if _belongs(p, self.run)]


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The documents of --json."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Follower:
    """A command that runs on and prints a JSON document a line."""

    process: "subprocess.Popen[str]"

    def row_where(self, holds: Callable[[dict[str, Any]], bool], within_s: float) -> dict[str, Any]:
        """The next document of which this is true. Fails where none comes in time."""
        assert self.process.stdout is not None
        timer = threading.Timer(within_s, self.process.kill)
        timer.start()
        try:
            rows = (json.loads(line) for line in self.process.stdout)
            found = next((row for row in rows if holds(row)), None)
        finally:
            timer.cancel()
        assert found is not None, f"no such line in {within_s:.0f} s"
        return found

    def interrupted(self) -> "Said":
        """How it ends on Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=COMMAND_TIMEOUT_S)
        return Said(self.process.returncode, out, err)


@contextmanager
def made_network(
    run: Path,
    families: int,
    environment: Mapping[str, str] | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Running]:
    """A network with its files and nothing running; everything that was started is stopped at the end."""
    if not any(JARS.glob("kafka_*.jar")):
        absent("Kafka", [NO_JARS])
    base = neighbouring_ports(PORTS)
    kafka = LocalKafka(run / "kafka", base + PORTS - 2, base + PORTS - 1, HEAP_MB)
    make_certs(run, SEED, families, base, kafka.address, BUCKETS, TOPIC_PREFIX)
    processes = Processes(
        run, kafka, dict(environment or {}), {name: dict(values) for name, values in (own or {}).items()}
    )
    running = Running(run, processes, load_world(run), base)
    try:
        yield running
    finally:
        processes.stop_all(lambda _: None)
        assert running.leftovers() == []


@contextmanager
def whole_network(
    run: Path,
    families: int,
    environment: Mapping[str, str] | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Running]:
    """Broker and all services, plans and members on the ledger."""
    with made_network(run, families, environment, own) as running:
        running.processes.start_all(lambda _: None)
        running.found()
        yield running


def _belongs(process: psutil.Process, run: Path) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        mine = process.environ().get("CLAIMLEDGER_RUN") == str(run)
        return mine or any(str(run / "kafka") in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def until(holds: Callable[[], Any], within_s: float, what: str) -> Any:
    """Asks again and again; returns the first answer that counts as true. Fails naming what did not come."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"after {within_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return found
