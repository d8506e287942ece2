"""Edits that take lines off by the plan's own terms: filed too late, not authorised, not covered."""

from claims.finding import Finding, Severity
from claims.reference import Benefit
from validation.case import Case


def timely_filing_edit(case: Case) -> list[Finding]:
    """Every line of a claim that came too late after its service is denied."""
    if case.plan is None:
        return []
    limit = case.plan.timely_filing_days
    return [
        Finding(
            "filing.late",
            f"lines[{position}].through",
            Severity.DENY,
            f"received {case.accepted.received_day - line.through_day} days after the service, {limit} are allowed",
            line=line.number,
            group="CO",
            carc="29",
            hint="appeal with proof that the claim was filed in time, if it was",
        )
        for position, line in enumerate(case.claim.lines)
        if case.accepted.received_day - line.through_day > limit
    ]


def authorization_edit(case: Case) -> list[Finding]:
    """A benefit that needs a prior authorisation, billed without one."""
    if case.claim.header.authorization:
        return []
    return [
        Finding(
            "authorization.missing",
            "header.authorization",
            Severity.DENY,
            "the plan wants a prior authorisation for this service",
            line=number,
            group="CO",
            carc="197",
            hint="submit again with the number of the authorisation",
        )
        for number, benefit in _benefits(case)
        if benefit is not None and benefit.authorization_required
    ]


def covered_edit(case: Case) -> list[Finding]:
    """A class that the plan says it does not cover, or does not name in the provider's tier."""
    if case.plan is None or case.provider is None:
        return []
    return [
        Finding(
            "benefit.not-covered",
            f"lines[{number}]",
            Severity.DENY,
            "the plan does not cover this class of services",
            line=number,
            group="PR",
            carc="96",
            rarc="N130",
            hint="the plan's list of benefits tells what is covered",
        )
        for number, benefit in _benefits(case)
        if benefit is None or not benefit.covered
    ]


def _benefits(case: Case) -> list[tuple[int, Benefit | None]]:
    """Each line's number and its benefit in the provider's tier, where the plan tells one."""
    return [(line.number, terms.benefit) for line, terms in zip(case.claim.lines, case.terms, strict=True)]
