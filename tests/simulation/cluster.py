"""A cluster in virtual time: one seed decides every delay, loss, crash and partition, and the same seed replays them."""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ledger_commit.consensus.events import (
    BlocksFetched,
    Broadcast,
    Commit,
    Effect,
    Executed,
    FetchRange,
    Persist,
    Received,
    Report,
    Send,
    Tick,
)
from ledger_commit.consensus.messages import (
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    Timeout,
    TimeoutCert,
    Vote,
    VoteData,
    block_id,
    commit_digest,
    vote_message,
)
from ledger_commit.consensus.replica import Replica
from tests.simulation.host import Crash, Host, World
from tests.simulation.signatures import PairSignatures, committee


class Violation(AssertionError):  # noqa: N818 - a word of the field
    """An invariant does not hold."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong until `heal_ms`; afterwards the network is whole and everyone is up."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_ms: tuple[int, int] = (1, 20)
    crash: float = 0.0
    partitions: bool = False
    twin: bool = False
    skew_ms: int = 0
    slow_executor_ms: int = 5
    heal_ms: int = 15_000
    end_ms: int = 60_000


@dataclass
class Cluster(World):
    """Runs the hosts and judges them after every effect."""

    seed: int
    size: int = 4
    faults: Faults = field(default_factory=Faults)
    make_replica: Callable[..., Replica] = Replica

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 0
        self.committee = committee(self.size, hashlib.sha256(b"chain").digest())
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.ticket = 0
        self.hosts = [Host(self, i, i, self.make_replica) for i in range(self.size)]
        self.byzantine: set[int] = set()
        if self.faults.twin:
            # Two instances under one key, each with a memory of its own.
            self.hosts.append(Host(self, self.size, 0, self.make_replica))
            self.byzantine = {0}
        self.sides = [0] * len(self.hosts)
        self.trace = hashlib.sha256()
        self.seen: Counter[str] = Counter()
        self.blocks_at: dict[int, bytes] = {}
        self.certified: dict[int, bytes] = {}
        self.votes: dict[tuple[int, int], bytes] = {}
        self.timed_out: dict[int, int] = {}
        self.batches: list[BatchRef] = []
        for host in self.hosts:
            host.skew_ms = self.random.randint(-self.faults.skew_ms, self.faults.skew_ms)

    # Time.

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.ticket += 1
        heapq.heappush(self.queue, (self.now + max(0, delay_ms), self.ticket, action))

    def run(self) -> "Cluster":
        for host in self.hosts:
            self.at(self.random.randint(0, 50), host.start)
            for _ in range(20):
                self.at(self.random.randint(100, self.faults.heal_ms), self._batch_of(host))
        if self.faults.partitions:
            for start in range(1000, self.faults.heal_ms, 2500):
                self.at(start, self._split)
        self.at(self.faults.heal_ms, self._heal)
        while self.queue and self.queue[0][0] <= self.faults.end_ms:
            self.now, _, action = heapq.heappop(self.queue)
            action()
            if self.now > self.faults.heal_ms and self._is_finished():
                break
        self._judge_liveness()
        return self

    def _batch_of(self, host: Host) -> Callable[[], None]:
        def make() -> None:
            if host.up and host.me not in self.byzantine:
                host.make_batch()

        return make

    def _split(self) -> None:
        self.sides = [self.random.randint(0, 1) for _ in self.hosts]

    def _heal(self) -> None:
        self.sides = [0] * len(self.hosts)
        self.height_at_heal = max(len(host.disk.committed) for host in self._honest())
        self.round_at_heal = max(host.replica.round for host in self._honest() if host.life)
        for host in self.hosts:
            if not host.up:
                host.start()

    @property
    def healed(self) -> bool:
        return self.now >= self.faults.heal_ms

    def _honest(self) -> list[Host]:
        return [host for host in self.hosts if host.me not in self.byzantine]

    # Network.

    def _connected(self, a: Host, b: Host) -> bool:
        return self.sides[a.slot] == self.sides[b.slot]

    def _delay(self) -> int:
        low, high = self.faults.delay_ms
        return self.random.randint(low, high) if not self.healed else self.random.randint(1, 20)

    def _deliver(self, origin: Host, target: Host, action: Callable[[], None]) -> None:
        if target is origin:
            self.at(0, action)
            return
        if not self._connected(origin, target) or (not self.healed and self.random.random() < self.faults.loss):
            self.seen["lost"] += 1
            return
        self.at(self._delay(), action)
        if not self.healed and self.random.random() < self.faults.duplicate:
            self.at(self._delay() * 3, action)

    def send(self, host: Host, to: int, message: Message) -> None:
        self.trace.update(b"%d:%d>%d:%s" % (self.now, host.slot, to, type(message).__name__.encode()))
        for target in self.hosts:
            # Twins hear everything that is meant for their key, but each only its own echo.
            if target.me == to and (target.me != host.me or target is host):
                self._deliver(host, target, self._arrival(target, host.me, message))

    def _arrival(self, target: Host, sender: int, message: Message) -> Callable[[], None]:
        def arrive() -> None:
            if isinstance(message, Proposal):
                target.known[block_id(message.header)] = message
            target.step(Received(sender, message))

        return arrive

    def set_timer(self, host: Host, at_ms: int) -> None:
        host.timer, life = at_ms, host.life

        def tick() -> None:
            if host.life == life and host.timer == at_ms:
                host.step(Tick())

        self.at(at_ms - self.now, tick)

    def announce_batch(self, host: Host, ref: BatchRef) -> None:
        self.batches.append(ref)
        for target in self.hosts:
            if target is not host:
                self._deliver(host, target, partial(target.store_if_up, ref))

    def _peers(self, host: Host, hint: int) -> list[Host]:
        """Those who can be asked now, the hint first."""
        peers = [p for p in self.hosts if p is not host and p.up and self._connected(p, host)]
        return sorted(peers, key=lambda p: p.me != hint)

    def fetch_blocks(self, host: Host, ids: tuple[bytes, ...], hint: int) -> None:
        for peer in self._peers(host, hint):
            found = tuple(b for i in ids if (b := peer.block(i)))
            if found:
                self.seen["block_fetched"] += 1
                for block in found:
                    host.known[block_id(block.header)] = block
                self.at(self._delay() * 2, partial(host.step, BlocksFetched(peer.me, found)))
                return

    def fetch_range(self, host: Host, wanted: FetchRange) -> None:
        for peer in self._peers(host, wanted.hint):
            chain = peer.disk.committed[wanted.from_height - 1 : wanted.to_height + 1]
            if len(chain) > 1:
                self.seen["range_fetched"] += 1
                blocks = tuple(b for b in (peer.block(block_id(c.header)) for c in chain[:-1]) if b)
                qc = chain[-1].qc
                self.at(self._delay() * 2, partial(host.step, BlocksFetched(peer.me, blocks, qc)))
                return

    def fetch_batches(self, host: Host, refs: tuple[BatchRef, ...], hint: int) -> None:
        for ref in refs:
            for peer in self._peers(host, hint):
                if ref.digest in peer.disk.batches:
                    self.seen["batch_fetched"] += 1
                    self.at(self._delay() * 2, partial(host.store_if_up, ref))
                    break

    def execute_later(self, host: Host, executed: Executed) -> None:
        life = host.life
        # One executor, one height after the other.
        host.executor_free = max(host.executor_free, self.now) + self.random.randint(0, self.faults.slow_executor_ms)

        def done() -> None:
            if host.life == life:
                host.step(executed)

        self.at(host.executor_free - self.now, done)

    # Crashes.

    def maybe_crash(self, host: Host, effect: Effect) -> None:
        risky = isinstance(effect, Persist | Broadcast | Send | Commit)
        if risky and not self.healed and self.random.random() < self.faults.crash:
            self.seen[f"crash_before_{type(effect).__name__}"] += 1
            raise Crash

    def crashed(self, host: Host) -> None:
        host.stop()
        if self.random.random() < 0.5 and host.disk.committed:
            host.disk.committed.pop()  # commit markers are not synced: the last one may be lost
            self.seen["marker_lost"] += 1
        self.at(self.random.randint(50, 3000), lambda: None if host.up else host.start())

    def reported(self, host: Host, report: Report) -> None:
        self.seen[report.what] += 1
        if report.what in {"double_vote", "double_proposal", "bad_signature", "bad_certificate", "root_mismatch"}:
            self._check(report.member in self.byzantine, f"{report.what} named honest member {report.member}")

    # Invariants.

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(f"seed {self.seed}, {self.now} ms: {what}")

    def judge_sent(self, host: Host, message: Message) -> None:
        if host.me in self.byzantine:
            return
        match message:
            case Vote(data):
                before = self.votes.setdefault((host.me, data.round), b"")
                self._check(before in {b"", data.block_id}, f"{host.me} voted twice in round {data.round}")
                timed_out = self.timed_out.get(host.me, 0)
                self._check(bool(before) or data.round > timed_out, f"{host.me} voted after its timeout")
                self.votes[host.me, data.round] = data.block_id
            case Timeout():
                self.timed_out[host.me] = max(self.timed_out.get(host.me, 0), message.round)
                self._check(host.disk.safety.last_voted_round >= message.round, "a timeout left before it was durable")
            case TimeoutCert():
                self.seen["tc"] += 1
                self.seen["tc_with_groups"] += len(message.groups) > 1
            case Proposal():
                self.seen["proposal_with_tc"] += message.tc is not None
        if isinstance(message, Vote):
            durable = host.disk.safety.last_vote
            self._check(
                durable is not None and durable.round >= message.data.round, "a vote left before it was durable"
            )

    def judge_commit(self, host: Host, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        if host.me in self.byzantine:
            return
        self.seen[f"commit_of_{min(len(blocks), 3)}"] += 1
        height = len(host.disk.committed)
        for block in blocks:
            height += 1
            identity = block_id(block.header)
            self._check(block.header.height == height, f"commit has a gap at height {height}")
            held = self.blocks_at.setdefault(height, identity)
            self._check(held == identity, f"two blocks committed at height {height}")
            holders = sum(all(r.digest in h.disk.batches for r in block.batches) for h in self._honest())
            self._check(holders > self.committee.faults, f"payload of height {height} is at {holders} honest")
        self._judge_proof(blocks[-1], qc)

    def _judge_proof(self, block: Proposal, qc: QuorumCert) -> None:
        """What a light client with only the genesis checks."""
        header, data = block.header, qc.data
        told = commit_digest(header.epoch, header.height, block_id(header), header.round)
        self._check(data.parent_id == block_id(header) and data.commit_digest == told, "no commit proof")
        signers = self.committee.signers(qc.signers) or []
        self._check(len(signers) >= self.committee.quorum_size, "commit proof without a quorum")
        message = vote_message(self.committee.chain_id, data)
        keys = self.committee.keys(signers)
        self._check(PairSignatures().verify_same(keys, message, qc.aggregate), "commit proof is not signed")
        self._judge_certificate(data)

    def _judge_certificate(self, data: VoteData) -> None:
        held = self.certified.setdefault(data.round, data.block_id)
        self._check(held == data.block_id, f"two certificates in round {data.round}")

    def _is_finished(self) -> bool:
        """Every host has all payload that survived, and is past where the network healed."""
        return all(self._has_caught_up(host) for host in self._honest())

    def _has_caught_up(self, host: Host) -> bool:
        if len(host.disk.committed) < self.height_at_heal + 3:
            return False
        done = {ref.digest for block in host.disk.committed for ref in block.batches}
        return all(ref.digest in done for ref in self.batches if ref.member not in self.byzantine)

    def _judge_liveness(self) -> None:
        for host in self._honest():
            self._check(
                self._has_caught_up(host),
                f"member {host.me} stands at height {len(host.disk.committed)}; "
                f"healed at height {self.height_at_heal}, round {self.round_at_heal}",
            )
        if not self.faults.twin:
            rounds = max(host.replica.round for host in self._honest()) - self.round_at_heal
            self.seen["rounds_after_heal"] = rounds


def scenario(seed: int) -> Cluster:
    """The cluster that a seed stands for: which faults, how strong, how many members."""
    chance = random.Random(f"scenario{seed}")
    faults = Faults(
        loss=chance.choice((0.0, 0.02, 0.1, 0.25)),
        duplicate=chance.choice((0.0, 0.1)),
        delay_ms=chance.choice(((1, 20), (5, 200), (1, 700))),
        crash=chance.choice((0.0, 0.002, 0.01)),
        partitions=chance.random() < 0.4,
        twin=chance.random() < 0.35,
        skew_ms=chance.choice((0, 150)),
        slow_executor_ms=chance.choice((5, 300)),
    )
    return Cluster(seed, size=7 if chance.random() < 0.2 else 4, faults=faults)
