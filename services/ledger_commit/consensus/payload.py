"""Which batches are here, and which of them a leader names next.

Source: consensus.md §8, Payload.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from ledger_commit.consensus.messages import INCARNATION, MAX_BATCHES_PER_BLOCK, BatchRef

MAX_BLOCK_BYTES: Final = 8 * 1024 * 1024
MEMBER_LIMIT: Final = 1024
"""Uncommitted batches known of one member, whatever lanes and places it gives them: an honest one has 64 open at most.
What is beyond is taken only where a block names it, so that a flood of one member costs the others nothing."""


class Payload:
    """Durable batches that no committed block names yet. `lanes` says which sequence comes next in each lane."""

    def __init__(self, lanes: Mapping[tuple[int, int], int]) -> None:
        self._next = dict(lanes)
        self._slots: dict[tuple[int, int], dict[int, list[BatchRef]]] = {}
        """By lane and sequence. The first that came is offered; a lane that gives one place twice is told by its batches."""
        self._digests: dict[bytes, BatchRef] = {}
        self._held_of: Counter[int] = Counter()

    def add(self, ref: BatchRef, *, named: bool = False) -> None:
        """Keeps it, but where there is no such lane, its place is committed, or its member has too many and no block under
        vote names it."""
        if ref.incarnation != INCARNATION or ref.digest in self._digests or ref.seq < self._next.get(ref.lane, 1):
            return
        if self._held_of[ref.member] >= MEMBER_LIMIT and not named:
            return
        self._digests[ref.digest] = ref
        self._held_of[ref.member] += 1
        self._slots.setdefault(ref.lane, {}).setdefault(ref.seq, []).append(ref)

    def missing(self, refs: tuple[BatchRef, ...]) -> tuple[BatchRef, ...]:
        return tuple(ref for ref in refs if self._digests.get(ref.digest) != ref)

    def select(self, lanes: Mapping[tuple[int, int], int], turn: int) -> tuple[BatchRef, ...]:
        """What a block on a branch with these lanes may name: lanes in turn, each in sequence, within the bounds.

        `turn` rotates which lane comes first, so that no lane starves under the byte bound.
        """
        order = sorted(self._slots)
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
        """Whether `select` would name anything."""
        return any(lanes.get(lane, 1) in slots for lane, slots in self._slots.items())

    def drop_committed(self, refs: tuple[BatchRef, ...]) -> None:
        """The places of these batches are taken: they and their rivals go, and what comes late for them is not kept."""
        for ref in refs:
            self._next[ref.lane] = ref.seq + 1
            slots = self._slots.get(ref.lane, {})
            for held in slots.pop(ref.seq, ()):
                del self._digests[held.digest]
                self._held_of[held.member] -= 1
            if not slots:
                self._slots.pop(ref.lane, None)
