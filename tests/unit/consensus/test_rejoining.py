"""A member without its record: what it takes from the others, what it signs afterwards, and whose lane is open.

Source: consensus.md §8, Rejoining without a trusted record.
"""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from claims.transaction import OpenLane
from ledger_commit.consensus.certificates import Certificates
from ledger_commit.consensus.events import BatchStored, Executed, FetchBatches, Rejoin, SafetyRecord
from ledger_commit.consensus.evidence import LockViolation, timeout_as_signed
from ledger_commit.consensus.messages import ZERO, BatchRef, Proposal, SyncInfo, Timeout, VoteData
from ledger_commit.consensus.payload import Payload
from ledger_commit.consensus.rejoining import TooFewAnswers, rejoin_from
from ledger_commit.consensus.tree import advance_lanes
from tests.fixtures.consensus import (
    COMMITTEE,
    GENESIS_ID,
    GENESIS_QC,
    PAIRS,
    Bench,
    batch,
    block,
    certify,
    chain,
    executed,
    of,
    persisted,
    proposals,
    reports,
    tells,
    time_out,
    timeout,
    timeouts,
    vote,
    vote_data,
    votes,
)
from tests.simulation.host import fresh_safety

B1, B2, B3, B4 = chain(1, 2, 3, 4)
ME = 2
LOST = "the safety record is lost"


# What it takes from the others.


def answers(**told: SyncInfo) -> dict[int, SyncInfo]:
    return {int(member[1:]): info for member, info in told.items()}


def chosen(told: Mapping[int, SyncInfo], me: int = ME) -> Rejoin:
    return rejoin_from(told, me, Certificates(COMMITTEE, PAIRS, GENESIS_ID))


AT_2 = SyncInfo(certify(B1), None, 0)
AT_5 = SyncInfo(certify(B4), None, 3)
AT_8 = SyncInfo(certify(B2), time_out(7, certify(B2)), 1)


def test_it_takes_the_highest_of_each_and_the_round_behind_the_highest() -> None:
    """The highest round and the highest QC may be those of different members."""
    assert chosen(answers(m0=AT_2, m1=AT_5, m3=AT_8)) == Rejoin(certify(B4), time_out(7, certify(B2)), 9)
    assert chosen(answers(m0=AT_2, m1=AT_2, m3=AT_5)) == Rejoin(certify(B4), None, 6)


def test_of_two_timeout_certificates_it_takes_the_later() -> None:
    earlier = SyncInfo(certify(B2), time_out(5, certify(B2)), 1)
    assert chosen(answers(m0=earlier, m1=AT_8, m3=earlier)).high_tc == time_out(7, certify(B2))


def test_of_members_that_have_seen_nothing_it_takes_the_second_round() -> None:
    fresh = SyncInfo(GENESIS_QC, None, 0)
    assert chosen(answers(m0=fresh, m1=fresh, m3=fresh)) == Rejoin(GENESIS_QC, None, 2)


FORGED = certify(replace(B4, header=replace(B4.header, round=10**9)), data=replace(vote_data(B4), round=10**9))
FORGED = replace(FORGED, aggregate=certify(B4).aggregate)
LIES = {
    "a QC that nobody signed": SyncInfo(FORGED, None, 10**9),
    "a TC that nobody signed": SyncInfo(certify(B4), replace(time_out(7, certify(B4)), round=10**9), 0),
    "a QC of too few": SyncInfo(certify(B4, (0, 1)), None, 3),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_certificate_that_does_not_hold_is_no_answer(lie: str) -> None:
    """One liar of four leaves too few: it cannot raise the round, nor lower what is asked of the others."""
    with pytest.raises(TooFewAnswers) as caught:
        chosen(answers(m0=AT_5, m1=AT_5, m3=LIES[lie]))
    assert (caught.value.answers, caught.value.due, caught.value.refused) == (2, 3, (3,))
    assert "2 other members" in str(caught.value)


def test_a_member_that_tells_of_old_certificates_does_not_lower_what_others_tell() -> None:
    assert chosen(answers(m0=SyncInfo(GENESIS_QC, None, 0), m1=AT_8, m3=AT_5)).last_voted_round == 9


def test_its_own_answer_does_not_count() -> None:
    """What it remembers is what is not trusted."""
    with pytest.raises(TooFewAnswers):
        chosen(answers(m0=AT_5, m1=AT_5, m2=AT_5))


def test_a_number_without_certificates_moves_nothing() -> None:
    assert chosen(answers(m0=AT_2, m1=AT_2, m3=replace(AT_2, committed_height=10**9))).last_voted_round == 3


# What it signs afterwards.


@pytest.fixture
def bench() -> Bench:
    """Member 2, which follows a chain of four blocks without a record."""
    bench = Bench(me=ME, halted=LOST)
    for proposal in (B1, B2, B3, B4):
        bench.propose(proposal)
    return bench


def test_its_record_is_durable_before_anything_else(bench: Bench) -> None:
    effects = bench.step(Rejoin(certify(B4), None, 7))
    record = SafetyRecord(0, 7, None, None, 7, ZERO, certify(B4), None)
    assert persisted(effects) == [record]
    assert (bench.replica.halted, bench.replica.round) == ("", 5)
    assert (votes(effects), timeouts(effects), proposals(effects)) == ([], [], [])


def test_it_signs_nothing_up_to_the_round_of_its_statement_and_everything_after_it(bench: Bench) -> None:
    """Neither vote nor timeout nor proposal: it may have made each of them in these rounds."""
    bench.step(Rejoin(certify(B4), None, 6))
    five = block(B4, 5)
    six = block(five, 6)
    silent = [bench.propose(five), bench.after(30_000), bench.after(30_000), bench.learn(certify(five))]
    silent += [bench.propose(six), bench.after(30_000), bench.after(30_000)]
    for effects in silent:
        assert (votes(effects), timeouts(effects), proposals(effects)) == ([], [], [])
    seven = block(six, 7, time_ms=bench.now)
    (data,) = votes(bench.propose(seven))
    assert data.round == 7
    (told,) = timeouts(bench.after(30_000))
    assert (told.round, told.high_qc) == (7, certify(six))


@pytest.mark.parametrize(("last", "leads"), [(5, True), (6, False)])
def test_it_proposes_in_the_first_round_after_its_statement_and_not_in_its_last(
    bench: Bench, last: int, *, leads: bool
) -> None:
    """Round 6 is its own."""
    bench.step(Rejoin(certify(B4), None, last))
    bench.learn(certify(block(B4, 5)))
    bench.fetch(block(B4, 5))
    assert bool(proposals(bench.after(5_100))) is leads


def test_past_its_deadline_it_wakes_no_more_often_than_others(bench: Bench) -> None:
    """In a round in which it says nothing there is nothing to send again, and the timer goes on all the same."""
    bench.step(Rejoin(certify(B4), None, 90))
    effects = bench.after(20_000)
    assert [e.at_ms - bench.now >= 250 for e in effects if hasattr(e, "at_ms")] == [True]


def test_the_certificates_of_its_statement_open_their_round(bench: Bench) -> None:
    """It had heard of less."""
    bench.step(Rejoin(certify(block(B4, 5)), time_out(8, certify(block(B4, 5))), 10))
    assert (bench.replica.round, bench.replica.high_qc) == (9, certify(block(B4, 5)))


def test_its_lock_is_never_below_what_it_has_seen(bench: Bench) -> None:
    bench.learn(certify(B4))
    (record,) = persisted(bench.step(Rejoin(certify(B2), time_out(3, certify(B2)), 7)))
    assert (record.high_qc, record.high_tc) == (certify(B4), time_out(3, certify(B2)))


def test_no_statement_gives_a_vote_to_a_replica_whose_state_is_another(bench: Bench) -> None:
    """Not what it signed but what it computes is wrong; also where it had lost its record before."""
    b5 = block(B4, 5, **tells(executed(1, 10)))
    bench.propose(b5)
    bench.learn(certify(b5))
    bench.step(executed(1, 20))
    assert bench.replica.halted == "state differs from the committee's at height 1"
    assert persisted(bench.step(Rejoin(certify(b5), None, 7))) == []
    assert bench.replica.halted


@pytest.mark.parametrize(
    ("record", "silent"),
    [
        (fresh_safety(COMMITTEE.chain_id), 0),
        (SafetyRecord(0, 7, None, None, 7, ZERO, certify(B4), None), 7),
        (SafetyRecord(0, 4, vote_data(B4), None, 0, ZERO, certify(B3), None), 0),
        (
            SafetyRecord(
                0, 5, vote_data(B4), Timeout(0, 5, certify(B4), None, ME, bytes(96)), 0, ZERO, certify(B4), None
            ),
            0,
        ),
    ],
    ids=["fresh", "of a statement", "of a vote", "of a timeout"],
)
def test_a_record_says_itself_through_which_round_it_is_silent(record: SafetyRecord, silent: int) -> None:
    assert record.silent_through == silent


def test_a_record_of_a_statement_still_counts_after_a_restart() -> None:
    """The round of the record's own QC is one of those in which it may have signed."""
    again = Bench(me=ME, safety=SafetyRecord(0, 7, None, None, 7, ZERO, certify(B4), None), blocks=(B1, B2, B3, B4))
    assert again.replica.round == 5
    assert timeouts(again.after(30_000)) == []
    again.hear(3, time_out(7, certify(B4)))
    assert [told.round for told in timeouts(again.after(30_000))] == [8]


# Who speaks for the member.


def reopened(height: int, member: int, incarnation: int = 2, after_round: int = 50) -> Executed:
    return replace(executed(height), lanes={member: OpenLane(incarnation, after_round)})


def test_a_replica_with_another_record_stops_when_a_statement_for_its_member_is_executed() -> None:
    """The operator has put another machine in its place, or believes that it has."""
    bench = Bench(me=ME)
    bench.step(reopened(1, ME))
    assert bench.replica.halted == "the safety record is older than the statement of incarnation 2"
    assert timeouts(bench.after(30_000)) == []


def test_a_statement_for_another_member_stops_nobody() -> None:
    bench = Bench(me=ME)
    bench.step(reopened(1, 3))
    assert bench.replica.halted == ""


@pytest.mark.parametrize(("last", "old"), [(49, True), (50, False)])
def test_a_restart_with_a_record_from_before_the_statement_is_found_out(last: int, *, old: bool) -> None:
    record = SafetyRecord(0, last, None, None, last, ZERO, GENESIS_QC, None)
    bench = Bench(me=ME, safety=record, known=(reopened(0, ME),))
    assert bool(bench.replica.halted) is old


def test_a_record_that_ends_with_a_message_in_the_round_of_the_statement_is_of_another_machine() -> None:
    """It may have signed in that very round, the first to enter it. Whoever rejoins under the statement does not."""
    last = Timeout(0, 50, GENESIS_QC, None, ME, bytes(96))
    record = SafetyRecord(0, 50, None, last, 0, ZERO, GENESIS_QC, None)
    assert Bench(me=ME, safety=record, known=(reopened(0, ME),)).replica.halted
    later = replace(record, last_voted_round=51, last_timeout=replace(last, round=51))
    assert not Bench(me=ME, safety=later, known=(reopened(0, ME),)).replica.halted


def test_a_statement_that_a_newer_one_has_followed_gives_no_vote(bench: Bench) -> None:
    """Both were executed at once; the newer one is another machine's."""
    bench.step(reopened(1, ME, 3, 80))
    assert persisted(bench.step(Rejoin(certify(B4), None, 50))) == []
    assert bench.replica.halted
    assert len(persisted(bench.step(Rejoin(certify(B4), None, 80)))) == 1


def test_who_has_rejoined_under_a_statement_is_not_stopped_by_it_again(bench: Bench) -> None:
    bench.step(reopened(1, ME))
    bench.step(Rejoin(certify(B4), None, 50))
    bench.step(reopened(2, ME))
    assert bench.replica.halted == ""
    bench.step(reopened(3, ME, 3, 80))
    assert bench.replica.halted == "the safety record is older than the statement of incarnation 3"


# V7: which lane is open.

NEW, OLD = batch(3, 1, incarnation=2), batch(3, 1)
STATE = reopened(1, 3)


def on_state(at: int, *refs: BatchRef) -> tuple[Bench, Proposal]:
    """A replica that has executed both heights, and a proposal on what the contract had at one of them."""
    bench = Bench(me=ME)
    for proposal in (B1, B2, B3, B4):
        bench.propose(proposal)
    for state in (STATE, replace(STATE, height=2)):
        bench.step(state)
    told = STATE if at else executed(0)
    return bench, block(B4, 5, batches=refs, **tells(told))


@pytest.mark.parametrize(
    ("at", "ref", "reason"),
    [
        (1, NEW, ""),
        (0, OLD, ""),
        (1, OLD, "batch_of_a_closed_lane"),
        (0, NEW, "batch_of_a_closed_lane"),
        (1, batch(3, 1, incarnation=3), "batch_of_a_closed_lane"),
        (1, batch(1, 1, incarnation=2), "batch_of_a_closed_lane"),
        (1, batch(1, 1), ""),
        (1, batch(3, 2, incarnation=2), "batch_out_of_sequence"),
    ],
    ids=["opened", "not closed yet", "closed", "not opened yet", "invented", "of another member", "others", "a gap"],
)
def test_v7_a_batch_is_of_the_lane_that_is_open_where_the_header_says(at: int, ref: BatchRef, reason: str) -> None:
    """Whatever the judging replica has executed beyond it, so that all judge alike."""
    bench, proposal = on_state(at, ref)
    effects = bench.propose(proposal)
    if reason:
        assert reports(effects) == [(reason, 1)]
        return
    asked = of(effects, FetchBatches)
    if asked:  # of a lane that is closed here, and which nobody keeps any more
        effects = bench.step(BatchStored(ref))
    assert votes(effects) == [vote_data(proposal)]


def test_a_block_takes_batches_of_one_incarnation_only() -> None:
    bench, proposal = on_state(1, NEW, OLD)
    assert reports(bench.propose(proposal)) == [("batch_of_a_closed_lane", 1)]


def test_a_leader_offers_what_its_header_allows() -> None:
    """By the state that its header names, though it knows of a later one."""
    bench = Bench(me=1)
    for proposal in (B1, B2, B3, B4):
        bench.propose(proposal)
    bench.step(STATE)
    for ref in (OLD, NEW, batch(0, 1)):
        bench.step(BatchStored(ref))
    (made,) = proposals(bench.hear(0, SyncInfo(certify(B4), None, 0)) + bench.after(5_100))
    assert made.header.exec_height == 1
    assert set(made.batches) == {batch(0, 1), NEW}


def test_what_a_closed_lane_leaves_behind_is_forgotten_and_counts_no_more() -> None:
    payload = Payload({(3, 1): 4, (1, 1): 2})
    for seq in range(4, 20):
        payload.add(batch(3, seq))
    payload.add(batch(1, 2))
    payload.open_lanes({3: OpenLane(2, 50)})
    assert payload.missing((batch(3, 4), batch(1, 2))) == (batch(3, 4),)
    assert (payload._held_of[3], payload._bytes_of[3]) == (0, 0)
    assert payload.refusal(batch(3, 20)) == "batch_of_no_lane"
    assert payload.refusal(batch(3, 1, incarnation=2)) == ""
    assert payload.refusal(batch(1, 1)) == "batch_of_a_committed_place"


def test_what_was_known_of_an_open_lane_stays_when_the_contract_goes_on() -> None:
    payload = Payload({})
    opened = {3: OpenLane(2, 50)}
    payload.open_lanes(opened)
    payload.add(NEW)
    payload.open_lanes(dict(opened))
    assert payload.missing((NEW,)) == ()
    assert payload.has_next({})
    payload.open_lanes({3: OpenLane(3, 60)})
    assert not payload.has_next({})


def test_a_batch_that_a_block_names_is_kept_though_its_lane_is_closed_here() -> None:
    """The leader has executed less. It is no work for this replica's own blocks."""
    payload = Payload({})
    payload.open_lanes({3: OpenLane(2, 50)})
    payload.add(OLD, named=True)
    assert payload.missing((OLD,)) == ()
    assert not payload.has_next({})
    assert payload.select({}, 0) == (OLD,)
    assert payload.select({}, 0, {3: OpenLane(2, 50)}) == ()


def test_a_branch_remembers_one_lane_of_a_member() -> None:
    """However often its operator opens another."""
    lanes = advance_lanes({(3, 1): 9, (1, 1): 5}, (batch(3, 1, incarnation=2), batch(3, 2, incarnation=2)))
    assert lanes == {(3, 2): 3, (1, 1): 5}
    assert advance_lanes(lanes, (batch(3, 1, incarnation=7),)) == {(3, 7): 2, (1, 1): 5}


def test_votes_of_before_and_after_are_of_different_rounds() -> None:
    """What the numbers are there for: the two records of one member never meet in a round."""
    before = Bench(me=ME)
    for proposal in (B1, B2, B3, B4):
        before.propose(proposal)
    signed: list[VoteData] = votes(before.propose(block(B4, 5)))
    rejoin = chosen(answers(m0=AT_5, m1=AT_5, m3=AT_2))
    assert max(data.round for data in signed) < rejoin.last_voted_round
    assert vote(ME, B4).data.round < rejoin.last_voted_round


def test_a_statement_excuses_a_lower_lock_behind_it_and_none_on_one_side_of_it() -> None:
    """The lock that the member lost may have been one that nobody else had seen."""
    bench = Bench(me=ME)
    lower = timeout_as_signed(timeout(3, 60, certify(B1)))
    across = LockViolation(vote(3, B4), lower)
    later = LockViolation(vote(3, block(B4, 59, tc=time_out(58, certify(B4)))), lower)
    assert not bench.replica.court.excuses(across)
    bench.step(STATE)
    assert [bench.replica.court.excuses(piece) for piece in (across, later)] == [True, False]
    restarted = Bench(me=ME, known=(executed(0), STATE))
    assert restarted.replica.court.excuses(across)
