"""From steps as the stages report them to one ordered life for each claim.

Stages report at least once and each on its own way, so steps come repeated and out of order. A step that is already
made is dropped; one whose predecessor has not come is held back; one that the table of statuses forbids is dropped and
counted. What has been held for too long shows that a stage lost the report of a step that the later one implies (the
ledger cannot settle what was never scored): the gap is then closed with implied steps, so that a claim's end is never
hidden by a lost message.

Source: claims.md, Status.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Final

from claims.quick import quick
from claims.status import AFTER_REVIEW_STEP, STEP_OF, TERMINAL, TRANSITIONS, Status, StatusEvent, may_follow

MAX_HELD_PER_CLAIM: Final = 8
"""More steps than a claim's life has after RECEIVED."""
IMPLIED: Final = "implied by a later step"


class Drop(Enum):
    """Why a reported step is not taken."""

    REPEATED = "repeated"
    CONTRADICTORY = "contradictory"
    ILLEGAL = "illegal"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a claim has come. `status` None and step −1 stand before RECEIVED."""

    status: Status | None = None
    step: int = -1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a set of reported steps made of one claim."""

    progress: Progress
    applied: tuple[StatusEvent, ...]
    held: tuple[StatusEvent, ...]
    dropped: tuple[tuple[StatusEvent, Drop], ...]


_progress, _outcome = quick(Progress), quick(Outcome)


def advance(progress: Progress, reported: Iterable[StatusEvent]) -> Outcome:
    """Takes every step that is due, in step order, and says what became of the rest.

    `reported` holds the steps held back before and the new ones. The result does not depend on their order, except that
    of two different claims about the same step the one given first is taken.
    """
    applied: list[StatusEvent] = []
    held: list[StatusEvent] = []
    dropped: list[tuple[StatusEvent, Drop]] = []
    for event in sorted(reported, key=lambda event: event.step):
        reason = _reason_to_drop(progress, event)
        if reason is not None:
            dropped.append((event, reason))
        elif not held and _is_due(progress, event):
            progress = _progress(event.status, event.step)
            applied.append(event)
        elif len(held) >= MAX_HELD_PER_CLAIM:
            dropped.append((event, Drop.TOO_MANY))
        elif event not in held:
            held.append(event)
    return _outcome(progress, tuple(applied), tuple(held), tuple(dropped))


def close_gap(progress: Progress, held: tuple[StatusEvent, ...]) -> Outcome:
    """Takes held steps together with the implied ones before them; for use once waiting has lasted too long."""
    if not held:
        return Outcome(progress, (), (), ())
    first = held[0]
    between = _path(progress.status, first.status)
    if first.step == AFTER_REVIEW_STEP:
        between = (*_path(progress.status, Status.PENDED), Status.PENDED)
    implied = [replace(first, status=status, step=STEP_OF[status], detail=IMPLIED) for status in between]
    return advance(progress, (*implied, *held))


def _reason_to_drop(progress: Progress, event: StatusEvent) -> Drop | None:
    if not _step_is_right(event):
        return Drop.ILLEGAL
    if event.step < progress.step:
        return Drop.REPEATED
    if event.step == progress.step:
        return Drop.REPEATED if event.status is progress.status else Drop.CONTRADICTORY
    if not _reachable(progress.status, event.status):
        return Drop.CONTRADICTORY if progress.status in TERMINAL else Drop.ILLEGAL
    return None


def _is_due(progress: Progress, event: StatusEvent) -> bool:
    """Whether the step comes next; a review's outcome only after PENDED, though the table allows it from ORDERED."""
    reviewed = event.step == AFTER_REVIEW_STEP
    return may_follow(progress.status, event.status) and (not reviewed or progress.status is Status.PENDED)


def _step_is_right(event: StatusEvent) -> bool:
    """A status has one step number, and a review's outcome a second one."""
    if event.step == STEP_OF[event.status]:
        return True
    return event.step == AFTER_REVIEW_STEP and event.status in TRANSITIONS[Status.PENDED]


@cache
def _path(before: Status | None, after: Status) -> tuple[Status, ...]:
    """The statuses strictly between two, on the one shortest way; empty where there is none."""
    ways: list[tuple[Status, ...]] = [()]
    starts: dict[tuple[Status, ...], Status | None] = {(): before}
    for way in ways:
        for following in sorted(TRANSITIONS[starts[way]]):
            if following is after:
                return way
            longer = (*way, following)
            starts[longer] = following
            ways.append(longer)
    return ()


@cache
def _reachable(before: Status | None, after: Status) -> bool:
    """Whether some sequence of legal steps leads from one status to another."""
    return any(following is after or _reachable(following, after) for following in TRANSITIONS[before])
