"""L1: what a claim says is nowhere to be read but by its parties.

Claims whose every name, number, code and free text occurs nowhere else go every way that a claim can go. Then everything that the
network wrote is searched for these words: logs, topics as they lie on the broker's disk, databases with their journals, every
replica's block log, metrics, command lines, and what those are told who are no party. Days, amounts and codes of two characters
cannot be told from other numbers and are not looked for.
"""

import asyncio
import base64
import re
import secrets
import string
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from claimledger.claims.v1 import claim_pb2
from claimledger.events.v1 import events_pb2
from claimledger.fraud.v1 import fraud_pb2
from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claims.claim import ACCEPTED_CLAIM, AcceptedClaim
from claims.identifiers import claim_ref_of, control_number, npi_with_check_digit
from claims.status import Status
from cli.failures import explain
from cli.generator import Generator
from runtime.kafka import SealingProducer, make_producer
from runtime.stage import Out
from runtime.tenant_keys import service_keys
from runtime.topics import ALERTS, STATUS, SUBMITTED
from tests.e2e.published import values_of
from tests.e2e.running import Running, until
from tests.fixtures.kafka import now_ms

pytestmark = pytest.mark.e2e
Code = grpc.StatusCode
TIMEOUT_S = 10
WITHIN_S = 60
TOKEN = "CNRY" + "".join(secrets.choice(string.ascii_uppercase) for _ in range(8))
"""Begins every word that has room for it, so that these are found by one search."""
OFFSETS_ONLY = {".index", ".timeindex", ".txnindex", ".snapshot"}
"""Files of the broker that hold offsets and times; preallocated, and a hundred times as large as the rest."""


@dataclass
class Canaries:
    """Makes words that occur nowhere else and remembers them."""

    words: set[bytes] = field(default_factory=set)
    _count: int = 0

    def _kept(self, word: str) -> str:
        self.words.add(word.encode())
        return word

    def text(self) -> str:
        self._count += 1
        return f"{TOKEN}{self._count}"

    def npi(self) -> str:
        return self._kept(npi_with_check_digit(f"2{secrets.randbelow(10**8):08d}"))

    def diagnosis(self) -> str:
        return self._kept(f"Q8{''.join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(5))}")

    def procedure(self) -> str:
        return self._kept(f"Q{secrets.randbelow(10**4):04d}")

    def control_number(self) -> str:
        return self._kept(control_number(secrets.token_bytes(16)))

    def digest(self) -> bytes:
        digest = secrets.token_bytes(32)
        self.words |= {digest, digest.hex().encode(), base64.b64encode(digest)}
        return digest

    def card(self, claim: claim_pb2.Claim) -> None:
        """The number on the card must be one that the payer knows: looked for, but not invented."""
        self.words.add(claim.parties.patient.member_id.encode())

    def found_in(self, content: bytes) -> set[bytes]:
        token = TOKEN.encode()
        found = set(re.findall(token + rb"\d+", content)) if token in content else set()
        found |= {token.hex().encode()} if token.hex().encode() in content else set()
        return found | {word for word in self.words if word in content}


def marked(canaries: Canaries, claim: claim_pb2.Claim) -> claim_pb2.Claim:
    """With a word of its own in every place where the payer takes what it does not know."""
    canaries.card(claim)
    patient, header = claim.parties.patient, claim.header
    patient.family_name, patient.given_name = canaries.text(), canaries.text()
    header.patient_control_number, header.authorization = canaries.text(), canaries.text()
    claim.parties.rendering_npi = canaries.npi()
    claim.attachments.add(digest=canaries.digest(), media_type=f"text/{canaries.text()}", size_bytes=7)
    return claim


def paid_before(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    claim.header.sequence = claim_pb2.PAYER_SEQUENCE_SECONDARY
    claim.other_payers.add(
        payer=canaries.text(), sequence=claim_pb2.PAYER_SEQUENCE_PRIMARY, line_paid_cents=[1] * len(claim.lines)
    )


def paid_before_on_this_ledger(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    paid_before(canaries, claim)
    claim.other_payers[0].payer = "borealis"
    claim.other_payers[0].control_number, claim.other_payers[0].version = canaries.control_number(), 1


def of_unknown_person(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    claim.parties.patient.member_id = canaries.text()


def with_unknown_codes(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    claim.diagnoses[0].code = canaries.diagnosis()
    claim.lines[0].procedure = canaries.procedure()


def of_unknown_provider(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    claim.parties.billing_npi = canaries.npi()


def replacing(canaries: Canaries, claim: claim_pb2.Claim) -> None:
    claim.header.frequency = claim_pb2.FREQUENCY_REPLACEMENT
    claim.header.original_control_number = canaries.control_number()


def unchanged(_: Canaries, __: claim_pb2.Claim) -> None:
    return


WAYS: dict[str, tuple[Callable[[Canaries, claim_pb2.Claim], None], Status]] = {
    "plain": (unchanged, Status.SETTLED),
    "other payer": (paid_before, Status.SETTLED),
    "other payer's claim": (paid_before_on_this_ledger, Status.SETTLED),
    "unknown person": (of_unknown_person, Status.REJECTED),
    "unknown codes": (with_unknown_codes, Status.REJECTED),
    "unknown provider": (of_unknown_provider, Status.REJECTED),
    "replacement": (replacing, Status.REFUSED),
}


@dataclass(frozen=True)
class Travelled:
    """What is left of the claims when all have come to their end."""

    network: Running
    canaries: Canaries
    ends: dict[str, tuple[Status, str]]
    """Way → status and control number."""
    refusals: list[str]
    """What the submitter itself was told at the door."""


def submit(network: Running, claim: claim_pb2.Claim, key: str = "") -> str:
    request = intake_pb2.SubmitClaimRequest(client_key=key or secrets.token_hex(8), claim=claim)
    with network.session().intake() as channel:
        answer = intake_pb2_grpc.IntakeServiceStub(channel).SubmitClaim(request, timeout=TIMEOUT_S)
    return str(answer.accepted.control_number)


def status_of(network: Running, number: str, organisation: str = "aurora") -> Status:
    with network.session(organisation).intake() as channel:
        request = intake_pb2.GetClaimRequest(control_number=number)
        return Status(intake_pb2_grpc.IntakeServiceStub(channel).GetClaim(request, timeout=TIMEOUT_S).claim.status)


def ended(network: Running, number: str) -> Status:
    """The claim's status once it is one that nothing but a person changes."""
    on_the_way = {Status.RECEIVED, Status.VALIDATED, Status.SCORED, Status.ORDERED}

    def end() -> Status | None:
        status = status_of(network, number)
        return None if status in on_the_way else status

    status: Status = until(end, WITHIN_S, f"{number} has not come to an end")
    return status


def refused_at_the_door(network: Running, canaries: Canaries, claims: Iterator[claim_pb2.Claim]) -> Iterator[str]:
    """Bad values that are words themselves, and a key that has another body already."""
    fields: dict[str, Callable[[claim_pb2.Claim], None]] = {
        "lines[0].procedure": lambda c: setattr(c.lines[0], "procedure", canaries.text()),
        "diagnoses[0].code": lambda c: setattr(c.diagnoses[0], "code", canaries.text()),
        "parties.billing_npi": lambda c: setattr(c.parties, "billing_npi", canaries.text()),
        "header.currency": lambda c: setattr(c.header, "currency", canaries.text()),
        "header.patient_control_number": lambda c: setattr(c.header, "patient_control_number", canaries.text() * 4),
        "lines[0].charge_cents": lambda c: setattr(c.lines[0], "charge_cents", -1),
    }
    for place, spoil in fields.items():
        claim = marked(canaries, next(claims))
        spoil(claim)
        with pytest.raises(grpc.RpcError) as caught:
            submit(network, claim)
        assert (caught.value.code(), place in explain(caught.value)) == (Code.INVALID_ARGUMENT, True), place
        yield explain(caught.value)
    submit(network, marked(canaries, next(claims)), "canary-key")
    with pytest.raises(grpc.RpcError) as caught:
        submit(network, marked(canaries, next(claims)), "canary-key")
    assert caught.value.code() is Code.ALREADY_EXISTS
    yield explain(caught.value)


async def dead_letter(network: Running, canaries: Canaries) -> None:
    """A record that intake sealed, whose claim does not decode and is full of words."""
    claim = " ".join(canaries.text() for _ in range(20)).encode()
    accepted = AcceptedClaim(secrets.token_bytes(16), 1, "cygnus", 20_000, bytes(32), bytes(32), claim)
    batch = events_pb2.SubmittedBatch()
    batch.claims.add(accepted=ACCEPTED_CLAIM.encode(accepted), attempt=1, accepted_time_ms=1)
    keys = service_keys(network.run, network.session().network, "meridian", "intake")
    producer = make_producer(network.kafka.address, "canary")
    name = network.topic(SUBMITTED, "cygnus")
    async with SealingProducer(producer, keys, "canary") as sealing:
        out = Out(name, b"canary", batch.SerializeToString(), SUBMITTED.schema, "canary", partition=0)
        await sealing.send_all([out], now_ms())


def of_excluded_provider(made: Generator) -> Iterator[claim_pb2.Claim]:
    """Claims of aurora that are held for a person."""
    while True:
        planned = made.plain(provider=made.world.excluded[0])
        if planned.submitter == "aurora":
            yield planned.claim


def letters(network: Running) -> int:
    return len(network.said_here("dlq", "list", "--topic", network.topic(SUBMITTED, "cygnus"), "--json").rows)


@pytest.fixture(scope="module")
def travelled(network: Running) -> Travelled:
    """All ways gone to their end."""
    canaries = Canaries()
    made = Generator(network.world, secrets.randbelow(2**31), planted=False)
    plain = (p.claim for p in made if p.claim.header.payer == "aurora")
    numbers = {}
    for way, (change, _) in WAYS.items():
        claim = marked(canaries, next(plain))
        change(canaries, claim)
        numbers[way] = submit(network, claim)
    again = marked(canaries, next(plain))
    first = submit(network, again)
    assert ended(network, first) is Status.SETTLED
    numbers["duplicate"] = submit(network, again)
    for way in ("pended", "denied"):
        numbers[way] = submit(network, marked(canaries, next(of_excluded_provider(made))))
    refusals = list(refused_at_the_door(network, canaries, plain))
    before = letters(network)
    asyncio.run(dead_letter(network, canaries))
    assert ended(network, numbers["denied"]) is Status.PENDED
    said = network.said_here("review", "deny", numbers["denied"], "--carc", "16", "--org", "aurora")
    assert said.code == 0, said
    ends = {way: (ended(network, number), number) for way, number in numbers.items()}
    until(lambda: letters(network) > before, WITHIN_S, "no dead letter")
    return Travelled(network, canaries, ends, refusals)


def test_the_claims_went_every_way_and_the_search_finds_a_word_where_there_is_one(travelled: Travelled) -> None:
    """Else nothing below would show anything: the submitter is told its own values back, and they are recognised."""
    expected = {way: end for way, (_, end) in WAYS.items()}
    assert {way: end for way, (end, _) in travelled.ends.items()} == expected | {
        "duplicate": Status.DENIED,
        "pended": Status.PENDED,
        "denied": Status.DENIED,
    }
    for word in (*list(travelled.canaries.words)[:50], f"{TOKEN}7".encode(), TOKEN.encode().hex().encode()):
        assert travelled.canaries.found_in(b"before" + word + b"after")


def written(network: Running) -> Iterator[Path]:
    """Every file of the network but the reference data, which is where the payers know their members from."""
    for path in sorted(network.run.rglob("*")):
        if path.is_file() and path.suffix not in OFFSETS_ONLY and path.name != "reference.json":
            yield path


def test_no_file_holds_a_word_of_a_claim(travelled: Travelled) -> None:
    """Logs, the broker's data, intake's and the replicas' databases, block logs, safety records."""
    hits, searched = {}, []
    for path in written(travelled.network):
        searched.append(path.relative_to(travelled.network.run).as_posix())
        if found := travelled.canaries.found_in(path.read_bytes()):
            hits[searched[-1]] = found
    assert hits == {}
    topic = f"kafka/data/{travelled.network.topic(SUBMITTED, 'aurora')}-"
    for kind in ("logs/intake", "logs/validation", topic, "kafka/kafka.log"):
        assert any(path.startswith(kind) for path in searched), kind
    assert sum(path.endswith("blocks.log") for path in searched) == len(travelled.network.replicas)
    assert sum(path.endswith(".db") for path in searched) > len(travelled.network.replicas)


def test_no_metric_and_no_command_line_holds_a_word_of_a_claim(travelled: Travelled) -> None:
    network = travelled.network
    for name in network.processes.names:
        with urllib.request.urlopen(f"http://127.0.0.1:{network.processes.metrics_port(name)}/metrics") as answer:
            shown = answer.read()
        assert b"claimledger_" in shown
        assert travelled.canaries.found_in(shown) == set(), name
        process = network.processes.process(name)
        assert process is not None
        for each in [process, *process.children(recursive=True)]:
            assert travelled.canaries.found_in(_command(each)) == set(), name


def _command(process: psutil.Process) -> bytes:
    return "\0".join([*process.cmdline(), *process.environ().values()]).encode()


def test_others_are_told_nothing(travelled: Travelled) -> None:
    """Not in a refusal, not by status, not by an alert; nor is a refusal told what another claim under the key says."""
    network, canaries = travelled.network, travelled.canaries
    for _, number in travelled.ends.values():
        for organisation in ("borealis", "cygnus"):
            with pytest.raises(grpc.RpcError) as caught:
                status_of(network, number, organisation)
            told: Any = caught.value
            assert told.code() is Code.NOT_FOUND
            assert canaries.found_in(repr((told.details(), told.trailing_metadata())).encode()) == set()
    refs = {claim_ref_of(number) for _, number in travelled.ends.values()}
    for organisation in [o.id for o in network.session().network.organisations if o.id != "aurora"]:
        for value in asyncio.run(values_of(network.session(organisation), STATUS)):
            event = events_pb2.StatusEvent.FromString(value)
            assert event.claim_ref not in refs or event.payee == organisation
            assert canaries.found_in(value) == set()


def test_an_alert_names_the_provider_and_no_patient(travelled: Travelled) -> None:
    """Analysts of the payer read it: no name, no card, no diagnosis, no attachment."""
    network = travelled.network
    number = travelled.ends["pended"][1]
    alerts = [fraud_pb2.FraudAlert.FromString(v) for v in asyncio.run(values_of(network.session(), ALERTS))]
    (alert,) = [alert for alert in alerts if alert.score.claim_ref == claim_ref_of(number)]
    assert travelled.canaries.found_in(alert.SerializeToString()) == set()
