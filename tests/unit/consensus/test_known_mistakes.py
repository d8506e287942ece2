"""The mistakes that protocols of this family were found with, one test each.

Each test's name says the mistake as what is right instead; the numbers are those of the design.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claims.encoding import Codec, DecodeError
from ledger_commit.adapters.safety_record import SafetyFile
from ledger_commit.consensus.committee import Committee, Member
from ledger_commit.consensus.events import BatchStored, FetchBlocks
from ledger_commit.consensus.messages import (
    PROPOSAL,
    QUORUM_CERT,
    TIMEOUT,
    TIMEOUT_CERT,
    UNSIGNED,
    VOTE,
    SyncInfo,
    Vote,
    block_id,
)
from ledger_commit.consensus.payload import MEMBER_LIMIT
from ledger_commit.consensus.replica import ROUND_WINDOW
from ledger_commit.consensus.tree import ORPHAN_LIMIT
from tests.fixtures.consensus import (
    CHAIN_ID,
    GENESIS_QC,
    NOW,
    Bench,
    batch,
    block,
    certify,
    chain,
    committed,
    of,
    persisted,
    proposals,
    reports,
    saved_before,
    signed,
    time_out,
    timeout,
    timeout_certs,
    timeouts,
    vote,
    vote_data,
    votes,
)
from tests.unit.ledger.losing_disk import LosingFile, Power


def test_01_two_chain_needs_consecutive_rounds() -> None:
    """A certified child commits its parent only from the very next round: between them a quorum may have left."""
    first, third = chain(1, 3)
    bench = Bench()
    bench.propose(first)
    assert committed(bench.propose(third) + bench.learn(certify(third))) == []
    fourth = block(third, 4)
    assert committed(bench.propose(fourth)) == []
    assert committed(bench.learn(certify(fourth))) == [1, 2]


def test_02_safety_state_is_durable_before_the_send() -> None:
    """Vote, timeout and proposal: each stands behind a Persist whose record knows of it; a restart keeps to it."""
    bench = Bench(me=1)
    bench.step(BatchStored(batch(0, 1)))
    (own,) = proposals(bench.first + bench.after(0))
    voted = bench.propose(signed(own))
    gave_up = bench.after(20_000)
    (given_up,) = timeouts(gave_up)
    for effects, message, told in (
        (bench.first, own, ("last_proposed_id", block_id(own.header))),
        (voted, Vote(vote_data(own), 1, UNSIGNED), ("last_vote", vote_data(own))),
        (gave_up, given_up, ("last_timeout", given_up)),
    ):
        name, value = told
        assert getattr(saved_before(effects, message).safety, name) == value

    rival = block(None, 1, time_ms=NOW + 7)
    for effects in (voted, gave_up):
        again = Bench(me=1, safety=persisted(effects)[-1], now_ms=bench.now)
        assert votes(again.propose(rival)) == []
        assert proposals(again.first + again.after(0)) == []


def test_03_a_tc_brings_its_high_qc_so_that_anyone_can_propose() -> None:
    """The next leader never saw the QC that the others locked; the TC alone lets it build on that."""
    (first,) = chain(1)
    bench = Bench(me=3)
    bench.propose(first)
    bench.step(BatchStored(batch(0, 1)))
    assert bench.replica.high_qc == GENESIS_QC
    (proposal,) = proposals(bench.hear(0, time_out(2, certify(first))))
    assert proposal.header.round == 3
    assert proposal.qc == certify(first)
    assert proposal.header.parent_id == block_id(first.header)


def test_04_a_tc_is_sent_on_by_whoever_forms_it() -> None:
    """One that heard no timeouts enters the round from the TC of another, which sends it once."""
    former, deaf = Bench(me=0), Bench(me=2)
    former.hear(1, timeout(1, 1))
    former.hear(2, timeout(2, 1))
    (tc,) = timeout_certs(former.hear(3, timeout(3, 1)))
    assert timeout_certs(former.hear(0, timeout(0, 1)) + former.hear(3, timeout(3, 1))) == []
    deaf.hear(0, tc)
    assert deaf.replica.round == former.replica.round == 2


def test_05_ancestors_commit_in_height_order() -> None:
    blocks = chain(1, 3, 5, 7, 8)
    bench = Bench()
    for each in blocks:
        assert committed(bench.propose(each)) == []
    assert committed(bench.learn(certify(blocks[-1]))) == [1, 2, 3, 4]


def test_06_a_restart_enters_the_round_from_qc_and_tc() -> None:
    """From the QC alone it would come back into a round that it has left, and act there again."""
    (first,) = chain(1)
    before = Bench()
    before.propose(first)
    before.hear(3, time_out(4, certify(first)))
    record = persisted(before.after(20_000))[-1]
    again = Bench(safety=record, blocks=[first])
    assert again.replica.round == 5
    assert [t.round for t in timeouts(again.first)] == [5]
    assert votes(again.propose(block(first, 2))) == []


def test_07_a_timeout_tells_of_the_highest_qc() -> None:
    """L2; and nobody takes one whose QC is below what its own TC shows, nor a TC that hides its highest."""
    first, second = chain(1, 2)
    bench = Bench()
    bench.propose(first)
    bench.propose(second)
    bench.learn(certify(second))
    assert [t.high_qc for t in timeouts(bench.after(20_000))] == [certify(second)]

    hiding = timeout(1, 5, certify(first), time_out(4, certify(second)))
    assert reports(bench.hear(1, hiding)) == [("bad_certificate", 1)]
    low = time_out(5, certify(first), {1: (0, 1), 2: (2,)})
    assert reports(bench.hear(1, low)) == [("bad_certificate", 1)]
    assert bench.replica.round == 3


def test_08_f_plus_1_timeouts_are_joined_at_once() -> None:
    """Else a round in which the others gave up waits for one replica's longer timer."""
    bench = Bench()
    assert timeouts(bench.hear(1, timeout(1, 1))) == []
    (own,) = timeouts(bench.hear(2, timeout(2, 1)))
    assert (own.round, own.voter) == (1, 0)


def test_09_a_qc_before_its_block_is_held_and_the_block_fetched() -> None:
    """The next leader got the votes first: it asks for the block and still proposes in its round."""
    (first,) = chain(1)
    bench = Bench(me=2)
    bench.step(BatchStored(batch(0, 1)))
    for voter in (0, 1):
        bench.hear(voter, vote(voter, first))
    effects = bench.hear(3, vote(3, first))
    assert of(effects, FetchBlocks) == [FetchBlocks(block_id(first.header), 0, (3, 0, 1))]
    assert (bench.replica.round, proposals(effects)) == (2, [])
    (proposal,) = proposals(bench.fetch(first))
    assert (proposal.header.round, proposal.header.parent_id) == (2, block_id(first.header))


def test_10_a_silent_leader_costs_a_round_and_not_the_chain() -> None:
    """Nothing comes from the leader of round 1: its round times out and the next leader proposes."""
    bench = Bench(me=2)
    bench.step(BatchStored(batch(0, 1)))
    (own,) = timeouts(bench.after(20_000))
    bench.hear(2, timeout(2, own.round))
    bench.hear(0, timeout(0, 1))
    effects = bench.hear(3, timeout(3, 1))
    assert len(timeout_certs(effects)) == 1
    (proposal,) = proposals(effects)
    assert (proposal.header.round, proposal.tc) == (2, timeout_certs(effects)[0])


def test_11_what_a_peer_sends_fills_only_its_own_slots() -> None:
    """Member 1 sends what it can think of. Everything kept is bounded, and the chain goes on."""
    bench = Bench()
    (first,) = chain(1)
    for number in range(1, 300):
        made_up = replace(vote_data(first), round=number, block_id=hashlib.sha256(b"%d" % number).digest())
        bench.hear(1, vote(1, first, data=made_up))
        bench.hear(1, vote(1, first, data=replace(made_up, round=5)))
        bench.propose(block(None, 1, time_ms=NOW + number))
        bench.hear(1, timeout(1, 1))
    replica = bench.replica
    assert sum(len(slots.votes) for slots in replica._votes.values()) <= 1 + ROUND_WINDOW
    assert sum(len(slots.timeouts) for slots in replica._timeouts.values()) == 1
    assert len(replica.tree) == 1

    for number in range(2 * MEMBER_LIMIT):
        bench.step(BatchStored(batch(1, 2 + number)))
    assert len(replica.payload._digests) == MEMBER_LIMIT
    bench.step(BatchStored(batch(2, 1)))
    assert replica.payload.missing((batch(2, 1),)) == ()
    for voter in (0, 2, 3):
        bench.hear(voter, vote(voter, first))
    assert replica.round == 2


def test_11_blocks_without_a_parent_are_few() -> None:
    """Each proposal is of another round and on a QC for a block that nobody shows."""
    bench = Bench(me=0)
    for number in range(1, 2 * ORPHAN_LIMIT):
        unseen = block(None, number, tc=time_out(number - 1) if number > 1 else None, qc=GENESIS_QC)
        bench.propose(block(unseen, number + 1, height=2))
    assert len(bench.replica.tree._orphans) == ORPHAN_LIMIT


@pytest.mark.parametrize("length", [0, 1, 95, 97])
def test_12_a_signature_of_another_length_does_not_decode(length: int) -> None:
    first, third = chain(1, 3)
    assert third.tc is not None
    whole: list[tuple[Codec[Any], Any]] = [
        (PROPOSAL, first),
        (VOTE, vote(0, first)),
        (TIMEOUT, timeout(0, 1)),
        (QUORUM_CERT, certify(first)),
        (TIMEOUT_CERT, third.tc),
    ]
    for codec, message in whole:
        encoded = codec.encode(message)
        assert codec.decode(encoded) == message
        with pytest.raises(DecodeError):
            codec.decode(encoded[:-96] + bytes(length))


def test_12_an_empty_signature_is_refused_and_its_sender_named() -> None:
    """A signature of zeros, an empty bitmap, a voter that does not exist: each is reported, none raises."""
    (first,) = chain(1)
    bench = Bench()
    nobody = replace(certify(first), signers=b"\x00", aggregate=UNSIGNED)
    assert reports(bench.propose(replace(first, signature=UNSIGNED))) == [("bad_signature", 1)]
    assert reports(bench.learn(nobody)) == [("bad_certificate", 3)]
    assert reports(bench.hear(3, SyncInfo(replace(nobody, signers=b""), None, 9))) == [("bad_certificate", 3)]
    assert reports(bench.hear(3, replace(time_out(1), groups=()))) == [("bad_certificate", 3)]
    assert reports(bench.hear(4, vote(3, first))) == [("unknown_sender", 4)]
    for voter in (1, 2):
        bench.hear(voter, vote(voter, first))
    assert reports(bench.hear(3, replace(vote(3, first), signature=UNSIGNED))) == [("bad_signature", 3)]
    bench.hear(0, vote(0, first))
    assert bench.replica.high_qc == certify(first, (0, 1, 2))


def test_13_leaders_follow_from_chain_epoch_and_committee_alone() -> None:
    """Two replicas with different pasts name the same leaders; each of the three inputs changes them."""
    fresh, old = Bench(me=0), Bench(me=1)
    for each in chain(1, 4, 5, 6, 9):
        old.propose(each)
    old.hear(2, timeout(2, 9, certify(chain(1, 4, 5, 6)[-1]), time_out(8, certify(chain(1, 4, 5, 6)[-1]))))
    assert old.replica.round > fresh.replica.round
    for number in range(100):
        assert fresh.replica.committee.leader_of(number) == old.replica.committee.leader_of(number)

    members = tuple(Member(f"org{i}", bytes([i]) * 48, bytes(32)) for i in range(16))
    base = Committee(CHAIN_ID, 0, members)
    assert Committee(CHAIN_ID, 0, members).schedule == base.schedule
    for other in (Committee(bytes(32), 0, members), Committee(CHAIN_ID, 1, members), _renamed(base)):
        assert sorted(other.schedule) == sorted(base.schedule)
        assert other.schedule != base.schedule
        assert other.schedule_digest != base.schedule_digest


def test_14_only_the_highest_qc_of_a_tc_unlocks() -> None:
    """After TC(3) whose members knew QC(2), a block on QC(1) is refused, whatever else is right about it."""
    first, second = chain(1, 2)
    tc = time_out(3, certify(second), {1: (0, 1), 2: (2,)})
    below = block(first, 4, tc=tc)
    at = block(second, 4, tc=tc)
    for proposal, reply in ((below, [("bad_proposal", 0)]), (at, [])):
        bench = Bench(me=3)
        bench.propose(first)
        bench.propose(second)
        effects = bench.propose(proposal)
        assert reports(effects) == reply
        assert votes(effects) == ([] if reply else [vote_data(proposal)])


def test_15_old_timestamps_do_not_loop_the_view_change() -> None:
    """A leader whose clock is 6 s behind is refused at first; the bound grows with each round without a commit."""
    bench = Bench()
    behind = block(None, 1, time_ms=NOW - 6000)
    assert reports(bench.propose(behind)) == [("time", 1)]
    later = block(None, 5, tc=time_out(4), time_ms=NOW - 6000)
    assert votes(bench.propose(later)) == [vote_data(later)]


def test_16_a_block_id_covers_its_certificates() -> None:
    """The same block under another QC is another block; a QC exchanged under the same id is refused."""
    (first,) = chain(1)
    one, other = certify(first, (0, 1, 2)), certify(first, (1, 2, 3))
    assert block_id(block(first, 2, qc=one).header) != block_id(block(first, 2, qc=other).header)
    with_tc, with_other = (block(first, 3, qc=one, tc=time_out(2, qc)) for qc in (one, other))
    assert block_id(with_tc.header) != block_id(with_other.header)

    bench = Bench()
    bench.propose(first)
    assert reports(bench.propose(replace(block(first, 2, qc=one), qc=other))) == [("bad_proposal", 2)]
    assert reports(bench.propose(replace(with_tc, tc=with_other.tc))) == [("bad_proposal", 3)]


def test_17_a_record_that_was_persisted_is_there_after_a_power_loss(tmp_path: Path) -> None:
    """The record of a vote, through the safety file on a disk that forgets what was not synced.

    That the directory's entry is synced as well: tests/unit/ledger/test_safety_record.py.
    """
    one, rival = block(None, 1), block(None, 1, time_ms=NOW + 7)
    file = LosingFile(tmp_path / "safety.rec", Power())
    SafetyFile(file).save(persisted(Bench().propose(one))[-1], 0)
    file.lose(0)
    record, _ = SafetyFile(LosingFile(file.path, Power())).load()
    again = Bench(safety=record)
    assert votes(again.first) == [vote_data(one)]
    assert votes(again.propose(rival)) == []


def _renamed(base: Committee) -> Committee:
    return Committee(base.chain_id, base.epoch, (replace(base.members[0], organisation="other"), *base.members[1:]))
