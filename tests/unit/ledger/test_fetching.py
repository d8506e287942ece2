"""What a replica asks of its peers: whom, how many at once, and what a peer that is silent, lies or gives little takes away.

Peers are scripted; what they give, and who takes it, is real: a block log served by PeerServicer, and the driver's core.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claimledger.ledger.v1 import ledger_pb2
from ledger_commit import fetching
from ledger_commit.consensus.events import BlocksFetched, FetchBatches, FetchBlocks, FetchRange
from ledger_commit.consensus.messages import PROPOSAL, BatchRef, Proposal, block_id
from ledger_commit.fetching import ASKED_AT_ONCE, FETCHES_AT_ONCE, ask_in_turn
from ledger_commit.peer_service import MAX_IDS, PeerServicer
from tests.unit.ledger.machines import Machine, Neighbour
from tests.unit.ledger.test_durability import made, work

BLOCKS = 8
"""Committed blocks that a test needs."""
HURRY_S = 0.02


class Asked(Neighbour):
    """A peer that counts questions for blocks. Its answers are those of another machine, as far as `gives` lets them pass."""

    def __init__(self, of: Machine, to: Machine, gives: Callable[..., Any] | None = None) -> None:
        super().__init__(of, to)
        self.asked: list[ledger_pb2.FetchBlocksRequest] = []
        self.ended = 0
        self._gives = gives

    async def blocks(self, request: ledger_pb2.FetchBlocksRequest) -> list[ledger_pb2.FetchBlocksResponse]:
        self.asked.append(request)
        try:
            await asyncio.sleep(0.001)  # no network answers at once
            answer = list(PeerServicer(self._to.node).blocks(request))
            return await self._gives(self, answer) if self._gives else answer
        finally:
            self.ended += 1


async def silent(*_: Any) -> Any:
    await asyncio.Event().wait()


async def nothing(*_: Any) -> Any:
    return []


async def junk(_peer: Asked, answer: list[ledger_pb2.FetchBlocksResponse]) -> list[ledger_pb2.FetchBlocksResponse]:
    return [ledger_pb2.FetchBlocksResponse(block=a.block[:-1], commit_qc=a.commit_qc) for a in answer]


async def without_certificate(_peer: Asked, answer: list[ledger_pb2.FetchBlocksResponse]) -> Any:
    return [ledger_pb2.FetchBlocksResponse(block=a.block) for a in answer]


async def with_a_broken_certificate(_peer: Asked, answer: list[ledger_pb2.FetchBlocksResponse]) -> Any:
    return [ledger_pb2.FetchBlocksResponse(block=a.block, commit_qc=a.commit_qc[:-1]) for a in answer]


async def from_above(_peer: Asked, answer: list[ledger_pb2.FetchBlocksResponse]) -> Any:
    """Certified, but the first ones are kept back."""
    return answer[2:]


async def two_blocks(peer: Asked, _answer: Any) -> Any:
    """Sound, and next to nothing."""
    first = peer.asked[-1].from_height
    return list(
        PeerServicer(peer._to.node).blocks(ledger_pb2.FetchBlocksRequest(from_height=first, to_height=first + 1))
    )


async def late(_peer: Asked, answer: Any) -> Any:
    await asyncio.sleep(2 * HURRY_S)
    return answer


class Around:
    """The peers of a machine, all of them connected."""

    def __init__(self, peers: Sequence[Asked]) -> None:
        self._all = peers

    def named(self, members: Sequence[int]) -> list[Asked]:
        return [peer for member in members for peer in self._all if peer.index == member]

    def first(self, hint: int) -> list[Asked]:
        return sorted(self._all, key=lambda peer: peer.index != hint)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that has committed some blocks with three others, and serves them."""
    return asyncio.run(_at_work(tmp_path_factory.mktemp("chain")))


async def _at_work(place: Path) -> Machine:
    machines = made(place)
    for machine in machines:
        machine.start([m for m in machines if m is not machine])
    await work(machines, 0.1, lambda: all(m.node.committed_height > BLOCKS for m in machines))
    return machines[0]


class Behind:
    """A replica that has nothing yet, and three peers: indices 1, 2 and 3."""

    def __init__(self, place: Path, served: Machine, gives: Sequence[Callable[..., Any] | None]) -> None:
        self.machine = Machine(0, place / "behind")
        self.machine.start([])
        self.node = self.machine.node
        self.peers = [Asked(self.machine, served, how) for how in gives]
        for index, peer in enumerate(self.peers, start=1):
            peer.index = index
        self.node.peers = Around(self.peers)  # type: ignore[assignment]
        self.node._started = True
        self.node.replica.halted = "it follows"
        self.served = served

    def asked(self) -> list[int]:
        return [len(peer.asked) for peer in self.peers]

    def ended(self) -> list[int]:
        return [peer.ended for peer in self.peers]


@pytest.fixture
async def behind(tmp_path: Path, server: Machine) -> AsyncIterator[Callable[..., Behind]]:
    opened: list[Behind] = []

    def make(*gives: Callable[..., Any] | None) -> Behind:
        opened.append(Behind(tmp_path / str(len(opened)), server, gives))
        return opened[-1]

    yield make
    for each in opened:
        await each.node.close()


@asynccontextmanager
async def in_time(seconds: float = 2.0) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# One question.


async def test_the_next_is_asked_when_one_was_of_no_use_and_nobody_after_one_that_was() -> None:
    asked: list[int] = []

    async def ask(peer: int) -> bool:
        asked.append(peer)
        return peer == 3

    await ask_in_turn([1, 2, 3, 4], ask, 10)  # type: ignore[list-item, arg-type]
    assert asked == [1, 2, 3]


async def test_the_next_is_asked_beside_a_silent_one_and_never_more_than_two_at_once() -> None:
    asked: list[int] = []

    async def ask(peer: int) -> bool:
        asked.append(peer)
        await asyncio.Event().wait()
        return True

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10 * HURRY_S):
            await ask_in_turn([1, 2, 3, 4], ask, HURRY_S)  # type: ignore[list-item, arg-type]
    assert asked == [1, 2]
    assert len(asked) == ASKED_AT_ONCE


# Blocks by id.


def ids_down(machine: Machine, height: int) -> bytes:
    return machine.node.chain[height - 1]


LIARS = {"nothing": nothing, "junk": junk}


@pytest.mark.parametrize("lie", LIARS)
async def test_a_block_comes_with_its_ancestors_from_the_first_of_those_named_that_has_it(
    behind: Callable[..., Behind], server: Machine, lie: str
) -> None:
    here = behind(LIARS[lie], None, None)
    seen: list[Any] = []
    here.node.submit = seen.append  # type: ignore[assignment, method-assign]
    await here.node.fetching.blocks(FetchBlocks(ids_down(server, 6), 4, (1, 3)))
    assert here.asked() == [1, 0, 1], "the second was not named"
    (fetched,) = seen
    assert [block.header.height for block in fetched.blocks] == [2, 3, 4, 5, 6]
    assert (fetched.sender, fetched.qc) == (3, None)


async def test_an_answer_that_is_another_block_ends_nothing(behind: Callable[..., Behind], server: Machine) -> None:
    async def another(peer: Asked, _answer: Any) -> Any:
        other = ledger_pb2.FetchBlocksRequest(ids=[ids_down(server, 3)])
        return list(PeerServicer(peer._to.node).blocks(other))

    here = behind(another, None, None)
    seen: list[Any] = []
    here.node.submit = seen.append  # type: ignore[assignment, method-assign]
    await here.node.fetching.blocks(FetchBlocks(ids_down(server, 6), 0, (1, 2, 3)))
    assert [event.sender for event in seen] == [2]


async def test_a_silent_peer_delays_a_block_by_a_moment(
    behind: Callable[..., Behind], server: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", HURRY_S)
    here = behind(silent, None, None)
    async with in_time():
        await here.node.fetching.blocks(FetchBlocks(ids_down(server, 6), 4, (1, 2, 3)))
    assert here.asked() == [1, 1, 0]
    await settle()
    assert here.ended() == [1, 1, 0], "nobody waits for the silent one any more"


# Ranges.


USELESS = {
    "silent": silent,
    "nothing": nothing,
    "junk": junk,
    "without a certificate": without_certificate,
    "with a broken certificate": with_a_broken_certificate,
    "from above": from_above,
}


@pytest.mark.parametrize("how", USELESS)
async def test_a_range_is_asked_of_two_and_one_that_is_of_no_use_takes_nothing_away(
    behind: Callable[..., Behind], how: str
) -> None:
    """Both at once; no patience is needed."""
    here = behind(USELESS[how], None, None)
    async with in_time():
        await here.node.fetching.range(FetchRange(1, BLOCKS, (1, 2, 3)))
    assert here.node.committed_height >= BLOCKS - 2
    assert here.asked()[:2] == [1, 1]


async def test_where_two_are_of_no_use_the_third_is_asked(behind: Callable[..., Behind]) -> None:
    here = behind(junk, from_above, None)
    async with in_time():
        await here.node.fetching.range(FetchRange(1, BLOCKS, (1, 2, 3)))
    assert (here.asked(), here.node.committed_height >= BLOCKS - 2) == ([1, 1, 1], True)


async def test_a_peer_that_gives_little_does_not_cut_off_the_other(behind: Callable[..., Behind]) -> None:
    """Two sound blocks a time would be a catch-up that never ends."""
    here = behind(two_blocks, late, None)
    async with in_time():
        await here.node.fetching.range(FetchRange(1, BLOCKS, (1, 2, 3)))
    assert here.node.committed_height >= BLOCKS - 2


async def test_nobody_is_waited_for_after_all_that_was_asked_for_came(behind: Callable[..., Behind]) -> None:
    here = behind(None, silent, None)
    async with in_time(fetching.SHORT_RANGE_S):
        await here.node.fetching.range(FetchRange(1, BLOCKS, (1, 2, 3)))
    await settle()
    assert here.ended() == [1, 1, 0]


async def test_who_has_no_more_is_believed_after_a_moment(
    behind: Callable[..., Behind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The height was a lie, or that of a block that is not committed yet."""
    monkeypatch.setattr(fetching, "SHORT_RANGE_S", HURRY_S)
    here = behind(None, silent, None)
    async with in_time():
        await here.node.fetching.range(FetchRange(1, 250, (1, 2, 3)))
    assert here.node.committed_height >= BLOCKS - 2


async def test_a_range_that_follows_is_fetched_when_the_first_is_through(behind: Callable[..., Behind]) -> None:
    """The core asks for it while the answer to the first is handed in: it must not be lost for that."""
    here = behind(None, None, None)
    submit = here.node.submit

    def and_ask_on(event: Any) -> None:
        submit(event)
        if isinstance(event, BlocksFetched) and here.node.committed_height < BLOCKS - 2:
            first = here.node.committed_height + 1
            here.node._do(FetchRange(first, first + 3, (1, 2)))

    here.node.submit = and_ask_on  # type: ignore[method-assign]
    here.node._do(FetchRange(1, 4, (1, 2)))
    async with in_time():
        while here.node.committed_height < BLOCKS - 2:
            await asyncio.sleep(0.01)
    assert [request.from_height for request in here.peers[0].asked][:2] == [1, 4]


async def test_one_range_at_a_time_and_the_same_one_not_twice(behind: Callable[..., Behind]) -> None:
    here = behind(silent, silent, silent)
    for last in (5, 6, 7):
        here.node._do(FetchRange(1, last, (1, 2, 3)))
        await settle()
    assert here.asked() == [1, 1, 0]


async def test_ranges_that_hang_leave_room_for_the_payload_of_a_vote(behind: Callable[..., Behind]) -> None:
    here = behind(silent, silent, None)
    for number in range(FETCHES_AT_ONCE + 1):
        here.node._do(FetchRange(1 + number, 100, (1, 2)))
        await settle()
    ref = first_batch(here.served)
    here.node._do(FetchBatches((ref,), 3))
    async with in_time():
        while not here.node.has_batch(ref.digest):
            await asyncio.sleep(0.01)


async def test_who_names_payload_that_nobody_has_takes_no_place_of_others(
    behind: Callable[..., Behind], server: Machine
) -> None:
    """A leader that withholds it in each round of its own, and is silent when asked."""
    here = behind(silent, None, None)
    here.peers[0].batches = silent  # type: ignore[assignment, method-assign]
    ref = first_batch(server)
    for number in range(FETCHES_AT_ONCE + 1):
        here.node._do(FetchBatches((replace(ref, digest=bytes([number]) * 32),), 1))
        await settle()
    here.node._do(FetchBatches((ref,), 2))
    here.node._do(FetchBlocks(ids_down(server, 6), 0, (3,)))
    async with in_time():
        while not here.node.has_batch(ref.digest) or not here.peers[2].asked:
            await asyncio.sleep(0.01)


async def test_no_more_than_so_many_questions_are_on_their_way(behind: Callable[..., Behind]) -> None:
    here = behind(silent, None, None)
    for number in range(FETCHES_AT_ONCE + 3):
        here.node._do(FetchBlocks(bytes([number]) * 32, 0, (1,)))
    await settle()
    assert here.asked() == [FETCHES_AT_ONCE, 0, 0]


async def test_after_the_end_nothing_is_asked(behind: Callable[..., Behind]) -> None:
    """What arrives while the loop ends must not leave a task behind."""
    here = behind(silent, None, None)
    here.node._do(FetchRange(1, 5, (1,)))
    await settle()
    here.node.fetching.close()
    here.node._do(FetchRange(1, 5, (2,)))
    here.node._do(FetchBlocks(bytes(32), 0, (3,)))
    await settle()
    assert (here.asked(), here.ended()) == ([1, 0, 0], [1, 0, 0])


# Batches.


def first_batch(machine: Machine) -> BatchRef:
    return next(iter(machine.node.disk.log.refs.values()))


async def test_a_proposer_that_keeps_silent_does_not_stop_the_execution_of_its_block(
    behind: Callable[..., Behind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peers voted for it, and hold what it names."""
    monkeypatch.setattr(fetching, "PATIENCE_S", HURRY_S)
    here = behind(None, None, None)
    here.peers[0].batches = silent  # type: ignore[assignment, method-assign]
    ref = first_batch(here.served)
    async with in_time():
        await here.node.fetching.batches(FetchBatches((ref,), 1))
    assert here.node.has_batch(ref.digest)


# Serving.


def served(machine: Machine, **request: Any) -> list[Proposal]:
    answers = PeerServicer(machine.node).blocks(ledger_pb2.FetchBlocksRequest(**request))
    return [PROPOSAL.decode(answer.block) for answer in answers]


def test_a_block_is_served_before_its_ancestors_down_to_the_first_and_within_a_bound(server: Machine) -> None:
    blocks = served(server, ids=[ids_down(server, 6)], ancestors=3)
    assert [block.header.height for block in blocks] == [6, 5, 4, 3]
    for ancestors in (5, 63, 2**32 - 1):
        blocks = served(server, ids=[ids_down(server, 6)], ancestors=ancestors)
        assert [block_id(block.header) for block in blocks] == server.node.chain[:6][::-1]
    assert len(served(server, ids=[ids_down(server, 6)] * 2 * MAX_IDS, ancestors=5)) == MAX_IDS
    assert served(server, ids=[bytes(32)], ancestors=5) == []
