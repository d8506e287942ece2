"""A cluster in virtual time: one seed decides every delay, loss, crash and partition, and the same seed replays them."""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from claims.transaction import OpenLane
from ledger_commit.consensus.events import (
    BlocksFetched,
    Executed,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Received,
    Report,
    Tick,
)
from ledger_commit.consensus.messages import BatchRef, Message, Proposal, QuorumCert, Vote, block_id
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.consensus.replica import Replica
from ledger_commit.fetching import ASKED_AT_ONCE
from tests.simulation.adversary import Adversary
from tests.simulation.host import Crash, Host, World
from tests.simulation.judge import Judge, Violation
from tests.simulation.signatures import BlsSigning, PairSigning, Signing

BLS_EVERY = 100
"""One seed of so many signs with BLS."""
HARMLESS = frozenset({"nothing", "SetTimer", "Report", "FetchBlocks", "FetchRange", "FetchBatches"})
"""Between these a crash is only a restart; they are many."""
SELDOM = frozenset({"Commit", "one marker written"})
LAST_WORDS_MS = 2500
"""After the network heals, what was on its way arrives within this time, and who was down is up."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong until `heal_ms`; afterwards the network is whole and everyone is up. Byzantine members stay so."""

    loss: float = 0.0
    lost_kinds: tuple[str, ...] = ()
    """Kinds of messages of which half are lost: what only some have seen is what locks and certificates are there for."""
    duplicate: float = 0.0
    delay_ms: tuple[int, int] = (1, 20)
    crash: float = 0.0
    """At each boundary between two effects."""
    partitions: bool = False
    one_way: bool = False
    """Links that carry in one direction only."""
    twin: bool = False
    lies: bool = False
    away: bool = False
    """The last member comes up only when all else is well, and has everything to catch up with."""
    skew_ms: int = 0
    slow_executor_ms: int = 5
    base_ms: int = 500
    """The timer of a round. Where it is of the size of the delays, votes and timeouts of a round cross each other."""
    epoch: int = 0
    bls: bool = False
    heal_ms: int = 15_000
    end_ms: int = 60_000


def signing_of(size: int, faults: Faults) -> Signing:
    return BlsSigning.of(size) if faults.bls else PairSigning.of(size, faults.epoch)


@dataclass
class Cluster(World):
    """Runs the hosts; the judge looks at every effect."""

    seed: int
    size: int = 4
    faults: Faults = field(default_factory=Faults)
    make_replica: Callable[..., Replica] = Replica
    signs: Signing | None = None
    rounds_allowed: int = 0
    """Within how many rounds new payload is committed once all is well; 3n where nothing is said."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 0
        self.signing = self.signs or signing_of(self.size, self.faults)
        self.pace = Pace(base_ms=self.faults.base_ms)
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.ticket = 0
        self.trace = hashlib.sha256()
        self.traced: Message | None = None
        self.judge = Judge(self.signing, self._violated)
        self.seen = self.judge.seen
        self.hosts = [Host(self, i, i, self.make_replica) for i in range(self.size)]
        if self.faults.twin:
            # Two instances under one key, each with a memory of its own.
            self.hosts.append(Host(self, self.size, 0, self.make_replica))
        self.judge.hosts = self.hosts
        liars = range(self.signing.committee.faults) if self.faults.lies else ()
        self.judge.byzantine = {*liars, *({0} if self.faults.twin else ())}
        self.adversaries = {me: Adversary(me, self.signing, self.random, self.seen) for me in liars}
        self.cut: set[tuple[int, int]] = set()
        """Pairs of slots between which nothing arrives, in this direction."""
        self.batches: list[BatchRef] = []
        self.statements: dict[bytes, tuple[int, OpenLane]] = {}
        self.counted_from = self.newest_then = 10**9
        """Round and height when the network was whole again."""
        self.rounds_to_commit: int | None = None
        self.said: dict[tuple[str, int], set[bytes]] = {}
        for host in self.hosts:
            host.skew_ms = self.random.randint(-self.faults.skew_ms, self.faults.skew_ms)

    def _violated(self, what: str) -> None:
        raise Violation(f"seed {self.seed}, {self.now} ms: {what}")

    def leaders(self) -> tuple[int, ...]:
        """The members in the order in which they lead."""
        return self.signing.committee.schedule

    def leave_out(self, members: Iterable[int]) -> None:
        """These never come up, and nothing is expected of them."""
        for member in members:
            self.judge.byzantine.add(member)
            self.hosts[member].start = lambda: None  # type: ignore[method-assign]

    # Time.

    def at(self, delay_ms: int, action: Callable[[], None]) -> None:
        self.ticket += 1
        heapq.heappush(self.queue, (self.now + max(0, delay_ms), self.ticket, action))

    def run(self) -> "Cluster":
        for host in self.hosts:
            starts = self.random.randint(0, 50)
            if not (self.faults.away and host.me == self.size - 1):
                self.at(starts, host.start)
            for _ in range(20):
                self.at(self.random.randint(100, self.faults.heal_ms), self._batch_of(host))
        if self.faults.partitions or self.faults.one_way:
            for start in range(1000, self.faults.heal_ms, 2500):
                self.at(start, self._split)
        self.at(self.faults.heal_ms, self._heal)
        while self.queue and self.queue[0][0] <= self.faults.end_ms:
            self.now, _, action = heapq.heappop(self.queue)
            action()
            if self._is_finished():
                break
        self._judge_liveness()
        return self

    def _batch_of(self, host: Host) -> Callable[[], None]:
        def make() -> None:
            if host.up:
                host.make_batch()

        return make

    def _split(self) -> None:
        """Two sides, or some links in one direction, until the next time."""
        slots, chance = range(len(self.hosts)), self.random
        if self.faults.one_way and chance.random() < 0.6:
            self.cut = {(a, b) for a in slots for b in slots if a != b and chance.random() < 0.25}
            self.seen["one_way_cut"] += any((b, a) not in self.cut for a, b in self.cut)
            return
        sides = [chance.randint(0, 1) for _ in slots]
        self.cut = {(a, b) for a in slots for b in slots if sides[a] != sides[b]}

    def _heal(self) -> None:
        self.cut = set()
        for host in self.hosts:
            if not host.up:
                host.start()
        self.at(LAST_WORDS_MS, self._begin_to_count)

    def _begin_to_count(self) -> None:
        """From here on every message arrives within its bound: new payload has to be committed within 3n rounds."""
        running = [host for host in self.judge.honest() if host.up]
        for host in running:
            host.make_batch()
        self.counted_from = max(host.replica.round for host in running)
        self.newest_then = len(self.judge.blocks_at)

    @property
    def healed(self) -> bool:
        return self.now >= self.faults.heal_ms

    # Network.

    def _delay(self) -> int:
        low, high = self.faults.delay_ms
        return self.random.randint(low, high) if not self.healed else self.random.randint(1, 20)

    def _deliver(self, origin: Host, target: Host, kind: str, action: Callable[[], None]) -> None:
        if target is origin:
            self.at(0, action)
            return
        loss = 0.5 if kind in self.faults.lost_kinds else self.faults.loss
        if (origin.slot, target.slot) in self.cut or (not self.healed and self.random.random() < loss):
            self.seen["lost"] += 1
            return
        self.at(self._delay(), action)
        if not self.healed and self.random.random() < self.faults.duplicate:
            self.seen["duplicated"] += 1
            self.at(self._delay() * 3, action)

    def leaves(self, host: Host, message: Message) -> None:
        self.judge.leaves(host, message)
        if host.me in self.judge.byzantine and isinstance(message, Vote | Proposal):
            self._note_equivocation(host, message)

    def _note_equivocation(self, host: Host, message: Vote | Proposal) -> None:
        """Counts what a Byzantine key signed twice."""
        vote = isinstance(message, Vote)
        what, told_round, identity = (
            ("vote", message.data.round, message.data.block_id)
            if isinstance(message, Vote)
            else ("proposal", message.header.round, block_id(message.header))
        )
        told = self.said.setdefault((what, told_round), set())
        told.add(identity)
        self.seen["twin_voted_twice" if vote else "twin_proposed_twice"] += len(told) > 1

    def send(self, host: Host, to: int, message: Message) -> None:
        if message is not self.traced:
            self.traced = message
            self.trace.update(repr(message).encode())
        self.trace.update(b"%d:%d>%d" % (self.now, host.slot, to))
        for target in self.hosts:
            # Twins hear everything that is meant for their key, but each only its own echo.
            if target.me == to and (target.me != host.me or target is host):
                for told in self._as_told(host, target, message):
                    self._deliver(host, target, type(told).__name__, self._arrival(target, host.me, told))

    def _as_told(self, host: Host, target: Host, message: Message) -> list[Message]:
        adversary = self.adversaries.get(host.me)
        if adversary is None or target.me == host.me:
            return [message]
        told = adversary.says(message)
        for each in told:
            self.judge.overheard(each)
        return told

    def _arrival(self, target: Host, sender: int, message: Message) -> Callable[[], None]:
        def arrive() -> None:
            if target.me in self.adversaries:
                self.adversaries[target.me].hears(sender, message)
            target.step(Received(sender, message))

        return arrive

    def set_timer(self, host: Host, at_ms: int) -> None:
        host.timer, life = at_ms, host.life

        def tick() -> None:
            if host.life == life and host.timer == at_ms:
                host.step(Tick())

        self.at(at_ms - self.now, tick)

    def announce_batch(self, host: Host, ref: BatchRef) -> None:
        """To everyone; a Byzantine member keeps its payload from some."""
        byzantine = host.me in self.judge.byzantine
        if not byzantine:
            self.batches.append(ref)
        for target in self.hosts:
            if target is host:
                continue
            if byzantine and self.random.random() < 0.5:
                self.seen["payload_withheld"] += 1
                continue
            self._deliver(host, target, "Batch", partial(target.store_batch, ref))

    # Fetching, as the driver does it, but for its patience: whoever answers at all ends the question, however he answers.

    def fetch(self, host: Host, wanted: FetchBlocks | FetchRange | FetchBatches) -> None:
        peers = [p for p in self.hosts if p.me != host.me and p.up and self._reach_each_other(p, host)]
        if isinstance(wanted, FetchBatches):
            peers.sort(key=lambda p: p.me != wanted.hint)
            self._fetch_batches(host, peers, wanted)
            return
        asked = (peer for member in wanted.members for peer in peers if peer.me == member)
        given = ((peer, answer) for peer in asked if (answer := self._blocks_of(peer, wanted)))
        for peer, answer in islice(given, ASKED_AT_ONCE if isinstance(wanted, FetchRange) else 1):
            self._answer(host, peer, answer)

    def _reach_each_other(self, a: Host, b: Host) -> bool:
        return (a.slot, b.slot) not in self.cut and (b.slot, a.slot) not in self.cut

    def _blocks_of(self, peer: Host, wanted: FetchBlocks | FetchRange) -> BlocksFetched | None:
        if isinstance(wanted, FetchBlocks):
            found = peer.blocks_down_from(wanted.id, wanted.ancestors)
            return BlocksFetched(peer.me, found) if found else None
        chain = peer.disk.committed[wanted.from_height - 1 : wanted.to_height + 1]
        blocks = tuple(block for b in chain[:-1] if (block := peer.block(block_id(b.header))))
        return BlocksFetched(peer.me, blocks, chain[-1].qc) if blocks else None

    def _answer(self, host: Host, peer: Host, answer: BlocksFetched) -> None:
        self.seen["block_fetched" if answer.qc is None else "range_fetched"] += 1
        if peer.me in self.adversaries:
            answer = self.adversaries[peer.me].gives(answer)
        life = host.life

        def arrive() -> None:
            if host.life == life:
                host.step(answer)

        self.at(self._delay() * 2, arrive)

    def _fetch_batches(self, host: Host, peers: list[Host], wanted: FetchBatches) -> None:
        """A Byzantine member that withholds its payload does not give it to those who ask either."""
        for ref in wanted.refs:
            if ref.digest in host.disk.batches:
                self.at(0, partial(host.know_batch, ref))
                continue
            for peer in peers:
                if ref.digest in peer.disk.batches and peer.me not in self.judge.byzantine:
                    self.seen["batch_fetched"] += 1
                    self.at(self._delay() * 2, partial(host.store_batch, ref, asked_for=True))
                    break

    # Execution.

    def execute_later(self, host: Host, executed: Executed) -> None:
        self.judge.executed(host, executed)
        life = host.life
        # One executor, one height after the other.
        host.executor_free = max(host.executor_free, self.now) + self.random.randint(0, self.faults.slow_executor_ms)

        def done() -> None:
            if host.life == life:
                self.tells(host, executed)

        self.at(host.executor_free - self.now, done)

    def tells(self, host: Host, executed: Executed) -> None:
        """The contract has come so far; the core hears of it."""
        host.step(executed)

    # Crashes.

    def boundary(self, host: Host, last: str, following: str) -> None:
        """Between two effects of one step, or within one that has parts."""
        if self.healed or not self.faults.crash:
            return
        ends = {last, following}
        often = 1 if ends <= HARMLESS else 25 if ends & SELDOM else 4
        if self.random.random() < often * self.faults.crash:
            self.seen[f"crash between {last} and {following}"] += 1
            raise Crash

    def crashed(self, host: Host) -> None:
        host.stop()
        disk = host.disk
        lost = disk.lose(self.random.randint(disk.synced, len(disk.log)))
        self.judge.restarted(host, lost)
        self.at(self.random.randint(50, 3000), partial(self._restart, host))

    def _restart(self, host: Host) -> None:
        if host.up:
            return
        host.start()
        safety = host.disk.safety
        if host.me not in self.judge.byzantine and safety.last_voted_round >= host.replica.round:
            timed_out = safety.last_timeout is not None and safety.last_timeout.round >= host.replica.round
            self.seen["restart_after_timeout" if timed_out else "restart_after_vote"] += 1

    # Judging.

    def stepped(self, host: Host) -> None:
        if host.up:
            self.judge.stepped(host)

    def commits(self, host: Host, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        self.trace.update(b"%d:%d commits %d" % (self.now, host.slot, blocks[-1].header.height))
        self.judge.commits(host, blocks, qc)
        if self.rounds_to_commit is None and blocks[-1].header.height > self.newest_then:
            self.rounds_to_commit = host.replica.round - self.counted_from

    def reported(self, host: Host, report: Report) -> None:
        self.judge.reported(host, report)

    def _is_finished(self) -> bool:
        """Every honest member has committed all payload of honest members, and what the others have."""
        return self.rounds_to_commit is not None and all(self._has_caught_up(host) for host in self.judge.honest())

    def _has_caught_up(self, host: Host) -> bool:
        if len(host.disk.committed) <= self.newest_then:
            return False
        done = {ref.digest for block in host.disk.committed for ref in block.batches}
        return all(ref.digest in done for ref in self.batches)

    def _judge_liveness(self) -> None:
        for host in self.judge.honest():
            self.judge.check(
                self._has_caught_up(host),
                f"member {host.me} stands at height {len(host.disk.committed)}; "
                f"all were up and connected at height {self.newest_then}, round {self.counted_from}",
            )
        rounds, allowed = self.rounds_to_commit, self.rounds_allowed or 3 * self.size
        self.judge.check(rounds is not None and rounds <= allowed, f"{rounds} rounds without a commit")


def scenario(seed: int) -> Cluster:
    """The cluster that a seed stands for: which faults, how strong, how many members."""
    chance = random.Random(f"scenario{seed}")
    bls = seed % BLS_EVERY == BLS_EVERY - 1
    faults = Faults(
        loss=chance.choice((0.0, 0.02, 0.1, 0.25)),
        lost_kinds=chance.choice(((), (), ("Vote",), ("Vote", "TimeoutCert"), ("Timeout",), ("Proposal",), ("Batch",))),
        duplicate=chance.choice((0.0, 0.1)),
        delay_ms=chance.choice(((1, 20), (5, 200), (1, 700))),
        crash=chance.choice((0.0, 0.0003, 0.002)),
        partitions=chance.random() < 0.3,
        one_way=chance.random() < 0.2,
        twin=chance.random() < 0.35,
        lies=chance.random() < 0.3,
        skew_ms=chance.choice((0, 150)),
        slow_executor_ms=chance.choice((5, 300)),
        base_ms=chance.choice((500, 500, 60)),
        epoch=0 if bls else chance.choice((0, 0, 0, 1)),
        bls=bls,
    )
    size = 4 if bls else chance.choice((4, 4, 4, 4, 5, 7, 7))
    return Cluster(seed, size, replace(faults, away=chance.random() < 0.15))
