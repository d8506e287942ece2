"""Bad input at the edges of a whole network: refused with the place and the reason, and nothing else is touched.

What intake alone refuses is shown in tests/contract/intake; here are the ways through the command line, over certificates
of this network, and what happens to the claims beside the bad one.
"""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from claimledger.claims.v1 import claim_pb2
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claimledger.tags.v1 import tags_pb2, tags_pb2_grpc
from claims.identifiers import control_number
from cli.failures import explain
from cli.generator import Generator
from runtime.grpc_channel import open_blocking_channel
from runtime.identity import Identity, Role, server_name
from runtime.pki import TlsFiles, issue, load_authority, make_authority
from tests.e2e.running import Running

pytestmark = pytest.mark.e2e
Code = grpc.StatusCode
TIMEOUT_S = 10
UNKNOWN_FIELD_100 = b"\xa0\x06\x06"
"""Field 100, varint 6: what a client might take for a status."""
UNKNOWN_FIELD_101 = b"\xa9\x06\x00\x00\x00\x00\x00\x00\xf0?"
"""Field 101, double 1.0: what a client might take for a score."""


@pytest.fixture(scope="module")
def plain(network: Running) -> Iterator[claim_pb2.Claim]:
    """Plain claims of aurora, each one new."""
    claims = (p.claim for p in Generator(network.world, secrets.randbelow(2**31), planted=False))
    return (claim for claim in claims if claim.header.payer == "aurora")


def document(claim: claim_pb2.Claim) -> dict[str, Any]:
    return dict(json_format.MessageToDict(claim, preserving_proto_field_name=True))


def submit(network: Running, claim: claim_pb2.Claim, key: str = "", organisation: str = "aurora") -> Any:
    request = intake_pb2.SubmitClaimRequest(client_key=key or secrets.token_hex(8), claim=claim)
    with network.session(organisation).intake() as channel:
        return intake_pb2_grpc.IntakeServiceStub(channel).SubmitClaim(request, timeout=TIMEOUT_S).accepted


def refusal(network: Running, claim: claim_pb2.Claim, **given: str) -> tuple[Any, str]:
    """Code and full text of a refused claim."""
    with pytest.raises(grpc.RpcError) as caught:
        submit(network, claim, **given)
    return caught.value.code(), explain(caught.value)


@pytest.mark.parametrize(
    "written",
    ["NaN", "Infinity", "-Infinity", "10.005", "9223372036854775808", '"9223372036854775808"', "1e400", '"12,50"',
     "true", "-1"],
)  # fmt: skip
def test_an_amount_that_is_none_is_refused_with_its_place(
    network: Running, plain: Iterator[claim_pb2.Claim], tmp_path: Path, written: str
) -> None:
    """B5, as JSON through `claimledger submit`: NaN, infinite, fractional, 2^63, text, negative. A claim in another file is
    accepted."""
    good, bad = document(next(plain)), document(next(plain))
    bad["lines"][0]["charge_cents"] = "AMOUNT"
    before, path = tmp_path / "good.json", tmp_path / "claims.json"
    before.write_text(json.dumps(good))
    path.write_text(json.dumps([bad]).replace('"AMOUNT"', written))
    said = network.said_here("submit", str(before), str(path))
    assert said.code == 1
    assert said.out.count("accepted as") == 1
    assert str(path) in said.err
    assert "lines[0].charge_cents" in said.err or "lines field: Failed to parse charge_cents field" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("amount", [-1, -(2**63), 2**63 - 1, 10**11 + 1])
@pytest.mark.parametrize("place", ["charge", "total", "paid by others"])
def test_an_amount_out_of_range_is_refused_on_the_wire(
    network: Running, plain: Iterator[claim_pb2.Claim], amount: int, place: str
) -> None:
    """2^63 does not exist on the wire: it arrives as −2^63."""
    claim = next(plain)
    match place:
        case "charge":
            claim.lines[0].charge_cents, field = amount, "claim.lines[0].charge_cents"
        case "total":
            claim.header.total_charge_cents, field = amount, "claim.header.total_charge_cents"
        case _:
            other = claim.other_payers.add(payer="elsewhere", sequence=claim_pb2.PAYER_SEQUENCE_PRIMARY)
            claim.header.sequence = claim_pb2.PAYER_SEQUENCE_SECONDARY
            other.line_paid_cents.extend([amount] * len(claim.lines))
            field = "claim.other_payers[0].line_paid_cents[0]"
    code, text = refusal(network, claim)
    assert code is Code.INVALID_ARGUMENT
    assert field in text


@pytest.mark.parametrize("part", ["claim", "header", "parties", "patient", "line"])
@pytest.mark.parametrize(("unknown", "number"), [(UNKNOWN_FIELD_100, "100"), (UNKNOWN_FIELD_101, "101")])
def test_a_field_that_only_the_system_sets_is_refused_by_its_number(
    network: Running, plain: Iterator[claim_pb2.Claim], tmp_path: Path, part: str, unknown: bytes, number: str
) -> None:
    """B4, at every depth, as a .pb file through `claimledger submit`."""
    claim = next(plain)
    parts: dict[str, tuple[Any, str]] = {
        "claim": (claim, "claim"),
        "header": (claim.header, "claim.header"),
        "parties": (claim.parties, "claim.parties"),
        "patient": (claim.parties.patient, "claim.parties.patient"),
        "line": (claim.lines[0], "claim.lines[0]"),
    }
    message, field = parts[part]
    message.MergeFromString(unknown)
    path = tmp_path / "claim.pb"
    path.write_bytes(claim.SerializeToString())
    said = network.said_here("submit", str(path))
    assert said.code == 1
    assert "INVALID_ARGUMENT" in said.err
    assert f"{field}: " in said.err
    assert number in said.err


@pytest.mark.parametrize("name", ["status", "score", "claim_ref", "verified"])
def test_json_cannot_set_a_field_that_there_is_not(
    network: Running, plain: Iterator[claim_pb2.Claim], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "claim.json"
    path.write_text(json.dumps(document(next(plain)) | {name: 1}))
    said = network.said_here("submit", str(path))
    assert said.code == 1
    assert str(path) in said.err
    assert f'"{name}"' in said.err


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b"{", "no JSON"),
        ("a.json", b'{"header": {}}\n{"header": ', "a.json:2: no JSON"),
        ("a.json", b"[1]", "a.json[0]"),
        ("a.json", b'"claim"', "a.json"),
        ("a.json", b"[" * 100_000, "no JSON"),
        ("a.json", b'{"a":' * 50_000, "no JSON"),
        ("a.json", b"\xff\xfe{}", "no JSON"),
        ("a.json", b'{"resourceType": "Claim"}', "FHIR is not read yet"),
        ("a.x12", b"ISA*00*", "X12 837 is not read yet"),
        ("a.pb", b"\x08", "no serialised"),
    ],
)
def test_a_file_that_holds_no_claim_is_refused_with_its_place(
    network: Running, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    said = network.said_here("submit", str(path))
    assert said.code == 1
    assert why in said.err
    assert "Traceback" not in said.err


def test_ten_thousand_lines_and_an_oversized_message_leave_the_service_going(
    network: Running, plain: Iterator[claim_pb2.Claim], tmp_path: Path
) -> None:
    many = next(plain)
    for number in range(len(many.lines) + 1, 10_001):
        many.lines.add().CopyFrom(many.lines[0])
        many.lines[-1].number = number
    path = tmp_path / "many.pb"
    path.write_bytes(many.SerializeToString())
    said = network.said_here("submit", str(path))
    assert (said.code, "claim.lines: " in said.err) == (1, True)
    huge = next(plain)
    huge.header.authorization = "x" * (17 * 1024 * 1024)
    path.write_bytes(huge.SerializeToString())
    said = network.said_here("submit", str(path))
    assert (said.code, "RESOURCE_EXHAUSTED" in said.err) == (1, True)
    assert submit(network, next(plain)).control_number


def other_certificate(network: Running, place: Path, identity: Identity, *, ours: bool) -> TlsFiles:
    """A certificate of the network's own authority or of another one, trusting the network's."""
    place.mkdir(exist_ok=True)
    if ours:
        authority = load_authority(network.run / "ca.pem", network.run / "ca.key")
    else:
        authority = make_authority(place / "ca.pem", place / "ca.key")
    files = TlsFiles(place / "it.pem", place / "it.key", network.run / "ca.pem")
    issue(authority, identity, files.certificate, files.key)
    return files


def test_another_authority_gets_in_nowhere(network: Running, tmp_path: Path) -> None:
    """The certificate names aurora; who signed it is not ours. No port of the network speaks to it, nor without one."""
    stranger = other_certificate(network, tmp_path, Identity("aurora", Role.INSURER), ours=False)
    root = (network.run / "ca.pem").read_bytes()
    for address in network.processes.addresses.values():
        server = network.processes.network.server_at(address)
        with open_blocking_channel(address, stranger, server) as channel, pytest.raises(grpc.RpcError) as caught:
            intake_pb2_grpc.IntakeServiceStub(channel).ListClaims(intake_pb2.ListClaimsRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is Code.UNAVAILABLE
        bare = grpc.secure_channel(
            address, grpc.ssl_channel_credentials(root), [("grpc.ssl_target_name_override", server)]
        )
        with bare as channel, pytest.raises(grpc.RpcError) as caught:
            intake_pb2_grpc.IntakeServiceStub(channel).ListClaims(intake_pb2.ListClaimsRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is Code.UNAVAILABLE


def test_a_role_does_what_its_row_says_and_no_more(
    network: Running, plain: Iterator[claim_pb2.Claim], tmp_path: Path
) -> None:
    """The authority is ours, the role is not the right one: PERMISSION_DENIED names it."""
    place = network.session().place
    client = network.session().tls
    analyst = TlsFiles(place / "analyst.pem", place / "analyst.key", network.run / "ca.pem")
    request = intake_pb2.SubmitClaimRequest(client_key="role", claim=next(plain))
    replica = next(iter(network.replicas.values()))
    calls: list[tuple[str, TlsFiles, Any]] = [
        (network.session().network.intake_address, analyst,
         lambda c: intake_pb2_grpc.IntakeServiceStub(c).SubmitClaim(request, timeout=TIMEOUT_S)),
        (network.session().network.intake_address, network.session("meridian").tls,
         lambda c: intake_pb2_grpc.IntakeServiceStub(c).SubmitClaim(request, timeout=TIMEOUT_S)),
        (replica, client,
         lambda c: ledger_pb2_grpc.PeerServiceStub(c).GetLastSeen(ledger_pb2.GetLastSeenRequest(), timeout=TIMEOUT_S)),
        (replica, analyst,
         lambda c: ledger_pb2_grpc.LedgerServiceStub(c).SubmitTransaction(
             ledger_pb2.SubmitTransactionRequest(transaction=b"x"), timeout=TIMEOUT_S)),
        (network.session().network.tags_address, client,
         lambda c: tags_pb2_grpc.DuplicateTagServiceStub(c).Evaluate(
             tags_pb2.EvaluateRequest(elements=[bytes(32)]), timeout=TIMEOUT_S)),
    ]  # fmt: skip
    for address, tls, call in calls:
        server = network.processes.network.server_at(address)
        with open_blocking_channel(address, tls, server) as channel, pytest.raises(grpc.RpcError) as caught:
            call(channel)
        assert caught.value.code() is Code.PERMISSION_DENIED, caught.value
    nobody = other_certificate(network, tmp_path, Identity("nobody", Role.INSURER), ours=True)
    with open_blocking_channel(network.session().network.intake_address, nobody, server_name("intake")) as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)
        assert list(stub.ListClaims(intake_pb2.ListClaimsRequest(), timeout=TIMEOUT_S).claims) == []


def test_a_foreign_claim_does_not_exist(network: Running, plain: Iterator[claim_pb2.Claim]) -> None:
    """B3: a claim of others and a claim of nobody have the same answer, at intake and at every replica."""
    mine = submit(network, next(plain)).control_number
    nobodys = control_number(secrets.token_bytes(16))
    for number in (mine, nobodys):
        with network.session("borealis").intake() as channel, pytest.raises(grpc.RpcError) as caught:
            intake_pb2_grpc.IntakeServiceStub(channel).GetClaim(
                intake_pb2.GetClaimRequest(control_number=number), timeout=TIMEOUT_S
            )
        assert caught.value.code() is Code.NOT_FOUND
        assert caught.value.details() == "there is no such claim"
        said = network.said_here("proof", number, "--org", "borealis", "--out", "/dev/null")
        assert (said.code, "NOT_FOUND" in said.err) == (1, True)


def test_the_same_key_with_another_body_is_refused_and_the_first_stays(
    network: Running, plain: Iterator[claim_pb2.Claim]
) -> None:
    """B2; another organisation's key of the same name is another key."""
    claim, other = next(plain), next(plain)
    first = submit(network, claim, "one-key")
    code, text = refusal(network, other, key="one-key")
    assert code is Code.ALREADY_EXISTS
    assert "client_key" in text
    again = submit(network, claim, "one-key")
    assert (again.control_number, again.repeated_submission) == (first.control_number, True)
    assert submit(network, other, "one-key", "borealis").control_number != first.control_number
