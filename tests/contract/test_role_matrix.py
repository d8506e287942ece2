"""Every RPC of every service against every role and every kind of stranger, over real mutual TLS on loopback.

The methods come from the contracts' descriptors: an RPC without a row fails here. The table is written down once more
on purpose, so that a change of a service's own table has to be meant.
"""

import asyncio
import contextlib
import datetime
import importlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from claim_intake.serving import serve
from claim_intake.settings import IntakeSettings
from claim_intake.wiring import prepare
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from claims.transaction import SIGNED_TRANSACTION, Kind, PartySignature, SignedTransaction
from cli.world import ORGANISATIONS
from duplicate_tags.service import TagServicer
from ledger_commit.app import run_replica
from ledger_commit.settings import ReplicaSettings
from runtime.development import Ports, make_network
from runtime.grpc_channel import open_channel
from runtime.grpc_server import GrpcServer, wait_and_drain
from runtime.identity import Identity, Role
from runtime.network import Network, organisation_directory
from runtime.pki import Authority, TlsFiles, issue, load_authority, make_authority
from tests.fixtures.kafka import free_ports
from tests.unit.intake.sample_claims import sample_claim

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode
NPI: Final = "1234567893"
SILENT_S: Final = 0.4
"""A stream that says nothing for so long has let its caller in: DEADLINE_EXCEEDED is the caller's own deadline."""

ROLES: Final = (Role.INSURER, Role.PROVIDER, Role.ANALYST, Role.REGULATOR, Role.REPLICA, Role.SERVICE)
TABLE: Final[dict[str, tuple[str, grpc.StatusCode]]] = {
    # RPC → who may, in the order of ROLES, and what those are told; the others are told PERMISSION_DENIED.
    "IntakeService/SubmitClaim": ("+ + - - - -", Code.OK),
    "IntakeService/SubmitClaims": ("+ + - - - -", Code.OK),
    "IntakeService/GetClaim": ("+ + + - - -", Code.NOT_FOUND),
    "IntakeService/ListClaims": ("+ + + - - -", Code.OK),
    "IntakeService/TrackClaims": ("+ + + - - -", Code.DEADLINE_EXCEEDED),
    "LedgerService/SubmitTransaction": ("+ + - + + +", Code.INVALID_ARGUMENT),
    "LedgerService/GetTransaction": ("+ + + + + +", Code.OK),
    "LedgerService/GetStatus": ("+ + + + + +", Code.OK),
    "LedgerService/PrepareRejoin": ("+ - - - - -", Code.FAILED_PRECONDITION),
    "LedgerService/GetBlock": ("+ + + + + +", Code.NOT_FOUND),
    "LedgerService/ListBlocks": ("+ + + + + +", Code.OK),
    "LedgerService/GetSettlement": ("+ + + + + +", Code.NOT_FOUND),
    "LedgerService/SubscribeSettlements": ("+ + + + + +", Code.DEADLINE_EXCEEDED),
    "PeerService/Exchange": ("- - - - + -", Code.OK),
    "PeerService/FetchBlocks": ("- - - - + -", Code.OK),
    "PeerService/FetchBatches": ("- - - - + -", Code.OK),
    "PeerService/GetPosition": ("- - - - + -", Code.FAILED_PRECONDITION),
    "PeerService/GetLastSeen": ("- - - - + -", Code.OK),
    "DuplicateTagService/Evaluate": ("- - - - - +", Code.OK),
}
SERVICES: Final = {
    "IntakeService": (intake_pb2, intake_pb2_grpc.IntakeServiceStub),
    "LedgerService": (ledger_pb2, ledger_pb2_grpc.LedgerServiceStub),
    "PeerService": (ledger_pb2, ledger_pb2_grpc.PeerServiceStub),
    "DuplicateTagService": (tags_pb2, tags_pb2_grpc.DuplicateTagServiceStub),
}


def _module_of(stub: Path) -> Any:
    return importlib.import_module(".".join(stub.relative_to(STUBS).with_suffix("").parts))


STUBS: Final = Path(intake_pb2.__file__).parents[3]
CONTRACTS: Final = [
    service
    for path in sorted(STUBS.rglob("*_pb2.py"))
    for service in _module_of(path).DESCRIPTOR.services_by_name.values()
]
"""Every service of every contract."""
METHODS: Final = [f"{service.name}/{method.name}" for service in CONTRACTS for method in service.methods]
EVERYWHERE: Final = {health.SERVICE_NAME, reflection.SERVICE_NAME}
ABSENT: Final = "A" * 26
UNSIGNED: Final = SignedTransaction(Kind.ENROLL_MEMBER, b"\x01", (PartySignature("aurora", 1, bytes(64)),))
"""In form as far as the door of the ledger looks; the contract refuses it."""


def request_of(method: str, caller: str) -> Any:
    """A request in form; streams of requests are given as lists."""
    requests: Mapping[str, Any] = {
        "SubmitClaim": claim_request(caller),
        "SubmitClaims": [intake_pb2.SubmitClaimsRequest(sequence=1, claims=[claim_request(f"{caller} in a batch")])],
        "GetClaim": intake_pb2.GetClaimRequest(control_number=ABSENT),
        "ListClaims": intake_pb2.ListClaimsRequest(),
        "TrackClaims": intake_pb2.TrackClaimsRequest(cursor=""),
        "SubmitTransaction": ledger_pb2.SubmitTransactionRequest(transaction=SIGNED_TRANSACTION.encode(UNSIGNED)),
        "GetTransaction": ledger_pb2.GetTransactionRequest(transaction_id=bytes(32)),
        "GetStatus": ledger_pb2.GetStatusRequest(),
        "PrepareRejoin": ledger_pb2.PrepareRejoinRequest(key_id=1),
        "GetPosition": ledger_pb2.GetPositionRequest(),
        "GetBlock": ledger_pb2.GetBlockRequest(height=1),
        "ListBlocks": ledger_pb2.ListBlocksRequest(),
        "GetSettlement": ledger_pb2.GetSettlementRequest(control_number=ABSENT),
        "SubscribeSettlements": ledger_pb2.SubscribeSettlementsRequest(),
        "Exchange": [],
        "FetchBlocks": ledger_pb2.FetchBlocksRequest(from_height=1, to_height=2),
        "FetchBatches": ledger_pb2.FetchBatchesRequest(digests=[bytes(32)]),
        "GetLastSeen": ledger_pb2.GetLastSeenRequest(),
        "Evaluate": tags_pb2.EvaluateRequest(elements=[bytes(32)]),
    }
    return requests[method.rpartition("/")[2]]


def claim_request(key: str) -> intake_pb2.SubmitClaimRequest:
    return intake_pb2.SubmitClaimRequest(client_key=key, claim=sample_claim(payer="aurora"))


@dataclass
class Callers:
    """Channels to one network's services, one for each address and certificate."""

    run: Path
    network: Network
    authority: Authority
    _channels: dict[tuple[str, str], grpc.aio.Channel] = field(default_factory=dict)

    def issued(self, organisation: str, service: str) -> TlsFiles:
        """A certificate of the development network."""
        place = organisation_directory(self.run, organisation)
        return TlsFiles(place / f"{service}.pem", place / f"{service}.key", self.run / "ca.pem")

    def of_role(self, role: Role) -> TlsFiles:
        client = {Role.INSURER: "aurora", Role.PROVIDER: "riverside", Role.REGULATOR: "meridian"}
        service = {Role.ANALYST: "analyst", Role.REPLICA: "replica", Role.SERVICE: "validation"}
        return self.issued(client[role], "client") if role in client else self.issued("borealis", service[role])

    def address(self, method: str) -> str:
        service = method.partition("/")[0]
        replica = next(r.address for r in self.network.replicas if r.organisation == "aurora")
        return {"IntakeService": self.network.intake_address, "DuplicateTagService": self.network.tags_address}.get(
            service, replica
        )

    async def code(self, method: str, name: str, tls: TlsFiles | None) -> grpc.StatusCode:
        """What a call with this certificate comes to; None is a caller without one."""
        address = self.address(method)
        key = (address, name)
        if key not in self._channels:
            self._channels[key] = self.channel(address, tls)
        rpc = getattr(SERVICES[method.partition("/")[0]][1](self._channels[key]), method.rpartition("/")[2])
        patience = SILENT_S if TABLE[method][1] is Code.DEADLINE_EXCEEDED else 10
        request = request_of(method, name)
        call = rpc(timeout=patience) if isinstance(request, list) else rpc(request, timeout=patience)
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError):
            await _talk(call, request)
        code: grpc.StatusCode = await call.code()
        return code

    def channel(self, address: str, tls: TlsFiles | None) -> grpc.aio.Channel:
        """A channel of the test's own; None is a caller without a certificate."""
        return open_channel(address, tls, self.network.server_at(address)) if tls else self._bare(address)

    def _bare(self, address: str) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials((self.run / "ca.pem").read_bytes())
        named = ("grpc.ssl_target_name_override", self.network.server_at(address))
        return grpc.aio.secure_channel(address, credentials, [named])

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


async def _talk(call: Any, request: Any) -> None:
    """Sends what is to be streamed and takes all that is answered."""
    if isinstance(request, list):
        for each in request:
            await call.write(each)
        await call.done_writing()
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    """Certificates and keys of a development network, nothing running."""
    run = tmp_path_factory.mktemp("matrix") / "run"
    ports = free_ports(10)
    found = Ports(ports[0], ports[1], tuple(ports[2:6]), tuple(ports[6:10]))
    network = make_network(run, ORGANISATIONS, found, "127.0.0.1:1", npi_organisations={NPI: "riverside"})
    return Callers(run, network, load_authority(run / "ca.pem", run / "ca.key"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callers(ground: Callers) -> AsyncIterator[Callers]:
    """The tag service, intake and one replica of four; no broker is needed to be let in or not."""
    stop = asyncio.Event()
    tags = GrpcServer(ground.network.tags_address, ground.issued("meridian", "tags"))
    tags_pb2_grpc.add_DuplicateTagServiceServicer_to_server(TagServicer(bytes(32)), tags.grpc)
    await tags.start("claimledger.tags.v1.DuplicateTagService")
    replica = ReplicaSettings(
        run=ground.run, replica_organisation="aurora", replica_feed=False, replica_publish=False, metrics_port=0
    )
    intake = await prepare(IntakeSettings(run=ground.run, metrics_port=0))
    running = [
        asyncio.create_task(part)
        for part in (wait_and_drain(tags, stop, 0), serve(intake, stop), run_replica(replica, stop))
    ]
    async with asyncio.timeout(10):
        for method in ("IntakeService/ListClaims", "LedgerService/GetStatus"):
            while await ground.code(method, "insurer", ground.of_role(Role.INSURER)) is not Code.OK:
                await asyncio.sleep(0.05)
    yield ground
    await ground.close()
    stop.set()
    await asyncio.gather(*running)


async def test_the_table_has_a_row_for_every_rpc_and_no_other(callers: Callers) -> None:
    assert sorted(TABLE) == sorted(METHODS)
    assert set(ROLES) == set(Role)


@pytest.mark.parametrize("method", METHODS)
async def test_each_role_may_call_what_its_column_says(callers: Callers, method: str) -> None:
    marks, told = TABLE[method]
    expected = {
        role: told if mark == "+" else Code.PERMISSION_DENIED for role, mark in zip(ROLES, marks.split(), strict=True)
    }
    codes = await asyncio.gather(*(callers.code(method, role, callers.of_role(role)) for role in ROLES))
    assert dict(zip(ROLES, codes, strict=True)) == expected


@pytest.mark.parametrize("method", METHODS)
async def test_strangers_reach_no_rpc(callers: Callers, method: str) -> None:
    """Without a certificate, with one of another authority, with an expired one: the connection is not made.

    One of ours that names no organisation is connected, and is not told anything either.
    """
    strangers: dict[str, TlsFiles | None] = {
        "no certificate": None,
        "foreign authority": foreign(callers),
        "expired": redated(callers, "expired", -2, -1),
        "not yet valid": redated(callers, "early", 1, 2),
        "nameless": nameless(callers),
    }
    codes = await asyncio.gather(*(callers.code(method, name, tls) for name, tls in strangers.items()))
    assert dict(zip(strangers, codes, strict=True)) == dict.fromkeys(strangers, Code.UNAVAILABLE) | {
        "nameless": Code.UNAUTHENTICATED
    }


@pytest.mark.parametrize("service", CONTRACTS, ids=lambda service: service.name)
async def test_reflection_tells_every_service_and_its_contract(callers: Callers, service: Any) -> None:
    """At the service's own port, to any member of the network: what is listed there is served there, and the file that declares
    it is the contract, so that a client needs no stubs."""
    address = callers.address(f"{service.name}/")
    ask = reflection_pb2.ServerReflectionRequest
    async with callers.channel(address, callers.of_role(Role.PROVIDER)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([ask(list_services=""), ask(file_containing_symbol=service.full_name)])
        listed, declared = [answer async for answer in stub.ServerReflectionInfo(asked, timeout=5)]
    names = {each.name for each in listed.list_services_response.service}
    here = {s.full_name for s in CONTRACTS if callers.address(f"{s.name}/") == address}
    assert names == here | EVERYWHERE
    files = declared.file_descriptor_response.file_descriptor_proto
    told = [descriptor_pb2.FileDescriptorProto.FromString(each) for each in files]
    of_contract = descriptor_pb2.FileDescriptorProto()
    service.file.CopyToProto(of_contract)
    assert of_contract in told


@pytest.mark.parametrize("service", CONTRACTS, ids=lambda service: service.name)
async def test_health_answers_for_every_service_by_its_name(callers: Callers, service: Any) -> None:
    async with callers.channel(callers.address(f"{service.name}/"), callers.of_role(Role.PROVIDER)) as channel:
        for name in ("", service.full_name):
            request = health_pb2.HealthCheckRequest(service=name)
            told = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
            assert told.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", CONTRACTS, ids=lambda service: service.name)
async def test_strangers_are_told_neither_services_nor_health(callers: Callers, service: Any) -> None:
    for tls in (None, foreign(callers)):
        async with callers.channel(callers.address(f"{service.name}/"), tls) as channel:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=5)
            checking = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            with contextlib.suppress(grpc.aio.AioRpcError):
                pytest.fail(f"{await listing.read()}")
            assert [await listing.code(), await checking.code()] == [Code.UNAVAILABLE] * 2


async def test_only_its_dates_keep_the_expired_certificate_out(callers: Callers) -> None:
    """The same certificate issued for today is let in, so that the row above is about the date."""
    today = redated(callers, "today", -1, 1)
    assert await callers.code("LedgerService/GetStatus", "today", today) is Code.OK


@pytest.mark.parametrize("method", [m for m in METHODS if m.startswith("PeerService/")])
async def test_a_replica_that_is_no_member_of_the_committee_is_no_peer(callers: Callers, method: str) -> None:
    """The role alone does not do: the organisation must have a seat."""
    outsider = TlsFiles(callers.run / "outsider.pem", callers.run / "outsider.key", callers.run / "ca.pem")
    if not outsider.certificate.exists():
        issue(callers.authority, Identity("riverside", Role.REPLICA), outsider.certificate, outsider.key)
    assert await callers.code(method, "outsider", outsider) is Code.PERMISSION_DENIED


def foreign(callers: Callers) -> TlsFiles:
    """Aurora's name, signed by somebody else."""
    place = callers.run / "foreign"
    files = TlsFiles(place / "client.pem", place / "client.key", callers.run / "ca.pem")
    if not place.exists():
        place.mkdir()
        authority = make_authority(place / "ca.pem", place / "ca.key")
        issue(authority, Identity("aurora", Role.INSURER), files.certificate, files.key)
    return files


def redated(callers: Callers, name: str, from_days: int, to_days: int) -> TlsFiles:
    """Aurora's client certificate with its key and extensions, signed by the network's authority for other days."""
    files = callers.issued("aurora", "client")
    made = callers.run / f"{name}.pem"
    if not made.exists():
        old = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(old.issuer)
            .public_key(old.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=from_days))
            .not_valid_after(now + datetime.timedelta(days=to_days))
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        signed = builder.sign(callers.authority.key, hashes.SHA256())
        made.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return TlsFiles(made, files.key, files.authority)


def nameless(callers: Callers) -> TlsFiles:
    """Signed by the network's authority for a workload of another trust domain."""

    class Nobody(Identity):
        @property
        def spiffe_id(self) -> str:
            return "spiffe://elsewhere/workload"

    files = TlsFiles(callers.run / "nameless.pem", callers.run / "nameless.key", callers.run / "ca.pem")
    if not files.certificate.exists():
        issue(callers.authority, Nobody("aurora", Role.INSURER), files.certificate, files.key)
    return files
