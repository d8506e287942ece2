"""C1, and how a replica comes by blocks that it did not hear: by id, by range, from its own log."""

from dataclasses import replace
from typing import Any

import pytest

from ledger_commit.consensus.events import (
    Broadcast,
    Commit,
    Effect,
    Event,
    FetchBlocks,
    FetchRange,
    Persist,
    Received,
    Send,
)
from ledger_commit.consensus.messages import Proposal, SyncInfo, block_id
from ledger_commit.consensus.replica import RANGE_GAP, RANGE_MAX, WANTED_LIMIT
from ledger_commit.consensus.tree import TREE_LIMIT, Root, Tree
from ledger_commit.consensus.witness import WINDOW
from tests.fixtures.consensus import (
    CHAIN_ID,
    GENESIS_ID,
    GENESIS_QC,
    NOW,
    Bench,
    batch,
    block,
    certify,
    chain,
    committed,
    executed,
    of,
    persisted,
    proposals,
    reports,
    signed,
    tells,
    time_out,
    timeouts,
    vote,
    vote_data,
    votes,
)

LONG = chain(*range(1, 41))
"""Forty blocks in rounds 1 to 40."""


def ids(*blocks: Proposal) -> tuple[bytes, ...]:
    return tuple(block_id(b.header) for b in blocks)


def saved_blocks(effects: list[Effect]) -> list[int]:
    return [b.header.height for persist in of(effects, Persist) for b in persist.blocks]


# C1


def test_c1_a_commit_carries_the_qc_that_proves_it() -> None:
    """The QC's data names the last block as parent and its digest."""
    bench = Bench()
    for proposal in LONG[:2]:
        bench.propose(proposal)
    (commit,) = of(bench.learn(certify(LONG[1], (0, 2, 3))), Commit)
    assert commit == Commit((LONG[0],), certify(LONG[1], (0, 2, 3)))
    assert commit.qc.data.parent_id == block_id(LONG[0].header)


def test_c1_what_this_replica_did_not_vote_for_is_in_the_log_before_its_commit() -> None:
    """Without a safety record: nothing was signed, so no sync is needed. What it voted for is there already."""
    bench = Bench()
    bench.propose(LONG[0])
    bench.hear(3, time_out(3, certify(LONG[0])))
    effects = bench.propose(LONG[1]) + bench.propose(LONG[2]) + bench.propose(LONG[3])
    bench.learn(certify(LONG[4]))
    effects += bench.fetch(LONG[4])
    assert votes(effects) == [vote_data(LONG[3])]
    assert committed(effects) == [1, 2, 3, 4]
    unsigned = [e for e in effects if isinstance(e, Persist) and e.safety is None]
    assert [b.header.height for e in unsigned for b in e.blocks] == [2, 3]
    for persist in unsigned:
        assert isinstance(effects[effects.index(persist) + 1], Commit)


def test_c1_a_branch_beside_the_committed_chain_is_dropped_whatever_its_height() -> None:
    """The first block was committed by the branch itself, whose QCs few saw."""
    first = LONG[0]
    beside = block(first, 2, time_ms=NOW + 77)
    above = block(beside, 3, time_ms=NOW + 78)
    on = block(first, 4, tc=time_out(3, certify(first)))
    following = block(on, 5)
    bench = Bench()
    for proposal in (first, beside, above, on, following):
        bench.propose(proposal)
    assert committed(bench.learn(certify(following))) == [2]
    assert not any(identity in bench.replica.tree for identity in ids(beside, above))
    assert committed(bench.learn(certify(beside)) + bench.learn(certify(above))) == []


# The state that a certified header tells of.


@pytest.mark.parametrize("late", [False, True], ids=["executed before", "executed after"])
def test_a_certified_header_that_differs_from_the_state_here_stops_this_replica(late: bool) -> None:
    """A quorum found that state, an honest member among them: the fault is here. It follows and signs nothing."""
    b1, b2 = LONG[:2]
    b3 = block(b2, 3, **tells(executed(1, 10)))
    bench = Bench()
    for proposal in (b1, b2, b3):
        bench.propose(proposal)
    events: list[Event] = [Received(3, SyncInfo(certify(b3), None, 0)), executed(1, 20)]
    first, second = events if late else events[::-1]
    assert ("state_diverged", 0) not in reports(bench.step(first))
    before = bench.replica.halted
    assert reports(bench.step(second)) == [("state_diverged", 0)]
    assert (before, bench.replica.halted) == ("", "state differs from the committee's at height 1")
    b4 = block(b3, 5, tc=time_out(4, certify(b3)), **tells(executed(1, 10)))
    assert not votes(bench.propose(b4))
    assert not timeouts(bench.after(20_000))


def test_a_certified_header_that_tells_the_state_here_stops_nobody() -> None:
    b1, b2 = LONG[:2]
    b3 = block(b2, 3, **tells(executed(1, 10)))
    for early in (True, False):
        bench = Bench()
        for proposal in (b1, b2, b3):
            bench.propose(proposal)
        if early:
            bench.step(executed(1, 10))
        effects = bench.learn(certify(b3))
        if not early:
            effects += bench.step(executed(1, 10))
        assert (reports(effects), bench.replica.halted) == ([], "")


# Blocks by id.


def test_an_orphan_asks_for_its_parent_and_waits_for_it() -> None:
    """With all between it and what is held; who gives one a time is asked for the rest. Then all of them stand."""
    bench = Bench()
    assert of(bench.propose(LONG[3]), FetchBlocks) == [FetchBlocks(ids(LONG[2])[0], 2, (1, 2))]
    assert of(bench.fetch(LONG[2]), FetchBlocks) == [FetchBlocks(ids(LONG[1])[0], 1, (3, 1, 2))]
    assert of(bench.fetch(LONG[1]), FetchBlocks) == [FetchBlocks(ids(LONG[0])[0], 0, (3, 1, 2))]
    effects = bench.fetch(LONG[0])
    assert committed(effects) == [1, 2]
    assert votes(effects) == [vote_data(LONG[3])]


def test_blocks_that_nobody_asked_for_are_not_taken() -> None:
    """A peer answers what it likes; only what is certified and wanted enters the tree."""
    bench = Bench()
    for _ in range(2):
        assert bench.fetch(LONG[0], block(None, 1, time_ms=NOW + 3)) == []
    assert len(bench.replica.tree) == 0


def test_a_wanted_block_is_vouched_for_by_its_id_and_checked_in_all_that_the_id_names() -> None:
    """A quorum certified it: its proposer, who may have signed otherwise elsewhere, need not be asked."""
    bench = Bench()
    bench.learn(certify(LONG[0]))
    exchanged = replace(LONG[0], batches=(batch(0, 1),))
    assert reports(bench.fetch(exchanged, sender=2)) == [("bad_blocks", 2)]
    assert ids(LONG[0])[0] not in bench.replica.tree
    bench.fetch(replace(LONG[0], signature=LONG[1].signature))
    assert ids(LONG[0])[0] in bench.replica.tree


def test_what_is_remembered_of_rounds_ends_with_their_commit() -> None:
    bench = Bench()
    for proposal in LONG:
        bench.propose(proposal)
    replica = bench.replica
    assert sorted(replica.witness.headers) == [*range(40 - WINDOW, 41)]
    assert (len(replica.tree), len(replica._persisted)) == (2, 3), "the committed one is its parent"


def test_a_certified_rival_is_fetched_and_taken() -> None:
    """The leader showed this replica another block; the quorum's is asked for by its id and followed."""
    mine, theirs = block(None, 1, time_ms=NOW), block(None, 1)
    bench = Bench()
    bench.propose(mine)
    assert reports(bench.propose(theirs)) == [("evidence", 1), ("double_proposal", 1)]
    assert of(bench.learn(certify(theirs, (1, 2, 3))), FetchBlocks) == [FetchBlocks(ids(theirs)[0], 0, (3, 1, 2))]
    bench.fetch(theirs)
    second = block(theirs, 2)
    assert votes(bench.propose(second)) == [vote_data(second)]


def test_a_block_known_by_fetch_needs_no_second_signature_and_takes_none() -> None:
    """What goes into the log is the block as it was checked, whatever its proposer sends under the same id."""
    bench = Bench(me=0)
    bench.propose(LONG[0])
    bench.learn(certify(LONG[0]))
    second = block(LONG[0], 2)
    bench.replica.tree.insert(second)
    (saved,) = of(bench.propose(replace(second, signature=bytes(96))), Persist)
    assert saved.blocks == (second,)


def test_no_more_than_so_many_blocks_are_wanted() -> None:
    bench = Bench()
    for number in range(1, WANTED_LIMIT + 10):
        unseen = block(None, number, tc=time_out(number - 1) if number > 1 else None, qc=GENESIS_QC)
        bench.learn(certify(unseen))
    assert len(of(bench.after(1000), FetchBlocks)) == WANTED_LIMIT


def test_what_was_asked_is_forgotten_in_time() -> None:
    """Each round names a batch that never comes; what is asked no more is not remembered."""
    bench = Bench(me=3)
    for number in range(1, 400):
        bench.now += 300
        tc = time_out(number - 1) if number > 1 else None
        bench.propose(block(None, number, tc=tc, batches=(batch(0, 1, name=f"{number} "),), time_ms=bench.now))
    assert len(bench.replica._asked) <= 4 * WANTED_LIMIT + 1


# Blocks by range.


def test_a_replica_far_behind_asks_for_a_range() -> None:
    """More than RANGE_GAP heights: a proposal tells so by its height, a SyncInfo by that of its sender, who may lie."""
    for height, last in ((RANGE_GAP, 0), (RANGE_GAP + 1, RANGE_GAP + 1), (10**15, RANGE_MAX)):
        asked = [FetchRange(1, last, (3, 2, 1))] if last else []
        assert of(Bench().hear(3, SyncInfo(certify(LONG[9]), None, height)), FetchRange) == asked
        far = block(LONG[9], 11, height=height + 1)
        assert of(Bench().propose(far), FetchRange) == asked


def test_a_range_is_asked_for_once_in_a_while() -> None:
    bench = Bench()
    info = SyncInfo(certify(LONG[9]), None, 100)
    assert len(of(bench.hear(3, info), FetchRange)) == 1
    assert of(bench.hear(2, info), FetchRange) == []
    bench.now += 250
    assert of(bench.hear(2, info), FetchRange) == [FetchRange(1, 100, (3, 1, 2))]


def test_a_certified_range_is_followed() -> None:
    """Committed up to the last but one, which the QC proves; a block proposed meanwhile stands on it and is judged."""
    bench = Bench()
    bench.propose(LONG[20])
    effects = bench.fetch(*LONG[:20], qc=certify(LONG[19]))
    assert committed(effects) == list(range(1, 20))
    assert saved_blocks(effects) == [*range(1, 20), 21]
    assert votes(effects) == [vote_data(LONG[20])]


def test_a_range_may_overlap_what_is_held() -> None:
    bench = Bench()
    for proposal in LONG[:6]:
        bench.propose(proposal)
    assert committed(bench.fetch(*LONG[:20], qc=certify(LONG[19]))) == list(range(5, 20))


def test_a_whole_range_is_followed_by_the_next() -> None:
    """An idle chain would else be caught up with one range a message."""
    blocks = chain(*range(1, RANGE_MAX + 1))
    bench = Bench()
    bench.hear(3, SyncInfo(GENESIS_QC, None, 1000))
    effects = bench.fetch(*blocks, qc=certify(blocks[-1]), sender=2)
    last = RANGE_MAX - 1
    assert committed(effects)[-1] == last
    assert of(effects, FetchRange) == [FetchRange(last + 1, last + RANGE_MAX, (2, 3, 1))]


BAD_RANGES: dict[str, tuple[tuple[Proposal, ...], Any]] = {
    "nothing": ((), certify(LONG[4])),
    "a QC for another block": (tuple(LONG[:5]), certify(LONG[5])),
    "a QC of two": (tuple(LONG[:5]), certify(LONG[4], (0, 1))),
    "a block left out": ((*LONG[:2], *LONG[3:5]), certify(LONG[4])),
    "a block exchanged": ((*LONG[:2], block(LONG[1], 3, time_ms=NOW + 9), *LONG[3:5]), certify(LONG[4])),
    "a payload exchanged": ((*LONG[:4], replace(LONG[4], batches=(batch(0, 1),))), certify(LONG[4])),
    "a certificate exchanged": ((*LONG[:4], replace(LONG[4], qc=certify(LONG[3], (1, 2, 3)))), certify(LONG[4])),
}


@pytest.mark.parametrize("case", BAD_RANGES)
def test_a_range_that_does_not_hang_together_is_refused_whole(case: str) -> None:
    blocks, qc = BAD_RANGES[case]
    bench = Bench()
    effects = bench.fetch(*blocks, qc=qc, sender=2)
    assert (reports(effects), committed(effects)) == ([("bad_range", 2)], [])
    assert (len(bench.replica.tree), bench.replica.round) == (0, 1)


def test_a_range_that_does_not_stand_on_the_committed_block_is_refused() -> None:
    """It hangs together and is certified, and there is no saying what it stands on: nobody was asked for that one."""
    bench = Bench()
    effects = bench.fetch(*LONG[4:9], qc=certify(LONG[8]))
    assert (reports(effects), committed(effects)) == ([("bad_range", 3)], [])
    assert (len(bench.replica.tree), bench.replica.round) == (0, 1)
    for proposal in LONG[:4]:
        bench.propose(proposal)
    effects = bench.fetch(*LONG[3:9], qc=certify(LONG[8]))
    assert reports(effects) == [("bad_range", 3)], "the third is held and not committed"


def test_a_range_that_was_committed_meanwhile_accuses_nobody() -> None:
    bench = Bench()
    for proposal in LONG[:9]:
        bench.propose(proposal)
    assert reports(bench.fetch(*LONG[:3], qc=certify(LONG[2]))) == []


# The own log.


def test_a_restart_takes_its_blocks_back_and_commits_what_they_prove() -> None:
    """The markers of commits may be lost with the power: the chain in the log says them again, once."""
    before = Bench()
    for proposal in LONG[:6]:
        effects = before.propose(proposal)
    again = Bench(safety=persisted(effects)[-1], blocks=LONG[:6])
    assert committed(again.first) == [1, 2, 3, 4]
    assert saved_blocks(again.first) == []
    assert again.replica.round == before.replica.round


def test_a_restart_goes_on_above_its_root() -> None:
    root, states = Root.genesis(CHAIN_ID, 0), [executed(0)]
    for proposal in LONG[:4]:
        root = root.child(proposal)
        states.append(executed(proposal.header.height))
    before = Bench()
    for proposal in LONG[:6]:
        effects = before.propose(proposal)
    again = Bench(safety=persisted(effects)[-1], root=root, known=states, blocks=LONG[4:6])
    assert committed(again.first) == []
    effects = again.propose(LONG[6])
    assert (committed(effects), votes(effects)) == ([5], [vote_data(LONG[6])])


def test_a_restart_whose_log_lost_a_block_fetches_it() -> None:
    before = Bench()
    before.propose(LONG[0])
    before.learn(certify(LONG[0]))
    record = persisted(before.after(20_000))[-1]
    again = Bench(safety=record)
    assert of(again.first, FetchBlocks) == [FetchBlocks(ids(LONG[0])[0], 0, (1, 2))]


# Proposing.


def test_a_leader_tells_of_what_it_has_executed_and_its_chain_commits() -> None:
    """Never of more than the chain of the block commits, which others could not compare."""
    for done, told in ((0, 0), (1, 1), (2, 2), (3, 2)):
        bench = Bench()
        for proposal in LONG[:3]:
            bench.propose(proposal)
        for height in range(1, done + 1):
            bench.step(executed(height))
        bench.learn(certify(LONG[2]))
        (proposal,) = proposals(bench.after(5000))
        assert proposal.header.exec_height == told


def test_a_leader_that_executed_less_than_its_parent_tells_waits() -> None:
    parent = block(LONG[1], 3, **tells(executed(1)))
    bench = Bench()
    for proposal in (*LONG[:2], parent):
        bench.propose(proposal)
    bench.learn(certify(parent))
    assert proposals(bench.after(5000)) == []
    (proposal,) = proposals(bench.step(executed(1)))
    assert proposal.header.exec_height == 1


def test_a_leader_that_remembers_no_execution_its_chain_commits_waits() -> None:
    """Restarted on a root whose own chain commits nothing for many heights."""
    root = replace(Root.genesis(CHAIN_ID, 0), id=block_id(LONG[0].header), height=300, round=300, parent_round=298)
    assert root.commits_after() == 0
    bench = Bench(me=1, root=root, known=[executed(300)])
    assert proposals(bench.first + bench.after(5000)) == []


def test_a_proposal_is_later_than_its_parent_even_on_a_slow_clock() -> None:
    parent = block(None, 1, time_ms=NOW + 400)
    bench = Bench(me=2)
    bench.propose(parent)
    (proposal,) = proposals(bench.learn(certify(parent)))
    assert proposal.header.time_ms == NOW + 401


def test_what_a_leader_proposes_is_what_the_others_vote_for() -> None:
    """On a QC of the round before, and on a TC."""
    for first in (certify(LONG[0]), None):
        bench, other = Bench(me=2), Bench(me=3)
        for each in (bench, other):
            each.propose(LONG[0])
        effects = bench.learn(first) if first else bench.hear(0, time_out(5, certify(LONG[0])))
        (proposal,) = proposals(effects)
        assert (proposal.tc is None) == (first is not None)
        assert votes(other.propose(signed(proposal))) == [vote_data(proposal)]
        assert votes(bench.propose(signed(proposal))) == [vote_data(proposal)]
        assert saved_blocks(bench.propose(signed(proposal))) == []


# Junk.


def test_a_sender_that_is_no_member_is_not_heard() -> None:
    bench = Bench()
    for sender in (-1, 4, 65_535):
        assert reports(bench.hear(sender, vote(1, LONG[0]))) == [("unknown_sender", sender)]
    assert bench.replica._votes == {}


def test_messages_of_another_epoch_change_nothing() -> None:
    bench = Bench()
    other = replace(vote_data(LONG[0]), epoch=1)
    told = [
        bench.propose(block(None, 1, epoch=1)),
        bench.hear(1, vote(1, LONG[0], data=other)),
        bench.hear(1, replace(time_out(4), epoch=1)),
        bench.learn(certify(LONG[0], data=other)),
    ]
    assert [what for effects in told for what, _ in reports(effects)] == [
        "bad_proposal",
        "bad_vote",
        "bad_certificate",
        "bad_certificate",
    ]
    assert all(not of(effects, Broadcast) and not of(effects, Send) for effects in told)
    assert (bench.replica.round, len(bench.replica.tree)) == (1, 0)


def test_a_tick_for_nothing_does_nothing() -> None:
    bench = Bench()
    assert bench.after(1) == []


# The tree.


def test_a_full_tree_makes_room_and_keeps_the_branch_of_the_lock() -> None:
    """Thousands of rounds failed, each with a block. What is dropped can be fetched by id, should it be needed."""
    bench = Bench()
    bench.propose(LONG[0])
    bench.propose(LONG[1])
    bench.learn(certify(LONG[1]))
    tree = bench.replica.tree
    parent = tree.facts(block_id(LONG[0].header))
    assert parent is not None
    for number in range(TREE_LIMIT - len(tree)):
        tree._nodes[number.to_bytes(32, "big")] = tree._nodes[block_id(LONG[1].header)]
    assert tree.insert(LONG[2]) is None
    assert votes(bench.propose(LONG[2])) == [vote_data(LONG[2])]
    assert set(tree._nodes) == set(ids(LONG[1], LONG[2]))


def test_a_tree_takes_only_what_stands_on_it() -> None:
    tree = Tree(Root.genesis(CHAIN_ID, 0))
    assert GENESIS_ID in tree
    assert tree.insert(LONG[1]) is None
    assert tree.insert(block(None, 1, height=2)) is None
    first = tree.insert(LONG[0])
    assert first is not None
    assert tree.insert(LONG[0]) is first
    second = tree.insert(LONG[1])
    assert second is not None
    assert [n.facts.height for n in tree.ancestors(second)] == [2, 1]
    assert tree.facts(bytes(32)) is None


def test_an_orphan_whose_height_does_not_follow_is_dropped() -> None:
    bench = Bench()
    wrong = block(LONG[0], 2, height=7)
    bench.propose(wrong)
    bench.fetch(LONG[0])
    assert ids(wrong)[0] not in bench.replica.tree
    assert bench.replica.tree._orphans == {}
