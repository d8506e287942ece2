"""Replicas with one rule broken each. The simulator must catch every one of them.

A mutant patches the class for the time of the hunt; hosts of the cluster all run it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from ledger_commit.consensus import judging, tree
from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.committee import Committee
from ledger_commit.consensus.events import Persist
from ledger_commit.consensus.judging import Judgement, Judging, Verdict
from ledger_commit.consensus.messages import Proposal, genesis_cert
from ledger_commit.consensus.pacemaker import Pace
from ledger_commit.consensus.payload import Payload
from ledger_commit.consensus.replica import Replica
from ledger_commit.consensus.tree import Node
from tests.simulation.cluster import Cluster, Faults, Violation

SEEDS = 150
ROUGH = Faults(loss=0.2, delay_ms=(1, 700), crash=0.01, partitions=True, slow_executor_ms=50, end_ms=40_000)
CRASHY = replace(ROUGH, crash=0.05, delay_ms=(5, 250), loss=0.25, partitions=False)
TWIN = replace(ROUGH, twin=True, crash=0.0)
LOSSY = replace(ROUGH, loss=0.4, delay_ms=(1, 50), crash=0.0, partitions=False)


def _vote_and_forget(self: Replica, proposal: Proposal) -> None:
    _VOTE(self, proposal)
    self.safety = replace(self.safety, last_voted_round=0, last_vote=None)


_VOTE = Replica._vote
_JUDGE = Judging.judge


def _any_round(self: Judging, proposal: Proposal, now_ms: int, lag: int) -> Judgement:
    return _JUDGE(replace(self, safety=replace(self.safety, last_voted_round=0)), proposal, now_ms, lag)


def _without_payload(self: Judging, proposal: Proposal, now_ms: int, lag: int) -> Judgement:
    verdict = _JUDGE(self, proposal, now_ms, lag)
    return Judgement(Verdict.VOTE) if verdict.kind is Verdict.PAYLOAD_MISSING else verdict


def _any_follows(round_number: int, proposal: Proposal) -> bool:
    """V5 without the comparison of the QC with the TC's high QC."""
    qc, tc = proposal.qc, proposal.tc
    return qc.round == round_number - 1 or (tc is not None and tc.round == round_number - 1)


def _propose_from_below(self: Replica) -> None:
    """A leader that builds on its last committed block: what the comparison in V5 is there to refuse."""
    held = self.safety
    if self.high_qc.round != self.round - 1:
        for node in self.tree._nodes.values():
            if node.proposal.header.parent_id == self.committed.id:
                self.safety = replace(self.safety, high_qc=node.proposal.qc)
                break
    _PROPOSE(self)
    self.safety = replace(self.safety, high_qc=held.high_qc)


_PROPOSE = Replica._propose


def _forget_to_persist(self: Replica, blocks: tuple[Proposal, ...]) -> None:
    self._emit(Persist(blocks, None))


def _timeout_without_lock(self: Replica) -> None:
    """L2 broken: the timeout tells of the genesis certificate instead of the highest."""
    held = self.safety
    if held.last_timeout is None or held.last_timeout.round < self.round:
        self.safety = replace(held, high_qc=genesis_cert(self.certificates.genesis.block_id))
    _GIVE_UP(self)
    self.safety = replace(self.safety, high_qc=held.high_qc)


_GIVE_UP = Replica._give_up


def _reverse_commit(self: Replica, chain: list[Node], qc: Any) -> None:
    _COMMIT(self, chain[::-1], qc)


_COMMIT = Replica._commit


def _weak_quorum(self: Committee) -> int:
    return 2 * self.faults


def _restart_in_qc_round(self: Replica, *args: Any, **kwargs: Any) -> None:
    _INIT(self, *args, **kwargs)
    self.round = self.safety.high_qc.round + 1
    self.safety = replace(self.safety, last_voted_round=0, last_vote=None, last_timeout=None)


_INIT = Replica.__init__


def _lanes_ignored(lanes: Any, batches: Any) -> bool:
    return True


def _repeat_payload(self: Payload, lanes: Any, turn: int) -> Any:
    return _SELECT(self, {}, turn)


_SELECT = Payload.select


def _accept_any_tc(self: Certificates, tc: Any) -> bool:
    return False


MUTANTS: dict[str, tuple[Faults, list[Any]]] = {
    "V4 dropped: votes in a round that it has left": (
        TWIN,
        [patch.object(Replica, "_vote", _vote_and_forget), patch.object(Judging, "judge", _any_round)],
    ),
    "C1 without consecutive rounds": (ROUGH, [patch.object(Replica, "_commits_parent", lambda self, node: True)]),
    "quorum of 2f": (TWIN, [patch.object(Committee, "quorum_size", property(_weak_quorum))]),
    "V7 dropped: votes without the payload": (ROUGH, [patch.object(Judging, "judge", _without_payload)]),
    "nothing persisted before a send": (ROUGH, [patch.object(Replica, "_persist", _forget_to_persist)]),
    "a timeout that hides its lock": (ROUGH, [patch.object(Replica, "_give_up", _timeout_without_lock)]),
    "ancestors committed in the wrong order": (ROUGH, [patch.object(Replica, "_commit", _reverse_commit)]),
    "TC never counts: nobody can propose": (ROUGH, [patch.object(Certificates, "tc_is_valid", _accept_any_tc)]),
    "restart forgets what it signed": (CRASHY, [patch.object(Replica, "__init__", _restart_in_qc_round)]),
    "no amplification and no own timeout": (ROUGH, [patch.object(Replica, "_give_up", lambda self: None)]),
    "lanes repeat": (
        ROUGH,
        [
            patch.object(judging, "lanes_follow", _lanes_ignored),
            patch.object(tree, "lanes_follow", _lanes_ignored),
            patch.object(Payload, "select", _repeat_payload),
        ],
    ),
    "V5 without the comparison": (
        LOSSY,
        [
            patch.object(judging, "follows", _any_follows),
            patch.object(Replica, "_propose", _propose_from_below),
            patch.object(Pace, "round_ms", lambda self, rounds: 300),  # many rounds before the network heals
        ],
    ),
}


@contextmanager
def mutated(name: str) -> Iterator[Faults]:
    faults, patches = MUTANTS[name]
    for each in patches:
        each.start()
    try:
        yield faults
    finally:
        for each in reversed(patches):
            each.stop()


def hunt(name: str, seeds: int = SEEDS, note: Callable[[str], None] = lambda _: None) -> int | None:
    """The first seed on which the mutant is caught, None where it survives them all."""
    with mutated(name) as faults:
        for seed in range(seeds):
            try:
                Cluster(seed, faults=faults).run()
            except (Violation, AssertionError) as caught:
                note(str(caught))
                return seed
    return None
