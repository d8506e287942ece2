"""Organisations, plans and members: what a transaction must bring, and that a refused one changes nothing.

Source: settlement.md, Transactions; "errors refuse one transaction with a typed reason and change nothing".
"""

from dataclasses import replace
from typing import Any

import pytest

from claims.result import Outcome
from claims.transaction import (
    ENROLL_MEMBER,
    ENTRY_TRANSACTION,
    PUBLISH_PLAN,
    REGISTER_ORGANISATION,
    SIGNED_TRANSACTION,
    AccumulatorKind,
    AccumulatorScope,
    CobMethod,
    EnrollMember,
    Enrollment,
    KeyUse,
    Kind,
    OrganisationKey,
    PartySignature,
    PublishPlan,
    RefusalReason,
    RegisterOrganisation,
    Role,
    SignedTransaction,
    Tier,
    transaction_message,
)
from tests.fixtures.ledger_world import (
    DAY,
    ORGANISATION_KEY,
    SCORING_KEY,
    ZERO,
    LedgerWorld,
    claim,
    line,
    private_key,
    ref,
    rule,
    scored_entry,
    signed_entry,
)
from tests.unit.settlement.unchanged import dropped, nothing_changes, refused

GOVERNORS = ("aurora", "borealis", "cygnus")
DEDUCTIBLE, OUT_OF_POCKET, LIMIT = (
    AccumulatorKind.DEDUCTIBLE,
    AccumulatorKind.OUT_OF_POCKET,
    AccumulatorKind.LIMIT_CLASS,
)
FAMILY = AccumulatorScope.FAMILY
RUNNING = (rule(DEDUCTIBLE, 50_000), rule(DEDUCTIBLE, 80_000, FAMILY), rule(LIMIT, 30_000, limit_class=1))


@pytest.fixture
def world() -> LedgerWorld:
    made = LedgerWorld()
    made.plan(RUNNING)
    made.enroll("ada")
    return made


def registration(world: LedgerWorld, signed_by: tuple[str, ...] = GOVERNORS, **changes: Any) -> bytes:
    keys = world.state.organisations["riverside"].keys
    usual = RegisterOrganisation(world.prefix(Kind.REGISTER_ORGANISATION), "lakeside", (Role.PROVIDER,), keys)
    body = REGISTER_ORGANISATION.encode(replace(usual, **changes))
    return signed_entry(Kind.REGISTER_ORGANISATION, body, signed_by)


def plan(world: LedgerWorld, signed_by: tuple[str, ...] = ("aurora", "borealis"), **changes: Any) -> bytes:
    usual = PublishPlan(
        world.prefix(Kind.PUBLISH_PLAN),
        "gold",
        2026,
        ("aurora", "borealis"),
        RUNNING,
        CobMethod.STANDARD,
        ZERO,
        DAY - 200,
        DAY + 150,
    )
    body = PUBLISH_PLAN.encode(replace(usual, **changes))
    return signed_entry(Kind.PUBLISH_PLAN, body, signed_by)


def enrollment(world: LedgerWorld, signed_by: tuple[str, ...] = ("aurora",), **changes: Any) -> bytes:
    members = (Enrollment(ref("zoe"), ref("family"), DAY - 1, DAY + 1),)
    usual = EnrollMember(world.prefix(Kind.ENROLL_MEMBER), "gold", 2026, members)
    body = ENROLL_MEMBER.encode(replace(usual, **changes))
    return signed_entry(Kind.ENROLL_MEMBER, body, signed_by)


def test_what_the_refused_ones_are_made_from_takes_effect(world: LedgerWorld) -> None:
    for entry in (registration(world), plan(world), enrollment(world)):
        (outcome,) = world.block(entry).outcomes
        assert outcome.refusal == 0
    assert "lakeside" in world.state.organisations
    assert ("gold", 2026, ref("zoe")) in world.state.members


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signed_by": GOVERNORS[:2]}, RefusalReason.NOT_AUTHORISED),
        ({"signed_by": (*GOVERNORS[:2], "riverside")}, RefusalReason.NOT_AUTHORISED),
        ({"organisation": "riverside"}, RefusalReason.ALREADY_REGISTERED),
        ({"roles": ()}, RefusalReason.MALFORMED),
        ({"keys": ()}, RefusalReason.MALFORMED),
        ({"keys": (OrganisationKey(1, KeyUse.ORGANISATION, ZERO, 0, 0),) * 2}, RefusalReason.MALFORMED),
        ({"organisation": "Lake Side"}, RefusalReason.MALFORMED),
    ],
)
def test_a_registration_needs_two_thirds_and_a_new_name_with_keys(
    world: LedgerWorld, changes: dict[str, Any], reason: RefusalReason
) -> None:
    """Of those that run replicas: a provider's signature beside theirs does not count."""
    assert refused(world, registration(world, **changes)) is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payers": ()}, RefusalReason.UNKNOWN_ORGANISATION),
        ({"payers": ("aurora", "nowhere")}, RefusalReason.UNKNOWN_ORGANISATION),
        ({"signed_by": ("aurora",)}, RefusalReason.NOT_AUTHORISED),
        ({"payers": ("aurora", "meridian"), "signed_by": ("aurora", "meridian")}, RefusalReason.NOT_AUTHORISED),
        ({"first_day": DAY + 151}, RefusalReason.MALFORMED),
        ({"accumulators": (*RUNNING, RUNNING[0])}, RefusalReason.MALFORMED),
        ({"plan": "new", "accumulators": (rule(DEDUCTIBLE, -1),)}, RefusalReason.MALFORMED),
    ],
)
def test_a_plan_needs_payers_who_sign_and_rules_that_are_one_each(
    world: LedgerWorld, changes: dict[str, Any], reason: RefusalReason
) -> None:
    assert refused(world, plan(world, **changes)) is reason


@pytest.mark.parametrize(
    "accumulators",
    [
        (rule(DEDUCTIBLE, 49_999), *RUNNING[1:]),
        (RUNNING[0], rule(DEDUCTIBLE, 79_999, FAMILY), RUNNING[2]),
        (*RUNNING[:2], rule(LIMIT, 29_999, limit_class=1)),
        RUNNING[1:],
        RUNNING[:2],
        (rule(DEDUCTIBLE, 50_000, tier=Tier.OUT_OF_NETWORK), *RUNNING[1:]),
        (*RUNNING, rule(LIMIT, 10**11, limit_class=2)),
    ],
    ids=["individual", "family", "class", "went away", "class went away", "other tier", "new class"],
)
def test_no_limit_of_a_running_year_falls(world: LedgerWorld, accumulators: Any) -> None:
    """Nor goes away, nor moves to another tier; and a service that had no limit gets none."""
    assert refused(world, plan(world, accumulators=accumulators)) is RefusalReason.PLAN_LIMIT_FELL


def test_limits_of_a_running_year_may_rise_and_what_was_used_stays_used(world: LedgerWorld) -> None:
    used = line(charge=40_000, deductible_applies=True)
    world.block(scored_entry([claim("one", [used])]))
    raised = tuple(replace(r, limit_cents=r.limit_cents + 20_000) for r in RUNNING)
    assert world.block(plan(world, accumulators=raised)).outcomes[0].refusal == 0
    (second,) = world.block(scored_entry([claim("two", [used])])).outcomes
    assert second.paid_cents == 40_000 - 30_000  # type: ignore[union-attr]


def test_another_year_has_limits_of_its_own(world: LedgerWorld) -> None:
    assert world.block(plan(world, year=2027, accumulators=())).outcomes[0].refusal == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan": "silver"}, RefusalReason.UNKNOWN_PLAN),
        ({"year": 2027}, RefusalReason.UNKNOWN_PLAN),
        ({"members": (Enrollment(ref("zoe"), ref("family"), DAY + 1, DAY),)}, RefusalReason.MALFORMED),
    ],
)
def test_members_are_enrolled_in_a_known_plan_for_days_in_order(
    world: LedgerWorld, changes: dict[str, Any], reason: RefusalReason
) -> None:
    assert refused(world, enrollment(world, **changes)) is reason


def test_one_member_whose_days_are_in_disorder_keeps_out_all_that_come_with_it(world: LedgerWorld) -> None:
    """A transaction takes effect whole or not at all."""
    members = (
        Enrollment(ref("zoe"), ref("family"), DAY - 1, DAY + 1),
        Enrollment(ref("yan"), ref("family"), DAY + 1, DAY - 1),
    )
    assert refused(world, enrollment(world, members=members)) is RefusalReason.MALFORMED


def test_a_retroactive_end_of_enrolment_touches_later_claims_only(world: LedgerWorld) -> None:
    (paid,) = world.block(scored_entry([claim("before", [line()])])).outcomes
    ended = (Enrollment(ref("ada"), ref("family"), DAY - 100, DAY - 1),)
    positions = dict(world.state.positions)
    assert world.block(enrollment(world, members=ended)).outcomes[0].refusal == 0
    assert world.state.positions == positions
    (after,) = world.block(scored_entry([claim("after", [line()])])).outcomes
    assert (paid.refusal, after.refusal) == (0, RefusalReason.NOT_ENROLLED)


def signed(kind: Kind, body: bytes, signatures: list[PartySignature]) -> bytes:
    return bytes((ENTRY_TRANSACTION,)) + SIGNED_TRANSACTION.encode(SignedTransaction(kind, body, tuple(signatures)))


def signature(body: bytes, organisation: str, key_id: int = ORGANISATION_KEY, signer: str = "") -> PartySignature:
    made = private_key(signer or organisation, key_id).sign(transaction_message(body))
    return PartySignature(organisation, key_id, made)


@pytest.mark.parametrize(
    "second",
    [
        ("borealis", ORGANISATION_KEY, "aurora"),
        ("borealis", SCORING_KEY, "borealis"),
        ("nowhere", ORGANISATION_KEY, "nowhere"),
    ],
    ids=["another's hand", "a key of another use", "an organisation that is none"],
)
def test_one_signature_that_does_not_hold_makes_the_transaction_nobodys(
    world: LedgerWorld, second: tuple[str, int, str]
) -> None:
    """Also where the others would have sufficed: nobody may be made to look as if they had agreed. However often it comes."""
    members = (Enrollment(ref("zoe"), ref("family"), DAY - 1, DAY + 1),)
    body = ENROLL_MEMBER.encode(EnrollMember(world.prefix(Kind.ENROLL_MEMBER), "gold", 2026, members))
    entry = signed(Kind.ENROLL_MEMBER, body, [signature(body, "aurora"), signature(body, *second)])
    assert [dropped(world, entry) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize(("start", "end", "holds"), [(0, 0, True), (99, 0, False), (0, 3, False), (4, 4, True)])
def test_a_key_signs_at_the_heights_for_which_it_was_registered(
    world: LedgerWorld, start: int, end: int, *, holds: bool
) -> None:
    """Registered at height 3, used at height 4; 0 leaves the end open."""
    keys = (
        OrganisationKey(1, KeyUse.ORGANISATION, private_key("lakeside", 1).public_key().public_bytes_raw(), start, end),
    )
    world.block(registration(world, roles=(Role.INSURER,), keys=keys))
    entry = plan(
        world,
        ("lakeside",),
        prefix=world.prefix(Kind.PUBLISH_PLAN, "lakeside"),
        plan="lake",
        payers=("lakeside",),
        accumulators=(),
    )
    (outcome,) = world.block(entry).outcomes
    assert world.state.height == 4
    assert outcome.refusal == (0 if holds else RefusalReason.KEY_NOT_VALID)


@pytest.mark.parametrize("kind", [Kind.RECORD, Kind.ENROLL_MEMBER])
def test_a_body_that_is_none_of_its_kind_names_nobody(world: LedgerWorld, kind: Kind) -> None:
    """A record travels with its own signatures, never as a transaction."""
    body = b"whatever"
    assert dropped(world, signed(kind, body, [signature(body, "aurora")]))


def test_a_refusal_is_told_once_for_each_reason(world: LedgerWorld) -> None:
    """Else whoever sends the same bytes again and again makes the ledger grow; what may be told anew is a new reason."""
    prefix = replace(world.prefix(Kind.ENROLL_MEMBER), expires_height=6)
    early = enrollment(world, prefix=prefix, plan="silver")
    assert refused(world, early) is RefusalReason.UNKNOWN_PLAN
    leaves = len(world.state.results)
    with nothing_changes(world):
        again = world.block(early, early)
    assert (again.absorbed, again.outcomes, again.results_size) == (2, (), leaves)
    world.block(plan(world, plan="lead"))
    world.block()
    assert refused(world, early) is RefusalReason.EXPIRED
    assert world.block(early).absorbed == 1


def test_a_transaction_that_came_too_early_takes_effect_when_it_comes_again(world: LedgerWorld) -> None:
    early = enrollment(
        world, plan="silver", prefix=world.prefix(Kind.ENROLL_MEMBER, "borealis"), signed_by=("borealis",)
    )
    assert refused(world, early) is RefusalReason.UNKNOWN_PLAN
    world.block(plan(world, plan="silver"))
    assert world.block(early).outcomes[0].refusal == 0
    assert ("silver", 2026, ref("zoe")) in world.state.members


def test_a_refused_transaction_does_not_stop_the_block(world: LedgerWorld) -> None:
    executed = world.block(plan(world, payers=()), scored_entry([claim("one", [line()])]), enrollment(world))
    assert [o.refusal for o in executed.outcomes] == [RefusalReason.UNKNOWN_ORGANISATION, 0, 0]
    assert executed.outcomes[1].outcome is Outcome.SETTLED  # type: ignore[union-attr]
    assert [o.index for o in executed.outcomes] == [0, 1, 2]


def test_a_refused_transaction_leaves_its_sequence_number_to_the_next(world: LedgerWorld) -> None:
    prefix = world.prefix(Kind.ENROLL_MEMBER)
    assert refused(world, enrollment(world, prefix=prefix, plan="silver")) is RefusalReason.UNKNOWN_PLAN
    assert world.block(enrollment(world, prefix=prefix)).outcomes[0].refusal == 0
    assert refused(world, enrollment(world, prefix=prefix, year=2027)) is RefusalReason.SEQUENCE
