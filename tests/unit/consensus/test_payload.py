"""Which batches are known, and which a block may name next."""

from dataclasses import replace

import pytest

from ledger_commit.consensus.events import BatchStored, FetchBatches
from ledger_commit.consensus.messages import MAX_BATCH_BYTES, MAX_BATCHES_PER_BLOCK, BatchRef
from ledger_commit.consensus.payload import MAX_BLOCK_BYTES, MEMBER_BYTES, MEMBER_LIMIT, PLACE_LIMIT, Payload
from ledger_commit.consensus.tree import advance_lanes, lanes_follow
from tests.fixtures.consensus import Bench, batch, block, certify, of, proposals, reports, vote_data, votes


def seqs(chosen: tuple[object, ...]) -> list[tuple[int, int]]:
    return [(ref.member, ref.seq) for ref in chosen]  # type: ignore[attr-defined]


@pytest.fixture
def payload() -> Payload:
    return Payload({})


def test_lanes_are_served_in_turn_and_in_sequence(payload: Payload) -> None:
    for ref in (batch(0, 2), batch(1, 1), batch(0, 1), batch(2, 2), batch(0, 4)):
        payload.add(ref)
    assert seqs(payload.select({}, 0)) == [(0, 1), (1, 1), (0, 2)]
    assert seqs(payload.select({}, 1)) == [(1, 1), (0, 1), (0, 2)]
    assert seqs(payload.select({(0, 1): 2, (2, 1): 2}, 0)) == [(0, 2), (1, 1), (2, 2)]
    assert payload.select({(0, 1): 3, (1, 1): 2}, 0) == ()


def test_there_is_a_next_where_select_names_one(payload: Payload) -> None:
    assert not payload.has_next({})
    assert payload.select({}, 3) == ()
    payload.add(batch(0, 2))
    assert not payload.has_next({})
    assert payload.has_next({(0, 1): 2})


def test_a_block_is_bounded_in_batches_and_bytes(payload: Payload) -> None:
    for seq in range(1, MAX_BATCHES_PER_BLOCK + 10):
        payload.add(batch(0, seq))
    assert len(payload.select({}, 0)) == MAX_BATCHES_PER_BLOCK
    size = MAX_BLOCK_BYTES // 9
    for rest, fits in ((MAX_BLOCK_BYTES - 9 * size, True), (MAX_BLOCK_BYTES - 9 * size + 1, False)):
        large = Payload({})
        for member in range(9):
            large.add(batch(member, 1, size_bytes=size))
        large.add(batch(9, 1, size_bytes=rest))
        assert seqs(large.select({}, 0)) == [(member, 1) for member in range(10 if fits else 9)]
        assert seqs(large.select({}, 9)) == [(9, 1), *((member, 1) for member in range(9 if fits else 8))]


def test_what_is_selected_may_be_named_and_nothing_larger(payload: Payload) -> None:
    """A leader and those who judge its block go by one bound, of a batch and of a block."""
    for seq in range(1, 12):
        payload.add(batch(0, seq, size_bytes=MAX_BATCH_BYTES))
    payload.add(batch(1, 1, size_bytes=MAX_BATCH_BYTES + 1))
    full = payload.select({}, 0)
    assert len(full) * MAX_BATCH_BYTES == MAX_BLOCK_BYTES
    over = replace(full[0], size_bytes=MAX_BATCH_BYTES + 1)
    for named, reported in (
        (full, []),
        ((*full, batch(0, 9, size_bytes=1)), [("bad_proposal", 1)]),
        ((over,), [("bad_proposal", 1)]),
    ):
        assert reports(Bench(me=2).propose(block(None, 1, batches=named))) == reported


def test_two_batches_in_one_place_are_both_known_and_the_first_is_offered(payload: Payload) -> None:
    """Their lane's maker signed both; another leader may have the other one, and its block can be judged."""
    one, rival = batch(0, 1), batch(0, 1, name="rival ")
    payload.add(one)
    payload.add(rival)
    assert payload.missing((one, rival)) == ()
    assert payload.select({}, 0) == (one,)
    payload.drop_committed((rival,))
    assert payload.missing((one, rival)) == (one, rival)
    assert payload._held_of[0] == 0


def test_a_batch_of_a_committed_place_is_not_kept(payload: Payload) -> None:
    """One that catches up fetches payload after its commit: kept, it would fill the table for good."""
    payload.drop_committed((batch(0, 1), batch(0, 2)))
    for ref in (batch(0, 1), batch(0, 2), batch(0, 1, name="rival ")):
        payload.add(ref)
    assert (payload._digests, payload._slots) == ({}, {})
    again = Payload({(0, 1): 3})
    again.add(batch(0, 2))
    again.add(batch(0, 3))
    assert list(again._digests.values()) == [batch(0, 3)]


def test_a_member_that_floods_costs_the_others_nothing(payload: Payload) -> None:
    """Whatever places it gives them. A batch of it that a block under vote names is taken all the same."""
    for number in range(MEMBER_LIMIT + 10):
        payload.add(batch(0, 1 + number // 2, name=f"{number % 2} "))
    assert len(payload._digests) == MEMBER_LIMIT
    payload.add(batch(0, 10**6))
    assert payload.missing((batch(0, 10**6),)) != ()
    payload.add(batch(0, 10**6), named=True)
    assert payload._bytes_of[0] == (MEMBER_LIMIT + 1) * 5000
    payload.add(batch(1, 1))
    assert payload.missing((batch(0, 10**6), batch(1, 1))) == ()


def test_a_member_has_a_bound_in_bytes(payload: Payload) -> None:
    whole = MEMBER_BYTES // MAX_BATCH_BYTES
    for seq in range(1, whole + 1):
        payload.add(batch(0, seq, size_bytes=MAX_BATCH_BYTES))
    assert len(payload._digests) == whole
    assert payload.refusal(batch(0, whole + 1, size_bytes=1)) == "too_many_batch_bytes"
    assert payload.refusal(batch(1, 1)) == ""
    payload.drop_committed((batch(0, 1),))
    assert payload.refusal(batch(0, whole + 1, size_bytes=MAX_BATCH_BYTES)) == ""


def test_a_place_has_a_bound(payload: Payload) -> None:
    """Rivals leave the count with their place and not the disk, so a flood of them would begin again with each commit."""
    for number in range(PLACE_LIMIT + 1):
        payload.add(batch(0, 1, name=f"{number} "))
    assert len(payload._digests) == PLACE_LIMIT
    third = batch(0, 1, name=f"{PLACE_LIMIT} ")
    payload.add(third, named=True)
    assert payload.missing((third,)) == ()


def test_a_block_that_names_a_batch_beyond_the_bound_can_be_judged() -> None:
    bench = Bench(me=2)
    for number in range(MEMBER_LIMIT):
        bench.step(BatchStored(batch(0, 100 + number)))
    bench.step(BatchStored(batch(0, 1)))
    proposal = block(None, 1, batches=(batch(0, 1),))
    effects = bench.propose(proposal)
    assert (votes(effects), of(effects, FetchBatches)) == ([], [FetchBatches((batch(0, 1),), 1)])
    assert votes(bench.step(BatchStored(batch(0, 2)))) == []
    assert votes(bench.step(BatchStored(batch(0, 1)))) == [vote_data(proposal)]


@pytest.mark.parametrize("ref", [batch(4, 1), batch(0, 1, incarnation=0)], ids=["no member", "no incarnation"])
def test_a_batch_of_no_lane_gets_no_vote(ref: BatchRef) -> None:
    """Which incarnation is open is another matter, see test_rejoining.py."""
    bench = Bench(me=2)
    bench.step(BatchStored(ref))
    assert reports(bench.propose(block(None, 1, batches=(ref,)))) == [("bad_proposal", 1)]


def test_a_batch_of_another_incarnation_is_not_offered(payload: Payload) -> None:
    payload.add(batch(0, 1, incarnation=2))
    assert payload.select({}, 0) == ()


def test_no_payload_is_proposed_while_execution_lags() -> None:
    """More than 64 committed blocks wait for the contract: the leader orders nothing more, but goes on."""
    for last, ordered in ((66, (batch(0, 1),)), (67, ())):
        bench = Bench(me=last % 4)
        parent = block(None, 1)
        bench.propose(parent)
        for number in range(2, last):
            parent = block(parent, number)
            bench.propose(parent)
        bench.step(BatchStored(batch(0, 1)))
        (proposal,) = proposals(bench.learn(certify(parent)))
        assert bench.replica.committed.height - bench.replica.executed_height == last - 2
        assert (proposal.header.round, proposal.batches) == (last, ordered)


def test_a_lane_advances_by_the_batches_of_a_block() -> None:
    lanes = advance_lanes({(0, 1): 4}, (batch(0, 4), batch(0, 5), batch(1, 1)))
    assert lanes == {(0, 1): 6, (1, 1): 2}
    assert advance_lanes(lanes, ()) is lanes
    assert lanes_follow(lanes, (batch(0, 6), batch(2, 1)))
    assert not lanes_follow(lanes, (batch(0, 5),))
