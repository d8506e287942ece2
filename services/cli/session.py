"""Who speaks to which network: the run directory, the organisation, its certificate and channels."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from cli.bootstrap import WORLD_FILE
from runtime.grpc_channel import open_blocking_channel, open_channel
from runtime.kafka import wait_for_kafka
from runtime.network import NETWORK_FILE, Network, load_network, organisation_directory
from runtime.pki import TlsFiles

KAFKA_WITHIN_S: Final = 3.0
STATUS_WITHIN_S: Final = 2.0


class UsageError(Exception):
    """What the caller asked for cannot be; says what to do."""


@dataclass(frozen=True, slots=True)
class Session:
    """One organisation's view of a network. Certificates are those of its own clients."""

    run: Path
    organisation: str
    network: Network

    @property
    def place(self) -> Path:
        return organisation_directory(self.run, self.organisation)

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(self.place / "client.pem", self.place / "client.key", self.run / "ca.pem")

    @property
    def replica_address(self) -> str:
        """The organisation's own replica, or the first one where it has none."""
        own = [r.address for r in self.network.replicas if r.organisation == self.organisation]
        return own[0] if own else self.network.replicas[0].address

    def has_world(self) -> bool:
        return (self.run / WORLD_FILE).exists()

    @contextmanager
    def intake(self) -> Iterator[grpc.Channel]:
        with self._channel(self.network.intake_address) as channel:
            yield channel

    @contextmanager
    def replica(self, address: str = "") -> Iterator[grpc.Channel]:
        with self._channel(address or self.replica_address) as channel:
            yield channel

    def _channel(self, address: str) -> AbstractContextManager[grpc.Channel]:
        return open_blocking_channel(address, self.tls, self.network.server_at(address))

    def replica_status(self, address: str) -> ledger_pb2.GetStatusResponse:
        """What the replica there tells of itself. Raises grpc.RpcError where it does not answer in time."""
        with self.replica(address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            told: ledger_pb2.GetStatusResponse = stub.GetStatus(ledger_pb2.GetStatusRequest(), timeout=STATUS_WITHIN_S)
        return told

    def intake_channel(self) -> grpc.aio.Channel:
        """For code with a loop."""
        return self.channel(self.network.intake_address)

    def replica_channel(self) -> grpc.aio.Channel:
        return self.channel(self.replica_address)

    def channel(self, address: str) -> grpc.aio.Channel:
        """To the service of the network that is to answer there."""
        return open_channel(address, self.tls, self.network.server_at(address))


def read_network(run: Path) -> Network:
    """Raises FileNotFoundError without a network, UsageError for a description that cannot be read."""
    try:
        return load_network(run)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run / NETWORK_FILE} is damaged ({error}): restore it, or make a new network") from error


async def reach_kafka(address: str) -> None:
    """Returns when the broker answers. Raises ConnectionError saying what to do."""
    try:
        await wait_for_kafka(address, KAFKA_WITHIN_S)
    except ConnectionError as error:
        raise ConnectionError(f"{error}: see `claimledger status`, or name another broker with --kafka") from error


def open_session(run: Path, organisation: str) -> Session:
    """Raises UsageError for an organisation that the network does not have, FileNotFoundError without a network."""
    network = read_network(run)
    known = [o.id for o in network.organisations]
    if organisation not in known:
        raise UsageError(f"{organisation!r} is none of this network's organisations: {', '.join(known)}")
    return Session(run, organisation, network)
