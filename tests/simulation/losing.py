"""A member that loses its record or its whole disk, and the operator who states for it that it may begin again.

The statement travels as a batch of another member, as it would; the stand-in contract knows its digest.
"""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from claims.transaction import FIRST_LANE, OpenLane
from ledger_commit.consensus.events import Executed, Rejoin
from ledger_commit.consensus.messages import BatchRef, Message, Proposal, SyncInfo, Vote
from ledger_commit.consensus.rejoining import TooFewAnswers, rejoin_from
from tests.simulation.cluster import Cluster
from tests.simulation.disk import Disk
from tests.simulation.host import Host, fresh_safety

ASKED_EVERY_MS = 400
LOST_MS = (3000, 8000)
"""When the disk goes. What it takes to come back is due until LAST_WORDS_MS after the network heals."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a member waits for."""

    digest: bytes
    lane: OpenLane
    rejoin: Rejoin


@dataclass
class Losing(Cluster):
    """One honest member loses `what`: "record" or "disk". `ahead`: right after it has signed in a round that nobody else has
    entered, and it asks while they have not heard of it. `eager`: it begins before its statement is executed, so that the numbers
    have to bear everything."""

    what: str = "record"
    ahead: bool = False
    eager: bool = False
    waiting: dict[int, Stated] = field(default_factory=dict)
    """By slot: gone with the process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for liar in list(self.adversaries)[self.signing.committee.faults - 1 :]:  # the member counts against f
            self.judge.byzantine.discard(liar)
            del self.adversaries[liar]
        self.losing = self.hosts[self.size - 1]
        self.losses = random.Random(f"losses{self.seed}")
        if not self.ahead:
            self.at(self.losses.randint(*LOST_MS), self._lose)

    def leaves(self, host: Host, message: Message) -> None:
        super().leaves(host, message)
        if (
            not self.ahead
            or host is not self.losing
            or self.now < LOST_MS[0]
            or not isinstance(message, Proposal | Vote)
        ):
            return
        others = [peer for peer in self.hosts if peer.up and peer is not host]
        if len(others) == self.size - 1 and host.replica.round > max(peer.replica.round for peer in others):
            self.ahead = False
            self.at(0, self._lose)

    def _lose(self) -> None:
        host = self.losing
        host.stop()
        host.closed = True
        self.waiting.pop(host.slot, None)
        host.disk = self._left_of(host)
        self.batches = [ref for ref in self.batches if ref.member != host.me]
        self.seen[f"lost_{self.what}"] += 1
        self.at(self.losses.choice((0, 0, 20, 1500)), partial(self._restart, host))
        self.at(self.losses.choice((0, ASKED_EVERY_MS)), self._operate)

    def _left_of(self, host: Host) -> Disk:
        fresh = fresh_safety(host.committee.chain_id, host.committee.epoch)
        if self.what == "disk":
            return Disk(fresh, trusted=False)
        host.disk.lose(host.disk.synced)
        host.disk.safety, host.disk.trusted = fresh, False
        return host.disk

    def crashed(self, host: Host) -> None:
        self.waiting.pop(host.slot, None)
        super().crashed(host)

    # The operator.

    def _operate(self) -> None:
        """Now and then, until the member signs again."""
        host = self.losing
        if host.disk.trusted:
            return
        self.at(ASKED_EVERY_MS, self._operate)
        if not host.up or host.slot in self.waiting:
            return
        try:
            rejoin = rejoin_from(self._answers(host), host.me, host.replica.certificates)
        except TooFewAnswers:
            self.seen["too_few_to_rejoin"] += 1
            return
        self._state(host, rejoin)

    def _answers(self, host: Host) -> Mapping[int, SyncInfo]:
        """Of those that take part and can be reached. A liar tells of the beginning, which is true as well."""
        peers = [p for p in self.hosts if p.me != host.me and p.up and not p.replica.halted]
        return {p.me: self._answer_of(p) for p in peers if self._reach_each_other(p, host)}

    def _answer_of(self, peer: Host) -> SyncInfo:
        if peer.me in self.judge.byzantine:
            return SyncInfo(peer.replica.certificates.genesis, None, 0)
        return SyncInfo(peer.replica.high_qc, peer.replica.high_tc, len(peer.disk.committed))

    def _state(self, host: Host, rejoin: Rejoin) -> None:
        now = host.executed.lane_of(host.me)
        lane = OpenLane(now.incarnation + 1, rejoin.last_voted_round)
        told = b"%d.%d.%d.%d" % (self.seed, host.me, self.now, lane.incarnation)
        stated = Stated(hashlib.sha256(b"statement" + told).digest(), lane, rejoin)
        other = next(p for p in self.hosts if p.me != host.me and p.me not in self.judge.byzantine and p.up)
        self.statements[stated.digest] = (host.me, lane)
        self.waiting[host.slot] = stated
        self.seen["stated"] += 1
        if self.eager:
            self._rejoin(host, stated)
        other.make_batch(stated.digest)

    # The member.

    def tells(self, host: Host, executed: Executed) -> None:
        """Its contract has executed so far."""
        super().tells(host, executed)
        stated = self.waiting.get(host.slot)
        if stated is None or executed.lane_of(host.me).incarnation < stated.lane.incarnation or not host.up:
            return
        del self.waiting[host.slot]
        if executed.lane_of(host.me) == stated.lane:
            if not self.eager:
                self._rejoin(host, stated)
            host.next_seq, host.closed = 1, False
            self._straggler(host)

    def _rejoin(self, host: Host, stated: Stated) -> None:
        self.judge.stated(host.me, stated.rejoin)
        host.step(stated.rejoin)
        self.seen["rejoined"] += 1

    def _straggler(self, host: Host) -> None:
        """Another machine with the same keys still fills the lane that is closed; nobody may order what it makes."""
        lane = (host.me, FIRST_LANE.incarnation)
        places = [ref.seq for peer in self.hosts for ref in peer.disk.batches.values() if ref.lane == lane]
        digest = hashlib.sha256(b"straggler").digest()
        ref = BatchRef(*lane, 1 + max(places, default=0), digest, 10, 5000)
        for peer in self.hosts:
            self.at(1, partial(peer.store_batch, ref))

    def _is_finished(self) -> bool:
        """Not before the member votes again."""
        lost = self.seen[f"lost_{self.what}"]
        return self.seen["signed_after_rejoining"] >= lost and super()._is_finished()
