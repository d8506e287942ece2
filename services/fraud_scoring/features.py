"""What scoring remembers of a partition: windows of providers, of members at a provider, and of the charges of codes.

A claim is observed once, when it first comes; its score is kept with it, so that a redelivered claim gets the same
score and counts once. Everything here is integers and order of arrival: the same history gives the same state, and so
the same scores. Every table has a bound; what was touched longest ago goes first.

Pseudonyms only: a member is the ledger's member_ref. NPIs and procedure codes stay in this service's own state.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from claims.claim import MAX_LINES, ClaimRef
from claims.encoding import U8, U16, U32, Cents, Codec, Day, Many, Text
from claims.transaction import MAX_CLAIMS_PER_RECORD, Ref

WINDOW_DAYS: Final = 35
"""Days of service kept of a provider, counted back from the latest seen."""
VISIT_DAYS: Final = 16
"""Days kept of a member at a provider."""
MAX_PROVIDERS: Final = 4_000
MAX_VISITS: Final = 20_000
MAX_CODES: Final = 4_000
MAX_SCORES: Final = 50_000
"""Claims whose score is remembered; more than can be taken again after a crash."""
HALVE_AT: Final = 2_000
"""Observations of a code after which all its counts are halved, so that new charges outweigh old ones."""
MAX_RULES: Final = 8
MAX_SUM: Final = 2**32 - 1
"""What a sum of claims or minutes holds; one that is larger stays there."""

_EDGES: Final = tuple(int(100 * 2 ** (step / 4)) for step in range(64))
"""Upper edges of the charge classes, cents per unit: from 1.00, four to a doubling, to about 55,000.00."""

Npi = Annotated[str, Text(10)]
Procedure = Annotated[str, Text(8)]


@dataclass(frozen=True, slots=True)
class ObservedLine:
    procedure: Procedure
    units: Annotated[int, U16]
    charge_cents: Cents


@dataclass(frozen=True, slots=True)
class Reason:
    """A rule that spoke. `weight_bp` is what it adds, in ten-thousandths; `figures` are for analysts."""

    rule: Annotated[str, Text(32)]
    weight_bp: Annotated[int, U16]
    figures: Annotated[str, Text(120)]


@dataclass(frozen=True, slots=True)
class Score:
    """`score_bp` is the score in ten-thousandths, 0 to 10,000."""

    score_bp: Annotated[int, U16]
    reasons: Annotated[tuple[Reason, ...], Many(MAX_RULES)]


@dataclass(frozen=True, slots=True)
class Observation:
    """What of a claim enters the state, with the score that it got."""

    claim_ref: ClaimRef
    version: Annotated[int, U16]
    billing_npi: Npi
    rendering_npi: Npi
    member_ref: Ref
    service_day: Day
    minutes: Annotated[int, U32]
    lines: Annotated[tuple[ObservedLine, ...], Many(MAX_LINES)]
    score: Score


@dataclass(frozen=True, slots=True)
class Observations:
    """Of one record."""

    claims: Annotated[tuple[Observation, ...], Many(MAX_CLAIMS_PER_RECORD)]


OBSERVATIONS: Final = Codec(Observations)


@dataclass(frozen=True, slots=True)
class _DayRow:
    day: Day
    claims: Annotated[int, U32]
    minutes: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class _ProviderRow:
    npi: Npi
    days: Annotated[tuple[_DayRow, ...], Many(WINDOW_DAYS)]


@dataclass(frozen=True, slots=True)
class _VisitRow:
    npi: Npi
    member_ref: Ref
    days: Annotated[tuple[Day, ...], Many(VISIT_DAYS)]


@dataclass(frozen=True, slots=True)
class _ClassRow:
    charge_class: Annotated[int, U8]
    count: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class _CodeRow:
    procedure: Procedure
    classes: Annotated[tuple[_ClassRow, ...], Many(len(_EDGES) + 1)]


@dataclass(frozen=True, slots=True)
class _ScoreRow:
    claim_ref: ClaimRef
    version: Annotated[int, U16]
    score: Score


@dataclass(frozen=True, slots=True)
class _Rows:
    """The whole state, in the order in which its entries were last touched."""

    providers: Annotated[tuple[_ProviderRow, ...], Many(MAX_PROVIDERS)]
    visits: Annotated[tuple[_VisitRow, ...], Many(MAX_VISITS)]
    codes: Annotated[tuple[_CodeRow, ...], Many(MAX_CODES)]
    scores: Annotated[tuple[_ScoreRow, ...], Many(MAX_SCORES)]


_ROWS: Final = Codec(_Rows)


@dataclass(slots=True)
class CodeCharges:
    """How often each class of charges per unit was seen for one code."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0

    def add(self, charge_class: int) -> None:
        self.counts[charge_class] = self.counts.get(charge_class, 0) + 1
        self.total += 1
        if self.total >= HALVE_AT:
            self.counts = {c: n // 2 for c, n in self.counts.items() if n > 1}
            self.total = sum(self.counts.values())

    def quantile_cents(self, percent: int) -> int:
        """The upper edge of the class in which the quantile falls, cents per unit; 0 with nothing seen."""
        wanted, seen = self.total * percent, 0
        for charge_class in sorted(self.counts):
            seen += self.counts[charge_class] * 100
            if seen >= wanted:
                return _EDGES[min(charge_class, len(_EDGES) - 1)]
        return 0


def charge_class(cents_per_unit: int) -> int:
    """0 for up to 1.00, then one class for each factor of 2^(1/4); the last is open above."""
    return bisect_left(_EDGES, cents_per_unit)


class PartitionState:
    """Windows and scores of one partition. `observe` is the only way in."""

    def __init__(self) -> None:
        self._providers: dict[str, dict[int, tuple[int, int]]] = {}
        self._visits: dict[tuple[str, bytes], tuple[int, ...]] = {}
        self._codes: dict[str, CodeCharges] = {}
        self._scores: dict[tuple[bytes, int], Score] = {}

    def score_of(self, claim_ref: bytes, version: int) -> Score | None:
        """The score that the claim got when it first came, while it is remembered."""
        return self._scores.get((claim_ref, version))

    def claims_on(self, npi: str, day: int) -> int:
        """Claims that the provider billed for that day."""
        return self._providers.get(npi, {}).get(day, (0, 0))[0]

    def minutes_on(self, npi: str, day: int) -> int:
        """Typical minutes of the work that the provider rendered on that day."""
        return self._providers.get(npi, {}).get(day, (0, 0))[1]

    def usual_claims_a_day(self, npi: str, day: int) -> int:
        """Claims a day over the provider's other days in the window, rounded up; 0 for a provider with fewer than 5."""
        others = [claims for at, (claims, _) in self._providers.get(npi, {}).items() if at != day and claims]
        return -(-sum(others) // len(others)) if len(others) >= 5 else 0

    def visits(self, npi: str, member_ref: bytes, first_day: int, last_day: int) -> int:
        """Claims for this member by this provider with a day of service in that range, as far as kept."""
        return sum(first_day <= day <= last_day for day in self._visits.get((npi, member_ref), ()))

    def charges_of(self, procedure: str) -> CodeCharges | None:
        return self._codes.get(procedure)

    def observe(self, seen: Observation) -> None:
        """Takes a claim in. One that is remembered already changes nothing."""
        key = (seen.claim_ref, seen.version)
        if key in self._scores:
            return
        self._add_day(seen.billing_npi, seen.service_day, 1, 0)
        self._add_day(seen.rendering_npi, seen.service_day, 0, seen.minutes)
        visit = (seen.billing_npi, seen.member_ref)
        days = (*self._visits.pop(visit, ()), seen.service_day)[-VISIT_DAYS:]
        _put(self._visits, visit, days, MAX_VISITS)
        for line in seen.lines:
            if line.units:
                charges = self._codes.pop(line.procedure, None) or CodeCharges()
                charges.add(charge_class(line.charge_cents // line.units))
                _put(self._codes, line.procedure, charges, MAX_CODES)
        _put(self._scores, key, seen.score, MAX_SCORES)

    def _add_day(self, npi: str, day: int, claims: int, minutes: int) -> None:
        days = self._providers.pop(npi, None) or {}
        before = days.get(day)
        seen_claims, seen_minutes = before or (0, 0)
        # A larger sum has no encoding, so every snapshot from here on would fail.
        days[day] = (min(seen_claims + claims, MAX_SUM), min(seen_minutes + minutes, MAX_SUM))
        if before is None:
            oldest = max(days) - WINDOW_DAYS
            for gone in [at for at in days if at <= oldest]:
                del days[gone]
        _put(self._providers, npi, days, MAX_PROVIDERS)

    def encoded(self) -> bytes:
        """Fixed encoding of everything."""
        return _ROWS.encode(
            _Rows(tuple(self._provider_rows()), tuple(self._visit_rows()), tuple(self._code_rows()), self._score_rows())
        )

    def _provider_rows(self) -> Iterator[_ProviderRow]:
        for npi, days in self._providers.items():
            yield _ProviderRow(npi, tuple(_DayRow(day, *figures) for day, figures in days.items()))

    def _visit_rows(self) -> Iterator[_VisitRow]:
        for (npi, member_ref), days in self._visits.items():
            yield _VisitRow(npi, member_ref, days)

    def _code_rows(self) -> Iterator[_CodeRow]:
        for procedure, charges in self._codes.items():
            yield _CodeRow(procedure, tuple(_ClassRow(c, n) for c, n in charges.counts.items()))

    def _score_rows(self) -> tuple[_ScoreRow, ...]:
        return tuple(_ScoreRow(ref, version, score) for (ref, version), score in self._scores.items())

    @classmethod
    def decoded(cls, encoded: bytes) -> "PartitionState":
        """Inverse of `encoded`. Raises claims.encoding.DecodeError."""
        rows, state = _ROWS.decode(encoded), cls()
        state._providers = {row.npi: {d.day: (d.claims, d.minutes) for d in row.days} for row in rows.providers}
        state._visits = {(row.npi, row.member_ref): row.days for row in rows.visits}
        state._codes = {row.procedure: _charges(row.classes) for row in rows.codes}
        state._scores = {(row.claim_ref, row.version): row.score for row in rows.scores}
        return state


def _charges(rows: Iterable[_ClassRow]) -> CodeCharges:
    counts = {row.charge_class: row.count for row in rows}
    return CodeCharges(counts, sum(counts.values()))


def _put(table: dict[Any, Any], key: Any, value: Any, limit: int) -> None:
    """As the newest entry; the oldest goes when there are too many."""
    table[key] = value
    if len(table) > limit:
        del table[next(iter(table))]
