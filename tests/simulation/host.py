"""One simulated machine: the real Replica over a disk that keeps only what was synced."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from claims.transaction import FIRST_LANE, OpenLane
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
    UNSIGNED,
    ZERO,
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    Timeout,
    Vote,
    batch_message,
    block_id,
    genesis_cert,
    timeout_message,
    vote_message,
)
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import Root, genesis_id
from tests.simulation.disk import Disk, Marker
from tests.simulation.signatures import Signing, sign_lane, verify_lane


class Crash(Exception):  # noqa: N818 - an event of the simulation, not an error
    """The power goes out here."""


def fresh_safety(chain_id: bytes, epoch: int = 0) -> SafetyRecord:
    return SafetyRecord(epoch, 0, None, None, 0, ZERO, genesis_cert(genesis_id(chain_id)), None)


class Host:
    """Carries out effects in order. `world` is the cluster: time, network and judge."""

    def __init__(self, world: "World", slot: int, me: int, make_replica: Callable[..., Replica]) -> None:
        self.world = world
        self.slot = slot
        self.me = me
        self.make_replica = make_replica
        self.committee = world.signing.committee
        self.key = self.committee.members[me].public_key
        self.disk = Disk(fresh_safety(self.committee.chain_id, self.committee.epoch))
        self.up = False
        self.life = 0
        self.timer = 0
        self.next_seq = 1
        self.closed = False
        """It is not known which places of its lane are free."""
        self.skew_ms = 0
        self.executor_free = 0
        self.fetched = 0
        """Batches on the disk that this host asked for."""

    def now(self) -> int:
        return self.world.now + self.skew_ms

    # Starting.

    def start(self) -> None:
        chain_id, disk = self.committee.chain_id, self.disk
        root, executed = Root.genesis(chain_id, 0), [Executed(0, ZERO, 0, ZERO)]
        for block in disk.committed:
            root = root.child(block)
            executed.append(execute(executed[-1], block, self.world.statements))
        self.executed = executed[-1]
        self.replica = self.make_replica(
            self.me,
            self.committee,
            self.world.signing.checks,
            disk.safety,
            root,
            executed[-64:],
            genesis_id(chain_id),
            self.world.pace,
            verify_lane=verify_lane,
        )
        if not disk.trusted:
            self.replica.halted = "the record is lost"
        self.up, self.life = True, self.life + 1
        lane = (self.me, self.replica.lane.incarnation)
        self.next_seq = 1 + max((r.seq for r in disk.batches.values() if r.lane == lane), default=0)
        for ref in disk.batches.values():
            self.replica.payload.add(ref, signature=self._lane_signature(ref))
        above = sorted((b for b in disk.blocks.values() if b.header.height > root.height), key=_height)
        self._carry_out(self.replica.start(above, self.now()))

    def stop(self) -> None:
        self.up = False

    # Events.

    def step(self, event: Event) -> None:
        if self.up:
            self._carry_out(self.replica.step(event, self.now()))
            self.world.stepped(self)

    def make_batch(self, statement: bytes = b"") -> None:
        """A new batch of this member's lane, or one with an operator's statement; durable before anyone hears of it."""
        if self.closed or self.replica.halted:
            return
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        digest = hashlib.sha256(b"batch%d.%d.%d.%d" % (self.slot, self.me, seq, self.life)).digest()
        ref = BatchRef(self.me, self.replica.lane.incarnation, seq, statement or digest, 10, 5000)
        self.disk.append(ref)
        self.disk.sync()
        self.world.announce_batch(self, ref)
        self.know_batch(ref)

    def store_batch(self, ref: BatchRef, *, asked_for: bool = False) -> None:
        """A peer's batch, as the driver takes it. Not synced for itself: the vote that relies on it syncs the same file."""
        if not self.up or ref.digest in self.disk.batches:
            return
        if asked_for or not self.replica.payload.refusal(ref):
            self.fetched += asked_for
            self.disk.append(ref)
            self.know_batch(ref)

    def know_batch(self, ref: BatchRef) -> None:
        """It is on the disk, perhaps only now, or the core has let it go. Its signature has been verified."""
        self.step(BatchStored(ref, self._lane_signature(ref)))

    def _lane_signature(self, ref: BatchRef) -> bytes:
        return sign_lane(self.committee.members[ref.member].lane_key, batch_message(self.committee.chain_id, ref))

    # Effects.

    def _carry_out(self, effects: list[Effect]) -> None:
        last = "nothing"
        try:
            for effect in effects:
                name = type(effect).__name__
                self.world.boundary(self, last, name)
                self._do(effect)
                last = name
            if effects:
                self.world.boundary(self, last, "nothing")
        except Crash:
            self.world.crashed(self)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Persist(blocks, safety):
                self._persist(blocks, safety)
            case Broadcast(message):
                self._broadcast(message)
            case Send(to, message):
                signed = self._signed(message)
                self.world.leaves(self, signed)
                self.world.send(self, to, signed)
            case Commit(blocks, qc):
                self._commit(blocks, qc)
            case SetTimer(at_ms):
                self.world.set_timer(self, at_ms - self.skew_ms)
            case FetchBlocks() | FetchRange() | FetchBatches():
                self.world.fetch(self, effect)
            case Report():
                self.world.reported(self, effect)

    def _persist(self, blocks: tuple[Proposal, ...], safety: SafetyRecord | None) -> None:
        for block in blocks:
            self.disk.append(block)
        if safety is not None:
            self.world.boundary(self, "block log written", "synced")
            self.disk.sync()
            self.world.boundary(self, "block log synced", "safety record")
            self.disk.safety, self.disk.trusted = safety, True

    def _broadcast(self, message: Message) -> None:
        signed = self._signed(message)
        self.world.leaves(self, signed)
        for member in range(len(self.committee)):
            if member:
                self.world.boundary(self, "one copy sent", "the next")
            self.world.send(self, member, signed)

    def _commit(self, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        self.world.commits(self, blocks, qc)
        for number, block in enumerate(blocks):
            if number:
                self.world.boundary(self, "one marker written", "the next")
            self.disk.append(Marker(block_id(block.header)))
            self.executed = execute(self.executed, block, self.world.statements)
            self.world.execute_later(self, self.executed)

    def _signed(self, message: Message) -> Message:
        chain_id, sign = self.committee.chain_id, self.world.signing.sign
        match message:
            case Proposal() if message.signature == UNSIGNED:
                return replace(message, signature=sign(self.key, block_id(message.header)))
            case Vote():
                return replace(message, signature=sign(self.key, vote_message(chain_id, message.data)))
            case Timeout():
                told = timeout_message(chain_id, message.epoch, message.round, message.high_qc.round)
                return replace(message, signature=sign(self.key, told))
        return message

    def blocks_down_from(self, identity: bytes, ancestors: int) -> tuple[Proposal, ...]:
        """In height order."""
        found: list[Proposal] = []
        while len(found) <= ancestors and (block := self.block(identity)):
            found.append(block)
            identity = block.header.parent_id
        return tuple(found[::-1])

    def block(self, identity: bytes) -> Proposal | None:
        """A block to give to a peer, as the driver does: what the core or the disk holds; its own signed."""
        node = self.replica.tree.node(identity)
        found = node.proposal if node is not None else self.disk.blocks.get(identity)
        if found is not None and found.signature == UNSIGNED:
            if found not in self.disk.committed and not self.replica.has_left(identity):
                return None
            return replace(found, signature=self.world.signing.sign(self.key, identity))
        return found


def _height(block: Proposal) -> int:
    return block.header.height


Statements = Mapping[bytes, tuple[int, OpenLane]]
"""By the digest of the batch that brings it: for which member, and what it opens."""


def execute(before: Executed, block: Proposal, statements: Statements) -> Executed:
    """A stand-in contract: what it yields depends on the order of all payload so far. It knows operators' statements."""
    if not block.batches:
        return replace(before, height=block.header.height)
    digest = hashlib.sha256(before.state_root + b"".join(ref.digest for ref in block.batches)).digest()
    size = before.results_size + sum(ref.count for ref in block.batches)
    return Executed(block.header.height, digest, size, digest, lanes_after(before, block, statements))


def lanes_after(before: Executed, block: Proposal, statements: Statements) -> Mapping[int, OpenLane]:
    """As the contract has it: the next incarnation, and a later round, but none that lies ahead of the block's next."""
    lanes = dict(before.lanes)
    for member, opened in [statements[ref.digest] for ref in block.batches if ref.digest in statements]:
        held = lanes.get(member, FIRST_LANE)
        in_turn = opened.incarnation == held.incarnation + 1
        if in_turn and held.after_round < opened.after_round <= block.header.round + 1:
            lanes[member] = opened
    return lanes


class World:
    """What a host needs of the cluster; see cluster.py."""

    signing: Signing
    pace: Pace
    now: int
    statements: Statements

    def boundary(self, host: Host, last: str, following: str) -> None: ...
    def crashed(self, host: Host) -> None: ...
    def stepped(self, host: Host) -> None: ...
    def leaves(self, host: Host, message: Message) -> None: ...
    def send(self, host: Host, to: int, message: Message) -> None: ...
    def commits(self, host: Host, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None: ...
    def set_timer(self, host: Host, at_ms: int) -> None: ...
    def announce_batch(self, host: Host, ref: BatchRef) -> None: ...
    def fetch(self, host: Host, wanted: FetchBlocks | FetchRange | FetchBatches) -> None: ...
    def execute_later(self, host: Host, executed: Executed) -> None: ...
    def reported(self, host: Host, report: Report) -> None: ...
