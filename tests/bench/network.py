"""A network of real processes for a measurement: started on free ports of loopback, watched, stopped."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from cli.bootstrap import make_certs
from cli.network_commands import bring_up
from cli.output import Output
from cli.processes import Processes
from cli.session import Session, open_session
from runtime.broker import LocalKafka
from tests.fixtures.ports import neighbouring_ports

FAMILIES: Final = 2000
BUCKETS: Final = 1
"""Partitions of a topic. One, since each stage has one worker here, and records are the larger the fewer there are."""
PORTS: Final = 60
SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used so far: CPU seconds and resident MB, by name."""

    cpu_s: dict[str, float]
    rss_mb: dict[str, float]


@contextmanager
def whole_network(run: Path, out: Output, families: int = FAMILIES) -> Iterator[Processes]:
    """Broker, all services, plans and members on the ledger; stopped at the end."""
    shutil.rmtree(run, ignore_errors=True)
    first = neighbouring_ports(PORTS + 2)
    kafka = LocalKafka(run / "kafka", first + PORTS, first + PORTS + 1)
    make_certs(run, SEED, families, first, kafka.address, BUCKETS)
    processes = Processes(run, kafka)
    try:
        bring_up(processes, out)
        yield processes
    finally:
        processes.stop_all(lambda _: None)


@contextmanager
def replicas_alone(run: Path, environment: Mapping[str, str]) -> Iterator[Processes]:
    """The four replicas without Kafka, with these settings; stopped at the end."""
    shutil.rmtree(run, ignore_errors=True)
    make_certs(run, SEED, 3, neighbouring_ports(PORTS), "", BUCKETS)
    processes = Processes(run, None, dict(environment))
    names = replica_names(processes)
    try:
        for name in names:
            processes.start(name)
        processes.wait_ready(names)
        yield processes
    finally:
        for name in names:
            processes.stop(name)


def replica_names(processes: Processes) -> list[str]:
    return [name for name in processes.names if name.startswith("replica-")]


def usage_of(processes: Processes) -> Usage:
    """All that run now."""
    states = [state for state in processes.states() if state.pid is not None]
    return Usage({s.name: s.cpu_s for s in states}, {s.name: s.rss_mb for s in states})


def publisher_of(session: Session) -> str:
    """The process name of the replica that publishes. Raises LookupError where none does."""
    for replica in session.network.replicas:
        with suppress(grpc.RpcError):
            if session.replica_status(replica.address).publisher:
                return f"replica-{replica.organisation}"
    raise LookupError("no replica is the publisher")


def disk_bytes(place: Path) -> int:
    """All files of a directory."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def session_of(processes: Processes) -> Session:
    return open_session(processes.run, processes.network.payers[0])


def sleep_until(moment: float) -> None:
    """`moment` on the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))
