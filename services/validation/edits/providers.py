"""Edits on who billed and who rendered."""

import re
from typing import Final

from claims.finding import Finding, Severity
from claims.identifiers import npi_is_valid
from validation.case import Case, excluded_roles

_TAXONOMY: Final = re.compile(r"[0-9A-Z]{9}X")


def npi_edit(case: Case) -> list[Finding]:
    """The check digit of the billing and, where given, the rendering provider."""
    parties = case.claim.parties
    asked = [("billing", parties.billing_npi, "N257")]
    if parties.rendering_npi:
        asked.append(("rendering", parties.rendering_npi, "N290"))
    return [
        Finding(
            f"npi.{role}",
            f"parties.{role}_npi",
            Severity.REJECT,
            "not an NPI: ten digits, the first 1 or 2, with a check digit that holds",
            group="CO",
            carc="16",
            rarc=rarc,
            hint="compare with the provider's registration",
        )
        for role, npi, rarc in asked
        if not npi_is_valid(npi)
    ]


def taxonomy_edit(case: Case) -> list[Finding]:
    taxonomy = case.claim.parties.billing_taxonomy
    if not taxonomy or _TAXONOMY.fullmatch(taxonomy):
        return []
    message = "a taxonomy code has ten characters, the last an X"
    return [
        Finding(
            "taxonomy.form",
            "parties.billing_taxonomy",
            Severity.REJECT,
            message,
            group="CO",
            carc="16",
            rarc="N255",
            hint="take the code from the provider's registration, or leave it out",
        )
    ]


def provider_edit(case: Case) -> list[Finding]:
    """Who is paid has to be known; a wrong check digit has been told already."""
    if case.provider is not None or not npi_is_valid(case.claim.parties.billing_npi):
        return []
    return [
        Finding(
            "provider.unknown",
            "parties.billing_npi",
            Severity.REJECT,
            "this payer's registry has no such provider",
            group="CO",
            carc="16",
            rarc="N257",
            hint="register the provider with the payer first",
        )
    ]


def excluded_edit(case: Case) -> list[Finding]:
    """Neither who billed nor who rendered is on the exclusion list."""
    return [
        Finding(
            "provider.excluded",
            f"parties.{role}_npi",
            Severity.PEND,
            "the provider was excluded on the day of service",
            group="CO",
            carc="B7",
            table=case.reference.exclusions_version,
            hint="a reviewer of the payer decides; nothing to send",
        )
        for role in excluded_roles(case)
    ]
