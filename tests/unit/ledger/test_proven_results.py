"""Results in order with their proofs: the same from memory and from the projection, and no further than they are proven."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from claims.result import CLAIM_RESULT, ClaimResult
from ledger_commit import ledger, results
from ledger_commit.consensus.messages import HEADER, QUORUM_CERT, block_id
from ledger_commit.publications import Proven
from ledger_commit.results import CLAIM_RESULT_VERSION, ProvenResults, block_message
from tests.fixtures.executed import CERTIFICATE, Executor, history, time_of

NO_CLAIMS = 4
"""Leaves of a plan, of its members, and of the two reviews."""


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[Executor]:
    """With a history whose results are all proven."""
    made = Executor(tmp_path)
    await made.projection.open()
    await made.execute(*history(2))
    yield made
    await made.projection.close()


async def paged(results: ProvenResults, page: int) -> list[Proven]:
    found, leaf, following = [], -1, 0
    while following != leaf:
        leaf = following
        items, following = await results.proven(leaf, page)
        found += items
    return found


def reading(executor: Executor, times: Callable[[int], int | None]) -> ProvenResults:
    return ProvenResults(executor.ledger, executor.projection, times)


@pytest.mark.parametrize("page", [1, 3, 100])
async def test_pages_of_any_size_give_every_claim_once_in_order(executor: Executor, page: int) -> None:
    """With its block's time and the proof of its leaf; what is no claim takes a leaf and gives nothing."""
    found = await paged(executor.results, page)
    bodies = await executor.results.bodies(0, 100)
    claims = [leaf for leaf, body in enumerate(bodies) if body[0] == CLAIM_RESULT_VERSION]
    assert [item.leaf for item in found] == claims
    assert len(claims) == executor.results.size - NO_CLAIMS == len(bodies) - NO_CLAIMS
    for item in found:
        body = bodies[item.leaf]
        proof = executor.ledger.prove(item.leaf, body)
        assert proof is not None
        assert item == Proven(
            item.leaf, CLAIM_RESULT.decode(body), proof.SerializeToString(), time_of(item.result.height)
        )


async def test_what_memory_has_let_go_comes_from_the_projection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a page of which memory still has the second half."""
    forgetful, other = Executor(tmp_path / "forgetful"), Executor(tmp_path / "other")
    for executor, kept in ((forgetful, 5), (other, 1000)):
        monkeypatch.setattr(ledger, "RECENT_LEAVES", kept)
        await executor.projection.open()
        await executor.execute(*history(2))
    size = other.results.size
    assert [forgetful.ledger.recent(leaf) is None for leaf in (0, size - 6, size - 5)] == [True, True, False]
    assert await paged(forgetful.results, 4) == await paged(other.results, 4)
    for executor in (forgetful, other):
        await executor.projection.close()


async def test_nothing_is_given_beyond_what_is_proven(executor: Executor) -> None:
    """The next block has results, and only the one after it proves them."""
    size = executor.results.size
    more = history(3)[len(history(2)) - 1 :]
    await executor.execute(more[0])
    assert len(executor.ledger.state.results) > size
    assert await executor.results.proven(size, 10) == ([], size)
    await executor.execute(*more[1:3])
    assert (await executor.results.proven(size, 10))[1] > size


async def test_only_what_is_wanted_is_given(executor: Executor) -> None:
    def of_borealis(result: ClaimResult) -> bool:
        return result.payer == "borealis"

    found, following = await executor.results.proven(0, 100, of_borealis)
    assert [item.result.payer for item in found] == ["borealis"] * 2
    assert following == executor.results.size


async def test_a_page_ends_with_the_proof_that_fills_it_and_the_next_one_goes_on_behind(executor: Executor) -> None:
    """A proof larger than a page comes alone, and none is left out."""
    whole = await paged(executor.results, 100)
    two = len(whole[0].proof) + 1
    for most, sizes in ((1, {1}), (two, {1, 2}), (10**9, {len(whole)})):
        found, counts, leaf, following = [], set(), -1, 0
        while following != leaf:
            leaf = following
            items, following = await executor.results.proven(leaf, 100, most_bytes=most)
            counts.add(len(items))
            found += items
        assert (found, counts - {0}) == (whole, sizes)


async def test_a_page_lets_others_have_their_turn(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two results where a slice has no length at all, and never where it has no end."""
    size = len(await paged(executor.results, 100))
    monkeypatch.setattr(results, "SLICE_S", 3600)
    assert await _turns_during(executor.results.proven(0, 100)) <= 1
    monkeypatch.setattr(results, "SLICE_S", 0)
    assert await _turns_during(executor.results.proven(0, 100)) >= 2 * (size - 1)


async def _turns_during(work: Coroutine[Any, Any, object]) -> int:
    """How often the loop came round while this was done."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await work
    counting.cancel()
    return turns


async def test_times_of_old_blocks_come_from_the_projection(executor: Executor) -> None:
    """As after a broker was away for more blocks than are remembered, or another replica took over."""
    late = executor.height - 2
    forgetful = reading(executor, lambda height: time_of(height) if height > late else None)
    assert await paged(forgetful, 100) == await paged(executor.results, 100)


async def test_a_result_whose_block_nobody_knows_yet_waits(executor: Executor, tmp_path: Path) -> None:
    """Executed in the worker thread; the loop, and so the projection, has not been told."""
    found = await paged(executor.results, 100)
    height = found[-1].result.height
    known = {h: time_of(h) for h in range(height)}
    empty = Executor(tmp_path / "empty")
    await empty.projection.open()
    waiting = ProvenResults(executor.ledger, empty.projection, known.get)
    items, following = await waiting.proven(0, 100)
    assert items == [item for item in found if item.result.height < height]
    assert following == min(item.leaf for item in found if item.result.height == height)
    known[height] = time_of(height)
    assert (await waiting.proven(following, 100))[0] == found[len(items) :]
    await empty.projection.close()


async def test_a_block_is_shown_as_it_was_projected(executor: Executor) -> None:
    """With its certificate where it was committed directly; the header is the one that was executed."""
    (row,) = await executor.projection.blocks(4, 1)
    shown = block_message(row)
    header = HEADER.decode(shown.header)
    assert (shown.height, shown.id, shown.time_ms) == (4, block_id(header), time_of(4))
    assert (header.height, header.exec_results_size) == (4, row.first_leaf)
    assert (shown.round, shown.proposer, shown.batches, shown.entries) == (4, "aurora", 1, len(history(2)[3]))
    assert (shown.commit_qc, shown.results) == (QUORUM_CERT.encode(CERTIFICATE), 2)
    (indirect,) = await executor.projection.blocks(6, 1)
    assert block_message(indirect).commit_qc == b""


async def test_waiting_ends_when_more_can_be_proven_or_after_the_time(executor: Executor) -> None:
    waiting = asyncio.create_task(executor.results.wait(60))
    await asyncio.sleep(0)
    executor.results.wake()
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(executor.results.wait(0.01), 1)
