"""Protobuf ⇄ domain at the public edge, with one located finding for each bad field.

Intake judges form only: what must be there, how long, how large, which characters. What a claim means (check digits,
sums, pointers, coverage) is judged by validation, which answers with codes that a submitter's system understands.
Unknown fields are refused by number: a client that sets what only the system may set has made a mistake that silence
would hide.

Source: claim.proto (bounds in its comments); architecture.md, Names; security.md, B4 and B5.
"""

import datetime
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

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

E = TypeVar("E")

MAX_FINDINGS: Final = 50
"""As many as a ClaimError carries."""
MAX_UNITS: Final = 9_999
MAX_ATTACHMENT_BYTES: Final = 2**32 - 1
MAX_VERSION: Final = 2**16 - 1
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 2100
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
    claim = _make_claim(
        _header(message.header, f"{path}.header", out),
        _parties(message.parties, f"{path}.parties", out),
        _diagnoses(message.diagnoses, f"{path}.diagnoses", out),
        _lines(message.lines, f"{path}.lines", out),
        _other_payers(message.other_payers, f"{path}.other_payers", out),
        _attachments(message.attachments, f"{path}.attachments", out),
    )
    return out.found or claim


def unknown_fields(message: Message, path: str, out: Findings, *, deep: bool = True) -> None:
    """A finding for each field that the schema does not have, here and, where `deep`, in every message below."""
    if deep and not _has_unknown(message):
        return
    unknown: Any = UnknownFieldSet(message)
    for index in range(len(unknown)):
        description = f"field number {unknown[index].field_number} is not one of {message.DESCRIPTOR.name}'s"
        out.add("intake.unknown_field", path or "request", description)
    if not deep:
        return
    for name, repeated in _message_fields(message.DESCRIPTOR):
        if not repeated:
            if message.HasField(name):
                unknown_fields(getattr(message, name), f"{path}.{name}" if path else name, out)
            continue
        items = getattr(message, name)
        if len(items) > MAX_LINES:
            continue  # refused for its length, with a finding of its own
        for index, item in enumerate(items):
            unknown_fields(item, f"{path}.{name}[{index}]", out)


def _has_unknown(message: Message) -> bool:
    """Whether anything is lost without them; most messages have none, and looking into each part of them takes long."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


@cache
def _message_fields(descriptor: Any) -> tuple[tuple[str, bool], ...]:
    """The fields of a message type that hold messages: name, and whether repeated."""
    return tuple((f.name, bool(f.is_repeated)) for f in descriptor.fields if f.message_type is not None)


def _header(message: claim_pb2.Header, path: str, out: Findings) -> Header:
    return _make_header(
        _one_of(_KINDS, message.kind, path, "kind", out),
        _one_of(_FREQUENCIES, message.frequency, path, "frequency", out),
        _one_of(_SEQUENCES, message.sequence, path, "sequence", out),
        _whole(message.total_charge_cents, 0, MAX_AMOUNT_CENTS, path, "total_charge_cents", out),
        _text(message.patient_control_number, 1, 38, path, "patient_control_number", out),
        _text(message.place_of_service, 0, 2, path, "place_of_service", out),
        _text(message.payer, 1, 32, path, "payer", out),
        _text(message.plan, 1, 32, path, "plan", out),
        _text(message.currency, 3, 3, path, "currency", out),
        _text(message.authorization, 0, 50, path, "authorization", out),
        _control_number(message.original_control_number, path, "original_control_number", out),
    )


def _parties(message: claim_pb2.Parties, path: str, out: Findings) -> Parties:
    return _make_parties(
        _patient(message.patient, f"{path}.patient", out),
        _text(message.billing_npi, 1, 10, path, "billing_npi", out),
        _text(message.billing_taxonomy, 0, 10, path, "billing_taxonomy", out),
        _text(message.rendering_npi, 0, 10, path, "rendering_npi", out),
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
    return _make_diagnosis(_text(code.upper() if code.isascii() else code, 1, 8, path, "code", out))


def _lines(messages: Sequence[claim_pb2.ServiceLine], path: str, out: Findings) -> tuple[ServiceLine, ...]:
    if not _count(messages, 1, MAX_LINES, path, out):
        return ()
    lines = tuple([_line(m, f"{path}[{i}]", out) for i, m in enumerate(messages)])
    if len({line.number for line in lines}) < len(lines):
        _repeated_numbers(lines, path, out)
    return lines


def _repeated_numbers(lines: tuple[ServiceLine, ...], path: str, out: Findings) -> None:
    seen: set[int] = set()
    for index, line in enumerate(lines):
        if line.number in seen:
            out.add("intake.unique", f"{path}[{index}].number", f"line number {line.number} stands twice")
        seen.add(line.number)


def _line(message: claim_pb2.ServiceLine, path: str, out: Findings) -> ServiceLine:
    first = _day(getattr(message, "from"), path, "from", out)
    return _make_service_line(
        _whole(message.number, 1, MAX_LINES, path, "number", out),
        _whole(message.units, 1, MAX_UNITS, path, "units", out),
        _whole(message.charge_cents, 0, MAX_AMOUNT_CENTS, path, "charge_cents", out),
        first,
        _day(message.through, path, "through", out) if message.HasField("through") else first,
        _text(message.procedure, 1, 5, path, "procedure", out),
        _modifiers(message.modifiers, f"{path}.modifiers", out),
        _pointers(message.diagnosis_pointers, f"{path}.diagnosis_pointers", out),
        _text(message.revenue_code, 0, 4, path, "revenue_code", out),
        _text(message.tooth, 0, 2, path, "tooth", out),
    )


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
    return OtherPayer(
        _text(message.payer, 1, 32, path, "payer", out),
        _one_of(_SEQUENCES, message.sequence, path, "sequence", out),
        _control_number(message.control_number, path, "control_number", out),
        _whole(message.version, 0, MAX_VERSION, path, "version", out),
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
    shown = f"{message.year}-{message.month}-{message.day}"
    reason = "is missing" if missing else f"{shown} is no day of the years {FIRST_YEAR} to {LAST_YEAR}"
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
    if not value:
        return None
    try:
        return claim_ref_of(value)
    except ValueError:
        out.add("intake.control_number", f"{path}.{name}", "is no claim control number: 26 characters A–Z, 2–7")
        return None
