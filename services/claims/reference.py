"""What a payer knows before a claim comes: plans, benefits, fees, members, providers.

Values only; files are read at the edge and passed in. One `PayerReference` belongs to one payer and never leaves
it. `rule_set_hash` names exactly what priced a claim.

Source: claims.md, Pricing; settlement.md, PublishPlan and EnrollMember.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from claims.transaction import AccumulatorRule, CobMethod, Tier


@dataclass(frozen=True, slots=True)
class Benefit:
    """How a plan treats a class of services: the line's copay, coinsurance and deductible, per network tier.

    `covered` false denies the line (CARC 96 with RARC N130). `limit_class` 0 means without a limit.
    """

    benefit_class: str
    tier: Tier
    copay_cents: int
    coinsurance_bp: int
    deductible_applies: bool
    covered: bool = True
    limit_class: int = 0
    authorization_required: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    plan: str
    year: int
    payers: tuple[str, ...]
    first_day: int
    last_day: int
    accumulators: tuple[AccumulatorRule, ...]
    cob_method: CobMethod
    benefits: tuple[Benefit, ...]
    unscheduled_percent_of_charge: int
    """What is allowed for a code without a fee, 0–100 percent of the charge."""
    timely_filing_days: int


@dataclass(frozen=True, slots=True)
class Fee:
    """The allowed amount per unit of a procedure, by tier, in force from first_day through last_day."""

    procedure: str
    modifier: str
    tier: Tier
    benefit_class: str
    allowed_cents: int
    first_day: int
    last_day: int


@dataclass(frozen=True, slots=True)
class Member:
    """A person's coverage. The refs are the pseudonyms that the ledger knows."""

    member_id: str
    member_ref: bytes
    family_ref: bytes
    plan: str
    family_name: str
    given_name: str
    birth_day: int
    sex: int
    first_day: int
    last_day: int
    stable_id: str
    """The identifier under which the duplicate tag is made, the same at every payer of this person."""


@dataclass(frozen=True, slots=True)
class Provider:
    npi: str
    organisation: str
    """Who is paid: an organisation of the ledger."""
    provider_ref: bytes
    taxonomy: str
    tier: Tier
    excluded_from_day: int | None = None
    """From when the provider is on the exclusion list, None if not."""


@dataclass(frozen=True, slots=True)
class PayerReference:
    payer: str
    rule_set_hash: bytes
    plans: Mapping[str, Plan]
    fees: Mapping[tuple[str, str, Tier], tuple[Fee, ...]]
    """By (procedure, modifier or "", tier)."""
    members: Mapping[str, Member]
    """By member_id."""
    providers: Mapping[str, Provider]
    """By NPI."""
    diagnosis_codes: frozenset[str]
    """ICD-10-CM leaves in force, without dots; empty where no table is loaded, and edits say so."""
    exclusions_version: str
