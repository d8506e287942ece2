"""The life of a claim as its parties see it: one table of states, and event ids that make repeats visible.

Source: claims.md, Status.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Status(IntEnum):
    RECEIVED = 1
    REJECTED = 2
    VALIDATED = 3
    SCORED = 4
    ORDERED = 5
    SETTLED = 6
    DENIED = 7
    PENDED = 8
    REFUSED = 9
    REVERSED = 10
    REPLACED = 11


class Actor(IntEnum):
    """Who may make a step."""

    INTAKE = 1
    VALIDATION = 2
    FRAUD_SCORING = 3
    LEDGER = 4


S = Status
TRANSITIONS: Final[dict[Status | None, frozenset[Status]]] = {
    None: frozenset({S.RECEIVED}),
    S.RECEIVED: frozenset({S.REJECTED, S.VALIDATED}),
    S.VALIDATED: frozenset({S.SCORED}),
    S.SCORED: frozenset({S.ORDERED}),
    S.ORDERED: frozenset({S.SETTLED, S.DENIED, S.PENDED, S.REFUSED}),
    S.PENDED: frozenset({S.SETTLED, S.DENIED, S.REVERSED}),
    S.SETTLED: frozenset({S.REVERSED, S.REPLACED}),
    S.DENIED: frozenset({S.REVERSED, S.REPLACED}),
    S.REJECTED: frozenset(),
    S.REFUSED: frozenset(),
    S.REVERSED: frozenset(),
    S.REPLACED: frozenset(),
}
"""From each status, what may follow. None stands before the first."""

ACTOR_OF: Final[dict[Status, Actor]] = {
    S.RECEIVED: Actor.INTAKE,
    S.REJECTED: Actor.VALIDATION,
    S.VALIDATED: Actor.VALIDATION,
    S.SCORED: Actor.FRAUD_SCORING,
    S.ORDERED: Actor.LEDGER,
    S.SETTLED: Actor.LEDGER,
    S.DENIED: Actor.LEDGER,
    S.PENDED: Actor.LEDGER,
    S.REFUSED: Actor.LEDGER,
    S.REVERSED: Actor.LEDGER,
    S.REPLACED: Actor.LEDGER,
}

TERMINAL: Final = frozenset({S.REJECTED, S.REFUSED, S.SETTLED, S.DENIED, S.REVERSED, S.REPLACED})
"""Nothing further is owed to the submitter. PENDED waits for a person and is visible as such."""

STEP_OF: Final[dict[Status, int]] = {
    S.RECEIVED: 0,
    S.REJECTED: 1,
    S.VALIDATED: 1,
    S.SCORED: 2,
    S.ORDERED: 3,
    S.SETTLED: 4,
    S.DENIED: 4,
    S.PENDED: 4,
    S.REFUSED: 4,
    S.REVERSED: 6,
    S.REPLACED: 6,
}
"""The step number of a status reached for the first time; a review's outcome after PENDED is step 5."""

AFTER_REVIEW_STEP: Final = 5


def may_follow(before: Status | None, after: Status) -> bool:
    """Whether the table allows this step."""
    return after in TRANSITIONS[before]


def event_id(claim_ref: bytes, version: int, step: int) -> bytes:
    """H(claim_ref ‖ version(2) ‖ step(2)): the same step told twice has the same id."""
    return hashlib.sha256(claim_ref + version.to_bytes(2, "big") + step.to_bytes(2, "big")).digest()


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """One step of one claim version. `parties` may read it: submitter, payer, and the payee once it is known."""

    claim_ref: bytes
    version: int
    status: Status
    step: int
    time_ms: int
    submitter: str
    payer: str
    payee: str
    detail: str = ""
    """Reason codes for people (rule ids, CARC); never claim contents."""

    @property
    def id(self) -> bytes:
        return event_id(self.claim_ref, self.version, self.step)
