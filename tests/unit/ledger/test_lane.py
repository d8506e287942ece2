"""The lane tells those who wait for an entry when a block has ordered that very entry, and not before."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger_commit import lane
from ledger_commit.adapters.block_log import BlockLog
from ledger_commit.adapters.disk import RealFile
from ledger_commit.consensus.messages import BATCH, BatchRef
from ledger_commit.lane import Lane

CHAIN = bytes(32)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


class Packed:
    """A lane over a real log, with what it announced and who was told."""

    def __init__(self, path: Path, still_open: Iterable[BatchRef] = ()) -> None:
        self.log = BlockLog(RealFile(path), CHAIN, 0)
        self.announced: list[tuple[BatchRef, bytes]] = []
        self.told: list[bytes] = []
        announce = lambda ref, encoded: self.announced.append((ref, encoded))  # noqa: E731
        self.lane = Lane(self.log, KEY, CHAIN, 0, 1 + len(tuple(still_open)), announce, still_open)

    def add(self, *entries: bytes) -> BatchRef:
        for entry in entries:
            self.lane.add(entry, 1, lambda entry=entry: self.told.append(entry))  # type: ignore[misc]
        self.lane.flush()
        return self.announced[-1][0]


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[Packed]:
    made = Packed(tmp_path / "blocks.log")
    yield made
    made.log.close()


@pytest.fixture
def before(tmp_path: Path) -> Iterator[Packed]:
    """The same replica's lane as it went on after the backup from which `packed` begins."""
    made = Packed(tmp_path / "newer.log")
    yield made
    made.log.close()


async def test_who_waits_is_told_when_the_batch_is_committed(packed: Packed) -> None:
    first, second = packed.add(b"a", b"b"), packed.add(b"c")
    packed.lane.on_commit((second,))
    assert packed.told == [b"c"]
    packed.lane.on_commit((first,))
    assert packed.told == [b"c", b"a", b"b"]


async def test_a_batch_whose_place_another_one_took_is_packed_again(packed: Packed, before: Packed) -> None:
    """A replica from an older log gives numbers again. What it holds is acknowledged only once it is ordered itself."""
    spent = [before.add(b"x"), before.add(b"y"), before.add(b"z")]
    lost = packed.add(b"a", b"b")
    assert (lost.seq, lost.digest) != (spent[0].seq, spent[0].digest)
    for ref in spent:
        packed.lane.on_commit((ref,))
    packed.lane.flush()
    assert packed.told == [], "another batch of this number was ordered, not these entries"
    again, encoded = packed.announced[-1]
    assert again.seq == 4
    assert BATCH.decode(encoded).records == (b"a", b"b")
    packed.lane.on_commit((again,))
    assert packed.told == [b"a", b"b"]


async def test_numbers_go_on_behind_what_was_committed_elsewhere(packed: Packed, before: Packed) -> None:
    packed.lane.on_commit((before.add(b"x"), before.add(b"y")))
    assert packed.add(b"a").seq == 3


async def test_batches_of_an_earlier_run_take_room_until_they_are_ordered(
    tmp_path: Path, before: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a replica that starts again and again would announce more than its peers keep of one member."""
    monkeypatch.setattr(lane, "MAX_OPEN_BATCHES", 3)
    earlier = [before.add(b"%d" % number) for number in range(3)]
    again = Packed(tmp_path / "again.log", earlier)
    assert again.lane.open_batches == 3
    assert not again.lane._room.is_set()
    again.lane.on_commit((earlier[0], replace(earlier[1], digest=bytes(32))))
    await asyncio.wait_for(again.lane.room(), 1)
    assert again.lane.open_batches == 1
    assert again.add(b"a").seq == 4
    again.log.close()


# Closed and opened again (consensus.md §8, Rejoining).


async def has_room(packed: Packed) -> bool:
    try:
        await asyncio.wait_for(packed.lane.room(), 0.01)
    except TimeoutError:
        return False
    return True


async def test_a_closed_lane_takes_nothing_however_few_batches_are_open(packed: Packed) -> None:
    ref = packed.add(b"a")
    closing = asyncio.create_task(packed.lane.closed())
    await asyncio.sleep(0)
    assert not closing.done()
    packed.lane.close()
    await closing
    packed.lane.on_commit((ref,))
    assert not await has_room(packed)
    packed.lane.reopen(1, 2)
    assert await has_room(packed)
    assert packed.add(b"b").lane == (0, 1)


async def test_a_lane_that_was_closed_while_full_stays_full(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "MAX_OPEN_BATCHES", 1)
    packed.add(b"a")
    packed.lane.close()
    packed.lane.reopen(1, 2)
    assert not await has_room(packed)


async def test_the_next_incarnation_begins_with_what_the_closed_one_has_not_ordered(
    packed: Packed, tmp_path: Path
) -> None:
    """Of this run and of those before it: nobody will order the old batches, and nothing of them is lost."""
    ordered, left = packed.add(b"a"), packed.add(b"b", b"c")
    packed.lane.on_commit((ordered,))
    again = Packed(tmp_path / "blocks.log", still_open=(left,))
    again.lane.close()
    again.lane.reopen(2, 1)
    again.lane.flush()
    (ref, encoded), *others = again.announced
    assert (others, ref.lane, ref.seq, ref.count) == ([], (0, 2), 1, 2)
    assert BATCH.decode(encoded).records == (b"b", b"c")
    packed.lane.reopen(2, 1)
    packed.lane.flush()
    packed.lane.on_commit((packed.announced[-1][0],))
    assert packed.told == [b"a", b"b", b"c"]
    again.log.close()


async def test_what_the_closed_incarnation_has_ordered_late_moves_nothing(packed: Packed) -> None:
    """A leader that had not executed the statement yet; the contract absorbs the repeat."""
    old = packed.add(b"a")
    packed.lane.reopen(2, 1)
    packed.lane.flush()
    packed.lane.on_commit((old,))
    assert (packed.told, packed.lane.open_batches) == ([], 1)
    assert packed.add(b"b").seq == 2
