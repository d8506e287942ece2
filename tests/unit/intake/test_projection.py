"""Steps come repeated and in any order; one legal life per claim comes out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claim_intake.projection import IMPLIED, MAX_HELD_PER_CLAIM, Drop, Progress, advance, close_gap
from claims.status import STEP_OF, Status, StatusEvent, may_follow

S = Status


def event(status: Status, step: int | None = None) -> StatusEvent:
    return StatusEvent(b"r" * 16, 1, status, STEP_OF[status] if step is None else step, 7, "clinic", "payer", "")


LIVES = [
    [event(s) for s in (S.RECEIVED, S.VALIDATED, S.SCORED, S.ORDERED, S.SETTLED)],
    [event(S.RECEIVED), event(S.REJECTED)],
    [*(event(s) for s in (S.RECEIVED, S.VALIDATED, S.SCORED, S.ORDERED, S.PENDED)), event(S.SETTLED, 5)],
    [*(event(s) for s in (S.RECEIVED, S.VALIDATED, S.SCORED, S.ORDERED, S.DENIED)), event(S.REVERSED)],
]


@pytest.mark.parametrize("life", LIVES)
def test_any_order_in_one_round_gives_the_same_life(life: list[StatusEvent]) -> None:
    for order in itertools.permutations(life):
        assert list(advance(Progress(), order).applied) == life


@given(st.sampled_from(LIVES), st.data())
def test_any_order_over_rounds_with_repeats_gives_the_same_life(life: list[StatusEvent], data: st.DataObject) -> None:
    """What is early is held back; what is repeated is dropped; nothing is lost."""
    shuffled = data.draw(st.permutations(life + life))
    progress = Progress()
    held: tuple[StatusEvent, ...] = ()
    applied: list[StatusEvent] = []
    for reported in shuffled:
        outcome = advance(progress, (*held, reported))
        progress, held = outcome.progress, outcome.held
        applied += outcome.applied
        assert len(held) <= MAX_HELD_PER_CLAIM
    assert applied == life
    assert held == ()


@given(st.lists(st.builds(event, st.sampled_from(Status), st.none() | st.integers(0, 7)), max_size=30))
def test_whatever_is_reported_the_life_stays_legal(reported: list[StatusEvent]) -> None:
    """No sequence of reports makes an illegal step or a step back (I6)."""
    progress = Progress()
    held: tuple[StatusEvent, ...] = ()
    for one in reported:
        outcome = advance(progress, (*held, one))
        for applied in outcome.applied:
            assert may_follow(progress.status, applied.status)
            assert applied.step > progress.step
            progress = Progress(applied.status, applied.step)
        assert outcome.progress == progress
        held = outcome.held


def test_a_second_answer_for_the_same_step_is_a_contradiction() -> None:
    done = Progress(S.SETTLED, 4)
    assert advance(done, [event(S.DENIED)]).dropped == ((event(S.DENIED), Drop.CONTRADICTORY),)
    assert advance(done, [event(S.SETTLED)]).dropped == ((event(S.SETTLED), Drop.REPEATED),)


def test_a_status_with_a_wrong_step_number_is_illegal() -> None:
    assert advance(Progress(), [event(S.RECEIVED, 3)]).dropped == ((event(S.RECEIVED, 3), Drop.ILLEGAL),)


def test_nothing_follows_a_rejection() -> None:
    outcome = advance(Progress(S.REJECTED, 1), [event(S.SCORED)])
    assert outcome.dropped == ((event(S.SCORED), Drop.CONTRADICTORY),)


def test_a_reviews_outcome_waits_for_the_pend() -> None:
    """The table allows SETTLED after ORDERED; step 5 says that PENDED came between."""
    early = advance(Progress(S.ORDERED, 3), [event(S.SETTLED, 5)])
    assert early.held == (event(S.SETTLED, 5),)
    assert advance(early.progress, (*early.held, event(S.PENDED))).progress == Progress(S.SETTLED, 5)


def test_a_gap_is_closed_with_the_steps_that_the_later_one_implies() -> None:
    held = (event(S.ORDERED), event(S.SETTLED))
    outcome = close_gap(Progress(S.RECEIVED, 0), held)
    assert [(e.status, e.detail) for e in outcome.applied] == [
        (S.VALIDATED, IMPLIED), (S.SCORED, IMPLIED), (S.ORDERED, ""), (S.SETTLED, "")
    ]  # fmt: skip
    reviewed = close_gap(Progress(S.SCORED, 2), (event(S.DENIED, 5),))
    assert [e.status for e in reviewed.applied] == [S.ORDERED, S.PENDED, S.DENIED]
    assert close_gap(Progress(S.SCORED, 2), ()).applied == ()
