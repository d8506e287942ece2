"""Says that a block changed nothing of the state but its height and round, the log of results, and what has been refused."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from claims.transaction import RefusalReason
from ledger_commit.settlement import Execution, State
from tests.fixtures.ledger_world import LedgerWorld

_MAY_MOVE = {"height", "round", "results", "refused"}


def contents(state: State) -> dict[str, Any]:
    """Everything that the contract reads, copied; the root is part of it."""
    return {name: copy.deepcopy(value) for name, value in vars(state).items() if name not in _MAY_MOVE}


@contextmanager
def nothing_changes(world: LedgerWorld) -> Iterator[None]:
    """What stands in the state, and its root, are the same afterwards."""
    before = contents(world.state)
    yield
    assert contents(world.state) == before


def refused(world: LedgerWorld, entry: bytes) -> RefusalReason:
    """Why a block with only this entry refused it: one typed result, one leaf, nothing changed."""
    leaves = len(world.state.results)
    with nothing_changes(world):
        executed = world.block(entry)
    return reason_of(executed, leaves)


def reason_of(executed: Execution, leaves: int) -> RefusalReason:
    """The typed reason of the one result that this block added to `leaves`."""
    assert executed.results_size == leaves + 1
    (outcome,) = executed.outcomes
    return RefusalReason(outcome.refusal)


def dropped(world: LedgerWorld, entry: bytes) -> bool:
    """Whether a block with only this entry counted it as nobody's: no result, no leaf, nothing changed."""
    leaves, forgotten = len(world.state.results), set(world.state.refused)
    with nothing_changes(world):
        executed = world.block(entry)
    assert (executed.results_size, world.state.refused) == (leaves, forgotten)
    return (executed.dropped, executed.outcomes) == (1, ())
