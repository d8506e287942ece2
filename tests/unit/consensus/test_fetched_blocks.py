"""A block that a quorum certified is known by its id: who gives it, and under which signature, is all one."""

from dataclasses import replace

import pytest

from ledger_commit.consensus import replica
from ledger_commit.consensus.events import FetchBlocks, FetchRange, Report
from ledger_commit.consensus.messages import SyncInfo, block_id
from ledger_commit.consensus.replica import RANGE_GAP, RETRY_MS, WANTED_LIMIT
from tests.fixtures.consensus import (
    GENESIS_QC,
    Bench,
    batch,
    block,
    certify,
    chain,
    committed,
    executed,
    of,
    reports,
    time_out,
    vote_data,
    votes,
)


def test_a_certified_block_needs_no_signature_of_its_proposer() -> None:
    """A range brings blocks unchecked for it; whoever got one so and gives it on must not be accused."""
    (wanted,) = chain(1)
    bench = Bench()
    asked = bench.learn(certify(wanted))
    assert FetchBlocks(block_id(wanted.header), 0, (3, 1, 2)) in asked
    told = bench.fetch(replace(wanted, signature=b"\x01" * 96))
    assert not [effect for effect in told if isinstance(effect, Report)]
    assert block_id(wanted.header) in bench.replica.tree


def test_a_proposal_needs_it() -> None:
    (proposed,) = chain(1)
    bench = Bench()
    assert Report("bad_signature", 1, "proposal") in bench.propose(replace(proposed, signature=b"\x01" * 96))
    assert block_id(proposed.header) not in bench.replica.tree


def test_a_certified_block_is_asked_of_those_who_signed_for_it_each_in_turn() -> None:
    """Whoever showed the certificate may be hostile, and would be asked for ever; the signers have made the block durable."""
    (wanted,) = chain(1)
    bench = Bench()
    asked = of(bench.learn(certify(wanted, (0, 1, 2))), FetchBlocks)
    for _ in range(3):
        asked += of(bench.after(RETRY_MS), FetchBlocks)
    assert [fetch.members for fetch in asked] == [(3, 1, 2), (1, 2, 3), (2, 3, 1), (3, 1, 2)]
    assert of(bench.after(RETRY_MS - 1), FetchBlocks) == []


def test_who_showed_a_certificate_and_signed_it_stands_once_in_the_order() -> None:
    (wanted,) = chain(1)
    (asked,) = of(Bench(me=1).learn(certify(wanted, (0, 1, 3))), FetchBlocks)
    assert asked.members == (3, 0)


def test_a_range_that_one_member_does_not_give_is_asked_of_the_others() -> None:
    """Also where that one offers itself more often than all others: two are asked at once, and all in turn."""
    far = SyncInfo(GENESIS_QC, None, 1000)
    bench, asked = Bench(), []
    for _ in range(4):
        asked += [fetch.members for fetch in of(bench.hear(3, far), FetchRange)]
        bench.after(RETRY_MS)
    assert asked == [(3, 2, 1), (3, 1, 2), (1, 2, 3), (2, 3, 1)]


def test_who_offers_ranges_all_the_time_does_not_choose_the_other_that_is_asked() -> None:
    """It gives two blocks a time, so that something comes of every question; its friend is asked beside it in turn only."""
    blocks = chain(*range(1, 13))
    bench, second = Bench(), set()
    for last in range(2, 12):
        (asked,) = of(bench.hear(3, SyncInfo(GENESIS_QC, None, 1000)), FetchRange)
        assert asked.members[0] == 3
        second.add(asked.members[1])
        bench.fetch(*blocks[asked.from_height - 1 : last], qc=certify(blocks[last - 1]))
    assert second == {1, 2}


def test_a_range_that_came_is_followed_by_one_of_whoever_offers() -> None:
    """The turn is kept only while nothing comes of asking."""
    blocks = chain(*range(1, 13))
    bench = Bench()
    bench.hear(3, SyncInfo(GENESIS_QC, None, 1000))
    bench.fetch(*blocks, qc=certify(blocks[-1]))
    (following,) = of(bench.hear(2, SyncInfo(GENESIS_QC, None, 1000)), FetchRange)
    assert (following.from_height, following.members[0]) == (12, 2)


def test_no_range_is_asked_for_while_too_many_blocks_wait_for_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers come faster than payload, and what waits is in memory. The rest is asked for when the contract has come on, also
    where nobody offers it again."""
    monkeypatch.setattr(replica, "UNEXECUTED_MAX", 4)
    blocks = chain(*range(1, 13))
    bench = Bench()
    bench.hear(3, SyncInfo(GENESIS_QC, None, 1000))
    assert committed(bench.fetch(*blocks[:7], qc=certify(blocks[6]))) == [1, 2, 3, 4, 5, 6]
    assert not of(bench.hear(2, SyncInfo(GENESIS_QC, None, 1000)), FetchRange)
    assert not of(bench.step(executed(1)), FetchRange)
    (asked,) = of(bench.step(executed(2)), FetchRange)
    assert (asked.from_height, asked.members[0]) == (7, 2)
    bench.now += RETRY_MS
    assert not of(bench.step(executed(3)), FetchRange), "once"


# A block with its ancestors.


LONG = chain(*range(1, RANGE_GAP + 6))


def test_sixty_four_ancestors_come_in_one_answer() -> None:
    """An orphan tells by its height how many are missing."""
    orphan = LONG[RANGE_GAP]
    bench = Bench()
    (asked,) = of(bench.propose(orphan), FetchBlocks)
    assert (asked.id, asked.ancestors) == (orphan.header.parent_id, RANGE_GAP - 1)
    told = bench.fetch(*LONG[:RANGE_GAP])
    assert not of(told, FetchBlocks)
    assert committed(told) == list(range(1, RANGE_GAP))
    assert votes(told) == [vote_data(orphan)]


def test_one_more_is_a_range_and_the_parent_alone() -> None:
    """The parent all the same: while nothing commits, no range leads up to it."""
    told = Bench().propose(LONG[RANGE_GAP + 1])
    assert [(fetch.ancestors, fetch.members[0]) for fetch in of(told, FetchBlocks)] == [(0, 2)]
    assert [(fetch.from_height, fetch.to_height) for fetch in of(told, FetchRange)] == [(1, RANGE_GAP + 1)]


def test_an_answer_that_does_not_reach_down_is_followed_by_what_lies_below() -> None:
    """Here only the block was asked for, by a certificate that tells no height; and what it stands on is asked for at once."""
    bench = Bench()
    bench.learn(certify(LONG[9]))
    (below,) = of(bench.fetch(LONG[8], LONG[9], sender=2), FetchBlocks)
    assert (below.id, below.ancestors, below.members) == (block_id(LONG[7].header), 7, (2, 1))
    told = bench.fetch(*LONG[:8])
    assert committed(told) == list(range(1, 10))
    assert not of(bench.after(RETRY_MS), FetchBlocks)


def test_a_peer_that_has_committed_up_to_there_is_asked_for_a_chain() -> None:
    """From RANGE_GAP + 1 missing heights on for a range. A height that is no use asks for nothing but the certified block."""
    tip = LONG[RANGE_GAP]
    for height, ancestors, ranges in ((RANGE_GAP, RANGE_GAP, 0), (RANGE_GAP + 1, 0, 1), (0, 0, 0)):
        told = Bench().hear(3, SyncInfo(certify(tip), None, height))
        assert [fetch.ancestors for fetch in of(told, FetchBlocks)] == [ancestors]
        assert len(of(told, FetchRange)) == ranges


def test_who_learns_later_how_much_is_missing_asks_for_more_the_next_time() -> None:
    bench = Bench()
    bench.learn(certify(LONG[9]))
    assert not of(bench.hear(2, SyncInfo(certify(LONG[9]), None, 9)), FetchBlocks)
    (again,) = of(bench.after(RETRY_MS), FetchBlocks)
    assert (again.ancestors, again.members) == (9, (1, 2, 3))


def test_questions_that_were_answered_are_forgotten_in_time() -> None:
    """A replica that misses each block and gets it at once never asks twice."""
    bench = Bench()
    for number in range(1, 5 * WANTED_LIMIT):
        bench.now += RETRY_MS
        unseen = block(None, number, tc=time_out(number - 1) if number > 1 else None, qc=GENESIS_QC)
        bench.learn(certify(unseen))
        bench.fetch(unseen)
    assert bench.replica._wanted == {}
    assert len(bench.replica._asked) <= 4 * WANTED_LIMIT + 1


def test_a_certificate_below_the_committed_block_asks_for_nothing() -> None:
    """A leader that builds on another old block would have everyone ask for it until the next commit."""
    first, second = LONG[:2]
    bench = Bench()
    for block_ in (*LONG[:4],):
        bench.propose(block_)
    assert bench.replica.committed.height == 2
    rival = block(first, 2, time_ms=1 + second.header.time_ms)
    stray = block(rival, 5, tc=time_out(4, certify(rival)))
    assert not of(bench.propose(stray) + bench.after(RETRY_MS), FetchBlocks)


BROKEN = {
    "one left out": (*LONG[:2], *LONG[3:6]),
    "one exchanged": (*LONG[:2], block(LONG[1], 3, time_ms=20_000), *LONG[3:6]),
    "another payload under one header": (*LONG[:4], replace(LONG[4], batches=(batch(0, 1),)), LONG[5]),
    "another certificate under one header": (*LONG[:4], replace(LONG[4], qc=certify(LONG[3], (1, 2, 3))), LONG[5]),
    "the other way round": (*LONG[4::-1], LONG[5]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_ancestors_that_do_not_lead_up_to_the_wanted_block_are_refused_whole(case: str) -> None:
    bench = Bench()
    bench.learn(certify(LONG[5]))
    told = bench.fetch(*BROKEN[case], sender=2)
    assert (reports(told), committed(told), len(bench.replica.tree)) == ([("bad_blocks", 2)], [], 0)
    assert committed(bench.fetch(*LONG[:6])) == [1, 2, 3, 4, 5]


def test_ancestors_that_overlap_what_is_held_and_committed_do_no_harm() -> None:
    bench = Bench()
    for proposal in LONG[:4]:
        bench.propose(proposal)
    bench.learn(certify(LONG[6]))
    told = bench.fetch(*LONG[:7])
    assert (reports(told), committed(told)) == ([], [3, 4, 5, 6])
    assert bench.replica.tree._orphans == {}
