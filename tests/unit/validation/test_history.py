"""What a member was billed for before: what counts as a duplicate, and what a corrected claim is compared with."""

from dataclasses import replace

import pytest

from claims.claim import Frequency
from claims.finding import Finding, Severity
from tests.unit.validation.payer_world import DAY, OTHER_NPI, case, claim, reference, service_line
from validation.case import Case
from validation.edits import run_edits
from validation.history import BilledClaim, Histories, MemberHistory

Judged = tuple[BilledClaim, list[tuple[bytes, bytes]]]


def judge(histories: Histories, found: Case) -> Judged:
    return histories.judge(found, run_edits(found))


def restored(*judged: Judged) -> Histories:
    """What a restart makes of the state records."""
    histories = Histories()
    for _, records in judged:
        for key, value in records:
            histories.restore(key, value)
    return histories


def test_history_finds_exact_duplicates_and_never_the_claim_itself() -> None:
    histories = Histories()
    first, kept = judge(histories, case(name="first"))
    assert (first.duplicates, len(kept)) == ((), 1)
    assert judge(histories, case(name="first")) == (first, [])
    second, _ = judge(histories, case(name="second"))
    assert second.duplicates == (1,)
    assert judge(histories, case(name="first")) == (first, [])
    other, _ = judge(histories, case(claim([service_line(units=2)]), name="third"))
    assert other.duplicates == ()


def test_a_correction_is_no_duplicate_of_what_it_corrects() -> None:
    histories = Histories()
    judge(histories, case(name="first"))
    judged, _ = judge(histories, case(claim(header={"frequency": Frequency.REPLACEMENT}), name="second"))
    assert (judged.duplicates, judged.elsewhere) == ((), ())


def test_the_same_service_at_another_provider_on_the_day_is_told() -> None:
    histories = Histories()
    judge(histories, case(name="here"))
    parties = replace(claim().parties, billing_npi=OTHER_NPI)
    there, _ = judge(histories, case(claim(parties=parties), name="there"))
    assert (there.duplicates, there.elsewhere) == ((), (1,))


def test_history_survives_restoring_and_stays_bounded() -> None:
    """The state topic as compaction leaves it gives the same histories; a claim too many or too old leaves a tombstone."""
    histories, topic = Histories(), dict[bytes, bytes]()
    for number in range(450):
        made = claim([service_line(charge_cents=12_000 + number)])
        topic |= dict(judge(histories, case(made, name=f"c{number}"))[1])
    (member,) = histories.members.values()
    assert len(member.claims) == 400
    assert sum(not value for value in topic.values()) == 50
    later = claim([service_line(from_day=DAY + 1_000, through_day=DAY + 1_000)])
    topic |= dict(judge(histories, case(later, name="late", received_day=DAY + 1_000))[1])
    assert [claim.received_day for claim in member.claims.values()] == [DAY + 1_000]
    assert list(member.services) == [(DAY + 1_000, "99213")]
    restored = Histories()
    for key, value in topic.items():
        restored.restore(key, value)
    assert restored == histories


def test_a_forgotten_claim_leaves_the_history_that_held_it() -> None:
    histories, restored = Histories(), Histories()
    ((key, value),) = judge(histories, case())[1]
    for told in (value, value, b""):
        restored.restore(key, told)
    (member,) = restored.members.values()
    assert member == MemberHistory()


def test_a_service_that_another_claim_holds_too_stays_when_one_is_forgotten() -> None:
    histories, dearer = Histories(), claim([service_line(charge_cents=13_000)])
    ((key, _),) = judge(histories, case(name="first"))[1]
    judge(histories, case(dearer, name="second"))
    histories.restore(key, b"")
    assert judge(histories, case(dearer, name="third"))[0].duplicates == (1,)
    assert judge(histories, case(name="fourth"))[0].duplicates == ()


def uncovered(procedure: str) -> Case:
    """A claim at a payer whose plan does not cover its class yet."""
    gold = reference().plans["gold"]
    benefits = tuple(replace(benefit, covered=False) for benefit in gold.benefits)
    known = reference(plans={"gold": replace(gold, benefits=benefits)})
    return case(claim([service_line(procedure=procedure)]), known=known)


SCAN = service_line(procedure="70551")
TWICE = [service_line(), service_line(2)]
DENIED_AND_CORRECTED = [
    ("authorization.missing", case(claim([SCAN])), case(claim([SCAN], {"authorization": "PA-1"}), name="two")),
    (
        "filing.late",
        case(received_day=DAY + 91),
        case(claim([service_line(through_day=DAY + 5)]), name="two", received_day=DAY + 92),
    ),
    ("benefit.not-covered", uncovered("99213"), case(claim([service_line()]), name="two")),
    (
        "benefit.not-covered",
        uncovered("0101T"),
        case(claim([service_line(procedure="0101T")]), name="two"),
    ),
]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("rule", "denied", "corrected"), DENIED_AND_CORRECTED)
def test_a_corrected_claim_is_no_duplicate_of_the_denied_one(
    rule: str, denied: Case, corrected: Case, restart: bool
) -> None:
    """Nor after a restart; and the corrected one itself counts, so that a third is a duplicate."""
    assert [finding.rule for finding in run_edits(denied)] == [rule]
    histories = Histories()
    first = judge(histories, denied)
    if restart:
        histories = restored(first)
    second = judge(histories, corrected)
    assert (run_edits(corrected), second[0].duplicates) == ([], ())
    again = replace(corrected, accepted=replace(corrected.accepted, claim_ref=b"three".ljust(16, b".")))
    histories = restored(first, second) if restart else histories
    assert judge(histories, again)[0].duplicates == (1,)


def test_of_a_claim_with_a_denied_line_the_others_count() -> None:
    histories = Histories()
    judge(histories, case(claim([service_line(), replace(SCAN, number=2)])))
    both = claim([replace(SCAN, number=1), service_line(2)], {"authorization": "PA-1"})
    assert judge(histories, case(both, name="two"))[0].duplicates == (2,)


def test_a_denial_of_the_whole_claim_denies_every_line() -> None:
    histories = Histories()
    whole = Finding("edit", "header", Severity.DENY, "denied", carc="29")
    judged, _ = histories.judge(case(claim([service_line(), SCAN])), [whole])
    assert judged.lines == ()


def test_a_version_is_no_duplicate_of_the_one_before() -> None:
    histories, found = Histories(), case()
    judge(histories, found)
    later = replace(found, accepted=replace(found.accepted, version=2))
    assert judge(histories, later)[0].duplicates == ()


def test_nothing_is_a_duplicate_of_a_duplicate() -> None:
    """It was denied: when the claim that was paid is forgotten, nothing holds the service."""
    histories = Histories()
    ((key, _),) = judge(histories, case(name="first"))[1]
    assert judge(histories, case(name="second"))[0].duplicates == (1,)
    histories.restore(key, b"")
    assert judge(histories, case(name="third"))[0].duplicates == ()


@pytest.mark.parametrize("frequency", [Frequency.REPLACEMENT, Frequency.VOID])
@pytest.mark.parametrize("restart", [False, True])
def test_nothing_is_a_duplicate_of_a_replacement_or_a_void(frequency: Frequency, restart: bool) -> None:
    histories = Histories()
    first = judge(histories, case(claim(header={"frequency": frequency})))
    if restart:
        histories = restored(first)
    assert judge(histories, case(name="two"))[0].duplicates == ()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    "found",
    [case(claim([SCAN])), case(claim(header={"frequency": Frequency.REPLACEMENT})), case(claim(TWICE))],
    ids=["denied", "replacement", "in part a duplicate"],
)
def test_a_claim_that_counts_for_nothing_is_known_when_it_comes_again(found: Case, restart: bool) -> None:
    """With its first judgement, and without a second record."""
    histories = Histories()
    judge(histories, case(name="other"))
    first = judge(histories, found)
    if restart:
        histories = restored(first)
    assert judge(histories, found) == (first[0], [])


@pytest.mark.parametrize(
    ("frequency", "duplicates"),
    [(Frequency.ORIGINAL, (2, 3)), (Frequency.REPLACEMENT, (2, 3)), (Frequency.VOID, ())],
)
def test_of_the_same_line_twice_in_a_claim_the_first_counts(frequency: Frequency, duplicates: tuple[int, ...]) -> None:
    found = case(claim([*TWICE, service_line(3)], {"frequency": frequency}))
    assert judge(Histories(), found)[0].duplicates == duplicates


@pytest.mark.parametrize(
    "changes",
    [
        {"procedure": "97110"},
        {"modifiers": ("95",)},
        {"units": 2},
        {"charge_cents": 12_001},
        {"from_day": DAY - 1},
        {"tooth": "14"},
    ],
)
def test_lines_of_a_claim_that_differ_are_no_duplicates(changes: dict[str, object]) -> None:
    found = case(claim([service_line(), service_line(2, **changes)]))
    assert judge(Histories(), found)[0].duplicates == ()


def test_a_tooth_is_no_modifier() -> None:
    lines = [service_line(procedure="D2391", modifiers=("14",)), service_line(2, procedure="D2391", tooth="14")]
    assert judge(Histories(), case(claim(lines)))[0].duplicates == ()


def test_a_line_that_was_denied_makes_no_duplicate_of_the_next_one_of_its_claim() -> None:
    """Of two lines that differ in the last day alone, the one that came too late is denied and the other paid."""
    lines = [service_line(), service_line(2, through_day=DAY + 5)]
    found = case(claim(lines), received_day=DAY + 91)
    assert [finding.line for finding in run_edits(found)] == [1]
    judged, _ = judge(Histories(), found)
    assert (judged.duplicates, [line.number for line in judged.lines]) == ((), [2])


def test_the_widest_line_is_kept() -> None:
    wide = service_line(procedure="D2391", modifiers=("22", "23", "24", "25"), tooth="14", units=9_999)
    first = judge(Histories(), case(claim([wide])))
    assert judge(restored(first), case(claim([wide]), name="two"))[0].duplicates == (1,)


def test_an_empty_history_has_nothing_to_forget() -> None:
    assert MemberHistory().forget(DAY) == []
