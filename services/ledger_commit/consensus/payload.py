"""Which batches are here, and which of them a leader names next.

Source: consensus.md §8, Payload.
"""

from collections.abc import Mapping
from typing import Final

from ledger_commit.consensus.messages import MAX_BATCHES_PER_BLOCK, BatchRef

MAX_BLOCK_BYTES: Final = 8 * 1024 * 1024
LANE_LIMIT: Final = 1024
"""Batches offered ahead in one lane. What is beyond is held only so that a block that names it can be judged."""
DIGEST_LIMIT: Final = 16 * LANE_LIMIT
"""Batches known by digest over all lanes."""


class Payload:
    """Durable batches that no committed block names yet."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], dict[int, BatchRef]] = {}
        self._digests: dict[bytes, BatchRef] = {}

    def add(self, ref: BatchRef) -> bool:
        """False where the batch is not offered: the lane is full, or another batch has its place."""
        if len(self._digests) >= DIGEST_LIMIT:
            return False
        slots = self._slots.setdefault(ref.lane, {})
        self._digests[ref.digest] = ref
        if ref.seq in slots or len(slots) >= LANE_LIMIT:
            return slots.get(ref.seq) == ref
        slots[ref.seq] = ref
        return True

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
                ref = self._slots[lane].get(following[lane])
                if ref is None or len(chosen) >= MAX_BATCHES_PER_BLOCK or size + ref.size_bytes > MAX_BLOCK_BYTES:
                    order.remove(lane)
                    continue
                chosen.append(ref)
                size += ref.size_bytes
                following[lane] += 1
        return tuple(chosen)

    def has_next(self, lanes: Mapping[tuple[int, int], int]) -> bool:
        """Whether `select` would name anything."""
        return any(lanes.get(lane, 1) in slots for lane, slots in self._slots.items())

    def drop_committed(self, refs: tuple[BatchRef, ...]) -> None:
        for ref in refs:
            self._digests.pop(ref.digest, None)
            slots = self._slots.get(ref.lane)
            if slots is not None:
                other = slots.pop(ref.seq, None)
                if other is not None:
                    self._digests.pop(other.digest, None)
                if not slots:
                    del self._slots[ref.lane]
