"""Runs the adjudication cases: YAML that an adjuster can read, amounts in dollars and cents.

A case has a plan (accumulators, cob), claims in order, and for each line what is expected: paid, and adjustments as
`GROUP-CARC: amount`; optionally what the accumulators stand at afterwards. Lines of one `service` have one duplicate tag. A
claim that is `pended` is expected to wait as a duplicate of the claim with that number, counted from 1, until its
`review`: release, or deny with a CARC.
"""

import hashlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from claims.result import ClaimResult, Outcome
from claims.transaction import (
    AccumulatorKind,
    AccumulatorRule,
    AccumulatorScope,
    CobMethod,
    Group,
    PricedLine,
    ReasonClass,
    ReviewDecision,
    Tier,
)
from tests.fixtures.ledger_world import ZERO, LedgerWorld, claim, line, ref, rule, scored_entry

CASES = [case for path in sorted(Path(__file__).parent.glob("*.yaml")) for case in yaml.safe_load(path.read_text())]


def cents(amount: Any) -> int:
    value = Decimal(str(amount)) * 100
    assert value == int(value)
    return int(value)


def accumulator(told: str, limit: Any) -> AccumulatorRule:
    """ "individual deductible", "family out of pocket", "individual limit 3", with "out of network" before it or not."""
    tier = Tier.OUT_OF_NETWORK if told.startswith("out of network ") else Tier.IN_NETWORK
    scope, _, kind = told.removeprefix("out of network ").partition(" ")
    limit_class = int(kind.removeprefix("limit ")) if kind.startswith("limit ") else 0
    kinds = {"deductible": AccumulatorKind.DEDUCTIBLE, "out of pocket": AccumulatorKind.OUT_OF_POCKET}
    return rule(
        kinds.get(kind, AccumulatorKind.LIMIT_CLASS),
        cents(limit),
        AccumulatorScope[scope.upper()],
        limit_class,
        tier,
    )


def priced(number: int, told: dict[str, Any]) -> PricedLine:
    denied_group, _, denied = told.get("denied", "CO-").partition("-")
    return line(
        number,
        cents(told["charge"]),
        allowed_cents=cents(told.get("allowed", told["charge"])),
        contractual_group=Group[told.get("contractual", "CO")],
        deductible_applies=told.get("deductible", False),
        copay_cents=cents(told.get("copay", 0)),
        coinsurance_bp=cents(told.get("coinsurance", 0)),
        limit_class=told.get("limit", 0),
        other_payer_paid_cents=cents(told.get("other_paid", 0)),
        duplicate_tag=hashlib.sha256(told["service"].encode()).digest() if "service" in told else ZERO,
        denial_group=Group[denied_group],
        denial_carc=denied,
    )


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_case(case: dict[str, Any]) -> None:
    world = LedgerWorld()
    rules = [accumulator(*item) for item in case.get("plan", {}).items()]
    world.plan(rules, CobMethod[case.get("cob", "standard").upper()])
    world.enroll("ada", "ben", "cleo")
    for number, told in enumerate(case["claims"], start=1):
        lines = [priced(i, t) for i, t in enumerate(told["lines"], start=1)]
        tier = Tier.OUT_OF_NETWORK if told.get("out_of_network") else Tier.IN_NETWORK
        made = claim(f"claim {number}", lines, told.get("member", "ada"), tier=tier)
        (outcome,) = world.block(scored_entry([made])).outcomes
        assert isinstance(outcome, ClaimResult)
        if "pended" in told:
            outcome = _reviewed(world, f"claim {number}", told, outcome)
        _compare(told, outcome)


def _reviewed(world: LedgerWorld, name: str, told: dict[str, Any], held: ClaimResult) -> ClaimResult:
    """What the review made of a claim that waited as it should."""
    linked = ref(told["pended"].removeprefix("duplicate of "))
    assert (held.outcome, held.reason, held.linked, held.lines) == (Outcome.PENDED, ReasonClass.DUPLICATE, linked, ())
    decision, _, carc = told["review"].partition(" ")
    outcome = world.review(name, ReviewDecision[decision.upper()], carc).outcomes[-1]
    assert isinstance(outcome, ClaimResult)
    return outcome


def _compare(told: dict[str, Any], outcome: ClaimResult) -> None:
    for expected, settled in zip((t["expect"] for t in told["lines"]), outcome.lines, strict=True):
        adjustments = {f"{a.group.name}-{a.carc}": a.amount_cents for a in settled.adjustments}
        wanted = {name: cents(amount) for name, amount in expected.items() if name != "paid"}
        assert (settled.paid_cents, adjustments) == (cents(expected["paid"]), wanted)
    standing = {f"{p.scope.name.lower()} {p.kind.name.lower()}": p.after_cents for p in outcome.postings}
    for name, amount in told.get("standing", {}).items():
        assert standing[name.replace("out of pocket", "out_of_pocket")] == cents(amount)
