"""Edits on amounts: within their bounds, and in agreement with each other."""

from claims.claim import MAX_AMOUNT_CENTS, OtherPayer, ServiceLine
from claims.finding import Finding, Severity
from validation.case import Case

CURRENCY = "USD"
"""The ledger's one currency; the genesis names it."""


def total_edit(case: Case) -> list[Finding]:
    total = sum(line.charge_cents for line in case.claim.lines)
    if total == case.claim.header.total_charge_cents:
        return []
    told = case.claim.header.total_charge_cents
    return [
        Finding(
            "money.total",
            "header.total_charge_cents",
            Severity.REJECT,
            f"the lines' charges come to {total} cents, the claim says {told}",
            group="CO",
            carc="16",
            rarc="M54",
            hint="make the total the sum of the lines",
        )
    ]


def range_edit(case: Case) -> list[Finding]:
    """What is negative or beyond the ledger's bound would be refused there, far from who can correct it."""
    return [
        Finding(
            "money.range",
            f"lines[{position}].{field}",
            Severity.REJECT,
            f"a charge is 0 to {MAX_AMOUNT_CENTS} cents, for one unit or more",
            line=line.number,
            group="CO",
            carc="16",
            rarc="M79" if field == "charge_cents" else "M53",
            hint="correct the line and submit the claim again",
        )
        for position, line in enumerate(case.claim.lines)
        if (field := _out_of_range(line))
    ]


def _out_of_range(line: ServiceLine) -> str:
    if not 0 <= line.charge_cents <= MAX_AMOUNT_CENTS:
        return "charge_cents"
    return "" if line.units else "units"


def currency_edit(case: Case) -> list[Finding]:
    if case.claim.header.currency == CURRENCY:
        return []
    return [
        Finding(
            "money.currency",
            "header.currency",
            Severity.REJECT,
            f"this ledger settles in {CURRENCY}",
            group="CO",
            carc="16",
            rarc="MA130",
            hint=f"bill in {CURRENCY}",
        )
    ]


def other_payer_edit(case: Case) -> list[Finding]:
    """Other payers' payments: one for each line, together none above its charge, each payer before this one."""
    findings = []
    for position, other in enumerate(case.claim.other_payers):
        why = _other_payer_error(case, other)
        if why:
            path = f"other_payers[{position}]"
            findings.append(_other_payer(path, why))
    if not findings:
        findings += _overpaid_lines(case)
    sequences = [other.sequence for other in case.claim.other_payers]
    if len(set(sequences)) != len(sequences):
        why = "two other payers have the same place in the order of benefits"
        findings.append(_other_payer("other_payers", why))
    return findings


def _overpaid_lines(case: Case) -> list[Finding]:
    """Lines for which payers that are each in bounds paid too much together."""
    others = case.claim.other_payers
    findings = []
    for position, line in enumerate(case.claim.lines):
        paid = sum(other.line_paid_cents[position] for other in others)
        if paid > line.charge_cents:
            path = f"other_payers[{len(others) - 1}].line_paid_cents[{position}]"
            findings.append(_other_payer(path, "the payments together are above the line's charge", line.number))
    return findings


def _other_payer(path: str, why: str, line: int = 0) -> Finding:
    hint = "copy the amounts from the other payer's remittance, line by line"
    return Finding(
        "money.other-payer", path, Severity.REJECT, why, line=line, group="CO", carc="16", rarc="MA04", hint=hint
    )


def _other_payer_error(case: Case, other: OtherPayer) -> str:
    lines = case.claim.lines
    if len(other.line_paid_cents) != len(lines):
        return f"{len(other.line_paid_cents)} payments for {len(lines)} lines"
    if any(not 0 <= paid <= line.charge_cents for paid, line in zip(other.line_paid_cents, lines, strict=True)):
        return "a payment is below zero or above its line's charge"
    if other.sequence >= case.claim.header.sequence:
        return "another payer that paid comes before this one in the order of benefits"
    return ""
