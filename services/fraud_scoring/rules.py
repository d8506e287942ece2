"""The rules: each looks at one claim and at what is remembered, and gives a reason or nothing.

Weights are in ten-thousandths and combine as independent doubts do: score = 1 − Π(1 − weight). One rule that is sure
reaches the usual threshold of 0.8 alone, doubtful ones only together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fraud_scoring.features import Observation, ObservedLine, PartitionState, Reason, Score

FULL_BP: Final = 10_000

LONG_DAY_MINUTES: Final = 16 * 60
DAY_MINUTES: Final = 24 * 60
OUTLIER_QUANTILE_PERCENT: Final = 95
OUTLIER_FACTOR: Final = 3
FAR_OUTLIER_FACTOR: Final = 10
OUTLIER_MIN_SEEN: Final = 30
"""Charges of a code that must have been seen before a threefold one says something, …"""
FAR_OUTLIER_MIN_SEEN: Final = 8
"""… and before a tenfold one does: the quantile of so few is their largest, which honest charges exceed, but not so far."""
BURST_FACTOR: Final = 5
BURST_MIN_CLAIMS: Final = 20
VISITS_DAYS: Final = 7
VISITS_LIMIT: Final = 6


@dataclass(frozen=True, slots=True)
class ClaimFacts:
    """What validation says about a claim, and who it is on the ledger; scoring knows nothing else of it."""

    claim_ref: bytes
    version: int
    billing_npi: str
    rendering_npi: str
    member_ref: bytes
    service_day: int
    minutes: int
    """Typical minutes of all lines."""
    lines: tuple[ObservedLine, ...]
    excluded_provider: bool
    same_service_elsewhere: int
    """Lines whose service another provider billed for this member on this day."""


Rule = Callable[[ClaimFacts, PartitionState], Reason | None]


def excluded_provider(claim: ClaimFacts, _: PartitionState) -> Reason | None:
    """The provider is on the exclusion list on the day of service."""
    return Reason("fraud.excluded_provider", 9_500, "on the exclusion list") if claim.excluded_provider else None


def impossible_day(claim: ClaimFacts, state: PartitionState) -> Reason | None:
    """More work than a day holds (weight 0.9), or than a person does in one (0.5), by typical minutes of the codes."""
    if not claim.minutes:
        return None
    minutes = state.minutes_on(claim.rendering_npi, claim.service_day) + claim.minutes
    if minutes <= LONG_DAY_MINUTES:
        return None
    weight = 9_000 if minutes > DAY_MINUTES else 5_000
    return Reason("fraud.impossible_day", weight, f"{minutes} minutes on one day")


def same_service_elsewhere(claim: ClaimFacts, _: PartitionState) -> Reason | None:
    """The member had the same service at two providers on one day."""
    lines = claim.same_service_elsewhere
    return Reason("fraud.same_service_elsewhere", 6_000, f"{lines} lines") if lines else None


def charge_outlier(claim: ClaimFacts, state: PartitionState) -> Reason | None:
    """A unit charge far above the running 95th percentile of its code: beyond threefold 0.5, tenfold 0.85."""
    factor, at = max((_outlier(line, state) for line in claim.lines), default=(0, 0))
    if factor < OUTLIER_FACTOR:
        return None
    weight = 8_500 if factor >= FAR_OUTLIER_FACTOR else 5_000
    return Reason("fraud.charge_outlier", weight, f"{factor} times the 95th percentile of {at} cents a unit")


def _outlier(line: ObservedLine, state: PartitionState) -> tuple[int, int]:
    """Whole multiples of the quantile, and the quantile."""
    charges = state.charges_of(line.procedure)
    if charges is None or charges.total < FAR_OUTLIER_MIN_SEEN or not line.units:
        return 0, 0
    quantile = charges.quantile_cents(OUTLIER_QUANTILE_PERCENT)
    factor = line.charge_cents // line.units // quantile
    enough = charges.total >= OUTLIER_MIN_SEEN or factor >= FAR_OUTLIER_FACTOR
    return (factor, quantile) if enough else (0, 0)


def burst(claim: ClaimFacts, state: PartitionState) -> Reason | None:
    """Many times the provider's usual claims a day."""
    claims = state.claims_on(claim.billing_npi, claim.service_day) + 1
    if claims < BURST_MIN_CLAIMS:
        return None
    usual = state.usual_claims_a_day(claim.billing_npi, claim.service_day)
    if not usual or claims < BURST_FACTOR * usual:
        return None
    return Reason("fraud.burst", 5_000, f"{claims} claims on one day, usually {usual}")


def frequent_visits(claim: ClaimFacts, state: PartitionState) -> Reason | None:
    """One member again and again at one provider within a week."""
    last = claim.service_day
    seen = state.visits(claim.billing_npi, claim.member_ref, last - VISITS_DAYS + 1, last) + 1
    return Reason("fraud.frequent_visits", 4_000, f"{seen} claims in 7 days") if seen > VISITS_LIMIT else None


RULES: Final[tuple[Rule, ...]] = (
    excluded_provider,
    impossible_day,
    same_service_elsewhere,
    charge_outlier,
    burst,
    frequent_visits,
)


def score(claim: ClaimFacts, state: PartitionState) -> Score:
    """The score of a claim that is not in the state yet, with the rules that made it, in their order."""
    reasons = tuple(reason for rule in RULES if (reason := rule(claim, state)) is not None)
    doubtless = FULL_BP
    for reason in reasons:
        doubtless = doubtless * (FULL_BP - reason.weight_bp) // FULL_BP
    return Score(FULL_BP - doubtless, reasons)


def observation_of(claim: ClaimFacts, given: Score) -> Observation:
    """What the state keeps of a scored claim."""
    return Observation(
        claim.claim_ref,
        claim.version,
        claim.billing_npi,
        claim.rendering_npi,
        claim.member_ref,
        claim.service_day,
        claim.minutes,
        claim.lines,
        given,
    )
