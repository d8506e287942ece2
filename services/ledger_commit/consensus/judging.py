"""Whether to vote for a proposal: conditions V1 to V9 and V11 as one verdict.

Source: consensus.md §5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from claims.transaction import FIRST_LANE
from ledger_commit.consensus import evidence
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import Executed, SafetyRecord
from ledger_commit.consensus.evidence import Charge, Court
from ledger_commit.consensus.messages import (
    MAX_BATCH_BYTES,
    PROTOCOL,
    ZERO,
    BatchRef,
    Header,
    Proposal,
    batches_root,
    certificate_digest,
)
from ledger_commit.consensus.pacemaker import CLOCK_AHEAD_MS, clock_behind_ms
from ledger_commit.consensus.payload import MAX_BLOCK_BYTES, Payload
from ledger_commit.consensus.tree import Root, Tree, lanes_follow


def form_error(proposal: Proposal, committee: Committee) -> str:
    """What is wrong with a proposal whoever looks at it, or an empty string (V1, V5 and the digests)."""
    header, qc, tc = proposal.header, proposal.qc, proposal.tc
    checks = (
        (header.chain_id == committee.chain_id and header.protocol == PROTOCOL, "another chain or protocol"),
        (header.epoch == committee.epoch, "another epoch"),
        (header.proposer == committee.leader_of(header.round), "not the leader of its round"),
        (header.schedule_digest == committee.schedule_digest, "another leader schedule"),
        (qc.block_id == header.parent_id, "the QC is not for the parent"),
        (certificate_digest(qc) == header.qc_digest, "the QC is not the one that the header names"),
        (certificate_digest(tc) == header.tc_digest, "the TC is not the one that the header names"),
        (follows(header.round, proposal), "the round follows neither QC nor TC"),
        (batches_root(proposal.batches) == header.batches_root, "the payload is not the one that the header names"),
        (all(_is_of_a_lane(ref, committee) for ref in proposal.batches), "a batch of no lane"),
        (all(ref.size_bytes <= MAX_BATCH_BYTES for ref in proposal.batches), "a batch above its bound"),
        (sum(ref.size_bytes for ref in proposal.batches) <= MAX_BLOCK_BYTES, "more payload than a block may name"),
        (_unused_fields_are_zero(header), "fields of later protocols are set"),
        (
            evidence.evidence_root(proposal.evidence) == header.evidence_root,
            "the evidence is not the one that the header names",
        ),
    )
    wrong = next((reason for holds, reason in checks if not holds), "")
    return wrong or evidence.form_error(proposal.evidence, committee)


def follows(round_number: int, proposal: Proposal) -> bool:
    """V5: the QC is of the round before; or a TC of the round before is, and the QC is not below the TC's high QC."""
    qc, tc = proposal.qc, proposal.tc
    if qc.round == round_number - 1:
        return tc is None
    return tc is not None and tc.round == round_number - 1 and tc.high_qc.round <= qc.round < round_number


def _is_of_a_lane(ref: BatchRef, committee: Committee) -> bool:
    """Which incarnation is open is a matter of the state that the header names; here it is one at all."""
    return ref.member < len(committee) and ref.incarnation >= FIRST_LANE.incarnation


def are_of_open_lanes(batches: tuple[BatchRef, ...], state: Executed) -> bool:
    """Whether each batch is of the incarnation that is open for its member in this state (V7).

    The header says which state, and no descendant names an earlier one. So all judge alike, and a closed lane stays closed.
    """
    return all(ref.incarnation == state.lane_of(ref.member).incarnation for ref in batches)


def _unused_fields_are_zero(header: Header) -> bool:
    return header.snapshot_height == 0 and header.snapshot_root == ZERO and header.next_committee_hash == ZERO


def told_execution(header: Header) -> Executed:
    """What the header says of the contract at its exec_height."""
    return Executed(header.exec_height, header.exec_state_root, header.exec_results_size, header.exec_results_root)


class Verdict(Enum):
    VOTE = "vote"
    WAIT = "wait"
    SPENT = "spent"
    """The round is over here: voted in, or timed out. Nobody's fault."""
    PAYLOAD_MISSING = "payload_missing"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Judgement:
    kind: Verdict
    reason: str = ""
    missing: tuple[BatchRef, ...] = ()


_VOTE = Judgement(Verdict.VOTE)
_WAIT = Judgement(Verdict.WAIT)


@dataclass(frozen=True, slots=True)
class Judging:
    """What a replica knows when it judges; `executed` maps heights to the contract's state there."""

    tree: Tree
    payload: Payload
    executed: Mapping[int, Executed]
    executed_height: int
    safety: SafetyRecord
    court: Court

    def judge(self, proposal: Proposal, now_ms: int, rounds_since_commit: int) -> Judgement:
        """The caller has checked the form, the signature, the certificates and that the round is the current one."""
        header = proposal.header
        if header.round <= self.safety.last_voted_round:  # V4
            return Judgement(Verdict.SPENT)
        parent = self.tree.facts(header.parent_id)
        if parent is None:  # V6
            return _WAIT
        if header.height != parent.height + 1:
            return Judgement(Verdict.REFUSE, "wrong_height")
        if not lanes_follow(parent.lanes, proposal.batches):  # V7
            return Judgement(Verdict.REFUSE, "batch_out_of_sequence")
        if not parent.time_ms < header.time_ms <= now_ms + CLOCK_AHEAD_MS:  # V8
            return Judgement(Verdict.REFUSE, "time")
        if header.time_ms < now_ms - clock_behind_ms(rounds_since_commit):
            return Judgement(Verdict.REFUSE, "time")
        for verdict in (self._judge_evidence(proposal, parent.accused), self._judge_execution(header, parent)):
            if verdict.kind is not Verdict.VOTE:
                return verdict
        if not are_of_open_lanes(proposal.batches, self.executed[header.exec_height]):  # V7
            return Judgement(Verdict.REFUSE, "batch_of_a_closed_lane")
        missing = self.payload.missing(proposal.batches)
        return Judgement(Verdict.PAYLOAD_MISSING, "payload_missing", missing) if missing else _VOTE

    def _judge_execution(self, header: Header, parent: Root) -> Judgement:
        """V9."""
        if not parent.exec_height <= header.exec_height <= parent.commits_after():
            return Judgement(Verdict.REFUSE, "exec_height")
        if header.exec_height > self.executed_height:
            return _WAIT
        local = self.executed.get(header.exec_height)
        if local is None:
            return Judgement(Verdict.REFUSE, "exec_height")
        return _VOTE if told_execution(header) == local else Judgement(Verdict.REFUSE, "root_mismatch")

    def _judge_evidence(self, proposal: Proposal, accused: frozenset[Charge]) -> Judgement:
        """V11. Whether a statement excuses a piece is known when all that could has been executed here."""
        pieces = [evidence.decode(encoded) for encoded in proposal.evidence]
        if any(evidence.charge_of(piece) in accused for piece in pieces):
            return Judgement(Verdict.REFUSE, "evidence_repeated")
        if not all(map(self.court.proves, proposal.evidence)):
            return Judgement(Verdict.REFUSE, "evidence_unproven")
        if any(map(self.court.excuses, pieces)):
            return Judgement(Verdict.REFUSE, "evidence_excused")
        return _VOTE if all(map(self.court.is_ripe, pieces)) else _WAIT
