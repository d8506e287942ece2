"""What edits look at: one claim with everything that the payer knows about its member, plan and provider."""

from collections.abc import Sequence
from dataclasses import dataclass

from claims.claim import AcceptedClaim, Claim, ServiceLine
from claims.quick import quick
from claims.reference import Benefit, Fee, Member, PayerReference, Plan, Provider
from claims.transaction import Tier
from validation.fees import DEFAULT_CLASS, fee_for


@dataclass(frozen=True, slots=True)
class Terms:
    """What payer and plan say of a line's service, each None where they say nothing."""

    fee: Fee | None
    benefit: Benefit | None
    """Of the fee's class, or of the default class without a fee."""


@dataclass(frozen=True, slots=True)
class Case:
    """A claim and the facts in force. What is not known is None, and an edit says so."""

    accepted: AcceptedClaim
    claim: Claim
    reference: PayerReference
    member: Member | None
    plan: Plan | None
    provider: Provider | None
    tier: Tier
    service_day: int
    """The first day of service of the whole claim."""
    terms: tuple[Terms, ...]
    """One for each line."""


_case, _terms = quick(Case), quick(Terms)


def case_of(accepted: AcceptedClaim, claim: Claim, reference: PayerReference) -> Case:
    """Looks up what the payer knows."""
    plan = reference.plans.get(claim.header.plan)
    provider = reference.providers.get(claim.parties.billing_npi)
    tier = provider.tier if provider else Tier.OUT_OF_NETWORK
    return _case(
        accepted,
        claim,
        reference,
        reference.members.get(claim.parties.patient.member_id),
        plan,
        provider,
        tier,
        min([line.from_day for line in claim.lines]),
        tuple([_terms_of(line, reference, plan, tier) for line in claim.lines]),
    )


def excluded_roles(case: Case) -> list[str]:
    """Who of billing and rendering provider was on the exclusion list on a day of service."""
    parties = case.claim.parties
    asked = [("billing", case.provider)]
    if parties.rendering_npi not in {"", parties.billing_npi}:
        asked.append(("rendering", case.reference.providers.get(parties.rendering_npi)))
    return [role for role, provider in asked if provider and _is_excluded(provider, case.claim.lines)]


def _is_excluded(provider: Provider, lines: Sequence[ServiceLine]) -> bool:
    excluded_from = provider.excluded_from_day
    return excluded_from is not None and any(line.through_day >= excluded_from for line in lines)


def _terms_of(line: ServiceLine, reference: PayerReference, plan: Plan | None, tier: Tier) -> Terms:
    fee = fee_for(reference, line, tier)
    benefit_class = fee.benefit_class if fee else DEFAULT_CLASS
    return _terms(fee, benefit_of(plan, benefit_class, tier) if plan else None)


def benefit_of(plan: Plan, benefit_class: str, tier: Tier) -> Benefit | None:
    """The plan's benefit for a class of services in a tier."""
    for benefit in plan.benefits:
        if benefit.benefit_class == benefit_class and benefit.tier is tier:
            return benefit
    return None
