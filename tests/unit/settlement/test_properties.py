"""Random histories: money balances, accumulators stay within limits, and a plain second implementation agrees."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from claims.result import ClaimResult
from claims.transaction import AccumulatorKind, AccumulatorScope, CobMethod, Group
from ledger_commit.settlement.accumulators import rule_name
from tests.fixtures.ledger_world import LedgerWorld, claim, line, rule, scored_entry
from tests.unit.settlement.reference import PlainLedger

MEMBERS = ("ada", "ben", "cleo")
KINDS = {
    "deductible": (AccumulatorKind.DEDUCTIBLE, 0),
    "oop": (AccumulatorKind.OUT_OF_POCKET, 0),
    "class1": (AccumulatorKind.LIMIT_CLASS, 1),
}
AMOUNT = st.integers(0, 60_000)


@st.composite
def lines(draw: Any) -> dict[str, Any]:
    charge = draw(AMOUNT)
    return {
        "charge": charge,
        "allowed": draw(st.integers(0, charge)),
        "deductible": draw(st.booleans()),
        "copay": draw(st.sampled_from((0, 2_500, 40_000))),
        "bp": draw(st.sampled_from((0, 1, 1_000, 3_333, 10_000))),
        "class": draw(st.sampled_from((0, 1))),
        "other": draw(st.sampled_from((0, 0, 1, 5_000, 70_000))),
        "denied": draw(st.integers(0, 9)) == 0,
    }


LIMITS = st.dictionaries(
    st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(("individual", "family"))),
    st.integers(0, 100_000),
)
HISTORY = st.lists(st.tuples(st.sampled_from(MEMBERS), st.lists(lines(), min_size=1, max_size=4)), max_size=12)


def run(limits: dict[tuple[str, str], int], cob: CobMethod, history: Sequence[Any]) -> tuple[LedgerWorld, list[Any]]:
    world = LedgerWorld()
    world.plan(
        [rule(KINDS[k][0], limit, AccumulatorScope[s.upper()], KINDS[k][1]) for (k, s), limit in limits.items()], cob
    )
    world.enroll(*MEMBERS)
    results = []
    for number, (member, told) in enumerate(history):
        priced = [
            line(
                i,
                t["charge"],
                allowed_cents=t["allowed"],
                deductible_applies=t["deductible"],
                copay_cents=t["copay"],
                coinsurance_bp=t["bp"],
                limit_class=t["class"],
                other_payer_paid_cents=t["other"],
                denial_carc="29" if t["denied"] else "",
            )
            for i, t in enumerate(told, start=1)
        ]
        (outcome,) = world.block(scored_entry([claim(f"claim{number}", priced, member)])).outcomes
        results.append(outcome)
    return world, results


@settings(max_examples=150, deadline=None)
@given(LIMITS, st.sampled_from(CobMethod), HISTORY)
def test_agrees_with_the_plain_implementation(
    limits: dict[tuple[str, str], int], cob: CobMethod, history: list[Any]
) -> None:
    _, results = run(limits, cob, history)
    plain = PlainLedger(limits, cob.name)
    for (member, told), result in zip(history, results, strict=True):
        for expected, settled in zip(told, result.lines, strict=True):
            found = {f"{a.group.name}-{a.carc}": a.amount_cents for a in settled.adjustments}
            assert (settled.paid_cents, found) == plain.line(expected, member)


@settings(max_examples=100, deadline=None)
@given(LIMITS, st.sampled_from(CobMethod), HISTORY)
def test_money_balances_and_accumulators_stay_within_limits(
    limits: dict[tuple[str, str], int], cob: CobMethod, history: list[Any]
) -> None:
    world, results = run(limits, cob, history)
    rules = [rule(KINDS[k][0], limit, AccumulatorScope[s.upper()], KINDS[k][1]) for (k, s), limit in limits.items()]
    allowed = {rule_name("gold", 2026, told): told.limit_cents for told in rules}
    for name, used in world.state.accumulators.items():
        assert 0 <= used <= allowed[name[:-16]]
    assert sum(world.state.positions.values()) == sum(result.paid_cents for result in results)
    for result in results:
        assert isinstance(result, ClaimResult)
        for settled in result.lines:
            assert settled.charge_cents == settled.paid_cents + sum(a.amount_cents for a in settled.adjustments)
            assert settled.paid_cents >= 0
            assert all(a.amount_cents > 0 for a in settled.adjustments)
        assert result.charge_cents == sum(settled.charge_cents for settled in result.lines)
        assert result.paid_cents == sum(settled.paid_cents for settled in result.lines)
        patient = sum(a.amount_cents for s in result.lines for a in s.adjustments if a.group is Group.PR)
        assert result.patient_cents == patient
        for posting in result.postings:
            assert 0 <= posting.before_cents < posting.after_cents


@settings(max_examples=40, deadline=None)
@given(LIMITS, st.sampled_from(CobMethod), HISTORY)
def test_replay_is_equal_to_the_bit(limits: dict[tuple[str, str], int], cob: CobMethod, history: list[Any]) -> None:
    first, _ = run(limits, cob, history)
    second, _ = run(limits, cob, history)
    assert (first.state.root, first.state.results.root()) == (second.state.root, second.state.results.root())
