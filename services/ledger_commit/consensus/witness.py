"""What members signed lately, and the pieces of evidence that follow from it and are not on the chain.

Signatures of votes and timeouts are verified when they make a certificate, so what is remembered here is unverified; it is
evidence once the court has found both signatures good.

Source: consensus.md §3; docs/adr/0018-evidence-in-blocks.md.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final, TypeVar

from ledger_commit.consensus.evidence import (
    Charge,
    Court,
    DoubleBatch,
    DoubleProposal,
    DoubleTimeout,
    DoubleVote,
    Evidence,
    LockViolation,
    SignedBatch,
    SignedHeader,
    SignedTimeout,
    charge_of,
    contradicts_itself,
    encode,
    is_of,
)
from ledger_commit.consensus.messages import MAX_EVIDENCE_PER_BLOCK, Vote

WINDOW: Final = 16
"""Rounds around the current one of which statements are remembered: one vote and one timeout for each member and round, one
header for each round. They are those for which votes are collected."""
HEADER_ROUNDS: Final = 4_096
"""Rounds behind the current one of which headers are remembered where nothing commits: about a day of the longest timer."""
S = TypeVar("S")


class Witness:
    """Each `hears_…` returns the charges that what was heard has proven.

    Of each member, kind and round the first statement is remembered. A pair of which a signature turns out bad ends the search
    for its charge until the next round: nobody can have more than two signatures verified in vain for each charge and round.
    """

    def __init__(self, court: Court, accused: frozenset[Charge]) -> None:
        self.court = court
        self.accused = accused
        """What the committed chain has evidence of."""
        self.pool: dict[Charge, Evidence] = {}
        """Proven and not committed. At most one piece for each member and kind, for the chain takes no more in an epoch."""
        self.votes: dict[int, dict[int, Vote]] = {}
        self.timeouts: dict[int, dict[int, SignedTimeout]] = {}
        self.headers: dict[int, SignedHeader] = {}
        self._round = self._committed = 0
        self._spent: set[Charge] = set()

    def enter(self, current: int, committed: int) -> None:
        """Forgets what is behind the window. Headers above the committed round stay longer, up to HEADER_ROUNDS."""
        self._round, self._committed = current, committed
        self._spent = set()
        for member, votes in self.votes.items():
            self.votes[member] = {r: vote for r, vote in votes.items() if r >= current - WINDOW}
        for member, timeouts in self.timeouts.items():
            self.timeouts[member] = {r: timeout for r, timeout in timeouts.items() if r >= current - WINDOW}
        self._forget_headers()

    @property
    def _oldest_header(self) -> int:
        return max(min(self._round - WINDOW, self._committed + 1), self._round - HEADER_ROUNDS)

    def _forget_headers(self) -> None:
        self.headers = {r: header for r, header in self.headers.items() if r >= self._oldest_header}

    def commits(self, accused: frozenset[Charge], committed: int) -> None:
        """The committed chain ends in this round now and has evidence of these."""
        self.accused, self._committed = accused, committed
        self._forget_headers()
        self.pool = {charge: piece for charge, piece in self.pool.items() if charge not in accused}

    def hears_vote(self, vote: Vote) -> list[Charge]:
        if abs(vote.data.round - self._round) > WINDOW:
            return []
        held = self.votes.setdefault(vote.voter, {}).setdefault(vote.data.round, vote)
        twice = _both_ways(DoubleVote, held, vote) if held.data != vote.data else ()
        timeouts, lock = self.timeouts.get(vote.voter, {}).values(), vote.data.parent_round
        locks = (LockViolation(vote, timeout) for timeout in timeouts if timeout.high_qc_round < lock)
        return self._proven(chain(twice, locks))

    def hears_timeout(self, timeout: SignedTimeout) -> list[Charge]:
        if abs(timeout.round - self._round) > WINDOW:
            return []
        held = self.timeouts.setdefault(timeout.voter, {}).setdefault(timeout.round, timeout)
        twice = _both_ways(DoubleTimeout, held, timeout) if held.high_qc_round != timeout.high_qc_round else ()
        votes, told = self.votes.get(timeout.voter, {}).values(), timeout.high_qc_round
        locks = (LockViolation(vote, timeout) for vote in votes if told < vote.data.parent_round)
        return self._proven(chain(twice, locks))

    def hears_header(self, header: SignedHeader) -> list[Charge]:
        """Of a proposal whose form, signature and certificates hold, or that a quorum vouches for."""
        if header.header.round >= self._oldest_header:
            self.headers.setdefault(header.header.round, header)
        return self.hears_late_header(header)

    def hears_late_header(self, header: SignedHeader) -> list[Charge]:
        """Of a proposal for a round that is over, of which nothing has been checked; it is not remembered."""
        held = self.headers.get(header.header.round, header)
        return self._proven(_both_ways(DoubleProposal, held, header) if held.header != header.header else ())

    def hears_batches(self, one: SignedBatch, other: SignedBatch) -> list[Charge]:
        """Two batches for one place of a lane."""
        return self._proven(_both_ways(DoubleBatch, one, other))

    def _proven(self, pieces: Iterable[Evidence]) -> list[Charge]:
        return [charge_of(piece) for piece in pieces if self._takes(piece)]

    def _takes(self, piece: Evidence) -> bool:
        charge, committee = charge_of(piece), self.court.committee
        if charge in self.accused or charge in self.pool or charge in self._spent:
            return False
        if not contradicts_itself(piece) or self.court.excuses(piece):
            return False
        if not (is_of(piece.first, committee) and is_of(piece.second, committee)):
            return False
        if not self.court.proves(encode(piece)):
            self._spent.add(charge)
            return False
        self.pool[charge] = piece
        return True

    def includable(self, accused: frozenset[Charge]) -> tuple[bytes, ...]:
        """What a block may bring to a branch that has evidence of these already."""
        self.pool = {charge: piece for charge, piece in self.pool.items() if not self.court.excuses(piece)}
        due = [p for charge, p in sorted(self.pool.items()) if charge not in accused and self.court.is_ripe(p)]
        return tuple(encode(piece) for piece in due[:MAX_EVIDENCE_PER_BLOCK])


def _both_ways(kind: Callable[[S, S], Evidence], one: S, other: S) -> tuple[Evidence, Evidence]:
    """Only one order of two statements is a piece."""
    return kind(one, other), kind(other, one)
