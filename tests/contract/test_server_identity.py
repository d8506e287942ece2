"""Clients ask that the service which they mean prove its name: another service of the same authority is refused, and is told
nothing."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from claim_intake.serving import serve
from claim_intake.settings import IntakeSettings
from claim_intake.wiring import prepare
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2
from cli import events
from cli.failures import EXPECTED, describe
from cli.overview import replica_rows
from cli.processes import Processes
from cli.session import Session
from ledger_commit import peers
from ledger_commit.app import run_replica
from ledger_commit.peers import Peer
from ledger_commit.settings import ReplicaSettings
from runtime.development import Ports, make_network, require_certificates
from runtime.duplicate_tags import DuplicateTagger
from runtime.grpc_channel import WrongServerError
from runtime.grpc_server import GrpcServer
from runtime.network import Network, organisation_directory
from runtime.pki import KeyFileError, TlsFiles
from tests.fixtures.kafka import free_ports

ORGANISATIONS = {"aurora": "insurer", "borealis": "insurer", "cygnus": "insurer", "meridian": "regulator"}
SERVICE = "claimledger.intake.v1.IntakeService"
INTAKE, TAGS, BOREALIS = (
    "intake.claimledger.internal",
    "tags.claimledger.internal",
    "replica.borealis.claimledger.internal",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Network]:
    """Certificates of a development network; nothing of it runs."""
    run = tmp_path_factory.mktemp("identity") / "run"
    ports = free_ports(10)
    found = Ports(ports[0], ports[1], tuple(ports[2:6]), tuple(ports[6:10]))
    return run, make_network(run, ORGANISATIONS, found, "127.0.0.1:1")


def files(run: Path, organisation: str, service: str) -> TlsFiles:
    place = organisation_directory(run, organisation)
    return TlsFiles(place / f"{service}.pem", place / f"{service}.key", run / "ca.pem")


class Asked(grpc.aio.ServerInterceptor):
    """Which RPCs have reached a server."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        self.methods.append(details.method)
        return await continuation(details)


@asynccontextmanager
async def answering(run: Path, organisation: str, service: str) -> AsyncIterator[tuple[str, Asked]]:
    """A server with this certificate, on a port of its own, where only health is served."""
    asked = Asked()
    server = GrpcServer("127.0.0.1:0", files(run, organisation, service))
    server.grpc = grpc.aio.server(interceptors=[asked])
    port = await server.start(SERVICE)
    try:
        yield f"127.0.0.1:{port}", asked
    finally:
        await server.drain(0)


def moved(made: tuple[Path, Network], address: str, organisation: str = "aurora") -> Session:
    """A client's view, in which intake, tags and the replica of borealis are all to answer at one address."""
    run, network = made
    changed = tuple(replace(r, address=address) if r.organisation == "borealis" else r for r in network.replicas)
    return Session(run, organisation, replace(network, replicas=changed))


def list_claims(session: Session) -> None:
    with session.intake() as channel:
        intake_pb2_grpc.IntakeServiceStub(channel).ListClaims(intake_pb2.ListClaimsRequest(), timeout=3)


@pytest.mark.parametrize(
    "posing", [("aurora", "replica"), ("meridian", "tags"), ("aurora", "fraud"), ("aurora", "client")], ids="/".join
)
async def test_who_poses_as_intake_is_found_out_and_asked_nothing(
    made: tuple[Path, Network], posing: tuple[str, str]
) -> None:
    """Another service's certificate, and one that is for clients only; the message names whom it expected and where."""
    run, network = made
    async with answering(run, *posing) as (address, asked):
        session = Session(run, "aurora", replace(network, intake_address=address))
        with pytest.raises(WrongServerError) as caught:
            await asyncio.to_thread(list_claims, session)
    assert asked.methods == []
    assert isinstance(caught.value, EXPECTED)
    for word in (INTAKE, address, "network.json", "ca.pem"):
        assert word in describe(caught.value)


async def test_intake_itself_is_asked(made: tuple[Path, Network]) -> None:
    """The server of this test has no such RPC, and says so."""
    run, network = made
    async with answering(run, "meridian", "intake") as (address, asked):
        session = Session(run, "aurora", replace(network, intake_address=address))
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(list_claims, session)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(asked.methods) == 1


@pytest.mark.parametrize("posing", [("aurora", "replica"), ("meridian", "intake")], ids="/".join)
async def test_another_organisations_replica_is_not_the_one_that_was_meant(
    made: tuple[Path, Network], posing: tuple[str, str]
) -> None:
    async with answering(made[0], *posing) as (address, asked):
        session = moved(made, address, "borealis")
        with pytest.raises(WrongServerError, match=BOREALIS):
            await asyncio.to_thread(session.replica_status, address)
        row = next(r for r in await asyncio.to_thread(replica_rows, session) if r["replica"] == "borealis")
        assert row["state"] == f"no answer (no certificate of {BOREALIS})"
    assert asked.methods == []


async def test_a_stream_of_events_says_who_answers_in_place_of_whom(
    made: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REACHED_WITHIN_S", 0.3)
    async with answering(made[0], "aurora", "replica") as (address, asked):
        with pytest.raises(WrongServerError, match=BOREALIS):
            await anext(events.settlements(moved(made, address, "borealis")))
    assert asked.methods == []


async def test_a_replica_speaks_to_the_peer_that_it_means_and_says_where_another_answers(
    made: tuple[Path, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "LOOK_S", 0.05)
    async with answering(made[0], "aurora", "replica") as (address, asked):
        (borealis,) = (r for r in moved(made, address).network.replicas if r.organisation == "borealis")
        peer = Peer(1, borealis, files(made[0], "cygnus", "replica"), lambda _: None)
        peer.consensus.offer(ledger_pb2.ExchangeRequest())
        with capture_logs() as logs:
            running = asyncio.create_task(peer.run())
            async with asyncio.timeout(10):
                while not (told := [e for e in logs if e["event"] == "wrong_server"]):
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert (told[0]["peer"], told[0]["expected"], told[0]["log_level"]) == ("borealis", BOREALIS, "error")
    assert asked.methods == []


async def test_validation_asks_the_tag_service_and_nobody_in_its_place(made: tuple[Path, Network]) -> None:
    async with answering(made[0], "meridian", "intake") as (address, asked):
        tagger = DuplicateTagger(address, files(made[0], "aurora", "validation"))
        with capture_logs() as logs:
            asking = asyncio.create_task(tagger.tags([bytes(32)]))
            async with asyncio.timeout(10):
                while not (told := [e for e in logs if e["event"] == "wrong_server"]):
                    await asyncio.sleep(0.02)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await tagger.close()
    assert (told[0]["expected"], address in told[0]["reason"]) == (TAGS, True)
    assert asked.methods == []


@pytest.mark.parametrize(("posing", "answers"), [(("aurora", "replica"), False), (("meridian", "intake"), True)])
async def test_health_counts_as_the_right_services_alone(
    made: tuple[Path, Network], posing: tuple[str, str], answers: bool, tmp_path: Path
) -> None:
    async with answering(made[0], *posing) as (address, _):
        looking = Processes(made[0], None)
        looking.network = replace(made[1], intake_address=address)
        looking.addresses["intake"] = address
        assert await asyncio.to_thread(looking.answers, "intake") is answers


async def test_a_service_does_not_start_with_a_certificate_of_another_name(
    made: tuple[Path, Network], tmp_path: Path
) -> None:
    """As in a run directory from before certificates named services; the message says what to do."""
    run = tmp_path / "run"
    shutil.copytree(made[0], run)
    for place, serving in (("orgs/aurora", "replica"), ("orgs/meridian", "intake")):
        shutil.copy(run / place / "client.pem", run / place / f"{serving}.pem")
        shutil.copy(run / place / "client.key", run / place / f"{serving}.key")
    settings = ReplicaSettings(run=run, replica_organisation="aurora", replica_feed=False, replica_publish=False)
    with pytest.raises(KeyFileError, match=r"replica\.pem is no certificate of replica\.aurora\..*claimledger certs"):
        await run_replica(settings, asyncio.Event())
    with pytest.raises(KeyFileError, match=r"replica\.pem is no certificate of"):
        require_certificates(run)
    require_certificates(made[0])
    ground = await prepare(IntakeSettings(run=run, intake_organisation="meridian"))
    with pytest.raises(KeyFileError, match=r"intake\.pem is no certificate of intake\.claimledger\.internal"):
        await serve(ground, asyncio.Event())
