"""One simulated machine: the real Replica over a disk that keeps only what was synced."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import (
    BatchStored,
    Broadcast,
    Commit,
    Effect,
    Event,
    Executed,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Persist,
    Report,
    SafetyRecord,
    Send,
    SetTimer,
)
from ledger_commit.consensus.messages import (
    INCARNATION,
    UNSIGNED,
    ZERO,
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    Timeout,
    Vote,
    block_id,
    genesis_cert,
    timeout_message,
    vote_message,
)
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import Root, genesis_id
from tests.simulation.signatures import PairSignatures, sign


class Crash(Exception):  # noqa: N818 - an event of the simulation, not an error
    """The power goes out here."""


@dataclass
class Disk:
    """What a restart finds."""

    safety: SafetyRecord
    blocks: dict[bytes, Proposal] = field(default_factory=dict)
    committed: list[Proposal] = field(default_factory=list)
    batches: dict[bytes, BatchRef] = field(default_factory=dict)
    next_seq: int = 1


def fresh_safety(chain_id: bytes) -> SafetyRecord:
    return SafetyRecord(0, 0, None, None, 0, ZERO, genesis_cert(genesis_id(chain_id)), None)


class Host:
    """Carries out effects in order. `world` is the cluster: time, network and judge."""

    def __init__(self, world: "World", slot: int, me: int, make_replica: Callable[..., Replica]) -> None:
        self.world = world
        self.slot = slot
        self.me = me
        self.make_replica = make_replica
        self.committee: Committee = world.committee
        self.key = self.committee.members[me].public_key
        self.disk = Disk(fresh_safety(self.committee.chain_id))
        self.up = False
        self.life = 0
        self.timer = 0
        self.known: dict[bytes, Proposal] = {}
        self.skew_ms = 0
        self.executor_free = 0

    def now(self) -> int:
        return self.world.now + self.skew_ms

    # Starting.

    def start(self) -> None:
        chain_id = self.committee.chain_id
        root, executed = Root.genesis(chain_id, 0), [Executed(0, ZERO, 0, ZERO)]
        for block in self.disk.committed:
            root = root.child(block)
            executed.append(execute(executed[-1], block))
        self.executed = executed[-1]
        self.replica = self.make_replica(
            self.me, self.committee, PairSignatures(), self.disk.safety, root, executed[-64:], genesis_id(chain_id)
        )
        self.up, self.life = True, self.life + 1
        self.known = {**self.disk.blocks}
        for ref in self.disk.batches.values():
            self.replica.payload.add(ref)
        above = sorted(
            (b for b in self.disk.blocks.values() if b.header.height > root.height), key=lambda b: b.header.height
        )
        self._carry_out(self.replica.start(above, self.now()))

    def stop(self) -> None:
        self.up = False

    # Events.

    def step(self, event: Event) -> None:
        if self.up:
            self._carry_out(self.replica.step(event, self.now()))

    def make_batch(self) -> None:
        """A new batch of this member's lane; durable before anyone hears of it."""
        seq, self.disk.next_seq = self.disk.next_seq, self.disk.next_seq + 1
        digest = hashlib.sha256(b"batch%d.%d.%d" % (self.slot, self.me, seq)).digest()
        self.store_batch(BatchRef(self.me, INCARNATION, seq, digest, 10, 5000))
        self.world.announce_batch(self, self.disk.batches[digest])

    def store_batch(self, ref: BatchRef) -> None:
        self.disk.batches[ref.digest] = ref
        self.step(BatchStored(ref))

    def store_if_up(self, ref: BatchRef) -> None:
        if self.up:
            self.store_batch(ref)

    # Effects.

    def _carry_out(self, effects: list[Effect]) -> None:
        try:
            for effect in effects:
                self.world.maybe_crash(self, effect)
                self._do(effect)
        except Crash:
            self.world.crashed(self)

    def _do(self, effect: Effect) -> None:  # noqa: C901 - one arm for each effect
        match effect:
            case Persist(blocks, safety):
                self.disk.blocks.update({block_id(b.header): b for b in blocks})
                if safety is not None:
                    self.disk.safety = safety
            case Broadcast(message):
                signed = self._signed(message)
                self.world.judge_sent(self, signed)
                for member in range(len(self.committee)):
                    self.world.send(self, member, signed)
            case Send(to, message):
                self.world.send(self, to, self._signed(message))
            case Commit(blocks, qc):
                self._commit(blocks, qc)
            case SetTimer(at_ms):
                self.world.set_timer(self, at_ms - self.skew_ms)
            case FetchBlocks(ids, hint):
                self.world.fetch_blocks(self, ids, hint)
            case FetchRange():
                self.world.fetch_range(self, effect)
            case FetchBatches(refs, hint):
                self.world.fetch_batches(self, refs, hint)
            case Report():
                self.world.reported(self, effect)

    def _commit(self, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        self.world.judge_commit(self, blocks, qc)
        self.disk.committed.extend(blocks)
        for block in blocks:
            self.executed = execute(self.executed, block)
            self.world.execute_later(self, self.executed)

    def _signed(self, message: Message) -> Message:
        chain_id = self.committee.chain_id
        match message:
            case Proposal() if message.signature == UNSIGNED:
                signed = replace(message, signature=sign(self.key, block_id(message.header)))
                self.known[block_id(message.header)] = signed
                return signed
            case Vote():
                return replace(message, signature=sign(self.key, vote_message(chain_id, message.data)))
            case Timeout():
                told = timeout_message(chain_id, message.epoch, message.round, message.high_qc.round)
                return replace(message, signature=sign(self.key, told))
        return message

    def block(self, identity: bytes) -> Proposal | None:
        """A block to give to a peer; its own is signed if the disk has it unsigned."""
        found = self.known.get(identity) or self.disk.blocks.get(identity)
        if found is not None and found.signature == UNSIGNED:
            found = replace(found, signature=sign(self.committee.members[found.header.proposer].public_key, identity))
        return found


def execute(before: Executed, block: Proposal) -> Executed:
    """A stand-in contract: what it yields depends on the order of all payload so far."""
    if not block.batches:
        return replace(before, height=block.header.height)
    digest = hashlib.sha256(before.state_root + b"".join(ref.digest for ref in block.batches)).digest()
    size = before.results_size + sum(ref.count for ref in block.batches)
    return Executed(block.header.height, digest, size, digest)


class World:
    """What a host needs of the cluster; see cluster.py."""

    committee: Committee
    now: int

    def maybe_crash(self, host: Host, effect: Effect) -> None: ...
    def crashed(self, host: Host) -> None: ...
    def send(self, host: Host, to: int, message: Message) -> None: ...
    def judge_sent(self, host: Host, message: Message) -> None: ...
    def judge_commit(self, host: Host, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None: ...
    def set_timer(self, host: Host, at_ms: int) -> None: ...
    def announce_batch(self, host: Host, ref: BatchRef) -> None: ...
    def fetch_blocks(self, host: Host, ids: tuple[bytes, ...], hint: int) -> None: ...
    def fetch_range(self, host: Host, wanted: FetchRange) -> None: ...
    def fetch_batches(self, host: Host, refs: tuple[BatchRef, ...], hint: int) -> None: ...
    def execute_later(self, host: Host, executed: Executed) -> None: ...
    def reported(self, host: Host, report: Report) -> None: ...
