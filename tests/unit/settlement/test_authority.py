"""Who may do what: a signature is good for what its organisation may say, and for nothing else."""

from dataclasses import replace

import pytest

from claims.result import ClaimResult, Coordination, Outcome, TransactionResult
from claims.transaction import (
    ENROLL_MEMBER,
    PUBLISH_PLAN,
    REGISTER_ORGANISATION,
    REVIEW_CLAIM,
    AccumulatorKind,
    CobMethod,
    EnrollMember,
    Enrollment,
    Kind,
    Prefix,
    PriorClaim,
    PublishPlan,
    ReasonClass,
    RefusalReason,
    RegisterOrganisation,
    ReviewClaim,
    ReviewDecision,
    Role,
)
from ledger_commit.settlement import Execution
from tests.fixtures.ledger_world import (
    CHAIN_ID,
    DAY,
    ZERO,
    LedgerWorld,
    claim,
    line,
    ref,
    rule,
    scored_entry,
    signed_entry,
)
from tests.unit.settlement.unchanged import dropped

TAG = b"\x07" * 32


@pytest.fixture
def world() -> LedgerWorld:
    made = LedgerWorld()
    made.plan([rule(AccumulatorKind.DEDUCTIBLE, 50_000)])
    made.enroll("ada")
    return made


def enrollment(prefix: Prefix) -> bytes:
    member = Enrollment(ref("zoe"), ref("family"), DAY - 1, DAY + 1)
    return ENROLL_MEMBER.encode(EnrollMember(prefix, "gold", 2026, (member,)))


def refusal(executed: Execution) -> int:
    (outcome,) = executed.outcomes
    return outcome.refusal


def claim_result(executed: Execution) -> ClaimResult:
    found = [outcome for outcome in executed.outcomes if isinstance(outcome, ClaimResult)]
    assert len(found) == 1
    return found[0]


def test_nobody_uses_up_the_sequence_numbers_of_another(world: LedgerWorld) -> None:
    """Aurora signs, in borealis' name, a transaction with the last sequence number there is."""
    theft = enrollment(Prefix(CHAIN_ID, Kind.ENROLL_MEMBER, "borealis", 1, 2**64 - 1, 0))
    assert dropped(world, signed_entry(Kind.ENROLL_MEMBER, theft, ["aurora"]))
    own = enrollment(Prefix(CHAIN_ID, Kind.ENROLL_MEMBER, "borealis", 1, 1, 0))
    assert refusal(world.block(signed_entry(Kind.ENROLL_MEMBER, own, ["borealis"]))) == 0


def test_the_key_that_the_prefix_names_must_have_signed(world: LedgerWorld) -> None:
    body = enrollment(Prefix(CHAIN_ID, Kind.ENROLL_MEMBER, "aurora", 2, 99, 0))
    assert dropped(world, signed_entry(Kind.ENROLL_MEMBER, body, ["aurora"]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain_id": ZERO}, RefusalReason.WRONG_CHAIN),
        ({"kind": Kind.PUBLISH_PLAN}, RefusalReason.MALFORMED),
        ({"expires_height": 1}, RefusalReason.EXPIRED),
        ({"sequence": 0}, RefusalReason.SEQUENCE),
    ],
)
def test_a_prefix_that_does_not_fit_refuses_the_transaction(
    world: LedgerWorld, changes: dict[str, object], reason: RefusalReason
) -> None:
    prefix = replace(world.prefix(Kind.ENROLL_MEMBER), **changes)  # type: ignore[arg-type]
    root = world.state.root
    assert refusal(world.block(signed_entry(Kind.ENROLL_MEMBER, enrollment(prefix), ["aurora"]))) == reason
    assert world.state.root == root


def test_a_transaction_that_comes_twice_takes_effect_once(world: LedgerWorld) -> None:
    entry = signed_entry(Kind.ENROLL_MEMBER, enrollment(world.prefix(Kind.ENROLL_MEMBER)), ["aurora"])
    assert refusal(world.block(entry)) == 0
    again = world.block(entry)
    assert (again.absorbed, again.outcomes) == (1, ())


def test_members_are_enrolled_by_a_payer_of_the_plan(world: LedgerWorld) -> None:
    body = enrollment(Prefix(CHAIN_ID, Kind.ENROLL_MEMBER, "cygnus", 1, 1, 0))
    assert refusal(world.block(signed_entry(Kind.ENROLL_MEMBER, body, ["cygnus"]))) == RefusalReason.NOT_AUTHORISED


def test_a_provider_is_no_payer(world: LedgerWorld) -> None:
    told = world.plan(payers=["aurora", "borealis", "riverside"])
    assert refusal(told) == RefusalReason.NOT_AUTHORISED


def test_a_running_year_gets_no_new_limit_on_services(world: LedgerWorld) -> None:
    deductible = rule(AccumulatorKind.DEDUCTIBLE, 50_000)
    limited = world.plan([deductible, rule(AccumulatorKind.LIMIT_CLASS, 100_000, limit_class=1)])
    assert refusal(limited) == RefusalReason.PLAN_LIMIT_FELL
    assert refusal(world.plan([deductible, rule(AccumulatorKind.OUT_OF_POCKET, 100_000)])) == 0


def test_whoever_shares_a_plan_has_to_agree_to_leave_it(world: LedgerWorld) -> None:
    alone = PublishPlan(
        world.prefix(Kind.PUBLISH_PLAN),
        "gold",
        2026,
        ("aurora",),
        (rule(AccumulatorKind.DEDUCTIBLE, 50_000),),
        CobMethod.STANDARD,
        ZERO,
        DAY - 200,
        DAY + 150,
    )
    entry = signed_entry(Kind.PUBLISH_PLAN, PUBLISH_PLAN.encode(alone), ["aurora"])
    assert refusal(world.block(entry)) == RefusalReason.NOT_AUTHORISED


@pytest.mark.parametrize("name", ["", "Lake Side", "-lake", "lake.side"])
def test_an_organisation_has_a_name_that_topics_and_certificates_can_carry(name: str) -> None:
    world = LedgerWorld()
    keys = world.state.organisations["riverside"].keys
    body = RegisterOrganisation(world.prefix(Kind.REGISTER_ORGANISATION), name, (Role.PROVIDER,), keys)
    encoded = REGISTER_ORGANISATION.encode(body)
    signed = signed_entry(Kind.REGISTER_ORGANISATION, encoded, ["aurora", "borealis", "cygnus"])
    assert refusal(world.block(signed)) == RefusalReason.MALFORMED


def test_a_review_is_signed_by_the_payer_it_names(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("held", [line()])], pend=(0,)))
    prefix = replace(world.prefix(Kind.REVIEW_CLAIM), sequence=0)
    body = REVIEW_CLAIM.encode(ReviewClaim(prefix, ref("held"), 1, ReviewDecision.RELEASE, ReasonClass.CLEARED, ""))
    assert dropped(world, signed_entry(Kind.REVIEW_CLAIM, body, ["borealis"]))
    assert claim_result(world.block(signed_entry(Kind.REVIEW_CLAIM, body, ["aurora"]))).outcome is Outcome.SETTLED


def test_a_review_of_a_duplicate_names_the_link_and_its_reason(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("first", [line(duplicate_tag=TAG)])]))
    held = claim_result(world.block(scored_entry([claim("second", [line(duplicate_tag=TAG)])], pend=(0,))))
    assert (held.reason, held.linked) == (ReasonClass.DUPLICATE, ref("first"))
    released = claim_result(world.review("second", ReviewDecision.RELEASE))
    assert (released.outcome, released.reason, released.linked) == (
        Outcome.SETTLED,
        ReasonClass.CLEARED,
        ref("first"),
    )
    assert world.state.tags[TAG] == ("aurora", ref("first"), 1)


def test_a_denied_review_says_why(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("held", [line()])], pend=(0,)))
    denied = claim_result(world.review("held", ReviewDecision.DENY, "50"))
    assert (denied.reason, denied.linked, denied.step) == (ReasonClass.FRAUD_SUSPICION, None, 1)


@pytest.mark.parametrize(("decision", "carc"), [(ReviewDecision.RELEASE, "50"), (ReviewDecision.DENY, "")])
def test_a_review_has_a_code_exactly_when_it_denies(world: LedgerWorld, decision: ReviewDecision, carc: str) -> None:
    world.block(scored_entry([claim("held", [line()])], pend=(0,)))
    assert refusal(world.review("held", decision, carc)) == RefusalReason.BAD_DISPOSITION


def secondary(world: LedgerWorld, prior: tuple[PriorClaim, ...]) -> ClaimResult:
    told = claim(
        "second",
        [line(duplicate_tag=TAG, other_payer_paid_cents=1_000)],
        payer="borealis",
        submitter="borealis",
        prior=prior,
    )
    return claim_result(world.block(scored_entry([told], "borealis")))


def test_coordination_with_a_ledgered_primary_is_no_duplicate(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("first", [line(duplicate_tag=TAG, coinsurance_bp=2_000)])]))
    told = secondary(world, prior=(PriorClaim("aurora", ref("first"), 1),))
    assert (told.outcome, told.paid_cents, told.coordination) == (Outcome.SETTLED, 2_000, Coordination.LEDGERED)


def test_coordination_with_a_primary_that_is_not_settled_here_is_marked(world: LedgerWorld) -> None:
    unknown = secondary(world, prior=(PriorClaim("aurora", ref("nowhere"), 1),))
    assert (unknown.paid_cents, unknown.coordination) == (9_000, Coordination.SUBMITTED)
    world.block(scored_entry([claim("held", [line()])], pend=(0,)))
    pended = claim("third", [line()], prior=(PriorClaim("aurora", ref("held"), 1),))
    assert claim_result(world.block(scored_entry([pended]))).coordination is Coordination.SUBMITTED
    assert claim_result(world.block(scored_entry([claim("alone", [line()])]))).coordination is Coordination.NONE


def test_a_primary_with_other_line_numbers_cannot_be_told_line_by_line(world: LedgerWorld) -> None:
    """What it paid must not count as nothing: the submitted amount does."""
    world.block(scored_entry([claim("first", [line(number=2, duplicate_tag=TAG, coinsurance_bp=2_000)])]))
    told = secondary(world, prior=(PriorClaim("aurora", ref("first"), 1),))
    assert (told.paid_cents, told.coordination) == (9_000, Coordination.SUBMITTED)


def test_a_foreign_duplicate_is_held_although_the_claim_names_a_primary(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("other", [line(duplicate_tag=TAG)])]))
    told = secondary(world, prior=(PriorClaim("aurora", ref("first"), 1),))
    assert (told.outcome, told.linked) == (Outcome.PENDED, ref("other"))


def test_what_is_pended_is_part_of_the_state(world: LedgerWorld) -> None:
    """Two replicas that hold the claim under different prices have different roots, before any money moves."""
    other = LedgerWorld()
    other.plan([rule(AccumulatorKind.DEDUCTIBLE, 50_000)])
    other.enroll("ada")
    assert other.state.root == world.state.root
    world.block(scored_entry([claim("held", [line(copay_cents=1)])], pend=(0,)))
    other.block(scored_entry([claim("held", [line(copay_cents=2)])], pend=(0,)))
    assert other.state.root != world.state.root


def test_the_outcome_of_a_review_and_the_claims_next_result_are_two_leaves(world: LedgerWorld) -> None:
    world.block(scored_entry([claim("held", [line()])], pend=(0,)))
    told, settled = world.review("held", ReviewDecision.RELEASE).outcomes
    assert isinstance(told, TransactionResult)
    assert isinstance(settled, ClaimResult)
    assert (told.index, settled.index) == (0, 1)
