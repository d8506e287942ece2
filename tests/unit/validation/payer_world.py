"""A payer's reference data and a clean claim, to be broken one thing at a time."""

import datetime
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from claims.claim import (
    CLAIM,
    AcceptedClaim,
    Claim,
    ClaimKind,
    Diagnosis,
    Frequency,
    Header,
    Parties,
    Patient,
    PayerSequence,
    ServiceLine,
    Sex,
)
from claims.identifiers import day_of, npi_with_check_digit
from claims.reference import Benefit, Fee, Member, PayerReference, Plan, Provider
from claims.transaction import AccumulatorKind, AccumulatorRule, AccumulatorScope, CobMethod, Tier
from validation.case import Case, case_of

FIRST, LAST = day_of(datetime.date(2026, 1, 1)), day_of(datetime.date(2026, 12, 31))
DAY = day_of(datetime.date(2026, 3, 10))
NPI = npi_with_check_digit("123456789")
OTHER_NPI = npi_with_check_digit("198765432")
EXCLUDED_NPI = npi_with_check_digit("155555555")
IN, OUT = Tier.IN_NETWORK, Tier.OUT_OF_NETWORK


def reference(**changes: Any) -> PayerReference:
    plan = Plan(
        "gold",
        2026,
        ("aurora", "borealis"),
        FIRST,
        LAST,
        (AccumulatorRule(AccumulatorKind.DEDUCTIBLE, 0, IN, AccumulatorScope.INDIVIDUAL, 50_000),),
        CobMethod.STANDARD,
        (
            Benefit("office", IN, 2_500, 0, deductible_applies=False),
            Benefit("therapy", IN, 0, 2_000, deductible_applies=True, limit_class=1),
            Benefit("imaging", IN, 0, 1_000, deductible_applies=True, authorization_required=True),
            Benefit("cosmetic", IN, 0, 0, deductible_applies=False, covered=False),
            Benefit("other", IN, 0, 3_000, deductible_applies=True),
            Benefit("office", OUT, 4_000, 4_000, deductible_applies=True),
        ),
        60,
        90,
    )
    fees = [
        Fee("99213", "", IN, "office", 9_000, FIRST, LAST),
        Fee("99213", "95", IN, "office", 7_500, FIRST, LAST),
        Fee("97110", "", IN, "therapy", 3_000, FIRST, LAST),
        Fee("70551", "", IN, "imaging", 40_000, FIRST, LAST),
        Fee("15780", "", IN, "cosmetic", 50_000, FIRST, LAST),
        Fee("99213", "", OUT, "office", 8_000, FIRST, LAST),
        Fee("99214", "", IN, "office", 12_000, FIRST, DAY - 1),
    ]
    member = Member("M1", b"m" * 16, b"f" * 16, "gold", "Lovelace", "Ada", 3_000, 1, FIRST, LAST, "person-1")
    providers = [
        Provider(NPI, "riverside", b"p" * 16, "207Q00000X", IN),
        Provider(OTHER_NPI, "lakeside", b"q" * 16, "", OUT),
        Provider(EXCLUDED_NPI, "lakeside", b"r" * 16, "", IN, excluded_from_day=DAY - 10),
    ]
    by_key: dict[tuple[str, str, Tier], tuple[Fee, ...]] = {}
    for fee in fees:
        key = (fee.procedure, fee.modifier, fee.tier)
        by_key[key] = (*by_key.get(key, ()), fee)
    made = PayerReference(
        "aurora",
        b"r" * 32,
        {"gold": plan},
        by_key,
        {"M1": member},
        {p.npi: p for p in providers},
        frozenset({"J069", "M545"}),
        "exclusions-2026-03",
    )
    return replace(made, **changes)


def service_line(number: int = 1, **changes: Any) -> ServiceLine:
    usual = ServiceLine(number, 1, 12_000, DAY, DAY, "99213", (), (1,), "", "")
    return replace(usual, **changes)


def claim(lines: Sequence[ServiceLine] = (), header: dict[str, Any] | None = None, **changes: Any) -> Claim:
    lines = tuple(lines) or (service_line(),)
    total = sum(line.charge_cents for line in lines)
    usual = Header(
        ClaimKind.PROFESSIONAL,
        Frequency.ORIGINAL,
        PayerSequence.PRIMARY,
        total,
        "PCN1",
        "11",
        "aurora",
        "gold",
        "USD",
        "",
        None,
    )
    patient = Patient("M1", "Lovelace", "Ada", 3_000, Sex.FEMALE)
    made = Claim(
        replace(usual, **(header or {})), Parties(patient, NPI, "207Q00000X", ""), (Diagnosis("J069"),), lines, (), ()
    )
    return replace(made, **changes)


def case(
    made: Claim | None = None, name: str = "one", received_day: int = DAY + 5, known: PayerReference | None = None
) -> Case:
    made = made or claim()
    accepted = AcceptedClaim(
        name.encode().ljust(16, b"."), 1, "aurora", received_day, b"s" * 32, b"e" * 32, CLAIM.encode(made)
    )
    return case_of(accepted, made, known or reference())
