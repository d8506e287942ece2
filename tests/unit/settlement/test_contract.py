"""What the contract does with repeats, refusals, holds, reviews and bytes that are nothing."""

import os
import subprocess
import sys
from typing import Any

import pytest

from claims.claim import Frequency
from claims.result import CLAIM_RESULT, ClaimResult, Outcome, TransactionResult
from claims.transaction import (
    REGISTER_ORGANISATION,
    AccumulatorKind,
    AccumulatorScope,
    Disposition,
    Group,
    Kind,
    PriorClaim,
    ReasonClass,
    RefusalReason,
    RegisterOrganisation,
    ReviewDecision,
    Role,
)
from ledger_commit.settlement.merkle import root_from_path
from tests.fixtures.ledger_world import DAY, LedgerWorld, claim, line, ref, rule, scored_entry, signed_entry

DEDUCTIBLE, OUT_OF_POCKET = AccumulatorKind.DEDUCTIBLE, AccumulatorKind.OUT_OF_POCKET
TAG = b"\x07" * 32


@pytest.fixture
def world() -> LedgerWorld:
    made = LedgerWorld()
    made.plan([rule(DEDUCTIBLE, 50_000), rule(DEDUCTIBLE, 80_000, AccumulatorScope.FAMILY)])
    made.enroll("ada", "ben")
    return made


def only(outcomes: tuple[ClaimResult | TransactionResult, ...]) -> ClaimResult:
    (outcome,) = outcomes
    assert isinstance(outcome, ClaimResult)
    return outcome


def submit(
    world: LedgerWorld,
    name: str,
    *,
    payer: str = "aurora",
    pend: tuple[int, ...] = (),
    **changes: Any,
) -> ClaimResult:
    lines = changes.pop("lines", [line()])
    return only(world.block(scored_entry([claim(name, lines, payer=payer, **changes)], payer, pend)).outcomes)


def test_a_plan_needs_every_payer_it_names() -> None:
    world = LedgerWorld()
    told = world.plan(signed_by=["aurora"]).outcomes[0]
    assert isinstance(told, TransactionResult)
    assert told.refusal == RefusalReason.NOT_AUTHORISED
    assert not world.state.plans


def test_limits_of_a_running_year_never_fall(world: LedgerWorld) -> None:
    fewer = world.plan([rule(DEDUCTIBLE, 50_000)]).outcomes[0]
    assert fewer.refusal == RefusalReason.PLAN_LIMIT_FELL
    more = world.plan([rule(DEDUCTIBLE, 60_000), rule(DEDUCTIBLE, 80_000, AccumulatorScope.FAMILY)]).outcomes[0]
    assert more.refusal == 0


def test_the_same_commitment_is_absorbed_and_another_is_refused_once(world: LedgerWorld) -> None:
    first = submit(world, "one")
    root = world.state.root
    again = world.block(scored_entry([claim("one", [line()])]))
    assert (again.outcomes, again.absorbed, again.state_root) == ((), 1, root)
    other = submit(world, "one", commitment=b"\x01" * 32)
    assert (other.outcome, other.refusal) == (Outcome.REFUSED, RefusalReason.VERSION_SPENT)
    repeated = world.block(scored_entry([claim("one", [line()], commitment=b"\x01" * 32)]))
    assert repeated.absorbed == 1
    assert first.outcome is Outcome.SETTLED
    assert world.state.claims["aurora", ref("one"), 1].paid is not None


def test_a_refused_version_is_spent_too(world: LedgerWorld) -> None:
    assert submit(world, "one", member_ref=ref("nobody")).refusal == RefusalReason.NOT_ENROLLED
    assert world.block(scored_entry([claim("one", [line()], member_ref=ref("nobody"))])).absorbed == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frequency": Frequency.REPLACEMENT}, RefusalReason.FREQUENCY_NOT_SUPPORTED),
        ({"frequency": Frequency.VOID}, RefusalReason.FREQUENCY_NOT_SUPPORTED),
        ({"plan": "silver"}, RefusalReason.UNKNOWN_PLAN),
        ({"plan_year": 2025}, RefusalReason.UNKNOWN_PLAN),
        ({"payee": "nowhere"}, RefusalReason.UNKNOWN_ORGANISATION),
        ({"service_day": DAY + 140}, RefusalReason.NOT_ENROLLED),
        ({"service_day": DAY + 151}, RefusalReason.SERVICE_DAY_OUTSIDE_PLAN),
        ({"lines": []}, RefusalReason.DUPLICATE_LINE_NUMBER),
        ({"lines": [line(1), line(1)]}, RefusalReason.DUPLICATE_LINE_NUMBER),
        ({"lines": [line(charge=-1)]}, RefusalReason.AMOUNT_OUT_OF_RANGE),
        ({"lines": [line(charge=10**11 + 1)]}, RefusalReason.AMOUNT_OUT_OF_RANGE),
        ({"lines": [line(coinsurance_bp=10_001)]}, RefusalReason.AMOUNT_OUT_OF_RANGE),
        ({"lines": [line(allowed_cents=10_001)]}, RefusalReason.ALLOWED_EXCEEDS_CHARGE),
        ({"lines": [line(contractual_group=Group.OA)]}, RefusalReason.MALFORMED),
        ({"disposition": Disposition.DENY}, RefusalReason.BAD_DISPOSITION),
    ],
)
def test_what_may_not_stand_is_refused_with_its_reason(
    world: LedgerWorld, changes: dict[str, Any], reason: RefusalReason
) -> None:
    before = dict(world.state.accumulators)
    told = submit(world, "one", **changes)
    assert (told.outcome, told.refusal, told.paid_cents) == (Outcome.REFUSED, reason, 0)
    assert world.state.accumulators == before


def test_a_payer_outside_the_plan_is_refused(world: LedgerWorld) -> None:
    assert submit(world, "one", payer="cygnus").refusal == RefusalReason.PAYER_NOT_OF_PLAN


def test_a_record_of_another_payer_cannot_carry_the_claim(world: LedgerWorld) -> None:
    """Not even to have it refused, which would spend the version that the real payer's record is about."""
    foreign = world.block(scored_entry([claim("two", [line()], payer="borealis"), claim("one", [line()])], "borealis"))
    assert (foreign.dropped, foreign.outcomes) == (1, ())
    assert submit(world, "one").outcome is Outcome.SETTLED


@pytest.mark.parametrize("at", [0, 1, 40, 200, -200, -70, -1])
def test_a_flipped_byte_never_settles_anything(world: LedgerWorld, at: int) -> None:
    entry = bytearray(scored_entry([claim("one", [line()])]))
    entry[at] ^= 1
    executed = world.block(bytes(entry))
    assert (executed.dropped, executed.outcomes) == (1, ())


def test_junk_is_counted_and_the_block_goes_on(world: LedgerWorld) -> None:
    executed = world.block(b"", b"\x00", b"\x01junk", b"\x02", scored_entry([claim("one", [line()])]))
    assert executed.dropped == 4
    assert only(executed.outcomes).outcome is Outcome.SETTLED


def test_a_pend_bit_holds_only_what_would_be_paid(world: LedgerWorld) -> None:
    denied = line(denial_carc="29")
    executed = world.block(
        scored_entry([claim("a", [line()]), claim("b", [denied], disposition=Disposition.DENY)], pend=(0, 1))
    )
    told = [o for o in executed.outcomes if isinstance(o, ClaimResult)]
    assert [o.outcome for o in told] == [Outcome.PENDED, Outcome.DENIED]
    assert told[0].reason is ReasonClass.FRAUD_SUSPICION
    assert not world.state.accumulators


def test_a_release_settles_at_its_own_place_in_the_order(world: LedgerWorld) -> None:
    deductible = line(charge=40_000, deductible_applies=True)
    submit(world, "held", lines=[deductible], pend=(0,))
    between = submit(world, "between", lines=[deductible])
    told, settled = world.review("held", ReviewDecision.RELEASE).outcomes
    assert isinstance(told, TransactionResult)
    assert told.refusal == 0
    assert isinstance(settled, ClaimResult)
    assert (between.paid_cents, settled.paid_cents, settled.step) == (0, 30_000, 1)
    again = world.review("held", ReviewDecision.RELEASE)
    assert again.absorbed == 1 or again.outcomes[0].refusal == RefusalReason.NOT_PENDED


def test_a_denied_review_takes_every_line_off_and_frees_its_tags(world: LedgerWorld) -> None:
    submit(world, "held", lines=[line(duplicate_tag=TAG)], pend=(0,))
    _, denied = world.review("held", ReviewDecision.DENY, "50").outcomes
    assert isinstance(denied, ClaimResult)
    assert (denied.outcome, denied.paid_cents) == (Outcome.DENIED, 0)
    assert denied.lines[0].adjustments[0].carc == "50"
    assert submit(world, "next", lines=[line(duplicate_tag=TAG)]).outcome is Outcome.SETTLED


def test_only_the_payer_may_review_and_only_what_is_pended(world: LedgerWorld) -> None:
    submit(world, "held", pend=(0,))
    foreign = world.review("held", ReviewDecision.RELEASE, payer="borealis").outcomes[0]
    assert foreign.refusal == RefusalReason.UNKNOWN_CLAIM
    submit(world, "paid")
    assert world.review("paid", ReviewDecision.RELEASE).outcomes[0].refusal == RefusalReason.NOT_PENDED


def test_the_second_holder_of_a_tag_is_pended_and_linked_across_payers(world: LedgerWorld) -> None:
    submit(world, "first", lines=[line(duplicate_tag=TAG)])
    second = submit(world, "second", payer="borealis", submitter="borealis", lines=[line(duplicate_tag=TAG)])
    assert (second.outcome, second.reason, second.linked) == (Outcome.PENDED, ReasonClass.DUPLICATE, ref("first"))


def test_the_primarys_ledgered_payment_counts_and_not_the_told_one(world: LedgerWorld) -> None:
    submit(world, "primary", lines=[line(charge=10_000, allowed_cents=8_000, coinsurance_bp=2_000)])
    prior = (PriorClaim("aurora", ref("primary"), 1),)
    told = line(charge=10_000, allowed_cents=9_000, other_payer_paid_cents=1)
    second = submit(world, "second", payer="borealis", submitter="borealis", prior=prior, lines=[told])
    assert second.paid_cents == 9_000 - 6_400


def test_registering_needs_two_thirds_of_the_committee() -> None:
    world = LedgerWorld()
    registration = world.state.organisations["riverside"]
    for count, refusal in ((2, RefusalReason.NOT_AUTHORISED), (3, 0)):
        prefix = world.prefix(Kind.REGISTER_ORGANISATION)
        body = RegisterOrganisation(prefix, "lakeside", (Role.PROVIDER,), registration.keys)
        entry = signed_entry(
            Kind.REGISTER_ORGANISATION, REGISTER_ORGANISATION.encode(body), ["aurora", "borealis", "cygnus"][:count]
        )
        assert world.block(entry).outcomes[0].refusal == refusal
    assert "lakeside" in world.state.organisations


def test_an_empty_block_changes_no_root(world: LedgerWorld) -> None:
    before = world.block(scored_entry([claim("one", [line()])]))
    after = world.block()
    assert (after.state_root, after.results_root, after.results_size) == (
        before.state_root,
        before.results_root,
        before.results_size,
    )


def test_every_result_is_a_leaf_that_can_be_proven(world: LedgerWorld) -> None:
    for number in range(9):
        submit(world, f"claim{number}")
    tree, leaves = world.state.results, [r for e in world.executions for r in e.results]
    for index, leaf in enumerate(leaves):
        assert root_from_path(leaf, index, len(tree), tree.inclusion_path(index, len(tree))) == tree.root()
    assert CLAIM_RESULT.decode(leaves[-1]).claim_ref == ref("claim8")


def test_replay_is_equal_to_the_bit_whatever_the_hash_seed(world: LedgerWorld) -> None:
    program = (
        "from tests.fixtures.ledger_world import *\n"
        "w = LedgerWorld(); w.plan([rule(AccumulatorKind.DEDUCTIBLE, 50_000)]); w.enroll('ada', 'ben')\n"
        "for i in range(20): w.block(scored_entry([claim(f'c{i}', [line(charge=7_000, deductible_applies=True)],"
        " 'ada' if i % 2 else 'ben')]))\n"
        "print(w.state.root.hex(), w.state.results.root().hex())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(told) == 1
