"""The driver: the one loop that gives events to the core and carries out its effects, in order.

A `Persist` is complete, with its syncs, before the next effect; what the core emits unsigned is signed after it. What this
replica broadcasts comes back to it as an event. Execution runs in one worker thread behind a queue; everything
else stays on the loop.

Source: consensus.md §1 and §8.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from claimledger.ledger.v1 import ledger_pb2
from claims.encoding import DecodeError
from claims.transaction import Genesis, RefusalReason
from ledger_commit.adapters.block_log import CommitMarker, reference
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import (
    BatchStored,
    Broadcast,
    Commit,
    Effect,
    Event,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Persist,
    Received,
    Report,
    Send,
    SetTimer,
    Tick,
)
from ledger_commit.consensus.messages import (
    BATCH,
    MAX_BATCH_BYTES,
    UNSIGNED,
    BatchRef,
    Message,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    Vote,
    batch_message,
    block_id,
    timeout_message,
    vote_message,
)
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import genesis_id
from ledger_commit.fetching import Fetching
from ledger_commit.gathering import SHORTEST_MS, Gathering
from ledger_commit.keys import ReplicaKeys, verify_ed25519
from ledger_commit.lane import Lane
from ledger_commit.last_seen import Signed, is_signed_by, round_of
from ledger_commit.ledger import Ledger
from ledger_commit.opening import Opened, entries_of
from ledger_commit.peers import Peers
from ledger_commit.rejoin import Rejoining
from ledger_commit.seen import SeenRecords
from ledger_commit.store import Projected, accusations
from ledger_commit.wire import from_last_seen, to_request
from runtime.bls import Bls
from runtime.log import get_logger
from runtime.metrics import LEDGER_BAD_MESSAGES, LEDGER_EVIDENCE, LEDGER_HEIGHT, LEDGER_ROUND, LEDGER_TIMEOUTS
from runtime.process import run_together

START_PAUSE_S: Final = 0.2
FETCH_PAUSE_S: Final = 0.1
DEAF_MS: Final = 100
"""How long nothing is heard of a member after something that no honest one sends: each may cost a verification and a line of the log,
and thousands of them would take all of this replica's time."""
DISHONEST: Final = frozenset(
    {"bad_certificate", "bad_proposal", "bad_signature", "bad_timeout", "bad_vote", "not_the_proposer"}
)
"""Reports of such things, each of what came over the member's own stream."""
HEARING: Final = "waits for a quorum to say which of its signatures they hold"
OnExecuted = Callable[[list[Projected]], None]


class Node:
    """One replica at work. `on_executed` is called on the loop with each executed group of blocks."""

    def __init__(
        self,
        me: int,
        committee: Committee,
        genesis: Genesis,
        keys: ReplicaKeys,
        bls: Bls,
        disk: Opened,
        ledger: Ledger,
        on_executed: OnExecuted,
        pace: Pace,
        seen: SeenRecords,
    ) -> None:
        self.me = me
        self.committee = committee
        self.genesis = genesis
        self.disk = disk
        self.ledger = ledger
        self.chain = disk.chain
        self.executed = disk.executed[-1]
        """As of the last executed group. The ledger itself may be in the middle of a block, in the worker thread."""
        self.last_seen = disk.last_seen
        self.peers = Peers([])
        self.log = get_logger("node")
        self.replica = Replica(
            me,
            committee,
            bls,
            disk.safety,
            disk.root,
            disk.executed,
            genesis_id(committee.chain_id),
            replace(pace, gather_ms=min(pace.gather_ms, SHORTEST_MS)),
            verify_lane=verify_ed25519,
        )
        self.replica.halted = disk.not_voting or self.replica.halted
        for member, kind in disk.root.accused:
            LEDGER_EVIDENCE.labels(committee.members[member].organisation, kind.name).inc()
        self._gathering = Gathering(pace.gather_ms)
        for ref in disk.waiting:
            self.replica.payload.add(ref, signature=disk.log.batch_signature(ref.digest))
        opened = self.replica.lane.incarnation
        first_open = disk.root.lanes.get((me, opened), 1)
        still_open = [r for r in disk.waiting if r.lane == (me, opened) and r.seq >= first_open]
        self.lane = Lane(
            disk.log, keys.lane, committee.chain_id, me, self._next_seq(opened), self._announce, still_open, opened
        )
        self.lane.close()
        self._lane_was_opened = False
        self.rejoining: Rejoining | None = None
        self._keys = keys
        self._bls = bls
        self._on_executed = on_executed
        self.seen = seen
        self._events: deque[Event] = deque()
        self._busy = False
        self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._commits: asyncio.Queue[tuple[tuple[Proposal, ...], QuorumCert]] = asyncio.Queue()
        self._stored = asyncio.Event()
        self._deaf_until: dict[int, int] = {}
        self._failed = asyncio.Event()
        self._failure: Exception | None = None
        self._thread = ThreadPoolExecutor(1, "executor")
        self.fetching = Fetching(self)
        self._unserved: dict[bytes, BatchRef] = {r.digest: r for r in disk.waiting if r.lane == (me, opened)}

    @property
    def committed_height(self) -> int:
        return len(self.chain)

    @property
    def has_heard_peers(self) -> bool:
        return self._started

    @property
    def not_voting(self) -> str:
        """Why this replica signs nothing now; empty while it takes part."""
        return self.replica.halted or ("" if self._started else HEARING)

    # Running.

    async def run(self) -> None:
        """Waits for enough peers, starts the core, and executes what is committed. Ends only by an exception."""
        await self._hear_peers()
        self._started = True
        self._carry_out(self.replica.start(self.disk.above, self._now()))
        self.disk.above = []
        self._pump()
        if not self.replica.halted:
            self._open_lane()
        await run_together(self._execute(), self._until_a_step_fails())

    async def _until_a_step_fails(self) -> None:
        """Whoever the event came from, a peer or a timer: what the step left out would be missing in all that follows."""
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    def _next_seq(self, incarnation: int) -> int:
        own = (r.seq for r in self.disk.log.refs.values() if r.lane == (self.me, incarnation))
        return 1 + max(own, default=0)

    def _open_lane(self) -> None:
        opened = self.replica.lane.incarnation
        self._unserved = {digest: ref for digest, ref in self._unserved.items() if ref.incarnation == opened}
        self.lane.reopen(opened, self._next_seq(opened))
        self._lane_was_opened = True

    async def _hear_peers(self) -> None:
        """§8: nothing is signed before Q−1 peers told the highest round in which they hold our signature.

        A peer whose answer proves nothing has answered: whoever stays silent or lies takes no more than its own word away.
        """
        safety = self.disk.safety
        timed_out = safety.last_timeout.round if safety.last_timeout else 0
        own = max(safety.last_voted_round, safety.last_proposed_round, timed_out)
        answers: dict[int, int] = {}
        while len(answers) < self.committee.quorum_size - 1:
            asked = [peer for peer in self.peers if peer.index not in answers]
            told = await asyncio.gather(*(peer.last_seen() for peer in asked))
            heard = [(peer.index, answer) for peer, answer in zip(asked, told, strict=True) if answer is not None]
            answers |= {peer: self._proven_round(peer, answer) for peer, answer in heard}
            if len(answers) < self.committee.quorum_size - 1:
                await asyncio.sleep(START_PAUSE_S)
        highest = max(answers.values(), default=0)
        if highest > own and not self.replica.halted:
            self.replica.halted = f"the safety record is stale: it ends at round {own}, a peer saw round {highest}"
        if self.replica.halted:
            self.log.error("not_voting", reason=self.replica.halted)

    def _proven_round(self, peer: int, answer: ledger_pb2.GetLastSeenResponse) -> int:
        """The round of our own signature in a peer's answer; 0 where it shows none that holds."""
        try:
            message = from_last_seen(answer)
            if message is None:
                return 0
            if is_signed_by(self.me, message, self.replica.certificates):
                return round_of(message)
            reason = "no signature of ours"
        except DecodeError as error:
            reason = str(error)
        LEDGER_BAD_MESSAGES.labels("last_seen").inc()
        organisation = self.committee.members[peer].organisation
        self.log.warning("last_seen_not_proven", peer=organisation, round=answer.round, reason=reason)
        return 0

    def _now(self) -> int:
        return time.time_ns() // 1_000_000

    def submit(self, event: Event) -> None:
        """Gives an event to the core, after those that wait.

        Before the start, which may never come, nothing waits: a batch is noted, and what peers say is not heard. They say
        it again.
        """
        if self._started:
            self._events.append(event)
            self._pump()
        elif isinstance(event, BatchStored):
            self.replica.payload.add(event.ref, signature=event.signature)

    def _pump(self) -> None:
        if self._busy or self._failed.is_set():
            return
        self._busy = True
        try:
            while self._events:
                self._carry_out(self.replica.step(self._events.popleft(), self._now()))
        except Exception as error:
            self._failure = error
            self._failed.set()
            raise
        finally:
            self._busy = False
        self.last_seen.note_certificate(self.replica.high_qc, self.committee)
        LEDGER_ROUND.set(self.replica.round)

    # What comes in.

    def hears(self, member: int) -> bool:
        """Whether what this member sends is looked at."""
        return self._now() >= self._deaf_until.get(member, 0)

    def ignore(self, member: int) -> None:
        """For a while: it has sent what no honest member sends."""
        self._deaf_until[member] = self._now() + DEAF_MS

    def receive(self, sender: int, message: Message) -> None:
        if isinstance(message, Proposal | Vote | Timeout):
            # For the sender's own next start. Whatever it is, it takes the place of the sender's own messages alone.
            self.last_seen.note(sender, message)
        self.submit(Received(sender, message))

    def last_signed_by(self, member: int) -> Signed | None:
        """The newest signature of a member that is held here, for the member itself; none that does not hold."""
        return self.last_seen.proven(member, self.replica.certificates)

    def receive_batch(self, encoded: bytes, asked_for: Collection[bytes] = ()) -> None:
        """A batch from any peer; what counts is the signature of its lane.

        What is written stays, so that nothing is which the core would not keep, but a batch whose digest a block names.
        """
        if len(encoded) > MAX_BATCH_BYTES:
            LEDGER_BAD_MESSAGES.labels("batch_too_large").inc()
            return
        try:
            batch = BATCH.decode(encoded)
        except DecodeError:
            LEDGER_BAD_MESSAGES.labels("undecodable_batch").inc()
            return
        ref = reference(batch, encoded)
        if self.disk.log.has_batch(ref.digest):
            return
        if batch.member >= len(self.genesis.replicas):
            LEDGER_BAD_MESSAGES.labels("unknown_lane").inc()
            return
        refusal = "" if ref.digest in asked_for else self.replica.payload.refusal(ref)
        if refusal:
            LEDGER_BAD_MESSAGES.labels(refusal).inc()
            return
        key = self.genesis.replicas[batch.member].lane_public_key
        if not verify_ed25519(key, batch_message(self.committee.chain_id, ref), batch.signature):
            LEDGER_BAD_MESSAGES.labels("batch_signature").inc()
            return
        # Durable before a vote relies on it: the vote's Persist syncs the same file.
        self.disk.log.append_batch(batch, encoded, ref)
        self._stored.set()
        self.submit(BatchStored(ref, batch.signature))

    def _announce(self, ref: BatchRef, encoded: bytes) -> None:
        self._unserved[ref.digest] = ref
        self.peers.broadcast_batch(encoded)
        self._stored.set()
        self.submit(BatchStored(ref, encoded[-64:]))

    def on_peer_connected(self, index: int) -> None:
        """A peer that was away gets the batches of this lane that nobody has ordered yet."""
        for digest in list(self._unserved):
            encoded = self.disk.log.batch_bytes(digest)
            if encoded is not None:
                self.peers.send_batch(index, encoded)

    # What goes out.

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Persist(blocks, safety):
                for block in blocks:
                    self.disk.log.append_block(block)
                if safety is not None:
                    self.disk.log.sync()
                    self.disk.safety_file.save(safety, self.disk.log.size)
            case Broadcast(message):
                signed = self._signed(message)
                self.peers.broadcast(to_request(signed))
                self._events.append(Received(self.me, signed))
            case Send(to, message):
                self._send(to, self._signed(message))
            case Commit(blocks, qc):
                self._commit(blocks, qc)
            case SetTimer(at_ms):
                self._set_timer(at_ms)
            case FetchBlocks() | FetchRange() | FetchBatches():
                self.fetching.start(effect)
            case Report(what, member, detail):
                self._report(what, member, detail)

    def _send(self, to: int, message: Message) -> None:
        """A leader in a large committee votes for itself too."""
        if to == self.me:
            self._events.append(Received(self.me, message))
        else:
            self.peers.send(to, to_request(message))

    def _signed(self, message: Message) -> Message:
        chain_id = self.committee.chain_id
        match message:
            case Proposal() if message.signature == UNSIGNED:
                return replace(message, signature=self._bls.sign(self._keys.bls, block_id(message.header)))
            case Vote():
                return replace(message, signature=self._bls.sign(self._keys.bls, vote_message(chain_id, message.data)))
            case Timeout():
                LEDGER_TIMEOUTS.inc()
                told = timeout_message(chain_id, message.epoch, message.round, message.high_qc.round)
                return replace(message, signature=self._bls.sign(self._keys.bls, told))
        return message

    def _commit(self, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        for block in blocks:
            height = block.header.height
            direct = qc if block is blocks[-1] else None
            identity = block_id(block.header)
            self.disk.log.append_commit(CommitMarker(height, identity, direct))
            assert height == len(self.chain) + 1, "commits come in height order"
            self.chain.append(identity)
            for ref in block.batches:
                self._unserved.pop(ref.digest, None)
            self.lane.on_commit(block.batches)
            self._tell_evidence(block)
        LEDGER_HEIGHT.set(len(self.chain))
        ordered = sum(ref.count for block in blocks for ref in block.batches)
        gather_ms = self._gathering.committed(ordered, self._now())
        self.replica.pace = replace(self.replica.pace, gather_ms=gather_ms)
        self._commits.put_nowait((blocks, qc))

    def _tell_evidence(self, block: Proposal) -> None:
        for each in accusations(block, self.committee):
            LEDGER_EVIDENCE.labels(each.organisation, each.kind.name).inc()
            self.log.error(
                "evidence_committed", accused=each.organisation, kind=each.kind.name, height=block.header.height
            )

    def _set_timer(self, at_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0, at_ms - self._now()) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay, self.submit, Tick())

    def _report(self, what: str, member: int, detail: str) -> None:
        LEDGER_BAD_MESSAGES.labels(what).inc()
        if what in DISHONEST:
            self.ignore(member)
        organisation = self.committee.members[member].organisation if 0 <= member < len(self.committee) else ""
        self.log.warning("consensus_report", what=what, member=organisation, detail=detail)

    # Execution.

    async def _execute(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            blocks, qc = await self._commits.get()
            for block in blocks:
                await self._have_batches(block)
            projected = await loop.run_in_executor(self._thread, self._apply, blocks, qc)
            # One after the other, so that the core learns of every height.
            for executed in projected[1]:
                self._events.append(executed)
            self.executed = projected[1][-1]
            self._pump()
            self._rejoin_as_stated(projected[0])
            self._close_lane_of_another()
            self._on_executed(projected[0])

    def _rejoin_as_stated(self, blocks: list[Projected]) -> None:
        """Takes part again where one of these blocks has executed the statement that was prepared here, and no other."""
        prepared = self.rejoining
        outcome = prepared.outcome_in(block.execution for block in blocks) if prepared is not None else None
        if prepared is None or outcome is None:
            return
        self.rejoining = None
        if outcome.refusal:
            self.log.error("rejoin_refused", reason=RefusalReason(outcome.refusal).name)
            return
        self.submit(prepared.rejoin)  # durable when this returns
        if not self.replica.halted:
            self.log.info("rejoined", incarnation=self.replica.lane.incarnation, after=prepared.rejoin.last_voted_round)
            self._open_lane()

    def _close_lane_of_another(self) -> None:
        """A statement that was not prepared here has opened the next lane, for another machine: this one's takes no more."""
        if self.replica.halted and self.lane.incarnation != self.replica.lane.incarnation and self._lane_was_opened:
            self._lane_was_opened = False
            self.log.error("not_voting", reason=self.replica.halted)
            self.lane.close()

    def _apply(self, blocks: tuple[Proposal, ...], qc: QuorumCert) -> tuple[list[Projected], list[Any]]:
        """In the worker thread."""
        projected, executed = [], []
        for block in blocks:
            entries = entries_of(self.disk.log, block)
            self.seen.add(entries)
            first_leaf = len(self.ledger.state.results)
            execution = self.ledger.execute(block.header, entries)
            executed.append(self.ledger.executed)
            direct = qc if block is blocks[-1] else None
            projected.append(self._projected(block, direct, len(entries), first_leaf, execution))
        self.ledger.anchor(blocks[-1].header, qc)
        return projected, executed

    def _projected(self, block: Proposal, qc: QuorumCert | None, entries: int, first_leaf: int, did: Any) -> Projected:
        header = block.header
        proposer = self.committee.members[header.proposer].organisation
        batches, accused = len(block.batches), accusations(block, self.committee)
        return Projected(header, block_id(header), proposer, qc, batches, entries, first_leaf, did, accused)

    async def _have_batches(self, block: Proposal) -> None:
        """A block committed by others may name batches that never came here."""
        while missing := [r for r in block.batches if not self.disk.log.has_batch(r.digest)]:
            await self.fetching.batches(FetchBatches(tuple(missing), block.header.proposer))
            if any(not self.disk.log.has_batch(r.digest) for r in missing):
                await asyncio.sleep(FETCH_PAUSE_S)

    # Fetching.

    def has_batch(self, digest: bytes) -> bool:
        return self.disk.log.has_batch(digest)

    def tell_of_batch(self, digest: bytes) -> None:
        self.submit(BatchStored(self.disk.log.refs[digest], self.disk.log.batch_signature(digest)))

    # Serving.

    @property
    def position(self) -> SyncInfo:
        """The highest certificates here, for a member that lost its record."""
        return SyncInfo(self.replica.high_qc, self.replica.high_tc, self.committed_height)

    def block(self, identity: bytes) -> Proposal | None:
        """A block for a peer, signed. What the core or the log holds, never what somebody sent under that header.

        Both have this replica's own blocks unsigned; one that never left stays so. Under a block of another member may stand
        whatever signature it was fetched with, even none: its id is certified, and it must not be kept from who needs it.
        """
        node = self.replica.tree.node(identity)
        found = node.proposal if node is not None else self.disk.log.block(identity)
        if found is not None and found.signature == UNSIGNED and found.header.proposer == self.me:
            if not self._has_left(found, identity):
                return None
            return replace(found, signature=self._bls.sign(self._keys.bls, identity))
        return found

    def _has_left(self, block: Proposal, identity: bytes) -> bool:
        if block.header.height <= len(self.chain):
            return self.chain[block.header.height - 1] == identity
        return self.replica.has_left(identity)

    def committed_range(self, first: int, last: int) -> tuple[list[Proposal], QuorumCert | None]:
        """Committed blocks of these heights and the certificate of the last one (which the next block carries)."""
        ids = self.chain[max(0, first - 1) : min(last, len(self.chain) - 1) + 1]
        blocks = [block for identity in ids if (block := self.block(identity))]
        if len(blocks) < 2 or len(blocks) != len(ids):
            return [], None
        return blocks[:-1], blocks[-1].qc

    async def close(self) -> None:
        """Stops timers and the worker, and closes the files."""
        if self._timer is not None:
            self._timer.cancel()
        self.lane.flush()
        self.fetching.close()
        self._thread.shutdown(wait=True)
        self.disk.log.close()
        self.disk.safety_file.close()
