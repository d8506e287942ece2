"""When a process is started again and when it is given up, told by looks at a clock."""

import pytest

from cli.supervision import Action, Policy, Watch

POLICY = Policy(most=3, window_s=100.0, first_pause_s=1.0, longest_pause_s=3.0)


def starts(watch: Watch, policy: Policy, seconds: int, *, ends: bool = True) -> list[int]:
    """At which of these seconds it is started, where it never stays up."""
    return [now for now in range(seconds) if watch.look(policy, now, ended=ends) is Action.START]


def test_pauses_double_up_to_the_longest_and_the_restarts_of_a_window_are_bounded() -> None:
    """1, 2 and 3 seconds; a start is followed by a look that finds it down again a second later."""
    watch = Watch()
    assert starts(watch, POLICY, 1000) == [1, 4, 8]
    assert watch.given_up
    assert watch.restarts == 3


def test_who_runs_is_left_alone() -> None:
    watch = Watch()
    assert starts(watch, POLICY, 100, ends=False) == []
    assert (watch.restarts, watch.given_up) == (0, False)


def test_one_look_does_not_make_an_end() -> None:
    """Who stops a process on purpose leaves it down with its pid file for a moment."""
    watch = Watch()
    assert watch.look(POLICY, 0.0, ended=True) is Action.NOTHING
    assert watch.look(POLICY, 0.9, ended=False) is Action.NOTHING
    assert watch.look(POLICY, 1.0, ended=True) is Action.NOTHING, "down anew, and not since the first look"


def test_restarts_of_long_ago_do_not_count() -> None:
    """One end every minute is borne for ever: three in a window of a hundred seconds are not exceeded."""
    watch = Watch()
    acts = [watch.look(POLICY, 60.0 * n + at, ended=at < 2) for n in range(50) for at in (0, 1.9, 3)]
    assert acts.count(Action.START) == watch.restarts >= 25
    assert Action.GIVE_UP not in acts


@pytest.mark.parametrize("looks", [1, 50])
def test_who_was_given_up_is_left_to_a_person_and_begins_anew_when_it_runs(looks: int) -> None:
    watch = Watch()
    starts(watch, POLICY, 50)
    assert {watch.look(POLICY, 1000.0 + n, ended=True) for n in range(looks)} == {Action.NOTHING}
    assert watch.look(POLICY, 2000.0, ended=False) is Action.FORGIVE
    assert not watch.given_up
    assert watch.look(POLICY, 2001.0, ended=False) is Action.NOTHING
    assert watch.look(POLICY, 2002.0, ended=True) is Action.NOTHING
    assert watch.look(POLICY, 2003.0, ended=True) is Action.START, "after the first pause"


def test_giving_up_is_said_once() -> None:
    watch = Watch()
    acts = [watch.look(POLICY, now, ended=True) for now in range(100)]
    assert acts.count(Action.GIVE_UP) == 1
