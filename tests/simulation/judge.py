"""The invariants, checked at every message that leaves, every commit, and after every step of an honest member.

Source: consensus.md §11.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from ledger_commit.consensus import certificates, evidence, payload, replica, tree, witness
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import Executed, Rejoin, Report
from ledger_commit.consensus.messages import (
    Message,
    Proposal,
    QuorumCert,
    Timeout,
    TimeoutCert,
    Vote,
    batches_root,
    block_id,
    commit_digest,
    vote_message,
)
from tests.simulation.host import Host
from tests.simulation.signatures import Signing

MISBEHAVIOUR: Final = frozenset(
    {
        "bad_blocks",
        "bad_certificate",
        "bad_proposal",
        "bad_range",
        "bad_signature",
        "bad_timeout",
        "bad_vote",
        "batch_of_a_closed_lane",
        "batch_out_of_sequence",
        "double_proposal",
        "double_vote",
        "evidence",
        "evidence_repeated",
        "evidence_unproven",
        "not_the_proposer",
        "root_mismatch",
        "unknown_sender",
        "wrong_height",
    }
)
"""Reports that accuse. Others (a clock that is off, an execution that is behind) may concern anybody."""
NOTHING: Final = Executed(0, bytes(32), 0, bytes(32))
ROUNDS: Final = 2 * replica.ROUND_WINDOW + 1
WANTED, STATES = replica.WANTED_LIMIT, replica.EXECUTED_KEPT
"""As the code is; a mutant may do without."""


class Violation(AssertionError):  # noqa: N818 - a word of the field
    """An invariant does not hold."""


class Judge:
    """Sees everything; `fail` is told what does not hold."""

    def __init__(self, signing: Signing, fail: Callable[[str], None]) -> None:
        self.signing = signing
        self.committee: Committee = signing.committee
        self.fail = fail
        self.byzantine: set[int] = set()
        self.hosts: list[Host] = []
        self.seen: Counter[str] = Counter()
        self.proposals: dict[bytes, Proposal] = {}
        self.blocks_at: dict[int, bytes] = {}
        self.states_at: dict[int, Executed] = {}
        self.certified: dict[int, bytes] = {}
        self._genuine: set[QuorumCert] = set()
        self._votes: dict[tuple[int, int], bytes] = {}
        self._proposed: dict[tuple[int, int], bytes] = {}
        self._timeouts: dict[tuple[int, int], int] = {}
        self._timed_out: Counter[int] = Counter()
        self._locked: Counter[int] = Counter()
        self._stated: Counter[int] = Counter()
        self._looked_at: dict[int, QuorumCert] = {}
        self._heights: dict[int, int] = {}
        self._evidence: dict[evidence.Charge, int] = {}

    def honest(self) -> list[Host]:
        return [host for host in self.hosts if host.me not in self.byzantine]

    def check(self, holds: object, what: str) -> None:
        if not holds:
            self.fail(what)

    def stated(self, member: int, rejoin: Rejoin) -> None:
        """It signs later rounds only from now on, and never below this certificate; its old lock is lost."""
        self._stated[member], self._locked[member] = rejoin.last_voted_round, rejoin.high_qc.round

    def _is_later_than_stated(self, member: int, told_round: int) -> None:
        self.check(told_round > self._stated[member], f"{member} signs in round {told_round}, not after its statement")
        self.seen["signed_after_rejoining"] += self._stated[member] > 0

    # What leaves.

    def overheard(self, message: Message) -> None:
        """What a Byzantine member says beside the rules counts as proposed too, if its payload is the one it names."""
        if isinstance(message, Proposal) and batches_root(message.batches) == message.header.batches_root:
            self.proposals[block_id(message.header)] = message

    def leaves(self, host: Host, message: Message) -> None:
        self.overheard(message)
        if host.me in self.byzantine:
            return
        match message:
            case Proposal():
                self._proposal_leaves(host, message)
            case Vote():
                self._vote_leaves(host, message)
            case Timeout():
                self._timeout_leaves(host, message)
            case TimeoutCert():
                self.seen["tc"] += 1
                self.seen["tc_with_two_groups"] += len(message.groups) > 1

    def _proposal_leaves(self, host: Host, proposal: Proposal) -> None:
        identity, header = block_id(proposal.header), proposal.header
        self._is_later_than_stated(host.me, header.round)
        before = self._proposed.setdefault((host.me, header.round), identity)
        self.check(before == identity, f"{host.me} proposed twice in round {header.round}")
        self.check(host.disk.safety.last_proposed_round >= header.round, "a proposal left before it was durable")
        self.check(identity in host.disk.durable, "a proposal left before its block was durable")
        self.seen["proposal_with_tc"] += proposal.tc is not None

    def _vote_leaves(self, host: Host, vote: Vote) -> None:
        data, member = vote.data, host.me
        self._is_later_than_stated(member, data.round)
        before = self._votes.get((member, data.round))
        self.check(before in {None, data.block_id}, f"{member} voted twice in round {data.round}")
        said_so_before = before is not None
        self.check(said_so_before or data.round > self._timed_out[member], f"{member} voted after its timeout")
        durable = host.disk.safety.last_vote
        self.check(durable is not None and durable.round >= data.round, "a vote left before it was durable")
        block = self.proposals[data.block_id]
        relied_on = {data.block_id, *(ref.digest for ref in block.batches)}
        self.check(relied_on <= host.disk.durable, "a vote left before its block and payload were durable")
        self._votes[member, data.round] = data.block_id
        self._locked[member] = max(self._locked[member], data.parent_round)

    def _timeout_leaves(self, host: Host, timeout: Timeout) -> None:
        member, told = host.me, timeout.high_qc.round
        self._is_later_than_stated(member, timeout.round)
        before = self._timeouts.setdefault((member, timeout.round), told)
        self.check(before == told, f"{member} timed out twice in round {timeout.round}")
        self.check(told >= self._locked[member], f"{member} hides its lock in round {timeout.round}")
        self.check(host.disk.safety.last_voted_round >= timeout.round, "a timeout left before it was durable")
        self._timed_out[member] = max(self._timed_out[member], timeout.round)
        self._locked[member] = max(self._locked[member], told)

    # What is held.

    def stepped(self, host: Host) -> None:
        """Looks into an honest member: the certificate it trusts, and how much it holds."""
        if host.me in self.byzantine:
            return
        qc = host.replica.high_qc
        if self._looked_at.get(host.slot) is not qc:
            self._looked_at[host.slot] = qc
            self._certificate(qc)
        for what, held, cap in footprint(host):
            if held > cap:
                self.fail(f"{host.me} holds {held} {what}, {cap} at most")

    def _certificate(self, qc: QuorumCert) -> None:
        if qc.round == 0 or qc in self._genuine:
            return
        self._genuine.add(qc)
        signers = self.committee.signers(qc.signers) or []
        keys, message = self.committee.keys(signers), vote_message(self.committee.chain_id, qc.data)
        self.check(qc.data.epoch == self.committee.epoch, f"a certificate of epoch {qc.data.epoch} is trusted")
        members = len(self.committee)
        quorum = -(-(members + (members - 1) // 3 + 1) // 2)
        self.check(len(signers) >= quorum, "a certificate without a quorum is trusted")
        self.check(self.signing.checks.verify_same(keys, message, qc.aggregate), "a forged certificate is trusted")
        self._one_a_round(qc)
        block = self.proposals.get(qc.block_id)
        self.check(block is not None, f"nobody proposed the block certified in round {qc.round}")
        if block is not None:
            holders = sum(all(r.digest in h.disk.durable for r in block.batches) for h in self.honest())
            self.check(holders > self.committee.faults, f"payload certified in round {qc.round} is at {holders} honest")

    def _one_a_round(self, qc: QuorumCert) -> None:
        held = self.certified.setdefault(qc.round, qc.block_id)
        self.check(held == qc.block_id, f"two certificates in round {qc.round}")

    # What is final.

    def commits(self, host: Host, blocks: tuple[Proposal, ...], qc: QuorumCert) -> None:
        if host.me in self.byzantine:
            return
        self.seen[f"commit_of_{min(len(blocks), 3)}"] += 1
        height, parent = len(host.disk.committed), self._tip(host)
        for block in blocks:
            height, identity = height + 1, block_id(block.header)
            self.check(block.header.height == height, f"commit has a gap at height {height}")
            self.check(parent is None or block.header.parent_id == parent, f"height {height} stands on another block")
            held = self.blocks_at.setdefault(height, identity)
            self.check(held == identity, f"two blocks committed at height {height}")
            self._claims_the_state(block)
            self._is_of_open_lanes(block)
            self._accuses_the_byzantine(block)
            parent = identity
        self._proof(blocks[-1], qc)

    @staticmethod
    def _tip(host: Host) -> bytes | None:
        return block_id(host.disk.committed[-1].header) if host.disk.committed else None

    def _claims_the_state(self, block: Proposal) -> None:
        """What a certified header says of an earlier height is what the honest came to there."""
        header = block.header
        state = self.states_at.get(header.exec_height)
        if state is not None:
            told = (header.exec_state_root, header.exec_results_size, header.exec_results_root)
            due = (state.state_root, state.results_size, state.results_root)
            self.check(told == due, f"height {header.height} names another state at {header.exec_height}")

    def _accuses_the_byzantine(self, block: Proposal) -> None:
        """Committed evidence names nobody else, and each charge stands in one block."""
        for piece in map(evidence.decode, block.evidence):
            member, kind = charge = evidence.charge_of(piece)
            self.check(member in self.byzantine, f"committed evidence of {kind.name} names honest member {member}")
            height = self._evidence.setdefault(charge, block.header.height)
            self.check(height == block.header.height, f"evidence of {kind.name} by {member} is committed twice")
            self.seen[f"evidence of {kind.name}"] += 1

    def _is_of_open_lanes(self, block: Proposal) -> None:
        """Of those that were open in the state that the block stands on."""
        state = self.states_at.get(block.header.exec_height, NOTHING)
        for ref in block.batches:
            opened = state.lane_of(ref.member).incarnation
            self.check(
                ref.incarnation == opened, f"incarnation {ref.incarnation} of {ref.member} is ordered, {opened} is open"
            )

    def _proof(self, block: Proposal, qc: QuorumCert) -> None:
        """What a light client with only the genesis checks; the ancestors follow by their parents' ids."""
        header, data = block.header, qc.data
        told = commit_digest(header.epoch, header.height, block_id(header), header.round)
        self.check(data.parent_id == block_id(header) and data.commit_digest == told, "no commit proof")
        self._certificate(qc)
        refusal = self.signing.light_client_refuses(header, qc)
        self.check(not refusal, f"a light client refuses the proof of height {header.height}: {refusal}")

    def executed(self, host: Host, executed: Executed) -> None:
        if host.me in self.byzantine:
            return
        held = self.states_at.setdefault(executed.height, executed)
        self.check(held == executed, f"two states at height {executed.height}")

    def restarted(self, host: Host, lost: int) -> None:
        """The prefix that was committed may be shorter by lost markers; what stands is still a prefix of the chain."""
        if host.me in self.byzantine:
            return
        self.seen["log_tail_lost"] += lost > 0
        for height, block in enumerate(host.disk.committed, start=1):
            self.check(self.blocks_at.get(height) == block_id(block.header), f"{host.me} restarts on another chain")

    def reported(self, host: Host, report: Report) -> None:
        self.seen[report.what] += 1
        if report.what in MISBEHAVIOUR and host.me not in self.byzantine:
            self.check(
                report.member in self.byzantine, f"{report.what} named honest member {report.member}: {report.detail}"
            )


def footprint(host: Host) -> Iterator[tuple[str, int, int]]:
    """(What, how many, the cap) of every buffer that a peer can fill."""
    held, disk = host.replica, host.disk
    members = len(held.committee)
    yield "rounds of votes", len(held._votes), ROUNDS
    yield "votes", sum(len(slots.votes) for slots in held._votes.values()), members * ROUNDS
    yield "rounds of timeouts", len(held._timeouts), ROUNDS
    yield "wanted blocks", len(held._wanted), WANTED
    yield "questions", len(held._asked), 4 * WANTED + 1
    yield "blocks", len(held.tree), tree.TREE_LIMIT
    yield "orphans", len(held.tree._orphans), tree.ORPHAN_LIMIT
    yield "states", len(held.executed), STATES
    yield "verified certificates", len(held.certificates._verified), certificates.VERIFIED_LIMIT
    yield from _remembered(held.witness, members, held.round - held.committed.round)
    yield "verdicts on evidence", len(held.court._verdicts), evidence.VERDICTS_LIMIT
    yield "batches", len(held.payload._digests), members * payload.MEMBER_LIMIT
    # Of each place that was ordered a rival may lie there.
    unasked = payload.PLACE_LIMIT * disk.named + members * payload.MEMBER_LIMIT
    yield "batches on disk", len(disk.batches), unasked + host.fetched


def _remembered(held: witness.Witness, members: int, open_rounds: int) -> Iterator[tuple[str, int, int]]:
    yield "votes to compare", sum(map(len, held.votes.values())), members * ROUNDS
    yield "timeouts to compare", sum(map(len, held.timeouts.values())), members * ROUNDS
    # A crash can leave a block in the log whose round the safety record does not know of.
    yield "headers to compare", len(held.headers), max(open_rounds, witness.WINDOW) + 2
    yield "pieces of evidence", len(held.pool), members * len(evidence.EvidenceKind)
