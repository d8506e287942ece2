"""A replica that lost its record asks the others where it may begin again, and begins when its organisation has said so.

Never by itself. The operator asks the running replica, which follows the chain, for a statement (`prepare`), signs it with the
organisation's key, which no replica holds, and hands it in at another member; `claimledger replica rejoin` does all three. When
this replica has executed just that statement (`Node`), it makes the record durable and signs again, with the next incarnation of
its lane. Why the numbers suffice is in consensus/rejoining.py.

What was prepared is in memory alone. A replica that ends before it has executed its statement prepares another one, for
the next incarnation if the first came through: a record is written for the statement that it prepared in this run, while it had
signed nothing, so that two records never rest on one statement.

Source: consensus.md §8; docs/adr/0020-rejoining.md.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from claims.result import TransactionResult
from claims.transaction import REOPEN_LANE, UNUSED_SEQUENCE, Kind, Prefix, ReopenLane
from ledger_commit.consensus.events import Rejoin
from ledger_commit.consensus.messages import certificate_digest
from ledger_commit.consensus.rejoining import TooFewAnswers, rejoin_from
from ledger_commit.settlement import Execution

if TYPE_CHECKING:
    from ledger_commit.node import Node


class RejoinError(Exception):
    """There is nothing to rejoin, or too few others to ask; says which."""


@dataclass(frozen=True, slots=True)
class Rejoining:
    """A statement that this replica waits for, and what takes the place of its record then."""

    statement: bytes
    rejoin: Rejoin

    @property
    def transaction_id(self) -> bytes:
        return hashlib.sha256(self.statement).digest()

    def outcome_in(self, executions: Iterable[Execution]) -> TransactionResult | None:
        """What the contract made of the statement, if it is in one of these blocks."""
        outcomes = (outcome for execution in executions for outcome in execution.outcomes)
        told = (o for o in outcomes if isinstance(o, TransactionResult) and o.transaction_id == self.transaction_id)
        return next(told, None)


async def prepare(node: "Node", key_id: int) -> Rejoining:
    """Asks the other members and has the replica wait for what it answers; a later call takes the place of an earlier one.

    Raises RejoinError.
    """
    _require_loss(node)
    peers = list(node.peers)
    told = await asyncio.gather(*(peer.position() for peer in peers))
    answers = {peer.index: answer for peer, answer in zip(peers, told, strict=True) if answer is not None}
    try:
        rejoin = rejoin_from(answers, node.me, node.replica.certificates)
    except TooFewAnswers as error:
        names = ", ".join(node.committee.members[member].organisation for member in error.refused)
        wrong = f"; certificates that do not hold came from {names}" if names else ""
        raise RejoinError(f"{error}{wrong}: start the other replicas, or wait for the next epoch") from error
    _require_loss(node)
    node.rejoining = Rejoining(REOPEN_LANE.encode(_statement(node, key_id, rejoin)), rejoin)
    return node.rejoining


def _require_loss(node: "Node") -> None:
    if not node.not_voting:
        raise RejoinError("this replica takes part: there is nothing to rejoin")
    if node.replica.diverged:
        raise RejoinError(f"no statement makes this good: {node.not_voting}")
    if not node.replica.halted or not node.has_heard_peers:
        raise RejoinError(f"it is not known yet whether the record is lost: this replica {node.not_voting}")


def _statement(node: "Node", key_id: int, rejoin: Rejoin) -> ReopenLane:
    committee = node.committee
    organisation = committee.members[node.me].organisation
    return ReopenLane(
        Prefix(committee.chain_id, Kind.REOPEN_LANE, organisation, key_id, UNUSED_SEQUENCE, 0),
        committee.epoch,
        node.executed.lane_of(node.me).incarnation + 1,
        rejoin.high_qc.round,
        certificate_digest(rejoin.high_qc),
        rejoin.last_voted_round,
    )
