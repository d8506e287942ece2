"""Edits on days: from ≤ through ≤ received, for each line."""

from claims.finding import Finding, Severity
from validation.case import Case


def date_edit(case: Case) -> list[Finding]:
    findings = []
    for position, line in enumerate(case.claim.lines):
        if line.through_day < line.from_day:
            rule, field, why = "date.order", "through", "the service ends before it begins"
        elif line.through_day > case.accepted.received_day:
            field = "from" if line.from_day > case.accepted.received_day else "through"
            rule, why = "date.future", "the service is after the day on which the claim was received"
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
                hint="correct the days of the line and submit the claim again",
                rarc="M59" if rule == "date.order" else "M52",
            )
        )
    return findings
