"""From a claim that passed its edits to the priced claim of the ledger: amounts without codes.

allowed = min(charge, fee × units); without a fee the plan's percentage of the charge. The plan's benefit table turns the line
into copay, coinsurance and deductible. Denials from edits travel with their group and CARC.

Source: claims.md, Pricing; settlement.md, SubmitClaim.
"""

import hashlib
from collections.abc import Sequence

from claims.claim import ServiceLine, commitment
from claims.finding import Finding, Severity
from claims.money import half_up
from claims.quick import quick
from claims.reference import Benefit
from claims.transaction import (
    Disposition,
    Group,
    PricedClaim,
    PricedLine,
    PriorClaim,
    ReasonClass,
    Tier,
)
from validation.case import Case

_priced_claim, _priced_line = quick(PricedClaim), quick(PricedLine)


def price(case: Case, findings: Sequence[Finding], tags: Sequence[bytes]) -> PricedClaim:
    """The priced claim. No finding is a reject, so member, plan and provider are known; one tag for each line."""
    member, plan, provider = case.member, case.plan, case.provider
    assert member, "edits reject what is not known"
    assert plan, "as above"
    assert provider, "as above"
    lines = tuple(
        [
            _price_line(case, line, position, findings, tag)
            for position, (line, tag) in enumerate(zip(case.claim.lines, tags, strict=True))
        ]
    )
    disposition, reason = _disposition(findings, lines)
    header = case.claim.header
    return _priced_claim(
        claim_ref=case.accepted.claim_ref,
        version=case.accepted.version,
        frequency=header.frequency,
        submitter=case.accepted.submitter,
        payer=case.reference.payer,
        payee=provider.organisation,
        provider_ref=provider.provider_ref,
        member_ref=member.member_ref,
        plan=plan.plan,
        plan_year=plan.year,
        tier=case.tier,
        service_day=case.service_day,
        received_day=case.accepted.received_day,
        authorization=_authorization_token(case),
        disposition=disposition,
        reason=reason,
        commitment=commitment(case.accepted.salt, case.accepted.claim),
        envelope_digest=case.accepted.envelope_digest,
        prior=_prior(case),
        lines=lines,
    )


def _prior(case: Case) -> tuple[PriorClaim, ...]:
    """Earlier payers' claims on the ledger, all of them or none.

    What they paid there counts in place of what the claim says, so with a part of them the rest would be lost.
    """
    known = tuple(
        PriorClaim(other.payer, other.claim_ref, other.version)
        for other in case.claim.other_payers
        if other.claim_ref is not None
    )
    return known if len(known) == len(case.claim.other_payers) else ()


def _price_line(case: Case, line: ServiceLine, position: int, findings: Sequence[Finding], tag: bytes) -> PricedLine:
    plan = case.plan
    assert plan is not None
    fee, benefit = case.terms[position].fee, case.terms[position].benefit
    if fee is None:
        allowed = half_up(line.charge_cents * plan.unscheduled_percent_of_charge, 100)
    else:
        allowed = fee.allowed_cents * line.units
    group, carc = _denial(line.number, findings)
    return _priced(line, min(line.charge_cents, allowed), benefit, case, position, group, carc, tag)


def _priced(
    line: ServiceLine,
    allowed_cents: int,
    benefit: Benefit | None,
    case: Case,
    position: int,
    group: Group,
    carc: str,
    tag: bytes,
) -> PricedLine:
    return _priced_line(
        number=line.number,
        charge_cents=line.charge_cents,
        allowed_cents=0 if carc else allowed_cents,
        # Out of network nobody agreed on the fee schedule, so the patient bears what exceeds it.
        contractual_group=Group.CO if case.tier is Tier.IN_NETWORK else Group.PR,
        limit_class=benefit.limit_class if benefit else 0,
        copay_cents=benefit.copay_cents if benefit else 0,
        coinsurance_bp=benefit.coinsurance_bp if benefit else 0,
        deductible_applies=benefit.deductible_applies if benefit else False,
        other_payer_paid_cents=sum(other.line_paid_cents[position] for other in case.claim.other_payers),
        duplicate_tag=tag,
        denial_group=group,
        denial_carc=carc,
    )


def _denial(number: int, findings: Sequence[Finding]) -> tuple[Group, str]:
    """The first denial that concerns the line or the whole claim."""
    for finding in findings:
        if finding.severity is Severity.DENY and finding.line in {0, number}:
            return Group[finding.group], finding.carc
    return Group.CO, ""


def _disposition(findings: Sequence[Finding], lines: Sequence[PricedLine]) -> tuple[Disposition, ReasonClass]:
    if all(line.denial_carc for line in lines):
        return Disposition.DENY, ReasonClass.NONE
    if any(finding.severity is Severity.PEND for finding in findings):
        return Disposition.PEND, ReasonClass.EDIT
    return Disposition.PAY, ReasonClass.NONE


def _authorization_token(case: Case) -> bytes | None:
    """The token that the ledger counts, bound to payer and member so that the number itself stays here."""
    number = case.claim.header.authorization
    if not number or case.member is None:
        return None
    told = case.reference.payer.encode() + b"\x00" + case.member.member_ref + number.encode()
    return hashlib.sha256(b"claims/authorization/v1" + told).digest()
