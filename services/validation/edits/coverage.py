"""Edits on eligibility: is the person our insured, in this plan, on this day."""

from claims.finding import Finding, Severity
from validation.case import Case


def plan_edit(case: Case) -> list[Finding]:
    """The payer has the plan, and it runs on every line's days."""
    plan = case.plan
    if plan is None:
        return [_reject("plan.unknown", "header.plan", "this payer has no such plan", "31", "N382")]
    findings = []
    for position, line in enumerate(case.claim.lines):
        if not plan.first_day <= line.from_day <= plan.last_day:
            field = "from"
        elif not plan.first_day <= line.through_day <= plan.last_day:
            field = "through"
        else:
            continue
        path, why = f"lines[{position}].{field}", "the plan does not run on the day of service"
        findings.append(_reject("plan.day", path, why, "31", "N382", line.number))
    return findings


def member_edit(case: Case) -> list[Finding]:
    """The number on the card is one of ours and the birth date is that person's."""
    path = "parties.patient.member_id"
    if case.member is None:
        return [_reject("member.unknown", path, "the patient is not insured with this payer", "31", "N382")]
    if case.member.birth_day != case.claim.parties.patient.birth_day:
        where, why = "parties.patient.birth", "the birth date is not that of the person with this number"
        return [_reject("member.unknown", where, why, "31", "N382")]
    return []


def coverage_edit(case: Case) -> list[Finding]:
    """The member's plan is the claim's, and covers every line's day."""
    member = case.member
    if member is None:
        return []
    if member.plan != case.claim.header.plan:
        return [_reject("coverage.plan", "header.plan", "the patient is enrolled in another plan", "31", "N382")]
    findings = []
    for position, line in enumerate(case.claim.lines):
        path = f"lines[{position}].from"
        if line.from_day < member.first_day:
            findings.append(_reject("coverage.before", path, "before the coverage began", "26", "", line.number))
        elif line.through_day > member.last_day:
            findings.append(_reject("coverage.after", path, "after the coverage ended", "27", "", line.number))
    return findings


def _reject(rule: str, path: str, message: str, carc: str, rarc: str, line: int = 0) -> Finding:
    hint = "compare with the card and with the coverage on the day of service"
    return Finding(rule, path, Severity.REJECT, message, line=line, group="PR", carc=carc, rarc=rarc, hint=hint)
