"""Every bound that claim.proto states, walked at its edge: what just holds is accepted, what just breaks is refused there.

What the comments mark as an edit is accepted here and judged by validation (tests/unit/validation).
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from claim_intake.wire import claim_of
from claimledger.claims.v1 import claim_pb2
from claims.claim import CLAIM, Claim
from claims.finding import Finding
from tests.unit.intake.sample_claims import sample_claim

AMOUNTS: Final = ((0, 10**11), (-1, 10**11 + 1, 2**63 - 1, -(2**63)))
REF: Final = "A" * 26
NO_REF: Final = ("A" * 25, "A" * 27, f" {REF}", "1" * 26, "é" * 26)
IDS: Final = (("p", "p" * 32), ("", "p" * 33, "é", "a\tb"))
NPI: Final = ("1234567893", "0000000000")
NO_NPI: Final = ("123456789", "12345678930", "123456789x", "１２３４５６７８９３")
DAYS: Final = ((1900, 1, 1), (2100, 12, 31), (2024, 2, 29))
NO_DAYS: Final = ((1899, 12, 31), (2101, 1, 1), (2025, 2, 29), (2025, 13, 1), (2025, 0, 1), (2025, 1, 0), (-1, -1, -1))

# Kind of claim, and path → (values that hold, values that break). Numbers for a list of messages say how many of them.
BOUNDS: Final[dict[tuple[str, str], tuple[tuple[Any, ...], tuple[Any, ...]]]] = {
    ("", "header.kind"): ((1, 3), (0, 4)),
    ("", "header.frequency"): ((1,), (0, 2, 9)),
    ("replacement", "header.frequency"): ((7, 8), (1,)),
    ("", "header.sequence"): ((1, 3), (0, 4)),
    ("", "header.total_charge_cents"): AMOUNTS,
    ("", "header.patient_control_number"): (("x", "x" * 38, "ü" * 19), ("", "x" * 39, "ü" * 20, "a\nb")),
    ("", "header.place_of_service"): (("11", "00"), ("", "1", "111", "1x", "１１")),
    ("dental", "header.place_of_service"): (("11",), ("",)),
    ("institutional", "header.place_of_service"): (("",), ("11",)),
    ("", "header.payer"): IDS,
    ("", "header.plan"): IDS,
    ("", "header.currency"): (("USD", "EUR"), ("", "US", "USDX", "usd", "U5D", "ÜSD")),
    ("", "header.authorization"): (("", "x" * 50), ("x" * 51,)),
    ("", "header.original_control_number"): (("",), (REF,)),
    ("replacement", "header.original_control_number"): ((REF, REF.lower()), ("", *NO_REF)),
    ("", "parties.patient.member_id"): (("M", "M" * 80), ("", "M" * 81)),
    ("", "parties.patient.family_name"): (("L", "L" * 60), ("", "L" * 61, "Mu\u0308ller")),
    ("", "parties.patient.given_name"): (("", "A" * 35), ("A" * 36,)),
    ("", "parties.patient.birth"): (DAYS, (None, *NO_DAYS)),
    ("", "parties.patient.sex"): ((0, 2), (3, -1)),
    ("", "parties.billing_npi"): (NPI, ("", *NO_NPI)),
    ("", "parties.billing_taxonomy"): (("", "207Q00000X", "x" * 10), ("x" * 9, "x" * 11)),
    ("", "parties.rendering_npi"): (("", *NPI), NO_NPI),
    ("", "diagnoses"): ((2, 12), (0, 13)),
    ("", "diagnoses[0].code"): (("I10", "S72.001A", "S72001A"), ("", "I1", "S72001AB", "S72.001AB")),
    ("", "lines"): ((1, 50), (0, 51)),
    ("", "lines[1].number"): ((2, 50), (0, 51, 1)),
    ("", "lines[0].units"): ((1, 9_999), (0, 10_000, 2**32 - 1)),
    ("", "lines[0].charge_cents"): AMOUNTS,
    ("", "lines[0].from"): (DAYS, (None, *NO_DAYS)),
    ("", "lines[0].through"): ((None, *DAYS), NO_DAYS),
    ("", "lines[0].procedure"): (("99213", "J1100"), ("", "9921", "992133")),
    ("", "lines[0].modifiers"): (([], ["25", "59", "76", "LT"]), (["25"] * 5, ["2"], ["255"], [""])),
    ("", "lines[0].diagnosis_pointers"): (([1], [1, 2, 11, 12]), ([], [1] * 5, [0], [13])),
    ("", "lines[0].revenue_code"): (("",), ("0450",)),
    ("dental", "lines[0].revenue_code"): (("",), ("0450",)),
    ("institutional", "lines[0].revenue_code"): (("0450",), ("", "450", "04500", "04x0")),
    ("", "lines[0].tooth"): (("",), ("1", "14")),
    ("institutional", "lines[0].tooth"): (("",), ("14",)),
    ("dental", "lines[0].tooth"): (("", "1", "14", "A"), ("141",)),
    ("", "other_payers"): ((0, 2), (3,)),
    ("", "other_payers[0].payer"): IDS,
    ("", "other_payers[0].sequence"): ((1, 3), (0, 4)),
    ("ledgered", "other_payers[0].control_number"): ((REF,), NO_REF),
    ("", "other_payers[0].version"): ((0,), (1,)),
    ("ledgered", "other_payers[0].version"): ((1, 65_535), (0, 65_536)),
    ("", "other_payers[0].line_paid_cents"): (
        ([], [0] * 50, [0, 10**11]),
        ([0] * 51, [-1], [10**11 + 1]),
    ),
    ("", "attachments"): ((0, 10), (11,)),
    ("", "attachments[0].digest"): ((bytes(32),), (b"", bytes(31), bytes(33))),
    ("", "attachments[0].media_type"): (("", "x" * 64), ("x" * 65,)),
    ("", "attachments[0].size_bytes"): ((0, 2**32 - 1), ()),
}
ROWS: Final = [(kind, path, holds, breaks) for (kind, path), (holds, breaks) in BOUNDS.items()]
HELD: Final = [pytest.param(k, p, v, id=f"{k}-{p}-{v!r:.40}") for k, p, holds, _ in ROWS for v in holds]
BROKEN: Final = [pytest.param(k, p, v, id=f"{k}-{p}-{v!r:.40}") for k, p, _, breaks in ROWS for v in breaks]


def claim_with(kind: str, path: str, value: Any) -> claim_pb2.Claim:
    """A claim in form, of this kind, but for the one field."""
    claim = sample_claim()
    claim.other_payers.add(payer="elsewhere", sequence=1)
    claim.attachments.add(digest=bytes(32), media_type="text/plain", size_bytes=1)
    if kind == "institutional":
        claim.header.kind, claim.header.place_of_service = claim_pb2.CLAIM_KIND_INSTITUTIONAL, ""
        for line in claim.lines:
            line.revenue_code = "0450"
    elif kind == "dental":
        claim.header.kind = claim_pb2.CLAIM_KIND_DENTAL
    elif kind == "replacement":
        claim.header.frequency, claim.header.original_control_number = claim_pb2.FREQUENCY_REPLACEMENT, REF
    elif kind == "ledgered":
        claim.other_payers[0].control_number, claim.other_payers[0].version = REF, 1
    _put(claim, path, value)
    return claim


def _put(claim: claim_pb2.Claim, path: str, value: Any) -> None:
    holder: Any = claim
    *way, name = path.split(".")
    for step in way:
        plain, _, index = step.partition("[")
        holder = getattr(holder, plain)
        holder = holder[int(index[:-1])] if index else holder
    field = holder.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        _put_list(getattr(holder, name), value)
    elif field.message_type is None:
        setattr(holder, name, value)
    else:
        holder.ClearField(name)
        if value is not None:
            day = getattr(holder, name)
            day.year, day.month, day.day = value


def _put_list(items: Any, value: Any) -> None:
    if isinstance(value, list):
        items[:] = value
        return
    model = items[0]
    del items[:]
    for number in range(1, value + 1):
        items.add().CopyFrom(model)
        if isinstance(model, claim_pb2.ServiceLine):
            items[-1].number = number


@pytest.mark.parametrize(("kind", "path", "value"), HELD)
def test_what_just_holds_is_accepted_and_has_an_encoding(kind: str, path: str, value: Any) -> None:
    claim = claim_of(claim_with(kind, path, value))
    assert isinstance(claim, Claim), claim
    assert CLAIM.decode(CLAIM.encode(claim)) == claim


@pytest.mark.parametrize(("kind", "path", "value"), BROKEN)
def test_what_just_breaks_is_refused_at_its_place_by_a_rule_and_is_not_repeated(
    kind: str, path: str, value: Any
) -> None:
    """One finding, in the field or in an item of it. Texts and days may be a person's, so the message has none of them."""
    found = claim_of(claim_with(kind, path, value))
    assert isinstance(found, list)
    (finding,) = found
    where = "header.original_control_number" if kind == "replacement" and path == "header.frequency" else path
    assert re.fullmatch(re.escape(f"claim.{where}") + r"(\[\d+\])?", finding.path)
    assert re.fullmatch(r"intake\.[a-z_]{2,25}", finding.rule)
    assert finding.message
    assert not _repeats(finding, value)


def _repeats(finding: Finding, value: Any) -> bool:
    if isinstance(value, tuple):
        return str(value[0]) in finding.message
    return isinstance(value, str) and len(value) > 3 and value in finding.message


def test_every_field_of_a_claim_has_a_row() -> None:
    """A field that comes to the schema comes to the table, or this fails."""
    judged = {re.sub(r"\[\d+\]", "", path) for _, path in BOUNDS}
    assert judged == set(_fields(claim_pb2.Claim()))


def _fields(message: Message, path: str = "") -> Iterator[str]:
    """Paths of all fields but those of days, and of single messages whose own fields are told."""
    for field in message.DESCRIPTOR.fields:
        place = f"{path}{field.name}"
        day = field.message_type is not None and field.message_type.name == "Day"
        if field.message_type is None or day or field.is_repeated:
            yield place
        if field.message_type is not None and not day:
            yield from _fields(GetMessageClass(field.message_type)(), f"{place}.")  # type: ignore[arg-type]


def test_a_replacement_of_nothing_and_an_original_of_something_say_what_is_due() -> None:
    missing = claim_of(claim_with("replacement", "header.original_control_number", ""))
    beside = claim_of(claim_with("", "header.original_control_number", REF))
    assert isinstance(missing, list)
    assert isinstance(beside, list)
    assert (missing[0].message, beside[0].message) == (
        "is missing: frequency 7 names what it is of",
        "belongs to frequency 7 or 8",
    )
