"""Replicas with one rule broken each. The simulator must catch every one of them.

A mutant patches the class for the time of the hunt; all members of the cluster run it.
Source: consensus.md §11, Mutation gate.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from ledger_commit.consensus import evidence, judging, payload, replica, tree, witness
from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import Commit, FetchBlocks, Persist, Rejoin, Report
from ledger_commit.consensus.evidence import Charge, Court, DoubleVote, Evidence, LockViolation
from ledger_commit.consensus.judging import Judgement, Judging, Verdict
from ledger_commit.consensus.messages import (
    Header,
    Proposal,
    QuorumCert,
    SyncInfo,
    TimeoutCert,
    Vote,
    genesis_cert,
)
from ledger_commit.consensus.payload import Payload
from ledger_commit.consensus.rejoining import rejoin_from
from ledger_commit.consensus.replica import Replica, Wanted
from ledger_commit.consensus.tree import Root
from ledger_commit.consensus.witness import Witness
from runtime.bls import Bls
from tests.simulation import losing
from tests.simulation.cluster import Cluster, Faults
from tests.simulation.judge import Violation
from tests.simulation.losing import Losing
from tests.simulation.signatures import BlsSigning

SEEDS = 60
ROUGH = Faults(loss=0.2, delay_ms=(1, 700), crash=0.001, partitions=True, slow_executor_ms=50, end_ms=40_000)
CRASHY = replace(ROUGH, crash=0.01, delay_ms=(5, 250), loss=0.25, partitions=False)
TWIN = replace(ROUGH, twin=True, crash=0.0)
IMPATIENT = Faults(loss=0.05, lost_kinds=("Vote",), delay_ms=(1, 100), base_ms=60)
"""Votes and timeouts of a round cross each other: locks differ, and a TC has groups."""
LIES = Faults(loss=0.05, delay_ms=(1, 50), lies=True)
HOSTILE = replace(LIES, loss=0.3, partitions=True)
LARGE = Faults(heal_ms=4000)
_VOTE, _PROPOSE, _GIVE_UP, _INIT, _JUDGED = (
    Replica._vote,
    Replica._propose,
    Replica._give_up,
    Replica.__init__,
    Replica._judge,
)
_JUDGED_EVIDENCE, _INCLUDABLE, _HEARS_VOTE = Judging._judge_evidence, Witness.includable, Witness.hears_vote
_CONTRADICTS = evidence.contradicts_itself
_REJOIN_FROM, _ON_REJOIN = rejoin_from, Replica._on_rejoin
_JUDGE, _SELECT, _QC, _TC = Judging.judge, Payload.select, Certificates.qc_is_valid, Certificates.tc_is_valid


def _cluster(seed: int, faults: Faults) -> Cluster:
    return Cluster(seed, faults=faults)


@dataclass(frozen=True)
class Mutant:
    """Where it is hunted, and what it changes: (owner, name, replacement)."""

    faults: Faults
    changes: Sequence[tuple[Any, str, Any]]
    build: Callable[[int, Faults], Cluster] = _cluster


def _vote_and_forget(self: Replica, proposal: Proposal) -> None:
    _VOTE(self, proposal)
    self.safety = replace(self.safety, last_voted_round=0, last_vote=None)


def _any_round(self: Judging, proposal: Proposal, now_ms: int, lag: int) -> Judgement:
    return _JUDGE(replace(self, safety=replace(self.safety, last_voted_round=0)), proposal, now_ms, lag)


def _any_state(self: Judging, header: Header, _parent: Root) -> Judgement:
    return Judgement(Verdict.VOTE if header.exec_height in self.executed else Verdict.WAIT)


def _without_payload(self: Judging, proposal: Proposal, now_ms: int, lag: int) -> Judgement:
    verdict = _JUDGE(self, proposal, now_ms, lag)
    return Judgement(Verdict.VOTE) if verdict.kind is Verdict.PAYLOAD_MISSING else verdict


def _follows_any(round_number: int, proposal: Proposal) -> bool:
    qc, tc = proposal.qc, proposal.tc
    return qc.round == round_number - 1 or (tc is not None and tc.round == round_number - 1)


def _propose_from_below(self: Replica) -> None:
    """A leader that builds on its last committed block."""
    held = self.safety
    if self.high_qc.round != self.round - 1:
        for node in self.tree._nodes.values():
            if node.proposal.header.parent_id == self.committed.id:
                self.safety = replace(self.safety, high_qc=node.proposal.qc)
                break
    _PROPOSE(self)
    self.safety = replace(self.safety, high_qc=held.high_qc)


def _follows_strictly(round_number: int, proposal: Proposal) -> bool:
    qc, tc = proposal.qc, proposal.tc
    if qc.round == round_number - 1:
        return tc is None
    return tc is not None and tc.round == round_number - 1 and tc.high_qc.round < qc.round < round_number


def _forget_to_persist(self: Replica, blocks: tuple[Proposal, ...]) -> None:
    self._emit(Persist(blocks, None))


def _vote_before_it_is_durable(self: Replica, proposal: Proposal) -> None:
    _VOTE(self, proposal)
    self._out[-2:] = self._out[:-3:-1]


def _timeout_without_lock(self: Replica) -> None:
    """L2 broken: the timeout tells of the genesis certificate instead of the highest."""
    held = self.safety
    if held.last_timeout is None or held.last_timeout.round < self.round:
        self.safety = replace(held, high_qc=genesis_cert(self.certificates.genesis.block_id))
    _GIVE_UP(self)
    self.safety = replace(self.safety, high_qc=held.high_qc)


def _tc_without_its_qc(self: Replica, tc: TimeoutCert, sender: int) -> None:
    if self.high_tc is None or tc.round > self.high_tc.round:
        self.safety = replace(self.safety, high_tc=tc)
    self._advance(tc.round + 1)


def _tc_with_any_qc(self: Certificates, tc: TimeoutCert) -> bool:
    self.trust(tc.high_qc)
    return _TC(self, tc)


def _qc_of_any_epoch(self: Certificates, qc: QuorumCert) -> bool:
    of_its_epoch = Certificates(replace(self.committee, epoch=qc.data.epoch), self.signatures, ZERO_ID)
    return _QC(self, qc) or _QC(of_its_epoch, qc)


ZERO_ID = bytes(32)


def _one_round_too_early(answers: Mapping[int, SyncInfo], me: int, certificates: Certificates) -> Rejoin:
    taken = _REJOIN_FROM(answers, me, certificates)
    return replace(taken, last_voted_round=taken.last_voted_round - 1)


def _below_what_it_stated(self: Replica, event: Rejoin) -> None:
    _ON_REJOIN(self, event)
    self.safety = replace(self.safety, high_qc=self.certificates.genesis)


def _losing(seed: int, faults: Faults) -> Cluster:
    return Losing(seed, faults=faults, what="record")


def _losing_ahead(seed: int, faults: Faults) -> Cluster:
    """What it signed in the newest round nobody has heard of yet."""
    return Losing(seed, faults=faults, what="record", ahead=True, eager=True)


def _reversed(blocks: tuple[Proposal, ...], qc: QuorumCert) -> Commit:
    return Commit(blocks[::-1], qc)


def _restart_in_qc_round(self: Replica, *args: Any, **kwargs: Any) -> None:
    _INIT(self, *args, **kwargs)
    self.round = self.safety.high_qc.round + 1
    self.safety = replace(self.safety, last_voted_round=0, last_vote=None, last_timeout=None)


def _propose_again(self: Replica, *args: Any, **kwargs: Any) -> None:
    _INIT(self, *args, **kwargs)
    voted = min(self.safety.last_voted_round, self.round - 1)
    self.safety = replace(self.safety, last_proposed_round=0, last_proposed_id=ZERO_ID, last_voted_round=voted)


def _silenced_by_one_liar(self: Replica) -> None:
    _JUDGED(self)
    if any(isinstance(effect, Report) and effect.what == "root_mismatch" for effect in self._out):
        self.halted = "a leader names another state"


def _again_on_the_branch(self: Judging, proposal: Proposal, _accused: frozenset[Charge]) -> Judgement:
    return _JUDGED_EVIDENCE(self, proposal, frozenset())


def _same_again(self: Witness, vote: Vote) -> list[Charge]:
    """A vote that comes again counts as a second one."""
    held = self.votes.get(vote.voter, {}).get(vote.data.round)
    twice = self._proven([DoubleVote(held, vote)]) if held is not None else []
    return twice + _HEARS_VOTE(self, vote)


def _contradicts_or_is_the_same(piece: Evidence) -> bool:
    return _CONTRADICTS(piece) or (isinstance(piece, DoubleVote) and piece.first == piece.second)


def _locked_before_the_vote(piece: Evidence) -> bool:
    """A timeout accuses of a lock that its member took later."""
    if isinstance(piece, LockViolation):
        same = piece.first.voter == piece.second.voter
        return same and piece.second.high_qc_round < piece.first.data.parent_round
    return _CONTRADICTS(piece)


def _in_place_of_contradicts_itself(other: Callable[[Evidence], bool]) -> list[tuple[Any, str, Any]]:
    return [(owner, "contradicts_itself", other) for owner in (evidence, witness)]


def _of_the_first(self: Wanted, identity: bytes) -> FetchBlocks:
    return FetchBlocks(identity, self.ancestors, self.members[:1])


def _with_every_third_leader_gone(seed: int, faults: Faults) -> Cluster:
    """Thirteen of which four never come: two leaders stand between two silent ones, but for three in one place."""
    cluster = Cluster(seed, 13, faults, rounds_allowed=6)
    cluster.leave_out(cluster.leaders()[2::3])
    return cluster


def _with_a_rogue_key(seed: int, faults: Faults) -> Cluster:
    signing, alone = BlsSigning.with_a_rogue()
    cluster = Cluster(seed, faults=faults, signs=signing)
    cluster.adversaries[0].alone = alone
    return cluster


MUTANTS: dict[str, Mutant] = {
    "V4 dropped: votes in a round that it has left": Mutant(
        TWIN, [(Replica, "_vote", _vote_and_forget), (Judging, "judge", _any_round)]
    ),
    "C1 without consecutive rounds": Mutant(ROUGH, [(Replica, "_commits_parent", lambda self, node: True)]),
    "quorum of 2f": Mutant(TWIN, [(Committee, "quorum_size", property(lambda self: 2 * self.faults))]),
    "V5 with > for ≥": Mutant(ROUGH, [(judging, "follows", _follows_strictly)]),
    "V5 without the comparison": Mutant(
        # Every leader does what the comparison is there to refuse.
        IMPATIENT,
        [(judging, "follows", _follows_any), (Replica, "_propose", _propose_from_below)],
    ),
    "V7 dropped: votes without the payload": Mutant(ROUGH, [(Judging, "judge", _without_payload)]),
    "V9 dropped: votes for any state": Mutant(LIES, [(Judging, "_judge_execution", _any_state)]),
    "nothing persisted before a send": Mutant(ROUGH, [(Replica, "_persist", _forget_to_persist)]),
    "a vote before its Persist": Mutant(ROUGH, [(Replica, "_vote", _vote_before_it_is_durable)]),
    "a timeout without its lock": Mutant(ROUGH, [(Replica, "_give_up", _timeout_without_lock)]),
    "a TC without its QC": Mutant(IMPATIENT, [(Replica, "_process_tc", _tc_without_its_qc)]),
    "a TC with any QC": Mutant(replace(IMPATIENT, lies=True), [(Certificates, "tc_is_valid", _tc_with_any_qc)]),
    "a TC never counts": Mutant(ROUGH, [(Certificates, "tc_is_valid", lambda self, tc: False)]),
    "ancestors committed in the wrong order": Mutant(ROUGH, [(replica, "Commit", _reversed)]),
    "proof of possession skipped": Mutant(LIES, [(Bls, "possession_holds", lambda *_: True)], _with_a_rogue_key),
    "an old epoch accepted": Mutant(replace(LIES, epoch=1), [(Certificates, "qc_is_valid", _qc_of_any_epoch)]),
    "a round used again after a restart": Mutant(CRASHY, [(Replica, "__init__", _restart_in_qc_round)]),
    "a second proposal after a restart": Mutant(CRASHY, [(Replica, "__init__", _propose_again)]),
    "neither amplification nor own timeout": Mutant(ROUGH, [(Replica, "_give_up", lambda self: None)]),
    "one liar silences everyone": Mutant(LIES, [(Replica, "_judge", _silenced_by_one_liar)]),
    "only who shows a certificate is asked for its block": Mutant(
        HOSTILE, [(Replica, "_holders_of", lambda self, qc, sender: (sender,))]
    ),
    "only the first who may have a block is asked for it": Mutant(HOSTILE, [(Wanted, "question", _of_the_first)]),
    "votes go to one leader of a large committee": Mutant(
        LARGE, [(replica, "COLLECTORS", 1)], _with_every_third_leader_gone
    ),
    "votes kept for any round": Mutant(LIES, [(replica, "ROUND_WINDOW", 10**6)]),
    "evidence that nobody signed": Mutant(LIES, [(Court, "proves", lambda *_: True)]),
    "evidence that the branch has": Mutant(
        TWIN,
        [
            (Judging, "_judge_evidence", _again_on_the_branch),
            (Witness, "includable", lambda self, accused: _INCLUDABLE(self, frozenset())),
            (Witness, "commits", lambda self, accused, committed: None),
        ],
    ),
    "a vote that comes again is a second vote": Mutant(
        CRASHY,
        [*_in_place_of_contradicts_itself(_contradicts_or_is_the_same), (Witness, "hears_vote", _same_again)],
    ),
    "a lock that was taken later": Mutant(ROUGH, _in_place_of_contradicts_itself(_locked_before_the_vote)),
    "rejoins in round R + 1": Mutant(
        replace(IMPATIENT, delay_ms=(20, 300), heal_ms=9000),
        [(losing, "rejoin_from", _one_round_too_early)],
        _losing_ahead,
    ),
    "times out in the rounds of its statement": Mutant(
        ROUGH, [(Replica, "_is_silent", lambda self: bool(self.halted))], _losing_ahead
    ),
    "rejoins below the highest QC": Mutant(ROUGH, [(Replica, "_on_rejoin", _below_what_it_stated)], _losing),
    "a closed lane is still accepted": Mutant(
        ROUGH,
        [(payload, "is_open", lambda lane, opened: True), (judging, "are_of_open_lanes", lambda batches, state: True)],
        _losing,
    ),
    "lanes repeat": Mutant(
        ROUGH,
        [
            (judging, "lanes_follow", lambda lanes, batches: True),
            (tree, "lanes_follow", lambda lanes, batches: True),
            (Payload, "select", lambda self, lanes, turn, opened: _SELECT(self, {}, turn, opened)),
        ],
    ),
}


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, replacement in mutant.changes:
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def hunt(name: str, seeds: int = SEEDS, note: Callable[[str], None] = lambda _: None) -> int | None:
    """The first seed on which the mutant is caught, None where it survives them all."""
    mutant = MUTANTS[name]
    with mutated(mutant):
        for seed in range(seeds):
            cluster = mutant.build(seed, mutant.faults)
            try:
                cluster.run()
            except Violation as caught:
                note(str(caught))
                return seed
    return None
