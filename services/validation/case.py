"""What edits look at: one claim with everything that the payer knows about its member, plan and provider."""

from dataclasses import dataclass

from claims.claim import AcceptedClaim, Claim
from claims.reference import Benefit, Member, PayerReference, Plan, Provider
from claims.transaction import Tier


@dataclass(frozen=True, slots=True)
class Case:
    """A claim and the facts in force. What is not known is None, and an edit says so."""

    accepted: AcceptedClaim
    claim: Claim
    reference: PayerReference
    member: Member | None
    plan: Plan | None
    provider: Provider | None

    @property
    def service_day(self) -> int:
        """The first day of service of the whole claim."""
        return min(line.from_day for line in self.claim.lines)

    @property
    def tier(self) -> Tier:
        return self.provider.tier if self.provider else Tier.OUT_OF_NETWORK


def case_of(accepted: AcceptedClaim, claim: Claim, reference: PayerReference) -> Case:
    """Looks up what the payer knows."""
    return Case(
        accepted,
        claim,
        reference,
        reference.members.get(claim.parties.patient.member_id),
        reference.plans.get(claim.header.plan),
        reference.providers.get(claim.parties.billing_npi),
    )


def benefit_of(plan: Plan, benefit_class: str, tier: Tier) -> Benefit | None:
    """The plan's benefit for a class of services in a tier."""
    return next((b for b in plan.benefits if b.benefit_class == benefit_class and b.tier is tier), None)
