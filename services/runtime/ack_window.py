"""Which Kafka offset may be acknowledged: the end of the contiguous prefix of finished records.

Acknowledging an offset says that everything before it is done. With several records in flight the later may finish
first; the window holds their acknowledgement back until the head is done. One window per partition; offsets come in
ascending order and may have gaps (compaction, transaction markers). Pure.
"""

from collections import deque


class AckWindow:
    """Records of one partition between their taking and their acknowledgement."""

    def __init__(self) -> None:
        self._taken: deque[int] = deque()
        self._done: set[int] = set()
        self._position: int | None = None

    def __len__(self) -> int:
        """Records taken and not yet part of the finished prefix."""
        return len(self._taken)

    @property
    def position(self) -> int | None:
        """The offset to commit, one past the last record of the finished prefix; None where nothing is finished."""
        return self._position

    def take(self, offset: int) -> None:
        """A record begins. Raises ValueError where offsets do not ascend: a rebalance needs a new window."""
        last = self._taken[-1] if self._taken else (self._position or 0) - 1
        if offset <= last:
            raise ValueError(f"offset {offset} after {last}")
        self._taken.append(offset)

    def finish(self, offset: int) -> list[int]:
        """A record's effects are confirmed. Returns the offsets that this adds to the finished prefix, in order.

        Raises KeyError for an offset that is not open.
        """
        if offset in self._done or offset not in self._taken:
            raise KeyError(offset)
        self._done.add(offset)
        freed = []
        while self._taken and self._taken[0] in self._done:
            head = self._taken.popleft()
            self._done.remove(head)
            freed.append(head)
            self._position = head + 1
        return freed
