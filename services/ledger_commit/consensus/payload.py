"""Which batches are here, and which of them a leader names next.

Source: consensus.md §8, Payload.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from claims.transaction import FIRST_LANE, OpenLane
from ledger_commit.consensus.evidence import SignedBatch
from ledger_commit.consensus.messages import MAX_BATCH_BYTES, MAX_BATCHES_PER_BLOCK, BatchRef

MAX_BLOCK_BYTES: Final = 8 * 1024 * 1024
"""Payload that one block may name. Who lacks it fetches it within the round before it votes, and keeps it for good whether
the block is certified or not: a leader could else have each replica write 64 MiB in every round of its own."""
MEMBER_LIMIT: Final = 1024
"""Uncommitted batches known of one member, whatever lanes and places it gives them: an honest one has 64 open at most.
What is beyond is taken only where a block names it, so that a flood of one member costs the others nothing."""
MEMBER_BYTES: Final = 128 * MAX_BATCH_BYTES
"""Their bytes, twice what an honest member has open. All of it is on every replica's disk before anything orders it."""
PLACE_LIMIT: Final = 2
"""Batches known for one place of a lane: a second one tells on its maker, a third would tell nothing more. With the place
they leave the count and not the disk, so that without this bound each commit would make room for another flood."""


Lanes = Mapping[int, OpenLane]
"""By member, where it is not FIRST_LANE."""
FIRST_LANES: Final[Lanes] = MappingProxyType({})


def is_open(lane: tuple[int, int], opened: Lanes) -> bool:
    member, incarnation = lane
    return opened.get(member, FIRST_LANE).incarnation == incarnation


class Payload:
    """Durable batches that no committed block names yet. `lanes` says which sequence comes next in each lane."""

    def __init__(self, lanes: Mapping[tuple[int, int], int]) -> None:
        self._next = dict(lanes)
        self._opened = FIRST_LANES
        self._slots: dict[tuple[int, int], dict[int, list[BatchRef]]] = {}
        """By lane and sequence. The first that came is offered; a lane that gives one place twice is told by its batches."""
        self._digests: dict[bytes, BatchRef] = {}
        self._signatures: dict[bytes, bytes] = {}
        """Of the lanes, by digest, where they are at hand."""
        self._held_of: Counter[int] = Counter()
        self._bytes_of: Counter[int] = Counter()

    def refusal(self, ref: BatchRef, *, named: bool = False) -> str:
        """Why this batch is not kept, or an empty string. One that a block under vote names is not counted against its member.

        What is refused here and was not asked for must not be written either.
        """
        checks = (
            (named or is_open(ref.lane, self._opened), "batch_of_no_lane"),
            (ref.size_bytes <= MAX_BATCH_BYTES, "batch_too_large"),
            (ref.seq >= self._next.get(ref.lane, 1), "batch_of_a_committed_place"),
            (named or len(self._rivals_of(ref)) < PLACE_LIMIT, "batch_of_a_taken_place"),
            (named or self._held_of[ref.member] < MEMBER_LIMIT, "too_many_batches"),
            (named or self._bytes_of[ref.member] + ref.size_bytes <= MEMBER_BYTES, "too_many_batch_bytes"),
        )
        return next((reason for holds, reason in checks if not holds), "")

    def open_lanes(self, opened: Lanes) -> None:
        """What the contract has executed here says which lanes are open. What is held of others goes: nobody can invent a
        lane, and a member that opens another one leaves nothing behind in memory.

        A leader that has executed less may still name a batch of a lane that is closed here; it is taken again then.
        """
        if opened == self._opened:
            return
        self._opened = opened
        self._next = {lane: following for lane, following in self._next.items() if is_open(lane, opened)}
        for lane in [lane for lane in self._slots if not is_open(lane, opened)]:
            for rivals in self._slots.pop(lane).values():
                self._forget(rivals)

    def _forget(self, held: Iterable[BatchRef]) -> None:
        for ref in held:
            del self._digests[ref.digest]
            self._signatures.pop(ref.digest, None)
            self._held_of[ref.member] -= 1
            self._bytes_of[ref.member] -= ref.size_bytes

    def _rivals_of(self, ref: BatchRef) -> list[BatchRef]:
        return self._slots.get(ref.lane, {}).get(ref.seq, [])

    def rivals(self, ref: BatchRef) -> list[SignedBatch]:
        """Other batches that are held for its place, with the signatures that are at hand."""
        others = [rival for rival in self._rivals_of(ref) if rival.digest != ref.digest]
        return [SignedBatch(r, self._signatures[r.digest]) for r in others if r.digest in self._signatures]

    def add(self, ref: BatchRef, *, signature: bytes = b"", named: bool = False) -> None:
        """Keeps it, but where there is a reason not to."""
        if ref.digest in self._digests or self.refusal(ref, named=named):
            return
        self._digests[ref.digest] = ref
        if signature:
            self._signatures[ref.digest] = signature
        self._held_of[ref.member] += 1
        self._bytes_of[ref.member] += ref.size_bytes
        self._slots.setdefault(ref.lane, {}).setdefault(ref.seq, []).append(ref)

    def missing(self, refs: tuple[BatchRef, ...]) -> tuple[BatchRef, ...]:
        return tuple(ref for ref in refs if self._digests.get(ref.digest) != ref)

    def select(
        self, lanes: Mapping[tuple[int, int], int], turn: int, opened: Lanes = FIRST_LANES
    ) -> tuple[BatchRef, ...]:
        """What a block on a branch with these lanes may name: lanes in turn, each in sequence, within the bounds.

        `turn` rotates which lane comes first, so that no lane starves under the byte bound. `opened` is as of the state that
        the block's header names.
        """
        order = sorted(lane for lane in self._slots if is_open(lane, opened))
        order = order[turn % len(order) :] + order[: turn % len(order)] if order else []
        following = {lane: lanes.get(lane, 1) for lane in order}
        chosen: list[BatchRef] = []
        size = 0
        while order:
            for lane in tuple(order):
                offered = self._slots[lane].get(following[lane])
                if (
                    not offered
                    or len(chosen) >= MAX_BATCHES_PER_BLOCK
                    or size + offered[0].size_bytes > MAX_BLOCK_BYTES
                ):
                    order.remove(lane)
                    continue
                chosen.append(offered[0])
                size += offered[0].size_bytes
                following[lane] += 1
        return tuple(chosen)

    def has_next(self, lanes: Mapping[tuple[int, int], int]) -> bool:
        """Whether `select` would name anything, by the newest state here."""
        return any(lanes.get(lane, 1) in slots for lane, slots in self._slots.items() if is_open(lane, self._opened))

    def drop_committed(self, refs: tuple[BatchRef, ...]) -> None:
        """The places of these batches are taken: they and their rivals go, and what comes late for them is not kept."""
        for ref in refs:
            self._next[ref.lane] = ref.seq + 1
            slots = self._slots.get(ref.lane, {})
            self._forget(slots.pop(ref.seq, ()))
            if not slots:
                self._slots.pop(ref.lane, None)
