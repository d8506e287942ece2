"""What an organisation is about to sign for its replica, which is the machine that is not trusted."""

import pytest

from claims.transaction import Kind, Prefix, ReopenLane
from cli.bootstrap import BootstrapError
from cli.replica_commands import require_credible


def statement(last_voted_round: int, organisation: str = "cygnus") -> ReopenLane:
    prefix = Prefix(bytes(32), Kind.REOPEN_LANE, organisation, 1, 0, 0)
    return ReopenLane(prefix, 0, 2, 3, bytes(32), last_voted_round)


def test_a_round_behind_that_of_some_other_member_is_credible() -> None:
    """The rounds have gone on since it was prepared, or have not."""
    for last in (5, 8):
        require_credible(statement(last), "cygnus", [3, 7, 5])


@pytest.mark.parametrize(
    ("stated", "rounds"),
    [
        (statement(9), [3, 7, 5]),
        (statement(2**64 - 1), [3, 7, 5]),
        (statement(5), []),
        (statement(5, "aurora"), [3, 7, 5]),
    ],
    ids=["a round too late", "for ever", "nobody answers", "another member's"],
)
def test_nothing_else_is_signed(stated: ReopenLane, rounds: list[int]) -> None:
    with pytest.raises(BootstrapError, match="nothing was signed: the replica of cygnus prepared round"):
        require_credible(stated, "cygnus", rounds)
