"""Four replicas in the test's own loop, over real mTLS on loopback, without Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from cli.world import ORGANISATIONS
from ledger_commit.app import run_replica
from ledger_commit.settings import ReplicaSettings
from runtime.development import Ports, make_network
from runtime.grpc_channel import open_channel
from runtime.identity import server_name
from runtime.network import Network, organisation_directory
from runtime.pki import TlsFiles
from tests.fixtures.kafka import free_ports

REPLICAS = ("aurora", "borealis", "cygnus", "meridian")


@dataclass
class Replicas:
    """Starts and stops replicas of one network; each keeps its directory."""

    run: Path
    network: Network
    _running: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=dict)

    def start(self, *organisations: str, **changes: Any) -> None:
        """Without Kafka, unless the settings are changed."""
        usual = {"run": self.run, "replica_feed": False, "replica_publish": False, "metrics_port": 0}
        for organisation in organisations:
            stop = asyncio.Event()
            settings = ReplicaSettings(**{**usual, **changes, "replica_organisation": organisation})
            self._running[organisation] = (stop, asyncio.create_task(run_replica(settings, stop)))

    async def stop(self, *organisations: str) -> None:
        ending = [self._running.pop(organisation) for organisation in organisations]
        for stop, _ in ending:
            stop.set()
        for _, task in ending:
            await task

    async def stop_all(self) -> None:
        await self.stop(*self.running)

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def tls(self, organisation: str, service: str = "client") -> TlsFiles:
        place = organisation_directory(self.run, organisation)
        return TlsFiles(place / f"{service}.pem", place / f"{service}.key", self.run / "ca.pem")

    def address(self, organisation: str) -> str:
        return next(r.address for r in self.network.replicas if r.organisation == organisation)

    @asynccontextmanager
    async def calling(self, replica: str, caller: str, service: str = "client") -> AsyncIterator[Any]:
        """LedgerService of a replica, with an organisation's certificate."""
        channel = open_channel(self.address(replica), self.tls(caller, service), server_name("replica", replica))
        yield ledger_pb2_grpc.LedgerServiceStub(channel)
        await channel.close()

    @asynccontextmanager
    async def peering(self, replica: str, caller: str, service: str) -> AsyncIterator[Any]:
        """PeerService of a replica, with an organisation's certificate."""
        channel = open_channel(self.address(replica), self.tls(caller, service), server_name("replica", replica))
        yield ledger_pb2_grpc.PeerServiceStub(channel)
        await channel.close()

    async def status(self, replica: str) -> ledger_pb2.GetStatusResponse:
        async with self.calling(replica, "meridian") as stub:
            answer: ledger_pb2.GetStatusResponse = await stub.GetStatus(
                ledger_pb2.GetStatusRequest(), wait_for_ready=True, timeout=10
            )
            return answer

    async def executed(self, replica: str, results: int, seconds: float = 15) -> ledger_pb2.GetStatusResponse:
        """Its status, once it has so many results."""
        async with asyncio.timeout(seconds):
            while (status := await self.status(replica)).results_size < results:
                await asyncio.sleep(0.05)
        return status


def replicas_in(run: Path) -> Replicas:
    """A new network under `run`, none of its replicas started."""
    ports = free_ports(2 + 2 * len(REPLICAS))
    found = Ports(ports[0], ports[1], tuple(ports[2:6]), tuple(ports[6:10]))
    return Replicas(run, make_network(run, ORGANISATIONS, found, ""))


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """None of them started."""
    made = replicas_in(tmp_path / "run")
    yield made
    await made.stop_all()
