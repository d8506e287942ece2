"""How the state of a partition survives: observations of each record in a ring, and a snapshot now and then.

The observations of one record are one record of the state topic, so a crash leaves all of them or none. Two generations
of snapshots alternate; one that a crash left incomplete is passed over for the one before, and the ring reaches back
beyond that one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from claimledger.fraud.v1 import fraud_pb2
from claims.encoding import DecodeError
from fraud_scoring.features import OBSERVATIONS, Observation, Observations, PartitionState

SNAPSHOT_EVERY: Final = 512
"""Records with new claims from one snapshot to the next."""
RING: Final = 4 * SNAPSHOT_EVERY
PART_BYTES: Final = 256 * 1024

KeyedState = tuple[bytes, fraud_pb2.ScoringSnapshot]


@dataclass(slots=True)
class _Parts:
    """A snapshot as it is read back."""

    source_offset: int = -1
    parts: dict[int, bytes] = field(default_factory=dict)
    total: int = 0
    state: PartitionState | None = None
    """What a complete snapshot holds."""

    def take(self, value: fraud_pb2.ScoringSnapshot) -> None:
        """Takes a part, but not one of an older snapshot that comes late, as a replayed one does.

        Raises DecodeError at the part that completes what is no state.
        """
        if value.source_offset < self.source_offset:
            return
        if value.source_offset > self.source_offset:
            self.source_offset, self.parts, self.total, self.state = value.source_offset, {}, value.parts, None
        if value.part >= value.parts or value.parts != self.total:
            raise DecodeError(f"part {value.part} of {value.parts} in a snapshot of {self.total}", 0)
        self.parts[value.part] = value.state
        if len(self.parts) == self.total:
            self.state = PartitionState.decoded(b"".join(self.parts[i] for i in range(self.total)))


class StateLog:
    """State of one partition with what is needed to write it down and to read it back."""

    def __init__(self) -> None:
        self._state: PartitionState | None = None
        self._generations = {b"0": _Parts(), b"1": _Parts()}
        self._observed: dict[int, Observations] = {}
        self._newest = -1
        """The highest source offset of the observations read back."""
        self._entries = 0
        self._since_snapshot = 0

    def restore(self, key: bytes, value: fraud_pb2.ScoringSnapshot) -> None:
        """Takes one record of the state topic, in its order. Raises DecodeError, and then has taken nothing of it."""
        match key.split(b"/"):
            case [b"observed", place] if place.isdigit():
                seen = OBSERVATIONS.decode(value.state)
                if value.source_offset > self._newest:  # a replayed one comes late and moves nothing
                    self._newest, self._entries = value.source_offset, int(place) + 1
                self._observed[value.source_offset] = seen
            case [b"snapshot", generation, _] if generation in self._generations:
                self._generations[generation].take(value)
            case _:
                raise DecodeError("a key that no state has", 0)

    @property
    def state(self) -> PartitionState:
        """The partition's state; put together on first use after restoring."""
        if self._state is None:
            self._state = self._rebuilt()
        return self._state

    def _rebuilt(self) -> PartitionState:
        complete = [parts for parts in self._generations.values() if parts.state is not None]
        best = max(complete, key=lambda parts: parts.source_offset, default=None)
        state = best.state if best and best.state else PartitionState()
        begin = best.source_offset if best else 0
        for offset in sorted(offset for offset in self._observed if offset >= begin):
            for seen in self._observed[offset].claims:
                state.observe(seen)
            self._since_snapshot += 1
        self._observed.clear()
        for parts in self._generations.values():
            parts.state, parts.parts = None, {}
        return state

    def record(self, source_offset: int, seen: tuple[Observation, ...]) -> Iterator[KeyedState]:
        """What to write for a record whose claims `seen` are in the state now: observations, and at times a snapshot."""
        yield (
            b"observed/%d" % (self._entries % RING),
            fraud_pb2.ScoringSnapshot(source_offset=source_offset, state=OBSERVATIONS.encode(Observations(seen))),
        )
        self._entries += 1
        self._since_snapshot += 1
        if self._since_snapshot >= SNAPSHOT_EVERY:
            self._since_snapshot = 0
            yield from self._snapshot(source_offset + 1)

    def _snapshot(self, next_offset: int) -> Iterator[KeyedState]:
        generation = b"%d" % (self._entries // SNAPSHOT_EVERY % 2)
        encoded = self.state.encoded()
        total = -(-len(encoded) // PART_BYTES)
        for part in range(total):
            piece = encoded[part * PART_BYTES : (part + 1) * PART_BYTES]
            value = fraud_pb2.ScoringSnapshot(source_offset=next_offset, state=piece, part=part, parts=total)
            yield b"snapshot/%s/%d" % (generation, part), value
