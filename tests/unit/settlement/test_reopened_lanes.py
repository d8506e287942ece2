"""The operator's statement: what it must say, what it changes, and that a refused one changes nothing.

Source: consensus.md §8, Rejoining without a trusted record.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from claims.transaction import (
    ENTRY_TRANSACTION,
    FIRST_LANE,
    REOPEN_LANE,
    SIGNED_TRANSACTION,
    Kind,
    OpenLane,
    Prefix,
    RefusalReason,
    ReopenLane,
    transaction_message,
)
from tests.fixtures.ledger_world import ROUND, ZERO, LedgerWorld, signed_entry
from tests.unit.settlement.unchanged import dropped, refused

MEMBER = "cygnus"


@pytest.fixture
def world() -> LedgerWorld:
    return LedgerWorld()


def opened(world: LedgerWorld, member: str = MEMBER) -> OpenLane:
    return world.state.lanes.get(member, FIRST_LANE)


def test_a_statement_opens_the_next_incarnation_of_its_own_lane_alone(world: LedgerWorld) -> None:
    """It stands in the state root, and has a leaf that anybody can be shown."""
    before = world.state.root
    executed = world.block(world.statement(MEMBER))
    assert [outcome.refusal for outcome in executed.outcomes] == [0]
    assert opened(world) == OpenLane(2, 42)
    assert (opened(world, "aurora"), world.state.root != before) == (FIRST_LANE, True)
    world.block(world.statement(MEMBER, incarnation=3, high_qc_round=50, last_voted_round=51))
    assert opened(world) == OpenLane(3, 51)


def test_the_round_after_that_of_its_block_is_the_last_that_a_statement_names(world: LedgerWorld) -> None:
    """It is made in a round that others are in, for the next one."""
    world.block(world.statement(MEMBER, last_voted_round=ROUND + 1))
    assert opened(world) == OpenLane(2, ROUND + 1)


def test_the_same_statement_again_is_absorbed(world: LedgerWorld) -> None:
    """It goes to several members, and each of them may order it."""
    statement = world.statement(MEMBER)
    executed = world.block(statement, statement)
    assert (len(executed.outcomes), executed.absorbed) == (1, 1)
    assert world.block(statement).absorbed == 1
    assert opened(world) == OpenLane(2, 42)


def test_two_statements_with_other_rounds_need_other_roots(world: LedgerWorld) -> None:
    other = LedgerWorld()
    world.block(world.statement(MEMBER, last_voted_round=42))
    other.block(other.statement(MEMBER, last_voted_round=43))
    assert world.state.lanes != other.state.lanes
    assert world.state.root != other.state.root


def prefix(world: LedgerWorld, **changes: object) -> Prefix:
    usual = replace(world.prefix(Kind.REOPEN_LANE, MEMBER), sequence=0)
    return replace(usual, **changes)  # type: ignore[arg-type]


def signed_as_any_transaction(world: LedgerWorld) -> bytes:
    """The label of the others: who got it signed for another purpose has no statement."""
    body = REOPEN_LANE.encode(ReopenLane(prefix(world), 0, 2, 40, ZERO, 42))
    return signed_entry(Kind.REOPEN_LANE, body, [MEMBER], transaction_message(body))


def altered(world: LedgerWorld) -> bytes:
    """A later round under the signature of an earlier one."""
    signed = SIGNED_TRANSACTION.decode(world.statement(MEMBER)[1:])
    body = REOPEN_LANE.encode(replace(REOPEN_LANE.decode(signed.body), last_voted_round=43))
    return bytes((ENTRY_TRANSACTION,)) + SIGNED_TRANSACTION.encode(replace(signed, body=body))


Make = Callable[[LedgerWorld], bytes]
REFUSED: dict[str, tuple[RefusalReason | None, Make]] = {
    "incarnation that is open": (RefusalReason.WRONG_INCARNATION, lambda w: w.statement(MEMBER, incarnation=1)),
    "incarnation after the next": (RefusalReason.WRONG_INCARNATION, lambda w: w.statement(MEMBER, incarnation=3)),
    "another epoch": (RefusalReason.WRONG_EPOCH, lambda w: w.statement(MEMBER, epoch=1)),
    "no round": (RefusalReason.ROUND_NOT_LATER, lambda w: w.statement(MEMBER, high_qc_round=0, last_voted_round=0)),
    "round of its QC": (RefusalReason.ROUND_NOT_LATER, lambda w: w.statement(MEMBER, last_voted_round=40)),
    "a round that nobody is in": (RefusalReason.ROUND_NOT_REACHED, lambda w: w.statement(MEMBER, last_voted_round=62)),
    "the last round": (RefusalReason.ROUND_NOT_REACHED, lambda w: w.statement(MEMBER, last_voted_round=2**64 - 1)),
    "no member": (RefusalReason.NOT_AUTHORISED, lambda w: w.statement("riverside")),
    "signed by another": (None, lambda w: w.statement(MEMBER, signed_by=["aurora"])),
    "signed by two thirds of the others": (
        None,
        lambda w: w.statement(MEMBER, signed_by=["aurora", "borealis", "meridian"]),
    ),
    "signed as another transaction": (None, signed_as_any_transaction),
    "altered": (None, altered),
    "another chain": (None, lambda w: w.statement(MEMBER, prefix=prefix(w, chain_id=ZERO))),
    "another kind": (RefusalReason.MALFORMED, lambda w: w.statement(MEMBER, prefix=prefix(w, kind=Kind.REVIEW_CLAIM))),
    "stranger": (
        None,
        lambda w: w.statement(MEMBER, prefix=prefix(w, organisation="nobody")),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_statement_that_says_something_else_is_refused_and_changes_nothing(world: LedgerWorld, what: str) -> None:
    """Where there is no reason to be told, nobody is behind it, and it leaves no result."""
    reason, make = REFUSED[what]
    if reason is None:
        assert dropped(world, make(world))
    else:
        assert refused(world, make(world)) is reason


@pytest.mark.parametrize("round_number", [41, 42])
def test_the_round_rises_from_statement_to_statement(world: LedgerWorld, round_number: int) -> None:
    world.block(world.statement(MEMBER))
    again = world.statement(MEMBER, incarnation=3, high_qc_round=0, last_voted_round=round_number)
    assert refused(world, again) is RefusalReason.ROUND_NOT_LATER


def test_a_statement_has_an_end_where_it_names_one(world: LedgerWorld) -> None:
    late = world.statement(MEMBER, prefix=prefix(world, expires_height=1))
    world.block()
    assert refused(world, late) is RefusalReason.EXPIRED


def test_a_statement_uses_up_no_sequence_number(world: LedgerWorld) -> None:
    """Whoever signs it need not know what else its organisation has in hand."""
    world.block(world.statement(MEMBER))
    assert world.state.sequences == {}
