"""V1 to V9: a proposal that breaks one condition alone gets no vote, its neighbour that breaks none gets one.

Replica 2 holds blocks 1 to 4 of rounds 1 to 4, has executed the two that are committed, and judges round 5 of member 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger_commit.consensus.events import BatchStored, FetchBatches, Report, Send
from ledger_commit.consensus.messages import ZERO, Proposal, QuorumCert, TimeoutCert, Vote, block_id, commit_digest
from ledger_commit.consensus.pacemaker import CLOCK_AHEAD_MS
from ledger_commit.consensus.replica import EXECUTED_KEPT
from tests.fixtures.consensus import (
    GENESIS_QC,
    NOW,
    Bench,
    batch,
    block,
    certify,
    committed,
    executed,
    of,
    persisted,
    proposals,
    reports,
    saved_before,
    signed,
    tells,
    time_out,
    timeouts,
    vote_data,
    votes,
)

STATE = executed(2, 10)
"""The contract after block 2, which ordered the first batch."""
B1 = block(None, 1)
B2 = block(B1, 2, batches=(batch(0, 1),))
B3 = block(B2, 3)
B4 = block(B3, 4, **tells(executed(1)))
GOOD = {"batches": (batch(0, 2), batch(1, 1)), **tells(STATE)}
"""What makes block 5 one with payload and with execution to compare."""


@pytest.fixture
def bench() -> Bench:
    made = Bench(me=2)
    for ref in (batch(0, 1), batch(0, 2), batch(1, 1)):
        made.step(BatchStored(ref))
    for proposal in (B1, B2, B3, B4):
        assert votes(made.propose(proposal)) == [vote_data(proposal)]
        if proposal is B3:
            made.step(executed(1))
    assert committed(made.learn(certify(B4))) == [3]
    made.step(STATE)
    return made


def five(**changes: Any) -> Proposal:
    """Block 5 of round 5, as every rule allows it but for the changes."""
    return block(B4, 5, **(GOOD | changes))


def nine(qc: QuorumCert | None = None, tc: TimeoutCert | None = None, parent: Proposal = B4) -> Proposal:
    """A block of round 9, also of member 1."""
    return block(parent, 9, qc=qc, tc=tc, **tells(STATE))


def test_the_base_case_gets_a_vote(bench: Bench) -> None:
    """Persisted with its block, then broadcast; the vote names the parent and what a quorum of it commits."""
    effects = bench.propose(five())
    (data,) = votes(effects)
    assert data == vote_data(five())
    assert data.commit_digest == commit_digest(0, 4, block_id(B4.header), 4)
    saved = saved_before(effects, Vote(data, 2, bytes(96)))
    assert saved.blocks == (five(),)
    assert saved.safety is not None
    assert (saved.safety.last_voted_round, saved.safety.last_vote) == (5, data)


def test_a_vote_over_a_gap_of_rounds_commits_nothing(bench: Bench) -> None:
    effects = bench.propose(nine(tc=time_out(8, certify(B4))))
    assert [(v.round, v.parent_round, v.commit_digest) for v in votes(effects)] == [(9, 4, ZERO)]


# V1 and the form.

FORM: dict[str, tuple[Callable[[], Proposal], str]] = {
    "another epoch": (lambda: five(epoch=1), "another epoch"),
    "another chain": (lambda: five(chain_id=bytes(32)), "another chain or protocol"),
    "another protocol": (lambda: five(protocol=2), "another chain or protocol"),
    "another schedule": (lambda: five(schedule_digest=ZERO), "another leader schedule"),
    "not the leader": (lambda: five(proposer=0), "not the leader of its round"),
    "another QC digest": (lambda: five(qc_digest=ZERO), "the QC is not the one that the header names"),
    "another TC digest": (lambda: five(tc_digest=bytes([1]) * 32), "the TC is not the one that the header names"),
    "a QC for another block": (lambda: five(qc=certify(B3)), "the QC is not for the parent"),
    "another payload": (lambda: five(batches_root=ZERO), "the payload is not the one that the header names"),
    "a snapshot height": (lambda: five(snapshot_height=1), "fields of later protocols are set"),
    "a snapshot root": (lambda: five(snapshot_root=bytes([1]) * 32), "fields of later protocols are set"),
    "an evidence root": (
        lambda: five(evidence_root=bytes([1]) * 32),
        "the evidence is not the one that the header names",
    ),
    "a next committee": (lambda: five(next_committee_hash=bytes([1]) * 32), "fields of later protocols are set"),
    # V5
    "V5: round 9 on the QC of round 4 alone": (nine, "the round follows neither QC nor TC"),
    "V5: the TC of round 7": (lambda: nine(tc=time_out(7, certify(B4))), "the round follows neither QC nor TC"),
    "V5: a QC below that of the TC": (
        lambda: nine(tc=time_out(8, certify(B4)), parent=B3),
        "the round follows neither QC nor TC",
    ),
    "V5: a TC beside the QC of the round before": (
        lambda: five(tc=time_out(4, certify(B3))),
        "the round follows neither QC nor TC",
    ),
    "V5: a QC of its own round": (
        lambda: nine(certify(B4, data=replace(vote_data(B4), round=9)), time_out(8, certify(B4))),
        "the round follows neither QC nor TC",
    ),
}


@pytest.mark.parametrize("case", FORM)
def test_v1_v5_form(bench: Bench, case: str) -> None:
    made, reason = FORM[case]
    effects = bench.propose(made())
    assert [(e.what, e.detail) for e in of(effects, Report)] == [("bad_proposal", reason)]
    assert votes(effects) == []
    assert votes(bench.propose(five())) == [vote_data(five())]


def test_v1_only_its_proposer_sends_a_proposal(bench: Bench) -> None:
    assert reports(bench.hear(0, five())) == [("not_the_proposer", 0)]
    assert votes(bench.hear(1, five())) == [vote_data(five())]


def test_v1_the_proposer_signed_it(bench: Bench) -> None:
    assert reports(bench.propose(replace(five(), signature=B4.signature))) == [("bad_signature", 1)]
    assert votes(bench.propose(five())) == [vote_data(five())]


# V2

CERTIFICATES: dict[str, Callable[[], Proposal]] = {
    "a QC of two": lambda: five(qc=certify(B4, (0, 1))),
    "a QC under another signature": lambda: five(qc=replace(certify(B4), aggregate=certify(B3).aggregate)),
    "a QC of another epoch": lambda: five(qc=certify(B4, data=replace(vote_data(B4), epoch=1))),
    "a TC of two": lambda: nine(tc=time_out(8, certify(B4), {4: (0, 1)})),
    "a TC under another signature": lambda: nine(
        tc=replace(time_out(8, certify(B4)), aggregate=time_out(7, certify(B4)).aggregate)
    ),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_v2_certificates(bench: Bench, case: str) -> None:
    effects = bench.propose(CERTIFICATES[case]())
    assert (reports(effects), votes(effects)) == ([("bad_certificate", 1)], [])
    assert bench.replica.round == 5


def test_v2_and_v5_hold_over_a_timeout_certificate(bench: Bench) -> None:
    """The neighbour of the TC cases: round 9 on the QC that TC(8) shows. A QC above it is as good."""
    for high in (certify(B4), certify(B3)):
        made = nine(tc=time_out(8, high))
        again = Bench(
            me=2,
            safety=bench.replica.safety,
            blocks=[B4],
            known=[*bench.replica.executed.values()],
            root=bench.replica.committed,
        )
        assert votes(again.propose(made)) == [vote_data(made)]


# V3 and V4


def test_v3_a_round_that_is_over_gets_no_vote(bench: Bench) -> None:
    bench.hear(0, time_out(5, certify(B4)))
    effects = bench.propose(five())
    assert votes(effects) == []
    assert [e.to for e in of(effects, Send)] == [1], "its proposer is shown the present"


def test_v4_one_vote_a_round(bench: Bench) -> None:
    """A rival gets none and is named; the voted one gets the same vote again, also after other events."""
    rival = five(time_ms=NOW + 99)
    assert votes(bench.propose(five())) == [vote_data(five())]
    effects = bench.propose(rival)
    assert (votes(effects), reports(effects)) == ([], [("evidence", 1), ("double_proposal", 1)])
    assert of(bench.propose(five()), Send) == [Send(1, Vote(vote_data(five()), 2, bytes(96)))]


def test_v4_one_vote_a_round_after_a_restart(bench: Bench) -> None:
    """The slot for the leader's first proposal is gone; the record is not, and it tells who shows two."""
    record = persisted(bench.propose(five()))[-1]
    again = Bench(
        me=2, safety=record, root=bench.replica.committed, known=[*bench.replica.executed.values()], blocks=[B4]
    )
    for ref in GOOD["batches"]:
        again.step(BatchStored(ref))
    effects = again.propose(five(time_ms=NOW + 99))
    assert (again.replica.round, votes(effects), reports(effects)) == (5, [], [("double_proposal", 1)])


def test_v4_no_vote_after_a_timeout(bench: Bench) -> None:
    assert [t.round for t in timeouts(bench.after(20_000))] == [5]
    bench.now = NOW
    assert votes(bench.propose(five())) == []


# V6


def test_v6_a_proposal_waits_for_its_parent() -> None:
    bench = Bench(me=2)
    (first, second) = block(None, 1), block(block(None, 1), 2)
    assert votes(bench.propose(second)) == []
    assert votes(bench.fetch(first)) == [vote_data(second)]


@pytest.mark.parametrize("height", [4, 6])
def test_v6_the_height_is_the_next(bench: Bench, height: int) -> None:
    effects = bench.propose(five(height=height))
    assert (reports(effects), votes(effects)) == ([("wrong_height", 1)], [])


# V7

SEQUENCES = {
    "one is left out": (batch(0, 3),),
    "one comes again": (batch(0, 1),),
    "one stands twice": (batch(0, 2), batch(0, 2)),
    "out of order": (batch(0, 3), batch(0, 2)),
    "a lane begins at 2": (batch(3, 2),),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_v7_lanes_go_on_without_gap_or_repeat(bench: Bench, case: str) -> None:
    for ref in SEQUENCES[case]:
        bench.step(BatchStored(ref))
    effects = bench.propose(five(batches=SEQUENCES[case]))
    assert (reports(effects), votes(effects)) == ([("batch_out_of_sequence", 1)], [])


@pytest.mark.parametrize(
    "named",
    [batch(0, 2, name="other "), replace(batch(0, 2), count=11), replace(batch(0, 2), size_bytes=1), batch(3, 1)],
    ids=["another digest", "another count", "another size", "not here"],
)
def test_v7_every_batch_is_held_as_it_is_named(bench: Bench, named: Any) -> None:
    """The batch is asked for once in a while; a vote comes when it is stored, if it is the one that is named."""
    proposal = five(batches=(named,))
    effects = bench.propose(proposal)
    assert (votes(effects), of(effects, FetchBatches)) == ([], [FetchBatches((named,), 1)])
    assert of(bench.after(1), FetchBatches) == []
    assert of(bench.after(250), FetchBatches) == [FetchBatches((named,), 1)]
    stored = bench.step(BatchStored(named))
    lied = named.digest == batch(0, 2).digest
    assert votes(stored) == ([] if lied else [vote_data(proposal)])


# V8


@pytest.mark.parametrize(
    ("time_ms", "good"),
    [
        (B4.header.time_ms, False),
        (B4.header.time_ms + 1, True),
        (NOW + CLOCK_AHEAD_MS, True),
        (NOW + CLOCK_AHEAD_MS + 1, False),
    ],
)
def test_v8_time_is_after_the_parent_and_not_ahead(bench: Bench, time_ms: int, good: bool) -> None:
    effects = bench.propose(five(time_ms=time_ms))
    assert (votes(effects) != [], reports(effects) == []) == (good, good)


@pytest.mark.parametrize(("late_ms", "good"), [(4500, True), (4501, False)])
def test_v8_time_is_not_too_far_behind(bench: Bench, late_ms: int, good: bool) -> None:
    """Two rounds since the last commit: 2 s · 1.5²."""
    bench.now = five().header.time_ms + late_ms
    effects = bench.propose(five())
    assert (votes(effects) != [], reports(effects)) == (good, [] if good else [("time", 1)])


# V9


@pytest.mark.parametrize("field", ["exec_state_root", "exec_results_root", "exec_results_size"])
def test_v9_the_state_told_is_the_state_here(bench: Bench, field: str) -> None:
    """A leader's word is refused and reported. It stops nobody: else one liar would silence everyone."""
    wrong = 11 if field == "exec_results_size" else bytes([9]) * 32
    effects = bench.propose(five(**{field: wrong}))
    assert (reports(effects), votes(effects)) == ([("root_mismatch", 1)], [])
    assert not bench.replica.halted
    assert [t.round for t in timeouts(bench.after(20_000))] == [5]


@pytest.mark.parametrize(
    ("state", "good"),
    [(executed(0), False), (executed(1), True), (STATE, True), (executed(3, 10), True), (executed(4, 10), False)],
)
def test_v9_exec_height_is_between_the_parents_and_what_the_chain_commits(bench: Bench, state: Any, good: bool) -> None:
    """The parent told of height 1; the QC that the proposal carries commits height 3."""
    bench.step(executed(3, 10))
    bench.step(executed(4, 10))
    effects = bench.propose(five(**tells(state)))
    assert (votes(effects) != [], reports(effects)) == (good, [] if good else [("exec_height", 1)])


def test_v9_a_proposal_waits_for_the_execution_that_it_tells_of(bench: Bench) -> None:
    proposal = five(**tells(executed(3, 10)))
    assert votes(bench.propose(proposal)) == []
    assert votes(bench.step(executed(3, 10))) == [vote_data(proposal)]


def test_v9_the_wait_for_execution_ends_with_the_round(bench: Bench) -> None:
    bench.propose(five(**tells(executed(3, 10))))
    bench.hear(0, time_out(5, certify(B4)))
    assert votes(bench.step(executed(3, 10))) == []


def test_v9_an_execution_too_long_ago_cannot_be_compared(bench: Bench) -> None:
    for height in range(3, 2 + EXECUTED_KEPT):
        bench.step(executed(height, 10))
    assert reports(bench.propose(five(**tells(executed(1))))) == [("exec_height", 1)]


def test_a_halted_replica_follows_and_signs_nothing(bench: Bench) -> None:
    assert votes(bench.propose(five())) == [vote_data(five())]
    bench.replica.halted = "the record is lost"
    six = block(five(), 6, **tells(STATE))
    signing = [
        bench.propose(five()),
        bench.propose(five()),
        bench.propose(six),
        bench.after(30_000),
        bench.after(30_000),
    ]
    for effects in signing:
        assert (votes(effects), timeouts(effects), proposals(effects), of(effects, Send)) == ([], [], [], [])
    assert committed(bench.learn(certify(six))) == [5]


def test_the_genesis_certificate_is_one(bench: Bench) -> None:
    """A certificate of round 0 that is not the constant one is none, whoever signs it."""
    for wrong in (
        replace(GENESIS_QC, signers=b"\x07"),
        replace(GENESIS_QC, data=replace(GENESIS_QC.data, block_id=block_id(B1.header))),
    ):
        parent_id = wrong.block_id
        fresh = Bench(me=2)
        assert reports(fresh.propose(block(None, 1, qc=wrong, parent_id=parent_id))) == [("bad_certificate", 1)]
    assert votes(Bench(me=2).propose(signed(B1))) == [vote_data(B1)]
