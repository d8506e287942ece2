"""Edits on days: from ≤ through ≤ received, for each line."""

from claims.finding import Finding, Severity
from validation.case import Case


def date_edit(case: Case) -> list[Finding]:
    findings = []
    for position, line in enumerate(case.claim.lines):
        if line.through_day < line.from_day:
            rule, field, why = "date.order", "through", "the service ends before it begins"
        elif line.through_day > case.accepted.received_day:
            rule, field, why = "date.future", "from", "the service is after the day on which the claim was received"
        else:
            continue
        findings.append(
            Finding(
                rule,
                f"lines[{position}].{field}",
                Severity.REJECT,
                why,
                line=line.number,
                group="CO",
                carc="16",
                rarc="M59" if rule == "date.order" else "M52",
            )
        )
    return findings
