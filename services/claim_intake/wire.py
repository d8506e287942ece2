"""Protobuf ⇄ domain at the public edge, with one located finding for each bad field.

Intake judges form only: what must be there, how long, how large, which characters, what belongs to which kind of claim. What
a claim means (check digits, sums, pointers, order of days, coverage) is judged by validation, which answers with codes that a
submitter's system understands. A finding names the field, the rule and what would be right; it never repeats a text or a day,
since these are a person's.
Unknown fields are refused by number: a client that sets what only the system may set has made a mistake that silence
would hide.

Source: claim.proto (bounds in its comments); architecture.md, Names; security.md, B4 and B5.
"""

import datetime
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from claimledger.claims.v1 import claim_pb2
from claims.claim import (
    MAX_AMOUNT_CENTS,
    MAX_DIAGNOSES,
    MAX_LINES,
    Attachment,
    Claim,
    ClaimKind,
    Diagnosis,
    Frequency,
    Header,
    OtherPayer,
    Parties,
    Patient,
    PayerSequence,
    ServiceLine,
    Sex,
)
from claims.finding import Finding, Severity
from claims.identifiers import claim_ref_of, day_of
from claims.quick import quick
from runtime import unknown_fields as unknown

E = TypeVar("E")

MAX_FINDINGS: Final = 50
"""As many as a ClaimError carries."""
MAX_UNITS: Final = 9_999
MAX_ATTACHMENT_BYTES: Final = 2**32 - 1
MAX_VERSION: Final = 2**16 - 1
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 2100
CONTROL_NUMBER_LENGTH: Final = 26
NO_CONTROL_NUMBER: Final = "is no claim control number: 26 characters A–Z, 2–7"
_HAS_PLACE: Final = frozenset({ClaimKind.PROFESSIONAL, ClaimKind.DENTAL})
_HAS_REVENUE: Final = frozenset({ClaimKind.INSTITUTIONAL})
_KINDS: Final = {int(kind): kind for kind in ClaimKind}
_FREQUENCIES: Final = {int(frequency): frequency for frequency in Frequency}
_SEQUENCES: Final = {int(sequence): sequence for sequence in PayerSequence}
_SEXES: Final = {int(sex): sex for sex in Sex}
_make_claim, _make_header, _make_parties = quick(Claim), quick(Header), quick(Parties)
_make_patient, _make_diagnosis, _make_service_line = quick(Patient), quick(Diagnosis), quick(ServiceLine)


class Findings:
    """What is wrong with one message so far; stops collecting at MAX_FINDINGS."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def add(self, rule: str, path: str, message: str) -> None:
        if len(self.found) < MAX_FINDINGS:
            self.found.append(Finding(rule, path, Severity.REJECT, message))


def claim_of(message: claim_pb2.Claim, path: str = "claim") -> Claim | list[Finding]:
    """The domain claim of a message, or every finding that keeps it from being one. Unknown fields are not looked for:
    that is done once, from the request on."""
    out = Findings()
    header = _header(message.header, f"{path}.header", out)
    claim = _make_claim(
        header,
        _parties(message.parties, f"{path}.parties", out),
        _diagnoses(message.diagnoses, f"{path}.diagnoses", out),
        _lines(message.lines, header.kind, f"{path}.lines", out),
        _other_payers(message.other_payers, f"{path}.other_payers", out),
        _attachments(message.attachments, f"{path}.attachments", out),
    )
    return out.found or claim


def unknown_fields(message: Message, path: str, out: Findings, *, deep: bool = True) -> None:
    """A finding for each field that the schema does not have, here and, where `deep`, in every message below."""
    for place, description in unknown.unknown_fields(message, path, deep=deep):
        out.add("intake.unknown_field", place, description)


def _header(message: claim_pb2.Header, path: str, out: Findings) -> Header:
    kind = _one_of(_KINDS, message.kind, path, "kind", out)
    frequency = _one_of(_FREQUENCIES, message.frequency, path, "frequency", out)
    return _make_header(
        kind,
        frequency,
        _one_of(_SEQUENCES, message.sequence, path, "sequence", out),
        _whole(message.total_charge_cents, 0, MAX_AMOUNT_CENTS, path, "total_charge_cents", out),
        _text(message.patient_control_number, 1, 38, path, "patient_control_number", out),
        _of_kind(message.place_of_service, 2, kind, _HAS_PLACE, path, "place_of_service", out),
        _id(message.payer, path, "payer", out),
        _id(message.plan, path, "plan", out),
        _currency(message.currency, path, out),
        _text(message.authorization, 0, 50, path, "authorization", out),
        _original(message.original_control_number, frequency, path, out),
    )


def _original(value: str, frequency: Frequency, path: str, out: Findings) -> bytes | None:
    """REF*F8: what a replacement or a void is of; an original is of nothing."""
    name = "original_control_number"
    if (not value) is (frequency is Frequency.ORIGINAL):
        return _control_number(value, path, name, out) if value else None
    reason = "belongs to frequency 7 or 8" if value else f"is missing: frequency {frequency.value} names what it is of"
    out.add("intake.original", f"{path}.{name}", reason)
    return None


def _currency(value: str, path: str, out: Findings) -> str:
    if len(value) == 3 and value.isascii() and value.isalpha() and value.isupper():
        return value
    out.add("intake.currency", f"{path}.currency", "three capital letters of ISO 4217 are due")
    return ""


def _parties(message: claim_pb2.Parties, path: str, out: Findings) -> Parties:
    taxonomy, rendering = message.billing_taxonomy, message.rendering_npi
    return _make_parties(
        _patient(message.patient, f"{path}.patient", out),
        _digits(message.billing_npi, 10, path, "billing_npi", out),
        _text(taxonomy, 10, 10, path, "billing_taxonomy", out) if taxonomy else "",
        _digits(rendering, 10, path, "rendering_npi", out) if rendering else "",
    )


def _patient(message: claim_pb2.Patient, path: str, out: Findings) -> Patient:
    return _make_patient(
        _text(message.member_id, 1, 80, path, "member_id", out),
        _text(message.family_name, 1, 60, path, "family_name", out),
        _text(message.given_name, 0, 35, path, "given_name", out),
        _day(message.birth, path, "birth", out),
        _one_of(_SEXES, message.sex, path, "sex", out),
    )


def _diagnoses(messages: Sequence[claim_pb2.Diagnosis], path: str, out: Findings) -> tuple[Diagnosis, ...]:
    if not _count(messages, 1, MAX_DIAGNOSES, path, out):
        return ()
    return tuple([_diagnosis(m.code, f"{path}[{i}]", out) for i, m in enumerate(messages)])


def _diagnosis(code: str, path: str, out: Findings) -> Diagnosis:
    """One spelling for a code: upper case, without the dot."""
    if len(code) > 3 and code[3] == ".":
        code = code[:3] + code[4:]
    return _make_diagnosis(_text(code.upper() if code.isascii() else code, 3, 7, path, "code", out))


def _lines(
    messages: Sequence[claim_pb2.ServiceLine], kind: ClaimKind, path: str, out: Findings
) -> tuple[ServiceLine, ...]:
    if not _count(messages, 1, MAX_LINES, path, out):
        return ()
    lines = tuple([_line(m, kind, f"{path}[{i}]", out) for i, m in enumerate(messages)])
    if len({line.number for line in lines}) < len(lines):
        _repeated_numbers(messages, path, out)
    return lines


def _repeated_numbers(messages: Sequence[claim_pb2.ServiceLine], path: str, out: Findings) -> None:
    """As they were sent: one out of range has a finding already, and repeats nothing."""
    seen: set[int] = set()
    for index, line in enumerate(messages):
        if line.number in seen:
            out.add("intake.unique", f"{path}[{index}].number", f"line number {line.number} stands twice")
        seen.add(line.number)


def _line(message: claim_pb2.ServiceLine, kind: ClaimKind, path: str, out: Findings) -> ServiceLine:
    first = _day(getattr(message, "from"), path, "from", out)
    return _make_service_line(
        _whole(message.number, 1, MAX_LINES, path, "number", out),
        _whole(message.units, 1, MAX_UNITS, path, "units", out),
        _whole(message.charge_cents, 0, MAX_AMOUNT_CENTS, path, "charge_cents", out),
        first,
        _day(message.through, path, "through", out) if message.HasField("through") else first,
        _text(message.procedure, 5, 5, path, "procedure", out),
        _modifiers(message.modifiers, f"{path}.modifiers", out),
        _pointers(message.diagnosis_pointers, f"{path}.diagnosis_pointers", out),
        _of_kind(message.revenue_code, 4, kind, _HAS_REVENUE, path, "revenue_code", out),
        _tooth(message.tooth, kind, path, out) if message.tooth else "",
    )


def _tooth(value: str, kind: ClaimKind, path: str, out: Findings) -> str:
    if kind is ClaimKind.DENTAL:
        return _text(value, 1, 2, path, "tooth", out)
    out.add("intake.kind", f"{path}.tooth", f"stands on dental lines only, not on a {kind.name.lower()} claim")
    return ""


def _modifiers(values: Sequence[str], path: str, out: Findings) -> tuple[str, ...]:
    if not _count(values, 0, 4, path, out):
        return ()
    return tuple([_text(value, 2, 2, path, f"[{i}]", out) for i, value in enumerate(values)])


def _pointers(values: Sequence[int], path: str, out: Findings) -> tuple[int, ...]:
    if not _count(values, 1, 4, path, out):
        return ()
    return tuple([_whole(value, 1, MAX_DIAGNOSES, path, f"[{i}]", out) for i, value in enumerate(values)])


def _other_payers(messages: Sequence[claim_pb2.OtherPayer], path: str, out: Findings) -> tuple[OtherPayer, ...]:
    if not _count(messages, 0, 2, path, out):
        return ()
    return tuple([_other_payer(m, f"{path}[{i}]", out) for i, m in enumerate(messages)])


def _other_payer(message: claim_pb2.OtherPayer, path: str, out: Findings) -> OtherPayer:
    paid: tuple[int, ...] = ()
    if _count(message.line_paid_cents, 0, MAX_LINES, f"{path}.line_paid_cents", out):
        paid = tuple(
            _whole(cents, 0, MAX_AMOUNT_CENTS, f"{path}.line_paid_cents", f"[{i}]", out)
            for i, cents in enumerate(message.line_paid_cents)
        )
    least, most = (1, MAX_VERSION) if message.control_number else (0, 0)
    return OtherPayer(
        _id(message.payer, path, "payer", out),
        _one_of(_SEQUENCES, message.sequence, path, "sequence", out),
        _control_number(message.control_number, path, "control_number", out) if message.control_number else None,
        _whole(message.version, least, most, path, "version", out),
        paid,
    )


def _attachments(messages: Sequence[claim_pb2.Attachment], path: str, out: Findings) -> tuple[Attachment, ...]:
    if not _count(messages, 0, 10, path, out):
        return ()
    return tuple([_attachment(m, f"{path}[{i}]", out) for i, m in enumerate(messages)])


def _attachment(message: claim_pb2.Attachment, path: str, out: Findings) -> Attachment:
    if len(message.digest) != 32:
        out.add("intake.length", f"{path}.digest", f"{len(message.digest)} bytes where a SHA-256 digest has 32")
    return Attachment(message.digest, _text(message.media_type, 0, 64, path, "media_type", out), message.size_bytes)


def _count(items: Sequence[Any], least: int, most: int, path: str, out: Findings) -> bool:
    """Whether the number of items is within bounds; said before any of them is read."""
    if least <= len(items) <= most:
        return True
    out.add("intake.count", path, f"{len(items)} items where {least} to {most} are allowed")
    return False


def _one_of(table: dict[int, E], value: int, path: str, name: str, out: Findings) -> E:
    known = table.get(value)
    if known is not None:
        return known
    reason = "is missing" if value == 0 else f"has no meaning for {value}"
    out.add("intake.enum", f"{path}.{name}", f"{name} {reason}; known are {', '.join(map(str, table))}")
    return next(iter(table.values()))


def _whole(value: int, least: int, most: int, path: str, name: str, out: Findings) -> int:
    if least <= value <= most:
        return value
    out.add("intake.range", _joined(path, name), f"{value} is outside {least} to {most}")
    return least


def _digits(value: str, count: int, path: str, name: str, out: Findings) -> str:
    """`value` where it is so many digits."""
    if len(value) == count and value.isascii() and value.isdigit():
        return value
    out.add("intake.digits", f"{path}.{name}", f"{count} digits are due" if value else "is missing")
    return ""


def _of_kind(
    value: str, count: int, kind: ClaimKind, kinds: frozenset[ClaimKind], path: str, name: str, out: Findings
) -> str:
    """So many digits on a claim of these kinds, and nothing on another one."""
    if kind in kinds:
        return _digits(value, count, path, name, out)
    if value:
        out.add("intake.kind", f"{path}.{name}", f"has no place on a {kind.name.lower()} claim")
    return ""


def _id(value: str, path: str, name: str, out: Findings) -> str:
    """An id of 1 to 32 bytes of printable ASCII."""
    if value.isascii():
        return _text(value, 1, 32, path, name, out)
    out.add("intake.characters", f"{path}.{name}", "an id is of ASCII")
    return ""


def _text(value: str, least: int, most: int, path: str, name: str, out: Findings) -> str:
    """`value` where it is printable NFC text of `least` to `most` bytes."""
    if value.isascii() and value.isprintable() and least <= len(value) <= most:
        return value
    return _unusual_text(value, least, most, _joined(path, name), out)


def _unusual_text(value: str, least: int, most: int, path: str, out: Findings) -> str:
    if not value.isascii() and not unicodedata.is_normalized("NFC", value):
        out.add("intake.nfc", path, "text is not in Unicode normal form C")
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        out.add("intake.characters", path, "control characters have no place in text")
    elif not least <= (size := len(value.encode())) <= most:
        missing = size == 0 and least > 0
        out.add("intake.length", path, "is missing" if missing else f"{size} bytes where {least} to {most} are allowed")
    else:
        return value
    return ""


def _joined(path: str, name: str) -> str:
    return path + name if name.startswith("[") else f"{path}.{name}"


def _day(message: claim_pb2.Day, path: str, name: str, out: Findings) -> int:
    day = _day_number(message.year, message.month, message.day)
    if day is not None:
        return day
    missing = not (message.year or message.month or message.day)
    reason = "is missing" if missing else f"is no day of the calendar in the years {FIRST_YEAR} to {LAST_YEAR}"
    out.add("intake.day", f"{path}.{name}", reason)
    return 0


@lru_cache(maxsize=65_536)
def _day_number(year: int, month: int, day: int) -> int | None:
    """Days since 1970-01-01, or None where there is no such day."""
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return None
    try:
        return day_of(datetime.date(year, month, day))
    except (ValueError, OverflowError):
        return None


def _control_number(value: str, path: str, name: str, out: Findings) -> bytes | None:
    """Without blanks around it, which are forgiven only to who asks for a claim by hand."""
    try:
        if len(value) == CONTROL_NUMBER_LENGTH:
            return claim_ref_of(value)
    except ValueError:
        pass
    out.add("intake.control_number", f"{path}.{name}", NO_CONTROL_NUMBER)
    return None
