"""A version is spent once, a duplicate is held, and a review decides what is pended, once.

Source: settlement.md, Identity of a claim; ReviewClaim; Invariants.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from claims.claim import Frequency
from claims.result import ClaimResult, Outcome
from claims.transaction import (
    REVIEW_CLAIM,
    AccumulatorKind,
    AccumulatorScope,
    Disposition,
    Kind,
    PricedLine,
    PriorClaim,
    ReasonClass,
    RefusalReason,
    ReviewClaim,
    ReviewDecision,
)
from ledger_commit.publications import Proven, parties_of, status_steps
from ledger_commit.settlement import Execution
from tests.fixtures.ledger_world import ZERO, LedgerWorld, claim, line, ref, rule, scored_entry, signed_entry
from tests.unit.settlement.unchanged import contents, nothing_changes, refused

TAG = b"\x07" * 32
OTHER = b"\x01" * 32
RELEASE, DENY = ReviewDecision.RELEASE, ReviewDecision.DENY


@pytest.fixture
def world() -> LedgerWorld:
    made = LedgerWorld()
    made.plan()
    made.enroll("ada")
    return made


def submit(world: LedgerWorld, name: str, pend: Sequence[int] = (), **changes: Any) -> ClaimResult:
    lines = changes.pop("lines", [line()])
    executed = world.block(scored_entry([claim(name, lines, **changes)], changes.get("payer", "aurora"), pend))
    return claim_result(executed)


def claim_result(executed: Execution) -> ClaimResult:
    (outcome,) = (o for o in executed.outcomes if isinstance(o, ClaimResult))
    return outcome


def review(
    world: LedgerWorld, name: str, decision: ReviewDecision, payer: str = "aurora", carc: str = "", **prefix: Any
) -> bytes:
    given = replace(world.prefix(Kind.REVIEW_CLAIM, payer), sequence=0, **prefix)
    reason = ReasonClass.CLEARED if decision is RELEASE else ReasonClass.FRAUD_SUSPICION
    body = ReviewClaim(given, ref(name), 1, decision, reason, carc or ("50" if decision is DENY else ""))
    return signed_entry(Kind.REVIEW_CLAIM, REVIEW_CLAIM.encode(body), [payer])


# What is spent.

STATES: dict[str, dict[str, Any]] = {
    "settled": {},
    "denied": {"lines": [line(denial_carc="29")], "disposition": Disposition.DENY},
    "pended": {"pend": (0,)},
    "refused": {"member_ref": ref("nobody")},
}


@pytest.mark.parametrize("disposition", sorted(STATES))
def test_a_repeat_is_absorbed_whatever_became_of_the_claim(world: LedgerWorld, disposition: str) -> None:
    """No result, no leaf, no change, also when the payer priced the repeat otherwise: the commitment tells."""
    first = submit(world, "one", **STATES[disposition])
    assert first.outcome.name.lower() == disposition
    leaves = len(world.state.results)
    with nothing_changes(world):
        again = world.block(scored_entry([claim("one", [line(copay_cents=1)])]))
    assert (again.absorbed, again.outcomes, again.results, again.results_size) == (1, (), (), leaves)


@pytest.mark.parametrize("disposition", sorted(STATES))
def test_another_commitment_under_a_spent_version_never_moves_the_claim(world: LedgerWorld, disposition: str) -> None:
    """Refused once with its reason; of the state only the memory of the refused commitment changes."""
    submit(world, "one", **STATES[disposition])
    before = contents(world.state)
    told = submit(world, "one", commitment=OTHER)
    assert (told.outcome, told.refusal, told.paid_cents, told.commitment) == (
        Outcome.REFUSED,
        RefusalReason.VERSION_SPENT,
        0,
        OTHER,
    )
    after = contents(world.state)
    entry = before["claims"]["aurora", ref("one"), 1]
    entry.refused_commitments = (OTHER,)
    before["claims_of_payer"]["aurora", ref("one"), 1] = entry
    assert {k: v for k, v in after.items() if k != "root"} == {k: v for k, v in before.items() if k != "root"}
    assert after["root"] != before["root"]


def test_a_refused_repeat_is_told_to_its_sender_alone_and_has_no_status(world: LedgerWorld) -> None:
    """Whoever is to be paid, or whose claim it is, must not read that the claim was refused."""
    submit(world, "one")
    told = submit(world, "one", submitter="cygnus", commitment=OTHER)
    assert told.refusal == RefusalReason.VERSION_SPENT
    assert parties_of(told) == [("cygnus", "submitter")]
    assert status_steps(Proven(0, told, b"", 0)) == []


def test_a_refused_repeat_is_remembered_over_a_review(world: LedgerWorld) -> None:
    submit(world, "one", pend=(0,))
    submit(world, "one", commitment=OTHER)
    world.block(review(world, "one", RELEASE))
    with nothing_changes(world):
        assert world.block(scored_entry([claim("one", [line()], commitment=OTHER)])).absorbed == 1


@pytest.mark.parametrize("frequency", [Frequency.REPLACEMENT, Frequency.VOID])
def test_replacement_and_void_are_refused_for_now_and_the_original_stands(
    world: LedgerWorld, frequency: Frequency
) -> None:
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    before = contents(world.state)
    told = submit(world, "one", frequency=frequency, version=2, commitment=OTHER, lines=[line(duplicate_tag=TAG)])
    assert (told.outcome, told.refusal) == (Outcome.REFUSED, RefusalReason.FREQUENCY_NOT_SUPPORTED)
    after = contents(world.state)
    for part in ("positions", "tags", "accumulators"):
        assert after[part] == before[part]
    assert after["claims"]["aurora", ref("one"), 1] == before["claims"]["aurora", ref("one"), 1]


# Duplicates.


@pytest.mark.parametrize("twice", [{"version": 2}, {"submitter": "cygnus", "payer": "borealis"}])
def test_the_same_reference_hides_no_duplicate(world: LedgerWorld, twice: dict[str, Any]) -> None:
    """Under another version, or through another submitter to another payer."""
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    told = submit(world, "one", lines=[line(duplicate_tag=TAG)], commitment=OTHER, **twice)
    assert (told.outcome, told.reason, told.linked) == (Outcome.PENDED, ReasonClass.DUPLICATE, ref("one"))


@pytest.mark.parametrize(
    "prior",
    [PriorClaim("borealis", ref("one"), 1), PriorClaim("aurora", ref("one"), 2)],
    ids=["of another payer", "of another version"],
)
def test_a_prior_claim_that_the_ledger_does_not_have_hides_no_duplicate(world: LedgerWorld, prior: PriorClaim) -> None:
    """What it paid would not be taken off, so that the service would be paid twice in full."""
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    told = submit(world, "two", lines=[line(duplicate_tag=TAG)], payer="borealis", submitter="borealis", prior=(prior,))
    assert (told.outcome, told.linked, told.paid_cents) == (Outcome.PENDED, ref("one"), 0)


def test_a_denied_duplicate_does_not_free_the_tag_of_the_first(world: LedgerWorld) -> None:
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    submit(world, "two", lines=[line(duplicate_tag=TAG)])
    denied = claim_result(world.block(review(world, "two", DENY)))
    assert (denied.outcome, denied.linked) == (Outcome.DENIED, ref("one"))
    assert world.state.tags == {TAG: ("aurora", ref("one"), 1)}
    assert submit(world, "three", lines=[line(duplicate_tag=TAG)]).linked == ref("one")


def test_a_denied_duplicate_under_the_same_reference_does_not_either(world: LedgerWorld) -> None:
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    submit(world, "one", lines=[line(duplicate_tag=TAG)], submitter="cygnus", payer="borealis", commitment=OTHER)
    denied = claim_result(world.block(review(world, "one", DENY, "borealis")))
    assert (denied.outcome, denied.submitter) == (Outcome.DENIED, "cygnus")
    assert world.state.tags == {TAG: ("aurora", ref("one"), 1)}


def test_a_freed_tag_goes_to_the_claim_that_waits_longest(world: LedgerWorld) -> None:
    """Else a third claim would settle, and the second, whose review names a denied claim, after it: paid twice."""
    for name, pend in (("one", (0,)), ("two", ()), ("three", ())):
        assert submit(world, name, pend, lines=[line(duplicate_tag=TAG)]).outcome is Outcome.PENDED
    world.block(review(world, "one", DENY))
    assert submit(world, "four", lines=[line(duplicate_tag=TAG)]).linked == ref("two")
    world.block(review(world, "two", DENY))
    assert submit(world, "five", lines=[line(duplicate_tag=TAG)]).linked == ref("three")


def test_a_freed_tag_goes_to_a_settled_claim_before_a_pended_one(world: LedgerWorld) -> None:
    """The one that is paid keeps the service from being paid again, also where another waits longer."""
    for name, pend in (("one", (0,)), ("two", ()), ("three", ())):
        submit(world, name, pend, lines=[line(duplicate_tag=TAG)])
    assert claim_result(world.block(review(world, "three", RELEASE))).outcome is Outcome.SETTLED
    world.block(review(world, "one", DENY))
    assert world.state.tags == {TAG: ("aurora", ref("three"), 1)}
    world.block(review(world, "two", DENY))
    told = submit(world, "four", lines=[line(duplicate_tag=TAG)])
    assert (told.outcome, told.linked, told.paid_cents) == (Outcome.PENDED, ref("three"), 0)


def test_a_released_duplicate_is_live_when_the_first_is_denied(world: LedgerWorld) -> None:
    """Else a third claim for the service would settle beside the second: paid twice, and by nobody's decision."""
    for name, pend in (("one", (0,)), ("two", ())):
        assert submit(world, name, pend, lines=[line(duplicate_tag=TAG)]).outcome is Outcome.PENDED
    assert claim_result(world.block(review(world, "two", RELEASE))).outcome is Outcome.SETTLED
    assert claim_result(world.block(review(world, "one", DENY))).outcome is Outcome.DENIED
    told = submit(world, "three", lines=[line(duplicate_tag=TAG)])
    assert (told.outcome, told.reason, told.linked) == (Outcome.PENDED, ReasonClass.DUPLICATE, ref("two"))


def secondary(world: LedgerWorld, name: str) -> ClaimResult:
    """Borealis' claim for what it says that aurora's claim "one" has paid first."""
    prior = (PriorClaim("aurora", ref("one"), 1),)
    tagged = [line(duplicate_tag=TAG)]
    return submit(world, name, lines=tagged, payer="borealis", submitter="borealis", prior=prior)


def test_a_secondary_is_live_when_its_primary_is_denied(world: LedgerWorld) -> None:
    """It settled without holding the tag, which its primary held."""
    submit(world, "one", (0,), lines=[line(duplicate_tag=TAG)])
    assert secondary(world, "two").outcome is Outcome.SETTLED
    world.block(review(world, "one", DENY))
    told = submit(world, "three", lines=[line(duplicate_tag=TAG)])
    assert (told.outcome, told.linked) == (Outcome.PENDED, ref("two"))


def test_two_secondaries_of_one_primary_are_duplicates_of_each_other(world: LedgerWorld) -> None:
    """Each takes off what the primary paid, and nothing of the other."""
    submit(world, "one", lines=[line(duplicate_tag=TAG, coinsurance_bp=2_000)])
    assert secondary(world, "two").paid_cents == 2_000
    told = secondary(world, "three")
    assert (told.outcome, told.linked, told.paid_cents) == (Outcome.PENDED, ref("two"), 0)


def test_a_claim_that_is_decided_waits_for_no_tag(world: LedgerWorld) -> None:
    for name, pend in (("one", (0,)), ("two", ()), ("three", ())):
        submit(world, name, pend, lines=[line(duplicate_tag=TAG)])
    for name in ("two", "three", "one"):
        world.block(review(world, name, DENY))
    assert (world.state.tags, world.state.waiting) == ({}, {})
    assert submit(world, "four", lines=[line(duplicate_tag=TAG)]).outcome is Outcome.SETTLED


def test_a_claim_waits_once_for_a_tag_of_two_lines_and_never_for_its_own(world: LedgerWorld) -> None:
    twice = [line(1, duplicate_tag=TAG), line(2, duplicate_tag=TAG)]
    for name, pend in (("one", (0,)), ("two", ())):
        submit(world, name, pend, lines=twice)
    assert world.state.waiting == {TAG: [("aurora", ref("two"), 1)]}
    world.block(review(world, "one", DENY))
    assert (world.state.tags, world.state.waiting) == ({TAG: ("aurora", ref("two"), 1)}, {})


def test_a_primary_on_the_ledger_excuses_no_other_duplicate(world: LedgerWorld) -> None:
    submit(world, "primary")
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    prior = (PriorClaim("aurora", ref("primary"), 1),)
    told = submit(world, "two", lines=[line(duplicate_tag=TAG)], payer="borealis", submitter="borealis", prior=prior)
    assert (told.outcome, told.linked) == (Outcome.PENDED, ref("one"))


TWICE = (line(1, duplicate_tag=TAG), line(2, 7_000, duplicate_tag=TAG))


def test_two_lines_of_one_claim_under_one_tag_wait_for_a_person(world: LedgerWorld) -> None:
    """The payer's edits deny exact repeats; what they let through, or a payer without them, is not paid twice unseen."""
    told = submit(world, "one", lines=TWICE)
    assert (told.outcome, told.reason, told.linked) == (Outcome.PENDED, ReasonClass.DUPLICATE, ref("one"))
    assert (told.paid_cents, told.lines) == (0, ())
    released = claim_result(world.block(review(world, "one", RELEASE)))
    assert (released.outcome, released.linked, released.paid_cents) == (Outcome.SETTLED, ref("one"), 17_000)
    assert submit(world, "two", lines=[line(duplicate_tag=TAG)]).linked == ref("one")


def test_a_claim_that_repeats_itself_and_another_names_the_other(world: LedgerWorld) -> None:
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    assert submit(world, "two", lines=TWICE).linked == ref("one")


def test_a_denied_repetition_of_itself_frees_the_tag(world: LedgerWorld) -> None:
    submit(world, "one", lines=TWICE)
    assert claim_result(world.block(review(world, "one", DENY))).linked == ref("one")
    assert (world.state.tags, world.state.waiting) == ({}, {})


@pytest.mark.parametrize(
    "lines",
    [(TWICE[0], replace(TWICE[1], denial_carc="18")), (line(1), line(2))],
    ids=["the second is denied", "no tags"],
)
def test_lines_that_are_denied_or_have_no_tag_repeat_nothing(world: LedgerWorld, lines: Sequence[PricedLine]) -> None:
    assert submit(world, "one", lines=lines).outcome is Outcome.SETTLED


def test_a_secondary_that_repeats_itself_waits_also_where_its_primary_does_not(world: LedgerWorld) -> None:
    """Coordination excuses the primary's line, once."""
    submit(world, "one", lines=[line(duplicate_tag=TAG)])
    prior = (PriorClaim("aurora", ref("one"), 1),)
    told = submit(world, "two", lines=TWICE, payer="borealis", submitter="borealis", prior=prior)
    assert (told.outcome, told.linked) == (Outcome.PENDED, ref("two"))


# Holds and reviews.


@pytest.mark.parametrize("reason", [ReasonClass.EDIT, ReasonClass.MEDICAL_NECESSITY])
def test_a_claim_that_the_payer_pended_waits_under_the_payers_reason(world: LedgerWorld, reason: ReasonClass) -> None:
    """Also where the scorer's bit is set: it adds nothing to a claim that is held anyhow."""
    for name, pend in (("one", ()), ("two", (0,))):
        told = submit(world, name, pend, disposition=Disposition.PEND, reason=reason)
        assert (told.outcome, told.reason, told.lines) == (Outcome.PENDED, reason, ())
    assert not world.state.positions
    assert claim_result(world.block(review(world, "one", RELEASE))).paid_cents == 10_000


@pytest.mark.parametrize("decision", [RELEASE, DENY])
def test_a_foreign_payer_decides_nothing(world: LedgerWorld, decision: ReviewDecision) -> None:
    """To another payer, though of the same plan, the claim is unknown; to a stranger too."""
    submit(world, "held", pend=(0,))
    for payer in ("borealis", "cygnus", "riverside"):
        assert refused(world, review(world, "held", decision, payer)) is RefusalReason.UNKNOWN_CLAIM
    assert claim_result(world.block(review(world, "held", decision))).step == 1


@pytest.mark.parametrize("decision", [RELEASE, DENY])
@pytest.mark.parametrize("disposition", ["settled", "denied", "refused"])
def test_only_what_is_pended_is_decided(world: LedgerWorld, disposition: str, decision: ReviewDecision) -> None:
    submit(world, "one", **STATES[disposition])
    assert refused(world, review(world, "one", decision)) is RefusalReason.NOT_PENDED


@pytest.mark.parametrize("second", [RELEASE, DENY])
@pytest.mark.parametrize("first", [RELEASE, DENY])
def test_a_claim_is_decided_once(world: LedgerWorld, first: ReviewDecision, second: ReviewDecision) -> None:
    """The same transaction again is absorbed; another one finds nothing pended, whatever it says."""
    submit(world, "held", pend=(0,))
    entry = review(world, "held", first)
    decided = claim_result(world.block(entry))
    assert decided.outcome is (Outcome.SETTLED if first is RELEASE else Outcome.DENIED)
    with nothing_changes(world):
        again = world.block(entry)
    assert (again.absorbed, again.outcomes) == (1, ())
    assert refused(world, review(world, "held", second, expires_height=99)) is RefusalReason.NOT_PENDED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain_id": ZERO}, RefusalReason.WRONG_CHAIN),
        ({"kind": Kind.ENROLL_MEMBER}, RefusalReason.MALFORMED),
        ({"expires_height": 3}, RefusalReason.EXPIRED),
    ],
)
def test_a_review_of_another_chain_kind_or_time_decides_nothing(
    world: LedgerWorld, changes: dict[str, Any], reason: RefusalReason
) -> None:
    submit(world, "held", pend=(0,))
    assert world.state.height == 3
    assert refused(world, review(world, "held", RELEASE, **changes)) is reason


def test_a_release_posts_to_the_family_that_the_member_is_in_by_then(world: LedgerWorld) -> None:
    """A review settles at its own place in the order, and finds the state of that place."""
    world.plan([rule(AccumulatorKind.DEDUCTIBLE, 50_000, AccumulatorScope.FAMILY)])
    submit(world, "held", pend=(0,), lines=[line(deductible_applies=True)])
    world.enroll("ada", family="another")
    settled = claim_result(world.block(review(world, "held", RELEASE)))
    assert [posting.holder for posting in settled.postings] == [ref("another")]


def test_a_partly_denied_claim_keeps_its_denials_when_the_rest_is_denied(world: LedgerWorld) -> None:
    lines = [line(1, denial_carc="29"), line(2)]
    submit(world, "held", pend=(0,), lines=lines)
    denied = claim_result(world.block(review(world, "held", DENY, carc="50")))
    assert [settled.adjustments[0].carc for settled in denied.lines] == ["29", "50"]
