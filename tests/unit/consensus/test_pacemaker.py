"""P1 to P8 and L2: when a replica enters a round, how long it waits there, what it says when it gives up.

Replica 0 leads rounds 4, 8, 12. "Work" is a batch that waits.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ledger_commit.consensus.events import BatchStored, Broadcast, Effect, FetchBlocks, Send, SetTimer
from ledger_commit.consensus.messages import QuorumCert, SyncInfo, TimeoutCert, block_id
from ledger_commit.consensus.pacemaker import Pace, clock_behind_ms
from tests.fixtures.consensus import (
    GENESIS_QC,
    NOW,
    Bench,
    batch,
    block,
    certify,
    chain,
    committed,
    executed,
    helped,
    of,
    persisted,
    proposals,
    reports,
    saved_before,
    tells,
    time_out,
    timeout,
    timeout_certs,
    timeouts,
    vote,
    votes,
)

B1, B2, B3 = chain(1, 2, 3)
WORK = BatchStored(batch(0, 1))
ONE_TC = time_out(1)
TWO_TC = time_out(2)


def deadline(bench: Bench) -> int:
    """After how many milliseconds from now the replica gives up on its round."""
    left = bench.replica._deadline_ms - bench.now
    assert timeouts(bench.after(left - 1)) == []
    assert [t.round for t in timeouts(bench.after(1))] == [bench.replica.round]
    return left


# P1


@pytest.mark.parametrize(
    ("certificates", "entered"),
    [
        ([(certify(B3), None)], 4),
        ([(GENESIS_QC, time_out(5))], 6),
        ([(certify(B3), time_out(5, certify(B3)))], 6),
        ([(certify(B3), time_out(2))], 4),
        ([(certify(B3), None), (certify(B1), time_out(2))], 4),
        ([(GENESIS_QC, time_out(5)), (certify(B3), None)], 6),
    ],
)
def test_p1_the_round_follows_the_highest_certificate(
    certificates: list[tuple[QuorumCert, TimeoutCert | None]], entered: int
) -> None:
    bench = Bench()
    for qc, tc in certificates:
        bench.learn(qc, tc)
    assert bench.replica.round == entered


def test_p1_any_message_that_carries_a_certificate_brings_its_round() -> None:
    for message, entered in (
        (block(B2, 3), 3),
        (block(B2, 7, tc=time_out(6, certify(B2))), 7),
        (timeout(3, 4, certify(B3)), 4),
        (timeout(3, 6, certify(B2), time_out(5, certify(B2))), 6),
        (time_out(6, certify(B2)), 7),
        (SyncInfo(certify(B3), None, 0), 4),
    ):
        bench = Bench()
        bench.hear(3, message)
        assert bench.replica.round == entered


# P2


@pytest.mark.parametrize(
    ("rounds", "wait_ms"),
    [(-3, 500), (0, 500), (2, 500), (3, 750), (4, 1125), (5, 1687), (11, 19_221), (12, 20_000), (10**9, 20_000)],
)
def test_p2_the_timer_grows_by_half_from_the_third_round_without_a_commit(rounds: int, wait_ms: int) -> None:
    assert Pace().round_ms(rounds) == wait_ms


@pytest.mark.parametrize(("rounds", "behind_ms"), [(-1, 2000), (0, 2000), (1, 3000), (2, 4500), (3, 6750)])
def test_v8_the_bound_on_old_times_grows_as_well(rounds: int, behind_ms: int) -> None:
    assert clock_behind_ms(rounds) == behind_ms
    assert clock_behind_ms(10**9) > 10**12


def test_p2_two_rounds_without_a_commit_are_the_normal_case() -> None:
    """The QC that opens a round counts first: its commit is the one that the round's timer goes by."""
    bench = Bench()
    bench.step(WORK)
    for proposal in (B1, B2, B3):
        bench.propose(proposal)
        bench.learn(certify(proposal))
    assert (bench.replica.round, bench.replica.committed.round) == (4, 2)
    assert deadline(bench) == 500


def test_p2_each_round_without_a_commit_is_half_as_long_again() -> None:
    lengths = []
    for last in range(5):
        bench = Bench()
        bench.step(WORK)
        for number in range(1, last + 1):
            bench.hear(3, time_out(number))
        lengths.append(deadline(bench))
    assert lengths == [500, 500, 750, 1125, 1687]


# P3 and L2


def test_p3_the_timeout_is_persisted_then_sent_to_all() -> None:
    bench = Bench()
    bench.propose(B1)
    bench.learn(certify(B1))
    effects = bench.after(20_000)
    (told,) = timeouts(effects)
    saved = saved_before(effects, told)
    assert saved.safety is not None
    assert (saved.safety.last_timeout, saved.safety.last_voted_round) == (told, 2)
    assert (told.round, told.voter, told.high_qc, told.last_tc) == (2, 0, certify(B1), None)


def test_p3_a_timeout_shows_the_tc_that_allows_its_lower_qc() -> None:
    bench = Bench()
    bench.learn(certify(B1), time_out(4, certify(B1)))
    (told,) = timeouts(bench.after(20_000))
    assert (told.round, told.high_qc, told.last_tc) == (5, certify(B1), time_out(4, certify(B1)))
    assert reports(Bench(me=1).hear(0, timeout(0, 5, told.high_qc, told.last_tc))) == []


def test_p3_the_same_timeout_comes_again_every_half_round_with_jitter() -> None:
    """T is 500 ms: after 250 ms and up to an eighth of that; members differ, so they do not speak all at once."""
    pauses = []
    for me in (0, 1, 2):
        bench = Bench(me=me)
        bench.step(WORK)
        bench.hear(3, time_out(4))
        (told,) = timeouts(bench.after(20_000))
        heard = [(pause, again) for pause in range(1, 1000) for again in timeouts(bench.after(1))]
        assert {again for _, again in heard} == {told}
        pauses.append(heard[0][0])
    half = Pace().round_ms(5) // 2
    assert all(half <= pause <= half + half // 8 for pause in pauses)
    assert len(set(pauses)) == len(pauses)


def test_p3_the_wanted_timer_is_when_the_timeout_comes_again() -> None:
    bench = Bench()
    effects = bench.after(20_000)
    bench.now = of(effects, SetTimer)[-1].at_ms
    assert len(timeouts(bench.after(0))) == 1


def ticks(bench: Bench, effects: Sequence[Effect], seconds: int) -> int:
    """How often the replica is woken if it is, for so long, whenever it asks to be."""
    until, count = bench.now + 1000 * seconds, 0
    while timers := of(effects, SetTimer):
        if timers[-1].at_ms > until:
            return count
        effects, count = bench.after(timers[-1].at_ms - bench.now), count + 1
    pytest.fail("it asks for no further tick")


@pytest.mark.parametrize("halted", ["", "the safety record is stale"])
@pytest.mark.parametrize("entered", [None, time_out(4)], ids=["at its start", "in a later round"])
def test_p3_past_its_deadline_a_replica_wakes_every_half_round(halted: str, entered: TimeoutCert | None) -> None:
    """T is at most 1687 ms here. Also one that may not sign: it has nothing to send and waits as if it had."""
    bench = Bench(halted=halted)
    effects = [*bench.first, *bench.step(WORK), *(bench.hear(3, entered) if entered else ())]
    half = Pace().round_ms(bench.replica.round) // 2
    assert 10_000 // (half + half // 8) - 3 <= ticks(bench, effects, 10) <= 10_000 // half + 3


def test_p3_one_that_is_halted_past_its_deadline_wakes_no_more_often() -> None:
    """What it sent before is its last word of the round."""
    bench = Bench()
    effects = bench.after(20_000)
    bench.replica.halted = "state differs from the committee's"
    assert ticks(bench, effects, 10) <= 10_000 // 250


def test_l2_a_qc_that_arrives_in_the_round_is_in_its_timeout() -> None:
    """Also one of a lower round than the TC that opened it."""
    bench = Bench()
    bench.hear(3, time_out(4))
    bench.learn(certify(B2))
    (told,) = timeouts(bench.after(20_000))
    assert (told.round, told.high_qc, told.last_tc) == (5, certify(B2), time_out(4))


def test_l1_the_lock_is_the_highest_qc_and_never_lower() -> None:
    bench = Bench()
    for qc, high in ((certify(B2), 2), (certify(B1), 2), (certify(B2, (1, 2, 3)), 2), (certify(B3), 3)):
        bench.learn(qc)
        assert bench.replica.high_qc.round == high
    assert bench.replica.high_qc == certify(B3)


# P4 and P5


def test_p4_f_plus_1_timeouts_of_a_later_round_bring_it_there_and_are_joined() -> None:
    bench = Bench()
    tc = time_out(6)
    assert timeouts(bench.hear(1, timeout(1, 7, tc=tc))) == []
    assert [t.round for t in timeouts(bench.hear(3, timeout(3, 7, tc=tc)))] == [7]


def test_p4_the_same_member_counts_once() -> None:
    bench = Bench()
    for _ in range(5):
        assert timeouts(bench.hear(1, timeout(1, 1))) == []


def test_p4_one_that_has_timed_out_does_not_do_so_again() -> None:
    bench = Bench()
    assert len(timeouts(bench.after(20_000))) == 1
    assert timeouts(bench.hear(1, timeout(1, 1)) + bench.hear(2, timeout(2, 1))) == []


def test_p5_a_quorum_of_timeouts_makes_one_tc() -> None:
    """One group for each QC round; the highest QC is shown whole; it opens the next round and is sent to all."""
    bench = Bench()
    bench.hear(3, time_out(2))
    bench.hear(1, timeout(1, 3, certify(B1), time_out(2)))
    bench.hear(2, timeout(2, 3, certify(B2)))
    (tc,) = timeout_certs(bench.hear(3, timeout(3, 3, GENESIS_QC, time_out(2))))
    assert tc == time_out(3, certify(B2), {0: (3,), 1: (1,), 2: (2,)})
    assert (bench.replica.round, bench.replica.high_tc) == (4, tc)
    assert reports(Bench(me=1).hear(0, tc)) == []


def test_p5_a_bad_signature_is_named_dropped_and_replaced_by_a_good_one() -> None:
    """The aggregate fails, one by one finds it. The member is not heard again in this round."""
    bench = Bench()
    bench.hear(1, timeout(1, 1))
    bench.hear(2, timeout(2, 1))
    forged = replace(timeout(3, 1), signature=timeout(3, 2).signature)
    effects = bench.hear(3, forged)
    assert (reports(effects), timeout_certs(effects)) == ([("bad_signature", 3)], [])
    assert reports(bench.hear(3, forged) + bench.hear(3, timeout(3, 1))) == []
    assert timeout_certs(bench.hear(0, timeout(0, 1))) == [time_out(1)]


# P6


def test_p6_whoever_speaks_of_a_past_round_is_shown_the_present() -> None:
    present = SyncInfo(certify(B3), time_out(5, certify(B3)), 1)
    for message in (
        timeout(1, 1),
        vote(1, B1),
        vote(1, B3),
        block(None, 1),
        block(B3, 5, tc=time_out(4, certify(B3))),
        time_out(4, certify(B2)),
    ):
        bench = Bench()
        for proposal in (B1, B2, B3):
            bench.propose(proposal)
        bench.learn(present.high_qc, present.high_tc)
        shown = replace(present, committed_height=2)
        assert of(bench.hear(1, message), Send) == [Send(1, shown)]


def test_p6_what_belongs_to_the_round_is_not_answered() -> None:
    """A vote for the round before comes late in every good round; a TC of the round before opens this one."""
    bench = Bench()
    for proposal in (B1, B2, B3):
        bench.propose(proposal)
    for message in (vote(1, B2), vote(1, B3), time_out(2), time_out(3, certify(B2)), timeout(1, 4, certify(B3))):
        assert of(bench.hear(1, message), Send) == []


def test_p6_not_more_often_than_every_250_ms_to_the_same_member_and_not_to_itself() -> None:
    bench = Bench()
    bench.learn(certify(B3))
    assert helped(bench.hear(1, timeout(1, 1))) == [1]
    assert helped(bench.hear(1, timeout(1, 1))) == []
    assert helped(bench.hear(2, timeout(2, 1))) == [2]
    assert helped(bench.hear(0, timeout(0, 1))) == []
    bench.now += 249
    assert helped(bench.hear(1, timeout(1, 1))) == []
    bench.now += 1
    assert helped(bench.hear(1, timeout(1, 1))) == [1]


def test_p6_a_sync_info_is_not_answered() -> None:
    """Else two replicas would answer each other for ever."""
    bench = Bench()
    bench.learn(certify(B3))
    assert helped(bench.learn(certify(B1), time_out(1))) == []


# P7


@pytest.fixture
def idle() -> Bench:
    """Replica 0 in round 4, its own; blocks 1 and 2 are committed, executed and told of. Nothing waits."""
    bench = Bench()
    for proposal in (B1, B2, B3):
        bench.propose(proposal)
        bench.learn(certify(proposal))
    assert (bench.replica.round, bench.replica.committed.height) == (4, 2)
    return bench


def test_p7_without_work_the_leader_waits_and_then_proposes_an_empty_block(idle: Bench) -> None:
    assert proposals(idle.after(4999)) == []
    (proposal,) = proposals(idle.after(1))
    assert (proposal.header.round, proposal.batches) == (4, ())
    assert proposals(idle.after(1)) == []


def test_p7_a_round_without_work_lasts_the_idle_time_longer(idle: Bench) -> None:
    assert deadline(idle) == 5000 + 500


def test_p7_work_shortens_the_round_from_when_it_appears() -> None:
    """Replica 1 does not lead round 4: it only waits for the leader's block."""
    bench = Bench(me=1)
    bench.propose(B1)
    for proposal in (B2, B3):
        bench.propose(proposal)
        bench.learn(certify(proposal))
    bench.after(1000)
    assert of(bench.step(WORK), SetTimer) == [SetTimer(bench.now + 500)]
    assert deadline(bench) == 500


def test_p7_work_that_appears_late_does_not_lengthen_the_round(idle: Bench) -> None:
    idle.replica.halted = "so that it does not propose"
    idle.after(5400)
    idle.step(WORK)
    idle.replica.halted = ""
    assert deadline(idle) == 100


def test_p7_a_batch_is_proposed_at_once(idle: Bench) -> None:
    (proposal,) = proposals(idle.step(WORK))
    assert proposal.batches == (WORK.ref,)


def test_p7_a_leader_that_gave_up_its_round_proposes_nothing_in_it(idle: Bench) -> None:
    for voter in (1, 2):
        idle.hear(voter, timeout(voter, 4, certify(B3)))
    assert idle.replica.safety.last_timeout is not None
    assert proposals(idle.step(WORK) + idle.after(5000)) == []


def test_p7_a_leader_that_gathers_waits_so_long_for_more() -> None:
    bench = Bench(pace=Pace(gather_ms=50), me=1)
    assert of(bench.first, SetTimer) == [SetTimer(NOW + 50)]
    assert proposals(bench.step(WORK)) == []
    assert proposals(bench.step(BatchStored(batch(0, 2))) + bench.after(49)) == []
    (proposal,) = proposals(bench.after(1))
    assert len(proposal.batches) == 2


def test_p7_an_uncommitted_block_with_payload_is_work() -> None:
    """The neighbour is the idle replica above: the same chain without the batch."""
    bench = Bench()
    with_payload = block(B2, 3, batches=(WORK.ref,))
    for proposal in (B1, B2, with_payload):
        bench.propose(proposal)
    bench.step(WORK)
    assert [p.batches for p in proposals(bench.learn(certify(with_payload)))] == [()]


def test_p7_results_that_no_directly_committed_header_tells_of_are_work() -> None:
    """Their settlement waits for its proof. The proposal tells of them, and so does the next, until one is committed."""
    bench = Bench(me=0)
    bench.step(WORK)
    b1 = block(None, 1, batches=(WORK.ref,))
    b2 = block(b1, 2)
    b3 = block(b2, 3)
    for proposal in (b1, b2, b3):
        bench.propose(proposal)
    bench.learn(certify(b3))
    assert bench.replica._had_work is False
    (proposal,) = proposals(bench.step(executed(1, 10)))
    assert (proposal.header.exec_height, proposal.header.exec_results_size) == (1, 10)


def test_p7_an_uncommitted_header_that_tells_more_than_its_parent_is_work() -> None:
    """A replica that has not executed so far itself cannot propose, but waits no longer than a round with work."""
    b3 = block(B2, 3, **tells(executed(1, 10)))
    bench = Bench()
    for proposal in (B1, B2, b3):
        bench.propose(proposal)
    assert proposals(bench.learn(certify(b3))) == []
    assert deadline(bench) == 500


def test_p7_before_the_first_direct_commit_there_is_work() -> None:
    """A replica that has just started does not know what is proven."""
    assert len(proposals(Bench(me=1).first)) == 1


# P8


def test_p8_a_qc_whose_block_is_missing_commits_when_the_block_comes() -> None:
    bench = Bench()
    bench.propose(B1)
    effects = bench.learn(certify(B2))
    assert (committed(effects), of(effects, FetchBlocks)) == ([], [FetchBlocks(block_id(B2.header), 0, (3, 1, 2))])
    assert committed(bench.fetch(B2)) == [1]


def test_p8_a_missing_block_is_asked_for_again_until_it_comes() -> None:
    bench = Bench()
    bench.propose(B1)
    bench.learn(certify(B2))
    assert len(of(bench.after(250), FetchBlocks)) == 1
    assert of(bench.after(249), FetchBlocks) == []
    assert len(of(bench.after(1), FetchBlocks)) == 1
    bench.fetch(B2)
    assert of(bench.after(1000), FetchBlocks) == []


def test_p8_a_missing_block_is_given_up_once_a_later_one_is_committed() -> None:
    """It was certified and lost to a TC: nobody may have it any more, and nobody needs it."""
    lost = block(B1, 2, time_ms=NOW + 50)
    bench = Bench()
    bench.propose(B1)
    assert len(of(bench.learn(certify(lost)), FetchBlocks)) == 1
    b4 = block(B1, 4, tc=time_out(3, certify(B1)))
    b5 = block(b4, 5)
    b6 = block(b5, 6)
    for proposal in (b4, b5, b6):
        bench.propose(proposal)
    assert bench.replica.committed.height == 2
    assert of(bench.after(10_000), FetchBlocks) == []


# Restart


def test_a_restart_says_its_last_words_again() -> None:
    """The vote whatever its round, the timeout of the round it is in; nothing new is persisted for it."""
    before = Bench()
    before.propose(B1)
    record = persisted(before.after(20_000))[-1]
    again = Bench(safety=record, blocks=[B1])
    assert votes(again.first) == [record.last_vote]
    assert timeouts(again.first) == [record.last_timeout]
    assert persisted(again.first) == []

    later = replace(record, high_tc=time_out(6))
    again = Bench(safety=later, blocks=[B1])
    assert (votes(again.first), timeouts(again.first)) == ([record.last_vote], [])


def test_a_restart_proposes_the_same_block_again() -> None:
    before = Bench(me=1)
    (own,) = proposals(before.first)
    record = persisted(before.first)[-1]
    assert proposals(Bench(me=1, safety=record, blocks=[own]).first) == [own]
    assert proposals(Bench(me=1, safety=record, blocks=[]).first) == [], "lost from the log: no second one"


def test_a_restart_that_may_not_sign_is_silent() -> None:
    """Its record is stale or lost: what it says might contradict what it said."""
    before = Bench(me=1)
    own = before.replica.safety.last_proposed_id
    record = persisted(before.after(20_000))[-1]
    (proposal,) = proposals(before.first)
    assert block_id(proposal.header) == own
    again = Bench(me=1, safety=record, blocks=[proposal], halted="the safety record is stale")
    assert of(again.first + again.after(30_000), Broadcast) == []


def test_a_fresh_start_has_no_last_words() -> None:
    assert of(Bench(me=2).first, Broadcast) == []
