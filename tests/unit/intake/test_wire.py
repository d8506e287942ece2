"""Form at the public edge: each bad field has one finding with its path, and unknown fields are refused by number."""

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from claim_intake.wire import MAX_FINDINGS, Findings, claim_of, unknown_fields
from claimledger.claims.v1 import claim_pb2
from claimledger.intake.v1 import intake_pb2
from claims.claim import CLAIM, Claim
from claims.finding import Finding
from tests.unit.intake.sample_claims import sample_claim

Change = Callable[[claim_pb2.Claim], object]


def read(change: Change) -> Claim | list[Finding]:
    message = sample_claim()
    change(message)
    return claim_of(message)


def paths(change: Change) -> list[str]:
    found = read(change)
    assert isinstance(found, list)
    return [finding.path for finding in found]


def test_a_well_formed_claim_becomes_the_canonical_claim() -> None:
    """Codes lose their dot and case; an absent last day is the first day; encoding and decoding give it back."""
    claim = claim_of(sample_claim())
    assert isinstance(claim, Claim)
    assert [d.code for d in claim.diagnoses] == ["E119", "I10"]
    assert claim.lines[0].through_day == claim.lines[0].from_day
    assert CLAIM.decode(CLAIM.encode(claim)) == claim


CASES: list[tuple[str, Change]] = [
    ("claim.header.kind", lambda c: setattr(c.header, "kind", 0)),
    ("claim.header.kind", lambda c: setattr(c.header, "kind", 9)),
    ("claim.header.frequency", lambda c: setattr(c.header, "frequency", 2)),
    ("claim.header.total_charge_cents", lambda c: setattr(c.header, "total_charge_cents", -1)),
    ("claim.header.total_charge_cents", lambda c: setattr(c.header, "total_charge_cents", 10**11 + 1)),
    ("claim.header.patient_control_number", lambda c: setattr(c.header, "patient_control_number", "")),
    ("claim.header.patient_control_number", lambda c: setattr(c.header, "patient_control_number", "x" * 39)),
    ("claim.header.plan", lambda c: setattr(c.header, "plan", "gold\n2026")),
    ("claim.header.currency", lambda c: setattr(c.header, "currency", "US")),
    ("claim.header.original_control_number", lambda c: setattr(c.header, "original_control_number", "nonsense")),
    ("claim.parties.patient.family_name", lambda c: setattr(c.parties.patient, "family_name", "Mu\u0308ller")),
    ("claim.parties.patient.family_name", lambda c: setattr(c.parties.patient, "family_name", "ü" * 31)),
    ("claim.parties.patient.given_name", lambda c: setattr(c.parties.patient, "given_name", "A\u0085nn")),
    ("claim.parties.patient.birth", lambda c: setattr(c.parties.patient.birth, "day", 30)),
    ("claim.parties.patient.birth", lambda c: setattr(c.parties.patient.birth, "year", 1899)),
    ("claim.parties.patient.birth", lambda c: c.parties.patient.ClearField("birth")),
    ("claim.diagnoses", lambda c: c.ClearField("diagnoses")),
    ("claim.diagnoses[1].code", lambda c: setattr(c.diagnoses[1], "code", "")),
    ("claim.lines", lambda c: c.ClearField("lines")),
    ("claim.lines[1].units", lambda c: setattr(c.lines[1], "units", 0)),
    ("claim.lines[1].units", lambda c: setattr(c.lines[1], "units", 10_000)),
    ("claim.lines[0].charge_cents", lambda c: setattr(c.lines[0], "charge_cents", -(2**63))),
    ("claim.lines[0].charge_cents", lambda c: setattr(c.lines[0], "charge_cents", 2**63 - 1)),
    ("claim.lines[1].number", lambda c: setattr(c.lines[1], "number", 1)),
    ("claim.lines[0].modifiers", lambda c: c.lines[0].modifiers.extend(["AA", "BB", "CC", "DD"])),
    ("claim.lines[0].modifiers[1]", lambda c: c.lines[0].modifiers.append("A")),
    ("claim.lines[0].diagnosis_pointers", lambda c: c.lines[0].ClearField("diagnosis_pointers")),
    ("claim.lines[0].diagnosis_pointers[2]", lambda c: c.lines[0].diagnosis_pointers.append(13)),
    ("claim.other_payers", lambda c: [c.other_payers.add(payer="p", sequence=1) for _ in range(3)]),
    ("claim.other_payers[0].line_paid_cents[0]", lambda c: c.other_payers.add(
        payer="p", sequence=1, line_paid_cents=[-1])),
    ("claim.attachments[0].digest", lambda c: c.attachments.add(digest=b"short")),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change"), CASES)
def test_a_bad_field_has_one_finding_with_its_path(path: str, change: Change) -> None:
    assert paths(change) == [path]


def test_ten_thousand_lines_cost_one_finding() -> None:
    found = claim_of(sample_claim(lines=10_000))
    assert isinstance(found, list)
    assert [(f.path, f.message) for f in found if f.path == "claim.lines"] == [
        ("claim.lines", "10000 items where 1 to 50 are allowed")
    ]


def test_an_empty_claim_names_what_is_missing_and_stops_at_the_bound() -> None:
    found = claim_of(claim_pb2.Claim())
    assert isinstance(found, list)
    assert {"claim.header.payer", "claim.parties.patient.member_id", "claim.lines"} <= {f.path for f in found}
    worst = sample_claim(lines=50)
    for line in worst.lines:
        line.units, line.charge_cents = 0, -1
    found = claim_of(worst)
    assert isinstance(found, list)
    assert len(found) == MAX_FINDINGS


def test_two_to_the_63_arrives_as_a_negative_amount_and_is_refused() -> None:
    """A client that writes 2^63 into the varint sends what int64 reads as −2^63."""
    line = b"\x18" + b"\x80" * 9 + b"\x01"  # field 3 (charge_cents), the varint of 2^63
    message = sample_claim()
    message.lines[0].MergeFromString(line)
    found = claim_of(message)
    assert isinstance(found, list)
    assert found[0].path == "claim.lines[0].charge_cents"
    assert str(-(2**63)) in found[0].message


def with_unknown(message: Message, number: int) -> None:
    """Adds field `number` with the value 1, as a client with another schema would."""
    key = number << 3
    tag = bytes([key]) if key < 128 else bytes([key & 0x7F | 0x80, key >> 7])
    message.MergeFromString(tag + b"\x01")


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        ("request", lambda r: r),
        ("claim", lambda r: r.claim),
        ("claim.header", lambda r: r.claim.header),
        ("claim.parties.patient.birth", lambda r: r.claim.parties.patient.birth),
        ("claim.lines[1]", lambda r: r.claim.lines[1]),
        ("claim.lines[0].from", lambda r: getattr(r.claim.lines[0], "from")),
    ],
)
def test_an_unknown_field_is_refused_by_number_wherever_it_stands(
    path: str, inner: Callable[[intake_pb2.SubmitClaimRequest], Message]
) -> None:
    """So a client that sets a status or a score learns that there is no such field (B4)."""
    request = intake_pb2.SubmitClaimRequest(client_key="k", claim=sample_claim())
    with_unknown(inner(request), 99)
    out = Findings()
    unknown_fields(request, "", out)
    assert [f.path for f in out.found] == [path]
    assert "99" in out.found[0].message
