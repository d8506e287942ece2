"""What a member was billed for before: exact duplicates, and the same service elsewhere on the same day.

A claim is judged once, when it first comes; what was found then is kept with it, so a redelivered claim gets the same
answer and is never a duplicate of itself. What was denied was not paid, so nothing is a duplicate of it: a claim keeps
only the lines that stand, and a replacement or a void keeps none. A member's history is bounded in claims and days;
each claim is one record of the compacted state topic, and a forgotten claim's tombstone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

from claims.claim import MAX_LINES, ClaimRef, Frequency, ServiceLine
from claims.encoding import U16, Cents, Codec, Day, DecodeError, Many, Text
from claims.finding import Finding, Severity
from claims.quick import quick
from validation.case import Case

MAX_CLAIMS: Final = 400
"""Claims kept of one member; the oldest go first."""
KEPT_DAYS: Final = 400
"""Claims received longer ago than this before the newest one are forgotten."""


@dataclass(frozen=True, slots=True)
class BilledLine:
    """What makes a line the same as another."""

    number: Annotated[int, U16]
    npi: Annotated[str, Text(10)]
    day: Day
    code: Annotated[str, Text(16)]
    """Procedure and modifiers, and the tooth after a #."""
    units: Annotated[int, U16]
    charge_cents: Cents


@dataclass(frozen=True, slots=True)
class BilledClaim:
    """A claim as it was judged when it first came."""

    claim_ref: ClaimRef
    version: Annotated[int, U16]
    received_day: Day
    lines: Annotated[tuple[BilledLine, ...], Many(MAX_LINES)]
    """Of an original claim, those that were not denied: with them later claims are compared."""
    duplicates: Annotated[tuple[Annotated[int, U16], ...], Many(MAX_LINES)]
    """Numbers of lines that had been billed before, or by an earlier line of the claim."""
    elsewhere: Annotated[tuple[Annotated[int, U16], ...], Many(MAX_LINES)]
    """Numbers of lines whose service another provider billed for the same day."""


BILLED_CLAIM: Final = Codec(BilledClaim)
_billed_claim, _billed_line = quick(BilledClaim), quick(BilledLine)
_REF_BYTES: Final = 16


@dataclass(slots=True)
class MemberHistory:
    """One member's claims in the order in which they came, and their lines by day and code."""

    claims: dict[tuple[bytes, int], BilledClaim] = field(default_factory=dict)
    services: dict[tuple[int, str], list[tuple[bytes, BilledLine]]] = field(default_factory=dict)

    def add(self, claim: BilledClaim) -> None:
        self.claims[claim.claim_ref, claim.version] = claim
        for line in claim.lines:
            self.services.setdefault((line.day, line.code), []).append((claim.claim_ref, line))

    def remove(self, key: tuple[bytes, int]) -> None:
        claim = self.claims.pop(key)
        for line in claim.lines:
            entries = self.services[line.day, line.code]
            entries.remove((claim.claim_ref, line))
            if not entries:
                del self.services[line.day, line.code]

    def forget(self, received_day: int) -> list[tuple[bytes, int]]:
        """Drops the oldest claims while they are too many or too long ago; returns which."""
        gone: list[tuple[bytes, int]] = []
        for key, claim in self.claims.items():
            if len(self.claims) - len(gone) <= MAX_CLAIMS and claim.received_day >= received_day - KEPT_DAYS:
                break
            gone.append(key)
        for key in gone:
            self.remove(key)
        return gone


@dataclass(slots=True)
class Histories:
    """The members of one partition, by member_ref."""

    members: dict[bytes, MemberHistory] = field(default_factory=dict)

    def judge(self, case: Case, findings: Iterable[Finding]) -> tuple[BilledClaim, list[tuple[bytes, bytes]]]:
        """The claim's judgement, and the state records (key, value) that keep it; none for a claim that came before.

        `findings` tell which lines the edits deny. An empty value says that a claim is forgotten.
        """
        assert case.member is not None, "only a known member has a history"
        member = case.member.member_ref
        history = self.members.setdefault(member, MemberHistory())
        key = (case.accepted.claim_ref, case.accepted.version)
        known = history.claims.get(key)
        if known is not None:
            return known, []
        judged = _judged(case, findings, history)
        history.add(judged)
        gone = history.forget(judged.received_day)
        records = [(state_key(member, *key), BILLED_CLAIM.encode(judged))]
        return judged, records + [(state_key(member, *old), b"") for old in gone]

    def restore(self, key: bytes, encoded: bytes) -> None:
        """Takes one state record, in the order of the state topic. Raises DecodeError, and then has changed nothing."""
        claim = BILLED_CLAIM.decode(encoded) if encoded else None
        member, ref, version = key[:_REF_BYTES], key[_REF_BYTES:-2], int.from_bytes(key[-2:], "big")
        if claim is not None and key != state_key(member, claim.claim_ref, claim.version):
            raise DecodeError("the key is that of another claim", 0)
        history = self.members.setdefault(member, MemberHistory())
        if (ref, version) in history.claims:
            history.remove((ref, version))
        if claim is not None:
            history.add(claim)


def state_key(member_ref: bytes, claim_ref: bytes, version: int) -> bytes:
    """member_ref ‖ claim_ref ‖ version in 2 bytes: one state record for each claim, so that one more costs one more."""
    return member_ref + claim_ref + version.to_bytes(2, "big")


def _judged(case: Case, findings: Iterable[Finding], history: MemberHistory) -> BilledClaim:
    frequency = case.claim.header.frequency
    denied = {finding.line for finding in findings if finding.severity is Severity.DENY}
    duplicates, elsewhere = [], []
    standing: list[BilledLine] = []
    for line in billed_lines(case) if frequency is not Frequency.VOID else ():
        others = _others(case, line, history) if frequency is Frequency.ORIGINAL else []
        if any(_same(line, other) for other in (*others, *standing)):
            duplicates.append(line.number)
        elif denied.isdisjoint((0, line.number)):
            standing.append(line)
        if any(line.npi != other.npi for other in others):
            elsewhere.append(line.number)
    return _billed_claim(
        case.accepted.claim_ref,
        case.accepted.version,
        case.accepted.received_day,
        tuple(standing) if frequency is Frequency.ORIGINAL else (),
        tuple(duplicates),
        tuple(elsewhere),
    )


def _others(case: Case, line: BilledLine, history: MemberHistory) -> list[BilledLine]:
    """Lines of other claims with the line's day and code."""
    before = history.services.get((line.day, line.code), ())
    return [other for ref, other in before if ref != case.accepted.claim_ref]


def billed_lines(case: Case) -> tuple[BilledLine, ...]:
    npi = case.claim.parties.billing_npi
    return tuple(
        [
            _billed_line(line.number, npi, line.from_day, _code(line), line.units, line.charge_cents)
            for line in case.claim.lines
        ]
    )


def _code(line: ServiceLine) -> str:
    code = line.procedure + "".join(line.modifiers)
    return f"{code}#{line.tooth}" if line.tooth else code


def _same(line: BilledLine, other: BilledLine) -> bool:
    """Exact: provider, day, code with modifiers, units and charge (claims.md, duplicate)."""
    return (line.npi, line.day, line.code, line.units, line.charge_cents) == (
        other.npi,
        other.day,
        other.code,
        other.units,
        other.charge_cents,
    )
