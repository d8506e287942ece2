"""Edits on code sets: their form, and where a table is loaded their being in force."""

import re
from typing import Final

from claims.claim import ClaimKind
from claims.finding import Finding, Severity
from validation.case import Case

_DIAGNOSIS: Final = re.compile(r"[A-TV-Z][0-9][0-9AB][0-9A-Z]{0,4}")
_HCPCS: Final = re.compile(r"[A-VY][0-9]{4}|[0-9]{4}[0-9AFMTU]")
_MODIFIER: Final = re.compile(r"[0-9A-Z]{2}")
_REVENUE: Final = re.compile(r"[0-9]{4}")

_HINT: Final = "compare with the code set that was in force on the day of service, and submit the claim again"
_TABLE_HINT: Final = "the payer loads diagnosis_codes in its reference.json"


def diagnosis_edit(case: Case) -> list[Finding]:
    """ICD-10-CM: the form of each code, and with a table that it is a leaf in force."""
    codes = case.reference.diagnosis_codes
    findings = [] if codes else [_table_missing()]
    for position, diagnosis in enumerate(case.claim.diagnoses):
        path = f"diagnoses[{position}].code"
        if not _DIAGNOSIS.fullmatch(diagnosis.code):
            findings.append(_diagnosis("diagnosis.form", path, "not of the form of an ICD-10-CM code"))
        elif codes and diagnosis.code not in codes:
            findings.append(_diagnosis("diagnosis.leaf", path, "no billable ICD-10-CM code on the day of service"))
    return findings


def _table_missing() -> Finding:
    return Finding(
        "diagnosis.table-missing",
        "diagnoses",
        Severity.WARN,
        "no ICD-10-CM table is loaded; form only",
        hint=_TABLE_HINT,
    )


def _diagnosis(rule: str, path: str, message: str) -> Finding:
    return Finding(
        rule, path, Severity.REJECT, message, group="CO", carc="16", rarc="M76", table="ICD-10-CM", hint=_HINT
    )


def procedure_edit(case: Case) -> list[Finding]:
    return [
        Finding(
            "procedure.form",
            f"lines[{position}].procedure",
            Severity.REJECT,
            "not of the form of a HCPCS or CPT code",
            line=line.number,
            group="CO",
            carc="16",
            rarc="M20",
            hint=_HINT,
        )
        for position, line in enumerate(case.claim.lines)
        if not _HCPCS.fullmatch(line.procedure)
    ]


def modifier_edit(case: Case) -> list[Finding]:
    """Two characters each, and none twice on a line."""
    return [
        Finding(
            "modifier.form",
            f"lines[{position}].modifiers",
            Severity.REJECT,
            "modifiers are two characters each, none twice",
            line=line.number,
            group="CO",
            carc="182",
            rarc="N519",
            hint=_HINT,
        )
        for position, line in enumerate(case.claim.lines)
        if len(set(line.modifiers)) != len(line.modifiers) or not all(map(_MODIFIER.fullmatch, line.modifiers))
    ]


def revenue_edit(case: Case) -> list[Finding]:
    """Institutional lines carry a revenue code of four digits."""
    if case.claim.header.kind is not ClaimKind.INSTITUTIONAL:
        return []
    return [
        Finding(
            "revenue.form",
            f"lines[{position}].revenue_code",
            Severity.REJECT,
            "an institutional line has a revenue code of four digits",
            line=line.number,
            group="CO",
            carc="16",
            rarc="M50",
            hint=_HINT,
        )
        for position, line in enumerate(case.claim.lines)
        if not _REVENUE.fullmatch(line.revenue_code)
    ]


def pointer_edit(case: Case) -> list[Finding]:
    """Each line points to diagnoses of the claim, each at most once."""
    count = len(case.claim.diagnoses)
    return [
        Finding(
            "pointer.missing",
            f"lines[{position}].diagnosis_pointers",
            Severity.REJECT,
            f"points beyond the claim's {count} diagnoses, to none, or to one twice",
            line=line.number,
            group="CO",
            carc="16",
            rarc="M64",
            hint="number the diagnoses from 1 and point to each that the line needs once",
        )
        for position, line in enumerate(case.claim.lines)
        if not line.pointers
        or len(set(line.pointers)) != len(line.pointers)
        or not all(1 <= pointer <= count for pointer in line.pointers)
    ]
