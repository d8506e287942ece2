"""Edits: pure functions from a case to located findings.

| rule | what it asks | severity | group, CARC, RARC |
|---|---|---|---|
| npi.billing, npi.rendering | check digit | reject | CO 16 N257, N290 |
| provider.unknown | the billing NPI is in the payer's registry | reject | CO 16 N257 |
| provider.excluded | neither who billed nor who rendered is on the exclusion list | pend | CO B7 |
| taxonomy.form | ten characters, the last X | reject | CO 16 N255 |
| diagnosis.form, diagnosis.leaf | ICD-10-CM form; a leaf in force | reject | CO 16 M76 |
| diagnosis.table-missing | a table is loaded | warn | |
| procedure.form, modifier.form, revenue.form | HCPCS or CPT form | reject | CO 16 M20; CO 182 N519; CO 16 M50 |
| pointer.missing | names a diagnosis of the claim, each once | reject | CO 16 M64 |
| money.total, money.currency, money.other-payer | Σ lines, the ledger's currency, Σ payments ≤ charge | reject | CO 16 M54, MA130, MA04 |
| money.range | 0 ≤ charge ≤ 10^11 cents, units ≥ 1 | reject | CO 16 M79, M53 |
| date.order, date.future | from ≤ through ≤ received | reject | CO 16 M52, M59 |
| member.unknown, coverage.before, coverage.after, coverage.plan | enrolled in the plan on the day | reject | PR 31 N382; PR 26, 27 |
| plan.unknown, plan.day | the payer has the plan on every line's days | reject | PR 31 N382 |
| filing.late | received within the plan's days | deny | CO 29 |
| duplicate.exact | not billed before, nor twice in the claim | deny | OA 18 N522 |
| authorization.missing | the benefit needs one | deny | CO 197 |
| benefit.not-covered | the plan covers the class | deny | PR 96 N130 |

A reject returns the claim with the payer's signature; a deny goes to the ledger with the line taken off; a pend waits
for a person. Source: claims.md, Edits; standards.md, Identifiers and code sets.
"""

from collections.abc import Callable
from typing import Final

from claims.finding import Finding
from validation.case import Case
from validation.edits.benefits import authorization_edit, covered_edit, timely_filing_edit
from validation.edits.codes import diagnosis_edit, modifier_edit, pointer_edit, procedure_edit, revenue_edit
from validation.edits.coverage import coverage_edit, member_edit, plan_edit
from validation.edits.dates import date_edit
from validation.edits.money import currency_edit, other_payer_edit, range_edit, total_edit
from validation.edits.providers import excluded_edit, npi_edit, provider_edit, taxonomy_edit

Edit = Callable[[Case], list[Finding]]
EDITS: Final[tuple[Edit, ...]] = (
    npi_edit,
    taxonomy_edit,
    provider_edit,
    diagnosis_edit,
    procedure_edit,
    modifier_edit,
    revenue_edit,
    pointer_edit,
    range_edit,
    total_edit,
    currency_edit,
    other_payer_edit,
    date_edit,
    plan_edit,
    member_edit,
    coverage_edit,
    excluded_edit,
    timely_filing_edit,
    authorization_edit,
    covered_edit,
)


def run_edits(case: Case) -> list[Finding]:
    """All findings, in the order of the edits and of the lines."""
    return [finding for edit in EDITS for finding in edit(case)]
