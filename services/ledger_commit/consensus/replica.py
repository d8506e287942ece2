"""The rules of Jolteon: when to vote, what locks, what commits, when to give up on a round.

Each rule is marked with its name from the design (V voting, L lock, C commit, P pacemaker). `step` handles one event
and then settles what the event may have made possible: judging the round's proposal, proposing, timers.

Source: consensus.md §4–8; Jolteon (arXiv 2106.10362) figures 1 and 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from claims.transaction import FIRST_LANE
from ledger_commit.consensus.certificates import Certificates, Signatures, TimeoutSlots, VoteSlots
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import (
    BatchStored,
    BlocksFetched,
    Broadcast,
    Commit,
    Effect,
    Event,
    Executed,
    FetchBatches,
    FetchBlocks,
    FetchRange,
    Persist,
    Received,
    Rejoin,
    Report,
    SafetyRecord,
    Send,
    SetTimer,
)
from ledger_commit.consensus.evidence import (
    Charge,
    Court,
    EvidenceKind,
    SignedBatch,
    SignedHeader,
    VerifyLane,
    evidence_root,
    timeout_as_signed,
)
from ledger_commit.consensus.judging import Judging, Verdict, form_error, told_execution
from ledger_commit.consensus.messages import (
    PROTOCOL,
    UNSIGNED,
    ZERO,
    BatchRef,
    Header,
    Message,
    Proposal,
    QuorumCert,
    SyncInfo,
    Timeout,
    TimeoutCert,
    Vote,
    VoteData,
    batches_root,
    block_id,
    certificate_digest,
    commit_digest,
)
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.consensus.payload import Payload
from ledger_commit.consensus.tree import TREE_LIMIT, Node, Root, Tree
from ledger_commit.consensus.witness import WINDOW, Witness

ROUND_WINDOW: Final = WINDOW
"""Rounds around the current one for which votes are kept: one slot per member and round. Those behind may still complete
a certificate; those ahead are of members that saw a certificate first. (A valid Timeout brings its round with it.)"""
WANTED_LIMIT: Final = 64
"""Blocks asked for at once."""
RETRY_MS: Final = 250
"""How long a fetch or a SyncInfo to the same peer is not repeated."""
RANGE_GAP: Final = 64
"""Up to so many missing heights are fetched by id, a block with its ancestors in one answer; more of them by height."""
RANGE_MAX: Final = 256
UNEXECUTED_MAX: Final = 1024
"""While more committed blocks wait for the contract, none are fetched by height: headers come faster than payload, and what waits
is held in memory."""
EXECUTION_LAG_MAX: Final = 64
"""No payload is proposed while so many committed blocks wait for the contract."""
EXECUTED_KEPT: Final = 256
"""Heights whose execution is remembered: a header may name one that far back."""
VOTES_TO_ALL: Final = 10
"""In a committee of at most so many everybody hears every vote. In a larger one those are too many, and the next leaders do."""
COLLECTORS: Final = 2
"""Leaders of the following rounds that collect the votes of a round: the second one stands in for a silent first."""


@dataclass(slots=True)
class Wanted:
    """A certified block that is missing, and who may have it. `turn` says whose turn it is to be asked first."""

    round: int
    members: tuple[int, ...]
    ancestors: int
    turn: int = 0

    def question(self, identity: bytes) -> FetchBlocks:
        first = self.turn % max(1, len(self.members))
        return FetchBlocks(identity, self.ancestors, self.members[first:] + self.members[:first])


class Replica:
    """One member of the committee.

    `safety` is what the last run made durable (or a fresh one), `root` the last committed block that the block log
    holds, `executed` the contract's state at the root and at some heights before it, ascending. Blocks above the root that the log holds are given back by
    `start`. The caller signs what leaves with `UNSIGNED`.
    """

    def __init__(
        self,
        me: int,
        committee: Committee,
        signatures: Signatures,
        safety: SafetyRecord,
        root: Root,
        executed: Iterable[Executed],
        genesis_block_id: bytes,
        pace: Pace | None = None,
        *,
        verify_lane: VerifyLane,
    ) -> None:
        self.me = me
        self.committee = committee
        self.pace = pace or Pace()
        self.certificates = Certificates(committee, signatures, genesis_block_id)
        self.certificates.trust(safety.high_qc)
        if safety.high_tc:
            self.certificates.trust(safety.high_tc)
        self.safety = safety
        self.tree = Tree(root)
        self.payload = Payload(root.lanes)
        self.round = max(safety.high_qc.round, safety.high_tc.round if safety.high_tc else 0) + 1
        self.executed: dict[int, Executed] = {e.height: e for e in executed}
        self.executed_height = max(self.executed)
        self.court = Court(committee, signatures, verify_lane)
        self.court.executed_round = root.round if root.height in self.executed else 0
        self.witness = Witness(self.court, root.accused)
        self.witness.enter(self.round, root.round)
        self.halted = ""
        """Why this replica signs nothing; it still follows. Empty while it takes part."""
        self.diverged = False
        """Its state is not the committee's: no statement makes that good."""
        self.lane = FIRST_LANE
        """Which of this member's lanes the contract has open, as far as it has executed here."""
        self.direct_results_size = -1
        self._candidate: Proposal | None = None
        self._votes: dict[int, VoteSlots] = {}
        self._timeouts: dict[int, TimeoutSlots] = {}
        self._rounds: dict[int, int] = {}
        """By height, of committed blocks that the contract has not reached here."""
        self._certified: dict[int, Executed] = {}
        """What certified headers say of heights that the contract has not reached here."""
        self._persisted: set[bytes] = set()
        self._wanted: dict[bytes, Wanted] = {}
        self._asked: dict[object, int] = {}
        self._range_from = -1
        """The first height of the last range asked for."""
        self._range_turn = 0
        self._range_later: tuple[int, int] | None = None
        """Up to which height, and of whom, blocks are fetched when the contract has come on."""
        self._out: list[Effect] = []
        self._began = safety
        """The record when this run, or its taking part again, began."""
        self._now = 0
        self._entered_ms = 0
        self._deadline_ms = 0
        self._resend_ms = 0
        self._timer_ms = 0
        self._had_work = False
        self._heed_statements(self.executed[self.executed_height])

    # What the driver and tests look at.

    @property
    def high_qc(self) -> QuorumCert:
        return self.safety.high_qc

    @property
    def high_tc(self) -> TimeoutCert | None:
        return self.safety.high_tc

    @property
    def committed(self) -> Root:
        return self.tree.root

    def has_left(self, identity: bytes) -> bool:
        """Whether an uncommitted block of this replica was sent: as its last proposal, or since a certificate names it.

        The log may hold one that a crash kept back, and another one then had its round: signed, both would accuse.
        """
        named = (self.safety.last_proposed_id, self.high_qc.block_id)
        return identity in named or self.tree.has_child(identity)

    def start(self, blocks: Iterable[Proposal], now_ms: int) -> list[Effect]:
        """Takes back the log's blocks above the root, enters the round, and sends its last words again."""
        self._begin(now_ms)
        for block in blocks:
            self._persisted.add(block_id(block.header))
            self._insert(block)
            if block.signature != UNSIGNED:  # its own may never have left, and another has its round then
                self._hear_header(block)
        self._enter_timers()
        if not self.halted:
            self._say_again()
        self._process_qc(self.high_qc, self.me)
        return self._settle()

    def _say_again(self) -> None:
        """The last vote whatever its round: to one that is far behind it brings a SyncInfo."""
        if self.safety.last_vote:
            self._cast(self.safety.last_vote)
        if self.safety.last_timeout and self.safety.last_timeout.round == self.round:
            self._emit(Broadcast(self.safety.last_timeout))
        own = self.tree.node(self.safety.last_proposed_id)
        if own is not None and own.facts.round == self.round:
            self._emit(Broadcast(own.proposal))

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """What is to be done about an event, in order. Pure in everything but this object's own state."""
        self._begin(now_ms)
        match event:
            case Received(sender, message):
                self._on_message(sender, message)
            case BatchStored():
                self._on_batch(event)
            case BlocksFetched():
                self._on_blocks(event)
            case Executed():
                self._on_executed(event)
            case Rejoin():
                self._on_rejoin(event)
            case _:  # Tick
                self._on_tick()
        return self._settle()

    def _begin(self, now_ms: int) -> None:
        self._out = []
        self._now = now_ms

    def _emit(self, *effects: Effect) -> None:
        self._out.extend(effects)

    def _settle(self) -> list[Effect]:
        self._judge()
        self._propose()
        self._set_timer()
        return self._out

    # Messages.

    def _on_message(self, sender: int, message: Message) -> None:
        if not 0 <= sender < len(self.committee):
            self._emit(Report("unknown_sender", sender))
            return
        match message:
            case Proposal():
                self._on_proposal(sender, message)
            case Vote():
                self._on_vote(sender, message)
            case Timeout():
                self._on_timeout(sender, message)
            case TimeoutCert():
                self._on_timeout_cert(sender, message)
            case _:  # SyncInfo
                self._on_sync_info(sender, message)

    def _on_proposal(self, sender: int, proposal: Proposal) -> None:
        header = proposal.header
        if sender != header.proposer:
            self._emit(Report("not_the_proposer", sender))
            return
        if header.round <= self.committed.round:
            self._accuse(self.witness.hears_late_header(SignedHeader(header, proposal.signature)))
            self._help(sender, header.round)
            return
        identity = block_id(header)
        if not self._is_sound(sender, proposal):
            return
        self._hear_header(proposal)
        if self.witness.headers[header.round].header != header:
            # Not into the tree: a leader could fill it. Should this be the one that is certified, it is fetched by its id.
            self._emit(Report("double_proposal", sender, f"round {header.round}"))
            return
        self._accept(sender, proposal)
        voted = self.safety.last_vote
        if header.round < self.round:
            self._help(sender, header.round)
        elif voted is not None and voted.round == header.round:
            self._answer_again(sender, voted, identity)
        else:
            # As it stands in the tree, whose signature was checked.
            node = self.tree.node(identity)
            self._candidate = node.proposal if node else proposal

    def _on_batch(self, stored: BatchStored) -> None:
        ref, signature = stored.ref, stored.signature
        self.payload.add(ref, signature=signature, named=self._candidate is not None and ref in self._candidate.batches)
        for rival in self.payload.rivals(ref) if signature else ():
            self._accuse(self.witness.hears_batches(rival, SignedBatch(ref, signature)))

    def _hear_header(self, block: Proposal) -> None:
        self._accuse(self.witness.hears_header(SignedHeader(block.header, block.signature)))

    def _accuse(self, charges: list[Charge]) -> None:
        """Tells of evidence that was found; a block of this replica brings it to the others.

        A lock violation is told of when it is committed: until then a statement that excuses it may be on its way.
        """
        for member, kind in charges:
            if kind is not EvidenceKind.LOCK_VIOLATION:
                self._emit(Report("evidence", member, kind.name.lower()))

    def _answer_again(self, sender: int, voted: VoteData, identity: bytes) -> None:
        """For a round in which this replica voted: the same vote for the same block."""
        if voted.block_id != identity:
            self._emit(Report("double_proposal", sender, f"round {voted.round}"))
        elif not self.halted:
            self._emit(Send(sender, Vote(voted, self.me, UNSIGNED)))

    def _is_sound(self, sender: int, proposal: Proposal) -> bool:
        """V1 and V2: form, signature and certificates. What a quorum certified needs no word of its proposer."""
        if error := form_error(proposal, self.committee):
            self._emit(Report("bad_proposal", sender, error))
            return False
        identity = block_id(proposal.header)
        vouched_for = identity in self.tree or identity in self._wanted
        if not vouched_for and not self.certificates.proposal_is_signed(proposal):
            self._emit(Report("bad_signature", sender, "proposal"))
            return False
        if not self.certificates.qc_is_valid(proposal.qc):  # V2
            self._emit(Report("bad_certificate", sender, "proposal's QC"))
            return False
        if proposal.tc is not None and not self.certificates.tc_is_valid(proposal.tc):
            self._emit(Report("bad_certificate", sender, "proposal's TC"))
            return False
        return True

    def _accept(self, sender: int, proposal: Proposal) -> None:
        """The certificates count, then the block joins the tree, or waits for its parent."""
        self._ask_below(proposal, sender)
        self._process_qc(proposal.qc, sender)
        if proposal.tc is not None:
            self._process_tc(proposal.tc, sender)
        if self._insert(proposal) is None and proposal.header.parent_id not in self.tree:
            self.tree.hold(proposal)

    def _insert(self, proposal: Proposal) -> Node | None:
        """Into the tree, with the blocks that waited for it; every QC that this completes is counted (C1, P8)."""
        if len(self.tree) >= TREE_LIMIT:
            self.tree.keep_only(self.high_qc.block_id)
        first = self.tree.insert(proposal)
        queue = [first] if first else []
        while queue:
            node = queue.pop()
            self._wanted.pop(node.id, None)
            self._count_qc(node.proposal.qc)
            for orphan in self.tree.take_orphans_of(node.id):
                child = self.tree.insert(orphan)
                if child:
                    queue.append(child)
            if self.high_qc.block_id == node.id:
                self._count_qc(self.high_qc)
        return first

    def _on_vote(self, sender: int, vote: Vote) -> None:
        data = vote.data
        if vote.voter != sender or data.epoch != self.committee.epoch:
            self._emit(Report("bad_vote", sender))
            return
        self._accuse(self.witness.hears_vote(vote))
        if data.round < self.round - 1:
            self._help(sender, data.round)
        if data.round <= self.high_qc.round or abs(data.round - self.round) > ROUND_WINDOW:
            return
        slots = self._votes.setdefault(data.round, VoteSlots())
        if sender in slots.dropped:
            return
        held = slots.votes.setdefault(sender, vote)
        if held.data != data:
            self._emit(Report("double_vote", sender, f"round {data.round}"))
            return
        qc, bad = slots.try_certify(self.certificates, data)
        self._report_bad(bad, "vote")
        if qc is not None:
            self._process_qc(qc, sender)
            self._show(qc)

    def _show(self, qc: QuorumCert) -> None:
        """Where not everybody heard the votes: the next leader's proposal shows what they made, and of the other leader all others
        learn it. Else the chain could not come to rest, and a silent leader would cost two timers instead of one."""
        if len(self.committee) > VOTES_TO_ALL and self.committee.leader_of(qc.round + 1) != self.me:
            self._emit(Broadcast(SyncInfo(qc, None, self.committed.height)))

    def _on_timeout(self, sender: int, timeout: Timeout) -> None:
        if timeout.voter != sender or timeout.epoch != self.committee.epoch:
            self._emit(Report("bad_timeout", sender))
            return
        self._accuse(self.witness.hears_timeout(timeout_as_signed(timeout)))
        if not self.certificates.timeout_is_justified(timeout):
            self._emit(Report("bad_certificate", sender, "timeout"))
            return
        # The certificates count first, also when the TC of that round already exists.
        self._process_qc(timeout.high_qc, sender)
        if timeout.last_tc is not None:
            self._process_tc(timeout.last_tc, sender)
        if timeout.round < self.round:
            self._help(sender, timeout.round)
            return
        assert timeout.round == self.round, "its certificates open its round"
        slots = self._timeouts.setdefault(timeout.round, TimeoutSlots())
        if sender in slots.dropped:
            return
        slots.timeouts.setdefault(sender, timeout)
        if len(slots.timeouts) > self.committee.faults:
            self._give_up()  # P4: f + 1 others have; at least one of them is honest
        tc, bad = slots.try_certify(self.certificates)
        self._report_bad(bad, "timeout")
        if tc is not None:
            self._process_tc(tc, sender)
            self._emit(Broadcast(tc))  # P5

    def _report_bad(self, members: list[int], what: str) -> None:
        for member in members:
            self._emit(Report("bad_signature", member, what))

    def _on_timeout_cert(self, sender: int, tc: TimeoutCert) -> None:
        if not self.certificates.tc_is_valid(tc):
            self._emit(Report("bad_certificate", sender, "TC"))
            return
        self._process_tc(tc, sender)
        self._help(sender, tc.round + 1)

    def _on_sync_info(self, sender: int, info: SyncInfo) -> None:
        tc = info.high_tc
        if not self.certificates.qc_is_valid(info.high_qc) or (tc and not self.certificates.tc_is_valid(tc)):
            self._emit(Report("bad_certificate", sender, "sync info"))
            return
        # Whoever has committed so much holds the block of its certificate one height above that, or higher.
        missing = info.committed_height - self.committed.height
        self._want(info.high_qc, sender, missing if missing <= RANGE_GAP else 0)
        self._process_qc(info.high_qc, sender)
        if tc:
            self._process_tc(tc, sender)
        if missing > RANGE_GAP:
            self._fetch_range(info.committed_height, sender)

    def _help(self, member: int, its_round: int) -> None:
        """P6: one that speaks of a past round is shown the present, not more often than it can use."""
        if member != self.me and its_round < self.round and self._may_ask(("help", member)):
            self._emit(Send(member, SyncInfo(self.high_qc, self.high_tc, self.committed.height)))

    # Certificates, lock and commit.

    def _process_qc(self, qc: QuorumCert, sender: int) -> None:
        """L1, C1, P1, P8 for a valid QC. What it commits counts first: the new round's timer goes by the last commit."""
        higher = qc.round > self.high_qc.round
        if higher:
            self.safety = replace(self.safety, high_qc=qc)
        self._count_qc(qc)
        if higher:
            self._advance(qc.round + 1)
        self._want(qc, sender)

    def _process_tc(self, tc: TimeoutCert, sender: int) -> None:
        self._process_qc(tc.high_qc, sender)
        if self.high_tc is None or tc.round > self.high_tc.round:
            self.safety = replace(self.safety, high_tc=tc)
        self._advance(tc.round + 1)

    def _count_qc(self, qc: QuorumCert) -> None:
        """C1: a QC whose block directly follows its parent's round commits that parent and all before it."""
        node = self.tree.node(qc.block_id)
        if node is None:
            return
        self._compare(node.proposal.header)
        if node.parent is not None and self._commits_parent(node):
            self._commit(list(self.tree.ancestors(node.parent))[::-1], qc)

    def _commits_parent(self, node: Node) -> bool:
        return node.facts.round == node.facts.parent_round + 1

    def _commit(self, chain: list[Node], qc: QuorumCert) -> None:
        height = self.committed.height
        for node in chain:
            height += 1
            assert node.facts.height == height, "a committed chain has no gaps"
        blocks = tuple(node.proposal for node in chain)
        unsaved = tuple(b for b, node in zip(blocks, chain, strict=True) if node.id not in self._persisted)
        if unsaved:
            self._emit(Persist(unsaved, None))
        self._emit(Commit(blocks, qc))
        self.direct_results_size = chain[-1].facts.exec_results_size
        for node in chain:
            self.payload.drop_committed(node.proposal.batches)
            self._rounds[node.facts.height] = node.facts.round
        self.tree.move_root(chain[-1])
        self.witness.commits(self.committed.accused, self.committed.round)
        self._persisted = {i for i in self._persisted if i in self.tree}
        final = self.committed.round
        self._wanted = {i: wanted for i, wanted in self._wanted.items() if wanted.round > final}

    def _advance(self, to_round: int) -> None:
        """P1: enters the round that follows the highest certificate."""
        if to_round <= self.round:
            return
        self.round = to_round
        self.witness.enter(to_round, self.committed.round)
        self._candidate = None
        oldest = max(self.high_qc.round + 1, to_round - ROUND_WINDOW)
        self._votes = {r: s for r, s in self._votes.items() if r >= oldest}
        self._timeouts = {r: s for r, s in self._timeouts.items() if r >= to_round}
        self._enter_timers()

    # Voting.

    def _judge(self) -> None:
        """V1–V9 and V11 for the round's one proposal; what cannot be judged yet stays until it can or the round ends."""
        proposal = self._candidate
        if proposal is None or self.halted:
            return
        assert proposal.header.round == self.round, "V3: a proposal that waits ends with its round"
        verdict = Judging(self.tree, self.payload, self.executed, self.executed_height, self.safety, self.court).judge(
            proposal, self._now, self.round - self.committed.round
        )
        match verdict.kind:
            case Verdict.VOTE:
                self._vote(proposal)
            case Verdict.PAYLOAD_MISSING:
                if self._may_ask(("batches", verdict.missing[0].digest)):
                    self._emit(FetchBatches(verdict.missing, proposal.header.proposer))
            case Verdict.REFUSE:
                self._candidate = None
                self._emit(Report(verdict.reason, proposal.header.proposer, f"round {self.round}"))
            case Verdict.SPENT:
                self._candidate = None
            # WAIT: it stays

    def _vote(self, proposal: Proposal) -> None:
        header = proposal.header
        parent = self.tree.facts(header.parent_id)
        assert parent is not None, "judged on a held parent"
        digest = ZERO
        if header.round == parent.round + 1 and parent.height > 0:
            digest = commit_digest(header.epoch, parent.height, parent.id, parent.round)
        identity = block_id(header)
        data = VoteData(header.epoch, header.round, identity, parent.id, parent.round, digest)
        self.safety = replace(self.safety, last_voted_round=header.round, last_vote=data)
        self._candidate = None
        self._persist((proposal,) if identity not in self._persisted else ())
        self._cast(data)

    def _cast(self, data: VoteData) -> None:
        """To everyone, or in a large committee to those who lead the next rounds (§9)."""
        vote = Vote(data, self.me, UNSIGNED)
        if len(self.committee) <= VOTES_TO_ALL:
            self._emit(Broadcast(vote))
            return
        following = (self.committee.leader_of(data.round + ahead) for ahead in range(1, COLLECTORS + 1))
        self._emit(*(Send(leader, vote) for leader in dict.fromkeys(following)))

    def _persist(self, blocks: tuple[Proposal, ...]) -> None:
        self._persisted.update(block_id(block.header) for block in blocks)
        self._emit(Persist(blocks, self.safety))

    # Proposing.

    def _propose(self) -> None:
        if self.committee.leader_of(self.round) != self.me or self.halted:
            return
        if max(self.safety.last_proposed_round, self.safety.last_voted_round) >= self.round:
            return
        parent = self.tree.facts(self.high_qc.block_id)
        if parent is None or self._now < self._turn_ms(work=self._has_work()):
            return
        executed = self.executed.get(min(parent.commits_after(), self.executed_height))
        if executed is None or executed.height < parent.exec_height:
            return  # Executed will come
        batches: tuple[BatchRef, ...] = ()
        if self.committed.height - self.executed_height <= EXECUTION_LAG_MAX:
            batches = self.payload.select(parent.lanes, self.round, executed.lanes)
        proposal = self._block(parent, executed, batches)
        self.safety = replace(self.safety, last_proposed_round=self.round, last_proposed_id=block_id(proposal.header))
        self.tree.insert(proposal)  # its own work needs no second look when it comes back
        self._persist((proposal,))
        self._emit(Broadcast(proposal))

    def _turn_ms(self, *, work: bool) -> int:
        """When this leader proposes. Evidence that it holds is work too, and its own alone: others cannot wait for it."""
        urgent = work or self._evidence_for(self.tree.facts(self.high_qc.block_id) or self.committed)
        return self._entered_ms + (self.pace.gather_ms if urgent else self.pace.idle_ms)

    def _evidence_for(self, parent: Root) -> tuple[bytes, ...]:
        return self.witness.includable(parent.accused) if self.witness.pool else ()

    def _block(self, parent: Root, executed: Executed, batches: tuple[BatchRef, ...]) -> Proposal:
        qc = self.high_qc
        tc = self.high_tc if qc.round != self.round - 1 else None
        pieces = self._evidence_for(parent)
        header = Header(
            chain_id=self.committee.chain_id,
            protocol=PROTOCOL,
            epoch=self.committee.epoch,
            round=self.round,
            height=parent.height + 1,
            proposer=self.me,
            parent_id=parent.id,
            qc_digest=certificate_digest(qc),
            tc_digest=certificate_digest(tc),
            batches_root=batches_root(batches),
            time_ms=max(self._now, parent.time_ms + 1),
            exec_height=executed.height,
            exec_state_root=executed.state_root,
            exec_results_size=executed.results_size,
            exec_results_root=executed.results_root,
            schedule_digest=self.committee.schedule_digest,
            snapshot_height=0,
            snapshot_root=ZERO,
            evidence_root=evidence_root(pieces),
            next_committee_hash=ZERO,
        )
        return Proposal(header, batches, qc, tc, pieces, (), UNSIGNED)

    def _has_work(self) -> bool:
        """P7: something waits to be ordered, to be committed, or to be proven."""
        if self.executed[self.executed_height].results_size > self.direct_results_size:
            return True
        facts = self.tree.facts(self.high_qc.block_id) or self.committed
        if self.payload.has_next(facts.lanes):
            return True
        return any(not self._is_plain(node) for node in self.tree.ancestors(self.tree.node(self.high_qc.block_id)))

    def _is_plain(self, node: Node) -> bool:
        before = node.parent.facts if node.parent else self.committed
        if node.proposal.batches or node.proposal.evidence:
            return False
        return before.exec_results_size == node.facts.exec_results_size

    # Execution and sync.

    def _on_executed(self, executed: Executed) -> None:
        self.executed[executed.height] = executed
        self.executed_height = max(self.executed_height, executed.height)
        self.court.executed_round = max(self.court.executed_round, self._rounds.pop(executed.height, 0))
        self.executed.pop(executed.height - EXECUTED_KEPT, None)
        self._heed_statements(executed)
        certified = self._certified.pop(executed.height, executed)
        if certified != executed:
            self._diverged(executed.height)
        if self._range_later is not None and not self._is_overloaded():
            (to_height, sender), self._range_later = self._range_later, None
            self._fetch_range(to_height, sender)

    def _is_overloaded(self) -> bool:
        return self.committed.height - self.executed_height > UNEXECUTED_MAX

    def _heed_statements(self, executed: Executed) -> None:
        """Lanes are those of the newest state. A statement for this member on which its record does not rest was made since for
        another machine, or for a record that is lost again: that one speaks for the member, and this one may not."""
        self.payload.open_lanes(executed.lanes)
        self.court.statement_rounds.update((member, lane.after_round) for member, lane in executed.lanes.items())
        opened = executed.lane_of(self.me)
        if opened != self.lane and not self._began.follows(opened.after_round):
            self.halted = (
                self.halted or f"the safety record is older than the statement of incarnation {opened.incarnation}"
            )
        self.lane = opened

    def _on_rejoin(self, event: Rejoin) -> None:
        """Signs again, behind the rounds in which it may have signed; the lock is the highest certificate known. Not where a newer
        statement has been executed: another machine speaks for the member then."""
        if self.diverged or event.last_voted_round < self.lane.after_round:
            return
        self._process_qc(event.high_qc, self.me)
        if event.high_tc is not None:
            self._process_tc(event.high_tc, self.me)
        last = event.last_voted_round
        held = self.safety
        self.safety = SafetyRecord(self.committee.epoch, last, None, None, last, ZERO, held.high_qc, held.high_tc)
        self._began = self.safety
        self.halted = ""
        self._persist(())

    def _compare(self, header: Header) -> None:
        """V9 of a certified block. An honest replica is among those who found this state, so a difference is ours."""
        local = self.executed.get(header.exec_height)
        if local is None and header.exec_height > self.executed_height:
            self._certified[header.exec_height] = told_execution(header)
        elif local is not None and local != told_execution(header):
            self._diverged(header.exec_height)

    def _diverged(self, height: int) -> None:
        """Not on a leader's word alone, or one liar would silence everyone."""
        if not self.diverged:
            self.diverged, self.halted = True, f"state differs from the committee's at height {height}"
        self._emit(Report("state_diverged", self.me, f"height {height}"))

    def _on_blocks(self, fetched: BlocksFetched) -> None:
        if fetched.qc is not None:
            self._on_range(fetched.sender, fetched.blocks, fetched.qc)
        elif fetched.blocks and block_id(fetched.blocks[-1].header) in self._wanted:
            # Only what was asked for: that much is certified, and a peer cannot fill the tree.
            self._on_chain(fetched.sender, fetched.blocks)

    def _on_chain(self, sender: int, blocks: tuple[Proposal, ...]) -> None:
        """A wanted block and some of its ancestors."""
        if not self._hang_together(blocks, block_id(blocks[-1].header)):
            self._emit(Report("bad_blocks", sender))
            return
        self._ask_below(blocks[0], sender)
        for proposal in blocks:
            self.certificates.trust(proposal.qc)
            self._hear_header(proposal)
            if self._insert(proposal) is None and proposal.header.height > self.committed.height:
                self.tree.hold(proposal)

    def _on_range(self, sender: int, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        """Committed blocks by height. One QC is verified for all of them."""
        if not blocks or not self._hang_together(blocks, qc.block_id) or not self.certificates.qc_is_valid(qc):
            self._emit(Report("bad_range", sender))
            return
        above = [block for block in blocks if block.header.height > self.committed.height]
        if above and above[0].header.parent_id != self.committed.id:
            self._emit(Report("bad_range", sender, "it does not stand on the committed block"))
            return
        for proposal in above:
            self.certificates.trust(proposal.qc)
            self._hear_header(proposal)
            self._insert(proposal)
        self._process_qc(qc, sender)
        self._asked.pop("range", None)
        if len(blocks) >= RANGE_MAX:
            self._fetch_range(self.committed.height + RANGE_MAX, sender)

    def _hang_together(self, blocks: tuple[Proposal, ...], last: bytes) -> bool:
        """Each block is the parent that the next one names, down from a certified one. So a quorum holds each of them for
        sound: its certificates need no check of ours, and its proposer's word is not asked for."""
        expected = last
        for block in reversed(blocks):
            if block_id(block.header) != expected or form_error(block, self.committee):
                return False
            expected = block.header.parent_id
        return True

    def _ask_below(self, block: Proposal, sender: int) -> None:
        """For what lies between the committed block and this one, where its parent is not held."""
        header = block.header
        if header.parent_id in self.tree:
            return
        missing = header.height - 1 - self.committed.height
        self._want(block.qc, sender, missing - 1 if missing <= RANGE_GAP else 0)
        if missing > RANGE_GAP:
            self._fetch_range(header.height - 1, sender)

    def _want(self, qc: QuorumCert, sender: int, ancestors: int = 0) -> None:
        """A certified block that is not held is asked for, with so many of its ancestors as are missing."""
        if qc.block_id in self.tree or qc.round <= self.committed.round:
            return
        wanted = self._wanted.get(qc.block_id)
        if wanted is not None:
            wanted.ancestors = max(wanted.ancestors, ancestors)
        elif len(self._wanted) < WANTED_LIMIT:
            wanted = Wanted(qc.round, self._holders_of(qc, sender), max(0, ancestors))
            self._wanted[qc.block_id] = wanted
            self._note_asked(qc.block_id)
            self._emit(wanted.question(qc.block_id))

    def _holders_of(self, qc: QuorumCert, sender: int) -> tuple[int, ...]:
        """Who showed the certificate, then all who signed it: the block was durable at each of them before it did."""
        signers = self.committee.signers(qc.signers) or []
        return tuple(dict.fromkeys(member for member in (sender, *signers) if member != self.me))

    def _fetch_range(self, to_height: int, sender: int) -> None:
        first = self.committed.height + 1
        if self._is_overloaded():
            self._range_later = to_height, sender
            return
        if to_height < first or not self._may_ask("range"):
            return
        members = self._range_members(sender, again=self._range_from == first)
        self._range_from = first
        self._emit(FetchRange(first, min(to_height, first + RANGE_MAX - 1), members))

    def _range_members(self, sender: int, *, again: bool) -> tuple[int, ...]:
        """Whoever offers goes first, unless nothing came of the last question; the others follow in turn, so that he who offers
        most often, and his friend, are not the two that are asked."""
        self._range_turn += 1
        size = len(self.committee)
        in_turn = [(self.me + 1 + (self._range_turn + i) % (size - 1)) % size for i in range(size - 1)]
        return tuple(dict.fromkeys(in_turn if again else (sender, *in_turn)))

    def _may_ask(self, what: object) -> bool:
        """At most once in RETRY_MS for the same thing."""
        if self._asked.get(what, -RETRY_MS) + RETRY_MS > self._now:
            return False
        self._note_asked(what)
        return True

    def _note_asked(self, what: object) -> None:
        if len(self._asked) > 4 * WANTED_LIMIT:
            self._asked = {k: t for k, t in self._asked.items() if t + RETRY_MS > self._now}
        self._asked[what] = self._now

    # Time.

    def _enter_timers(self) -> None:
        self._entered_ms = self._now
        self._had_work = self._has_work()
        idle = 0 if self._had_work else self.pace.idle_ms
        self._deadline_ms = self._now + idle + self._round_ms()
        self._resend_ms = 0

    def _round_ms(self) -> int:
        return self.pace.round_ms(self.round - self.committed.round)

    def _on_tick(self) -> None:
        if self._now >= self._deadline_ms:
            last = self.safety.last_timeout
            if not self._is_silent() and (last is None or last.round != self.round):
                self._give_up()
            elif self._now >= self._resend_ms:
                if last is not None and not self.halted:
                    self._emit(Broadcast(last))
                self._schedule_resend()  # also with nothing to send: this is when the next tick is due
        for identity, wanted in self._wanted.items():
            if self._may_ask(identity):
                wanted.turn += 1
                self._emit(wanted.question(identity))

    def _give_up(self) -> None:
        """P3: persists and multicasts this replica's timeout for its round, once; L2: with its highest QC."""
        last = self.safety.last_timeout
        if self._is_silent() or (last is not None and last.round == self.round):
            return
        tc = self.high_tc if self.high_qc.round != self.round - 1 else None
        timeout = Timeout(self.committee.epoch, self.round, self.high_qc, tc, self.me, UNSIGNED)
        self.safety = replace(
            self.safety, last_voted_round=max(self.safety.last_voted_round, self.round), last_timeout=timeout
        )
        self._candidate = None
        self._deadline_ms = self._now
        self._persist(())
        self._emit(Broadcast(timeout))
        self._schedule_resend()

    def _is_silent(self) -> bool:
        """Votes and proposals are held back by V4, timeouts by this: in a round of the record's own they may follow a vote."""
        return bool(self.halted) or self.round <= self.safety.silent_through

    def _schedule_resend(self) -> None:
        # Jitter without chance: members differ by their index, repeats by the time.
        half = self._round_ms() // 2
        self._resend_ms = self._now + half + (self._now + self.me * 37) % max(1, half // 8)

    def _set_timer(self) -> None:
        if not self._had_work and self._has_work():
            self._had_work = True
            self._deadline_ms = min(self._deadline_ms, self._now + self._round_ms())
        due = [self._deadline_ms if self._now < self._deadline_ms else max(self._resend_ms, self._now + 1)]
        if self._wanted or self._candidate is not None:
            due.append(self._now + RETRY_MS)
        if self.committee.leader_of(self.round) == self.me and self.safety.last_proposed_round < self.round:
            turn = self._turn_ms(work=self._had_work)
            if turn > self._now:
                due.append(turn)
        at_ms = min(due)
        if at_ms != self._timer_ms or self._timer_ms <= self._now:
            self._timer_ms = at_ms
            self._emit(SetTimer(at_ms))
