"""The development network as processes in the background: started in order, known by pid files, stopped by pid.

What runs is what the Procfile says, which is no whole recipe: services wait for their topics, and `start_all` makes those
between the broker's start and theirs. Logs and pid files lie in the run directory. PORT is a port of each process's own,
for its metrics.
"""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.gauges import PARTITIONS, read_gauges
from runtime.broker import LocalKafka
from runtime.grpc_channel import WrongServerError, open_blocking_channel
from runtime.kafka import BROKERS_REPLICATION, create_topics, wait_for_kafka
from runtime.network import Network, load_network, organisation_directory
from runtime.pid_file import PidFile
from runtime.pki import TlsFiles
from runtime.publishing_cursor import check_owner

ROOT: Final = Path(__file__).resolve().parents[2]
BROKER: Final = "broker"
SUPERVISOR: Final = "supervisor"
"""Starts the others again (supervisor.py); runs where `up` has started them."""
STAGES: Final = ("validation", "fraud")
READY_WITHIN_S: Final = 60.0
POLL_S: Final = 0.1
METRICS_OFFSET: Final = 40
"""Metrics ports follow the network's first port at this distance, in the Procfile's order."""
LOG_TAIL: Final = 1500
LOG_READ: Final = 16 * 1024
"""The longest line that is told whole; a traceback with its causes is some thousand characters."""


class ProcessError(Exception):
    """Which process does not run, with the end of its log."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """How a process is doing. `answers` is None for one without a gRPC port."""

    name: str
    pid: int | None
    rss_mb: float
    cpu_s: float
    answers: bool | None
    address: str
    log: Path


class Processes:
    """All processes of one run directory. `environment` goes to each; `own` to single ones by name. `elsewhere` is a Kafka's
    address that goes before the network's."""

    def __init__(
        self,
        run: Path,
        kafka: LocalKafka | None,
        environment: dict[str, str] | None = None,
        own: dict[str, dict[str, str]] | None = None,
        replication: int = BROKERS_REPLICATION,
        elsewhere: str = "",
    ) -> None:
        self.run = run
        self.kafka = kafka
        self.network: Network = load_network(run)
        self._environment = environment or {}
        self._own = own or {}
        self._replication = replication
        self._elsewhere = elsewhere
        self.made_topics: list[str] = []
        """Those that were not there before."""
        self._lines = dict(read_procfile(ROOT / "Procfile"))
        intake = self.network.intake_address
        self._first_port = int(intake.rpartition(":")[2])
        self.addresses = {"tags": self.network.tags_address, "intake": intake} | {
            f"replica-{replica.organisation}": replica.address for replica in self.network.replicas
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Every process but the broker."""
        return tuple(name for name in self._lines if name != BROKER)

    @property
    def kafka_address(self) -> str:
        return self.kafka.address if self.kafka else self._elsewhere or self.network.kafka

    def start_all(self, say: Callable[[str], None]) -> None:
        """Broker, topics, then everything that does not run yet; returns when all answer. Raises ProcessError."""
        with self.alone():
            if self.kafka is not None:
                say(f"broker at {self.kafka.address}, log {self.kafka.log}")
                self.kafka.start()
            asyncio.run(self._prepare_topics())
            for name in self.names:
                self.start(name)
                address = self.addresses.get(name)
                say(f"{name}{f' at {address}' if address else ''}, log {self.log(name)}")
            self.wait_ready(self.names)
            self.wait_reading(STAGES)

    @contextlib.contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """One at a time starts or stops the processes of a run directory: of two that start, the second would overwrite
        the pids of the first, and nobody could stop those. False where another does and this one does not wait."""
        place = self.run / "pids"
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    async def _prepare_topics(self) -> None:
        """Raises ForeignTopicsError where the names are taken by another network."""
        kafka, network = self.kafka_address, self.network
        await wait_for_kafka(kafka)
        await check_owner(kafka, network)
        self.made_topics = await create_topics(kafka, network.topics(), network.buckets, self._replication)

    def start(self, name: str, **environment: str) -> None:
        """Starts one process that does not run yet; returns at once, for the broker when it serves. Raises BrokerError."""
        if self.process(name) is not None:
            return
        if name == BROKER:
            assert self.kafka is not None, "it runs elsewhere"
            self.kafka.start()
            return
        bin_directory = str(Path(sys.executable).parent)
        around = {
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'proto' / 'python'}",
            "PORT": str(self.metrics_port(name)),
            "CLAIMLEDGER_RUN": str(self.run),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_address,
            **self._environment,
            **self._own.get(name, {}),
            **environment,
        }
        self.log(name).parent.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", self._lines[name]], cwd=ROOT, env=around,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._pid_file(name).write(child.pid)
        child.returncode = 0  # from here on the pid file stands for the process, not this object

    def stop(self, name: str, *, kill: bool = False) -> bool:
        """Ends one process and waits for it; False if it did not run."""
        return self._pid_file(name).stop(kill=kill)

    def remember(self, name: str, pid: int) -> None:
        """Takes a process that somebody else has started for the one of that name."""
        self._pid_file(name).write(pid)

    @property
    def supervised(self) -> tuple[str, ...]:
        """Every process that is to be started again when it ends, the broker first."""
        return (*((BROKER,) if self.kafka else ()), *self.names)

    def has_ended(self, name: str) -> bool:
        """Whether the process ended by itself: who stops one on purpose takes its pid file away."""
        return self._pid_file(name).path.exists() and self.process(name) is None

    def stop_all(self, say: Callable[[str], None]) -> None:
        """Ends everything: first what would start it again, the broker last. All others are asked at once, so that the slowest
        counts."""
        with self.alone():
            if self.stop(SUPERVISOR):
                say("supervisor stopped")
            asked = {name: self._pid_file(name).signal() for name in self.names}
            for name, process in asked.items():
                if process is None:
                    self._pid_file(name).forget()
                    continue
                self._pid_file(name).wait_ended(process)
                say(f"{name} stopped")
            if self.kafka is not None and self.kafka.stop():
                say("broker stopped")

    def wait_ready(self, names: Sequence[str]) -> None:
        """Returns when each of these runs and, where it has a gRPC port, answers SERVING. Raises ProcessError."""
        deadline = time.monotonic() + READY_WITHIN_S
        for name in names:
            while self.process(name) is not None and self.answers(name) is False:
                if time.monotonic() > deadline:
                    raise ProcessError(f"{name} does not answer after {READY_WITHIN_S:.0f} s:\n{self._tail(name)}")
                time.sleep(POLL_S)
        for name in names:
            self._require_running(name)

    def _require_running(self, name: str) -> None:
        if self.process(name) is None:
            raise ProcessError(f"{name} has ended; the end of {self.log(name)}:\n{self._tail(name)}")

    def wait_reading(self, names: Sequence[str]) -> None:
        """Returns when each of these has partitions to read: what is submitted before that lies for seconds.

        Raises ProcessError naming the one that gets none, or has ended.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        for name in names:
            while not self._partitions(name):
                self._require_running(name)
                if time.monotonic() > deadline:
                    raise ProcessError(f"{name} reads nothing after {READY_WITHIN_S:g} s:\n{self._tail(name)}")
                time.sleep(POLL_S)

    def _partitions(self, name: str) -> int:
        """How many the process says it reads; 0 where it does not answer."""
        told = read_gauges(self.metrics_port(name))
        return sum(value for (gauge, _), value in told.items() if gauge == PARTITIONS)

    def states(self) -> list[ProcessState]:
        """Every process as it is now, the broker first."""
        found = []
        if self.kafka is not None:
            found.append(_state(BROKER, self.kafka.process(), None, self.kafka.address, self.kafka.log))
        for name in self.names:
            address = self.addresses.get(name, "")
            found.append(_state(name, self.process(name), self.answers(name), address, self.log(name)))
        return found

    def process(self, name: str) -> psutil.Process | None:
        """The running process of that name, if it runs."""
        return self._pid_file(name).process()

    def answers(self, name: str) -> bool | None:
        """Whether the process says SERVING; None where it has no gRPC port."""
        address = self.addresses.get(name)
        if address is None:
            return None
        place = organisation_directory(self.run, self.network.organisations[0].id)
        tls = TlsFiles(place / "client.pem", place / "client.key", self.run / "ca.pem")
        try:
            with open_blocking_channel(address, tls, self.network.server_at(address)) as channel:
                told = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except (grpc.RpcError, WrongServerError):
            return False
        return bool(told.status == health_pb2.HealthCheckResponse.SERVING)

    def metrics_port(self, name: str) -> int:
        """Where the process shows its metrics on 127.0.0.1."""
        return self._first_port + METRICS_OFFSET + list(self._lines).index(name)

    def log(self, name: str) -> Path:
        if name == BROKER and self.kafka is not None:
            return self.kafka.log
        return self.run / "logs" / f"{name}.log"

    def _pid_file(self, name: str) -> PidFile:
        if name == BROKER and self.kafka is not None:
            return self.kafka.pid_file
        return PidFile(self.run / "pids" / f"{name}.pid")

    def _tail(self, name: str) -> str:
        """The last lines, the last one whole: what failed stands at its beginning, and where it failed behind that."""
        lines = self.log(name).read_bytes()[-LOG_READ:].decode(errors="replace").splitlines(keepends=True)
        tail = ""
        while lines and (not tail or len(tail) + len(lines[-1]) <= LOG_TAIL):
            tail = lines.pop() + tail
        return tail


def _state(name: str, process: psutil.Process | None, answers: bool | None, address: str, log: Path) -> ProcessState:
    if process is None:
        return ProcessState(name, None, 0.0, 0.0, answers, address, log)
    times = process.cpu_times()
    cpu_s = times.user + times.system
    return ProcessState(name, process.pid, process.memory_info().rss / 2**20, cpu_s, answers, address, log)


def read_procfile(path: Path) -> list[tuple[str, str]]:
    """Names and command lines, in the file's order."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition(":") for line in lines if line and not line.startswith("#")]
    return [(name.strip(), command.strip()) for name, _, command in pairs]
