"""Every edit: what it passes, what it finds, where, and under which codes."""

from dataclasses import replace
from typing import Any

import pytest

from claims.claim import ClaimKind, Diagnosis, OtherPayer, PayerSequence
from claims.finding import Finding, Severity
from claims.identifiers import npi_with_check_digit
from tests.unit.validation.payer_world import (
    DAY,
    EXCLUDED_NPI,
    FIRST,
    LAST,
    NPI,
    OTHER_NPI,
    case,
    claim,
    reference,
    service_line,
)
from validation.case import Case
from validation.edits import run_edits
from validation.history import BilledClaim
from validation.records import facts_of


def told(found: Case) -> list[tuple[str, str, Severity, str]]:
    return [(f.rule, f.path, f.severity, f.carc) for f in run_edits(found)]


def test_a_clean_claim_has_no_findings() -> None:
    assert run_edits(case()) == []


REJECT, DENY, PEND, WARN = Severity.REJECT, Severity.DENY, Severity.PEND, Severity.WARN
PARTIES = claim().parties
UNKNOWN_NPI = npi_with_check_digit("177777777")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            case(claim(parties=replace(PARTIES, billing_npi="1234567890"))),
            ("npi.billing", "parties.billing_npi", REJECT, "16"),
        ),
        (
            case(claim(parties=replace(PARTIES, rendering_npi="3234567893"))),
            ("npi.rendering", "parties.rendering_npi", REJECT, "16"),
        ),
        (
            case(claim(parties=replace(PARTIES, billing_taxonomy="207Q"))),
            ("taxonomy.form", "parties.billing_taxonomy", REJECT, "16"),
        ),
        (case(known=reference(providers={})), ("provider.unknown", "parties.billing_npi", REJECT, "16")),
        (
            case(claim(parties=replace(PARTIES, billing_npi=EXCLUDED_NPI))),
            ("provider.excluded", "parties.billing_npi", PEND, "B7"),
        ),
        (case(claim(diagnoses=(Diagnosis("U1"),))), ("diagnosis.form", "diagnoses[0].code", REJECT, "16")),
        (
            case(claim(diagnoses=(Diagnosis("J069"), Diagnosis("J06")))),
            ("diagnosis.leaf", "diagnoses[1].code", REJECT, "16"),
        ),
        (case(claim([service_line(procedure="9921")])), ("procedure.form", "lines[0].procedure", REJECT, "16")),
        (case(claim([service_line(procedure="Z1234")])), ("procedure.form", "lines[0].procedure", REJECT, "16")),
        (case(claim([service_line(modifiers=("2",))])), ("modifier.form", "lines[0].modifiers", REJECT, "182")),
        (case(claim([service_line(modifiers=("25", "25"))])), ("modifier.form", "lines[0].modifiers", REJECT, "182")),
        (
            case(claim(header={"kind": ClaimKind.INSTITUTIONAL})),
            ("revenue.form", "lines[0].revenue_code", REJECT, "16"),
        ),
        (case(claim([service_line(pointers=(2,))])), ("pointer.missing", "lines[0].diagnosis_pointers", REJECT, "16")),
        (case(claim([service_line(pointers=())])), ("pointer.missing", "lines[0].diagnosis_pointers", REJECT, "16")),
        (
            case(claim(header={"total_charge_cents": 12_001})),
            ("money.total", "header.total_charge_cents", REJECT, "16"),
        ),
        (case(claim([service_line(charge_cents=-1)])), ("money.range", "lines[0].charge_cents", REJECT, "16")),
        (case(claim([service_line(units=0)])), ("money.range", "lines[0].units", REJECT, "16")),
        (
            case(claim([service_line(from_day=DAY, through_day=DAY + 6)])),
            ("date.future", "lines[0].through", REJECT, "16"),
        ),
        (case(claim(header={"currency": "EUR"})), ("money.currency", "header.currency", REJECT, "16")),
        (
            case(claim([service_line(from_day=DAY, through_day=DAY - 1)])),
            ("date.order", "lines[0].through", REJECT, "16"),
        ),
        (
            case(claim([service_line(from_day=DAY + 6, through_day=DAY + 6)])),
            ("date.future", "lines[0].from", REJECT, "16"),
        ),
        (case(claim(header={"plan": "tin"})), ("plan.unknown", "header.plan", REJECT, "31")),
        (case(known=reference(members={})), ("member.unknown", "parties.patient.member_id", REJECT, "31")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_edit_finds(found: Case, expected: tuple[str, str, Severity, str]) -> None:
    assert expected in told(found)
    assert all(f.hint and f.group for f in run_edits(found) if f.severity is not WARN)
    assert all(f.rarc for f in run_edits(found) if f.carc in {"16", "96", "A1"}), "these say nothing without a remark"


def test_the_birth_date_must_be_that_of_the_card() -> None:
    patient = replace(PARTIES.patient, birth_day=2_999)
    found = told(case(claim(parties=replace(PARTIES, patient=patient))))
    assert found == [("member.unknown", "parties.patient.birth", REJECT, "31")]


@pytest.mark.parametrize(
    ("first", "last", "rule"),
    [(DAY, LAST, None), (DAY + 1, LAST, "coverage.before"), (FIRST, DAY, None), (FIRST, DAY - 1, "coverage.after")],
)
def test_coverage_is_judged_on_the_day(first: int, last: int, rule: str | None) -> None:
    member = replace(reference().members["M1"], first_day=first, last_day=last)
    rules = [finding.rule for finding in run_edits(case(known=reference(members={"M1": member})))]
    assert rules == ([rule] if rule else [])


def test_a_member_of_another_plan_is_not_covered_by_this_one() -> None:
    member = replace(reference().members["M1"], plan="silver")
    assert told(case(known=reference(members={"M1": member}))) == [("coverage.plan", "header.plan", REJECT, "31")]


@pytest.mark.parametrize(("days", "late"), [(90, False), (91, True)])
def test_timely_filing_boundary(days: int, late: bool) -> None:
    found = told(case(received_day=DAY + days))
    assert found == ([("filing.late", "lines[0].through", DENY, "29")] if late else [])


def test_authorisation_is_wanted_where_the_benefit_says_so() -> None:
    scan = service_line(procedure="70551")
    assert told(case(claim([scan]))) == [("authorization.missing", "header.authorization", DENY, "197")]
    assert told(case(claim([scan], header={"authorization": "PA-1"}))) == []


def test_a_class_that_is_not_covered_is_denied() -> None:
    assert told(case(claim([service_line(procedure="15780")])))[0][3] == "96"


def unscheduled(**changes: Any) -> Case:
    """A line of a code without a fee, with the class `other` changed in the plan."""
    gold = reference().plans["gold"]
    benefits = tuple(
        replace(benefit, **changes) if benefit.benefit_class == "other" else benefit for benefit in gold.benefits
    )
    known = reference(plans={"gold": replace(gold, benefits=benefits)})
    return case(claim([service_line(procedure="0101T")]), known=known)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, []),
        ({"covered": False}, ["benefit.not-covered"]),
        ({"authorization_required": True}, ["authorization.missing"]),
        ({"benefit_class": "elsewhere"}, ["benefit.not-covered"]),
    ],
    ids=["as it is", "not covered", "with authorisation", "not named"],
)
def test_a_code_without_a_fee_is_of_the_class_other(changes: dict[str, Any], rules: list[str]) -> None:
    found = run_edits(unscheduled(**changes))
    assert [(f.rule, f.severity, f.line) for f in found] == [(rule, DENY, 1) for rule in rules]


def test_of_a_provider_that_is_not_known_nothing_is_said_of_benefits() -> None:
    """Its tier is not known either."""
    gold = reference().plans["gold"]
    found = case(known=reference(providers={}, plans={"gold": replace(gold, benefits=())}))
    assert [finding.rule for finding in run_edits(found)] == ["provider.unknown"]


def test_without_a_table_the_form_alone_is_judged_and_that_is_said() -> None:
    found = run_edits(case(claim(diagnoses=(Diagnosis("A001"),)), known=reference(diagnosis_codes=frozenset())))
    assert [(f.rule, f.severity) for f in found] == [("diagnosis.table-missing", WARN)]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (OtherPayer("borealis", PayerSequence.PRIMARY, None, 0, (5_000,)), ""),
        (OtherPayer("borealis", PayerSequence.PRIMARY, None, 0, (5_000, 1)), "2 payments for 1 lines"),
        (OtherPayer("borealis", PayerSequence.PRIMARY, None, 0, (12_001,)), "above its line's charge"),
        (OtherPayer("borealis", PayerSequence.TERTIARY, None, 0, (1,)), "comes before this one"),
    ],
)
def test_other_payers_amounts_agree_with_the_lines(other: OtherPayer, why: str) -> None:
    made = claim(header={"sequence": PayerSequence.SECONDARY}, other_payers=(other,))
    found = run_edits(case(made))
    assert [f.rule for f in found] == (["money.other-payer"] if why else [])
    assert all(why in f.message for f in found)


@pytest.mark.parametrize(("second", "paths"), [(4_000, []), (4_001, ["other_payers[1].line_paid_cents[1]"])])
def test_other_payers_together_pay_no_more_than_the_charge(second: int, paths: list[str]) -> None:
    """Of the second line the two payers' parts come to its charge, or to a cent more."""
    others = (
        OtherPayer("borealis", PayerSequence.PRIMARY, None, 0, (0, 8_000)),
        OtherPayer("cygnus", PayerSequence.SECONDARY, None, 0, (0, second)),
    )
    made = claim([service_line(), service_line(2, procedure="97110")], {"sequence": PayerSequence.TERTIARY})
    found = run_edits(case(replace(made, other_payers=others)))
    assert [(f.rule, f.path, f.line) for f in found] == [("money.other-payer", path, 2) for path in paths]


@pytest.mark.parametrize(
    ("billing", "rendering", "paths"),
    [
        (NPI, EXCLUDED_NPI, ["parties.rendering_npi"]),
        (EXCLUDED_NPI, EXCLUDED_NPI, ["parties.billing_npi"]),
        (EXCLUDED_NPI, "", ["parties.billing_npi"]),
        (NPI, OTHER_NPI, []),
        (NPI, UNKNOWN_NPI, []),
    ],
    ids=["renders", "does both", "bills", "is not excluded", "is not known"],
)
def test_who_rendered_is_looked_up_as_who_billed(billing: str, rendering: str, paths: list[str]) -> None:
    """In the edit and in what fraud scoring is told."""
    found = case(claim(parties=replace(PARTIES, billing_npi=billing, rendering_npi=rendering)))
    assert told(found) == [("provider.excluded", path, PEND, "B7") for path in paths]
    assert facts_of(found, BilledClaim(bytes(16), 1, DAY, (), (), ()), 1, 0).excluded_provider is bool(paths)


@pytest.mark.parametrize(("days_after", "excluded"), [(3, False), (2, True)])
def test_an_exclusion_counts_from_its_day_for_the_last_day_of_service(days_after: int, excluded: bool) -> None:
    providers = reference().providers
    from_day = replace(providers[NPI], excluded_from_day=DAY + days_after)
    lines = [service_line(), service_line(2, procedure="97110", from_day=DAY + 1, through_day=DAY + 2)]
    found = case(claim(lines), known=reference(providers=dict(providers) | {NPI: from_day}))
    assert [f.rule for f in run_edits(found)] == (["provider.excluded"] if excluded else [])


def test_findings_never_repeat_identifiers_of_persons() -> None:
    patient = replace(PARTIES.patient, member_id="SECRET-7", family_name="Canary")
    found: list[Finding] = run_edits(case(claim(parties=replace(PARTIES, patient=patient))))
    assert found
    assert not any("SECRET" in f.message or "Canary" in f.message for f in found)


def test_two_other_payers_cannot_hold_one_place() -> None:
    other = OtherPayer("borealis", PayerSequence.PRIMARY, None, 0, (1,))
    made = claim(header={"sequence": PayerSequence.SECONDARY}, other_payers=(other, other))
    assert [(f.rule, f.path) for f in run_edits(case(made))] == [("money.other-payer", "other_payers")]


def test_a_plan_is_judged_on_the_day() -> None:
    plan = replace(reference().plans["gold"], last_day=DAY - 1)
    assert ("plan.day", "lines[0].from", REJECT, "31") in told(case(known=reference(plans={"gold": plan})))


@pytest.mark.parametrize(
    ("first", "last", "paths"),
    [
        (DAY, DAY + 3, []),
        (DAY, DAY + 2, ["lines[2].through"]),
        (DAY, DAY + 1, ["lines[1].through", "lines[2].from"]),
        (DAY + 1, DAY + 3, ["lines[0].from"]),
    ],
)
def test_a_plan_runs_on_the_first_and_last_day_of_every_line(first: int, last: int, paths: list[str]) -> None:
    days = [(DAY, DAY), (DAY + 1, DAY + 2), (DAY + 2, DAY + 3)]
    lines = [
        service_line(number, from_day=begin, through_day=end, charge_cents=12_000 + number)
        for number, (begin, end) in enumerate(days, 1)
    ]
    plan = replace(reference().plans["gold"], first_day=first, last_day=last)
    found = run_edits(case(claim(lines), known=reference(plans={"gold": plan})))
    assert [f.path for f in found if f.rule == "plan.day"] == paths
    assert [f.path for f in found] == paths
    assert all(f.line == int(f.path[6]) + 1 for f in found)
