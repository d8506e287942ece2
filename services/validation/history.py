"""What a member was billed for before: exact duplicates, and the same service elsewhere on the same day.

A claim is judged once, when it first comes; what was found then is kept with it, so a redelivered claim gets the same
answer and is never a duplicate of itself. A member's history is one value, bounded in claims and days, kept under the
member's pseudonym in the compacted state topic.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

from claims.claim import MAX_LINES, ClaimRef, Frequency
from claims.encoding import U16, Cents, Codec, Day, Many, Text
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
    """Procedure and modifiers."""
    units: Annotated[int, U16]
    charge_cents: Cents


@dataclass(frozen=True, slots=True)
class BilledClaim:
    """A claim as it was judged when it first came."""

    claim_ref: ClaimRef
    version: Annotated[int, U16]
    received_day: Day
    lines: Annotated[tuple[BilledLine, ...], Many(MAX_LINES)]
    duplicates: Annotated[tuple[Annotated[int, U16], ...], Many(MAX_LINES)]
    """Numbers of lines that had been billed before."""
    elsewhere: Annotated[tuple[Annotated[int, U16], ...], Many(MAX_LINES)]
    """Numbers of lines whose service another provider billed for the same day."""


@dataclass(frozen=True, slots=True)
class MemberHistory:
    """In the order in which the claims came."""

    claims: Annotated[tuple[BilledClaim, ...], Many(MAX_CLAIMS)]


MEMBER_HISTORY: Final = Codec(MemberHistory)
EMPTY: Final = MemberHistory(())


@dataclass(slots=True)
class Histories:
    """The members of one partition, by member_ref."""

    members: dict[bytes, MemberHistory] = field(default_factory=dict)

    def judge(self, case: Case) -> tuple[BilledClaim, bool]:
        """The claim's judgement, and whether it is new (and the member's history has changed)."""
        assert case.member is not None, "only a known member has a history"
        history = self.members.get(case.member.member_ref, EMPTY)
        key = (case.accepted.claim_ref, case.accepted.version)
        for claim in history.claims:
            if (claim.claim_ref, claim.version) == key:
                return claim, False
        judged = _judged(case, history)
        self.members[case.member.member_ref] = _with(history, judged)
        return judged, True

    def encoded(self, member_ref: bytes) -> bytes:
        return MEMBER_HISTORY.encode(self.members[member_ref])

    def restore(self, member_ref: bytes, encoded: bytes) -> None:
        self.members[member_ref] = MEMBER_HISTORY.decode(encoded)


def _judged(case: Case, history: MemberHistory) -> BilledClaim:
    lines = billed_lines(case)
    others = [line for claim in history.claims if claim.claim_ref != case.accepted.claim_ref for line in claim.lines]
    corrects = case.claim.header.frequency is not Frequency.ORIGINAL
    return BilledClaim(
        case.accepted.claim_ref,
        case.accepted.version,
        case.accepted.received_day,
        lines,
        () if corrects else _numbers(lines, others, _same),
        () if corrects else _numbers(lines, others, _same_elsewhere),
    )


def billed_lines(case: Case) -> tuple[BilledLine, ...]:
    npi = case.claim.parties.billing_npi
    return tuple(
        BilledLine(
            line.number, npi, line.from_day, line.procedure + "".join(line.modifiers), line.units, line.charge_cents
        )
        for line in case.claim.lines
    )


def _same(line: BilledLine, other: BilledLine) -> bool:
    """Exact: provider, day, code with modifiers, units and charge (claims.md, duplicate)."""
    return (line.npi, line.day, line.code, line.units, line.charge_cents) == (
        other.npi,
        other.day,
        other.code,
        other.units,
        other.charge_cents,
    )


def _same_elsewhere(line: BilledLine, other: BilledLine) -> bool:
    return line.npi != other.npi and line.day == other.day and line.code == other.code


def _numbers(
    lines: Iterable[BilledLine], others: list[BilledLine], matches: Callable[[BilledLine, BilledLine], bool]
) -> tuple[int, ...]:
    return tuple(line.number for line in lines if any(matches(line, other) for other in others))


def _with(history: MemberHistory, claim: BilledClaim) -> MemberHistory:
    kept = [c for c in history.claims if c.received_day >= claim.received_day - KEPT_DAYS]
    return MemberHistory((*kept, claim)[-MAX_CLAIMS:])
