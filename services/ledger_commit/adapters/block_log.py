"""The ledger as a replica keeps it: blocks, batches and commit markers, appended to one file.

The file begins with magic(8) ‖ format(2) ‖ chain_id(32). An entry is length(4) ‖ kind(1) ‖ crc32(4) over kind and payload ‖
payload. One file for blocks and batches means one sync before a vote. Everything that replicas agreed on can be
rebuilt from here; SQL is a projection.

Source: consensus.md §8.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from claims.encoding import DecodeError
from ledger_commit.adapters.disk import DiskFile
from ledger_commit.consensus.messages import (
    BATCH,
    PROPOSAL,
    QUORUM_CERT,
    Batch,
    BatchRef,
    Proposal,
    QuorumCert,
    block_id,
)

_MAGIC: Final = b"CLBLOCKS"
_FORMAT: Final = 1
_FILE_HEAD: Final = struct.Struct(">8sH32s")
_ENTRY_HEAD: Final = struct.Struct(">IBI")
MAX_ENTRY_BYTES: Final = 16 * 1024 * 1024


class EntryKind(IntEnum):
    BLOCK = 1
    BATCH = 2
    COMMIT = 3


class BlockLogError(Exception):
    """The log is damaged where it had been durable, or belongs to another chain. Names the byte offset."""


@dataclass(frozen=True, slots=True)
class CommitMarker:
    """The block of this id is committed at this height; `qc` is the certificate that commits it directly, if any."""

    height: int
    id: bytes
    qc: QuorumCert | None


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    length: int


class BlockLog:
    """Append-only. `recovered` tells how many bytes of an unfinished write were cut off at the end.

    What is found is durable: a process that was killed before its sync leaves entries that the next one reads, and relies on,
    while only the page cache has them.
    """

    def __init__(self, file: DiskFile, chain_id: bytes, durable_size: int) -> None:
        self._file = file
        self._blocks: dict[bytes, _Place] = {}
        self._batches: dict[bytes, _Place] = {}
        self.refs: dict[bytes, BatchRef] = {}
        self.markers: dict[int, CommitMarker] = {}
        self.recovered = 0
        if file.size() < _FILE_HEAD.size and durable_size == 0:  # new, or its first write was interrupted
            file.write(0, _FILE_HEAD.pack(_MAGIC, _FORMAT, chain_id))
            file.sync()
        self._check_head(chain_id)
        self.size = _FILE_HEAD.size
        self._scan(durable_size)
        self._dirty = self.size > max(durable_size, _FILE_HEAD.size)
        self.sync()

    def _check_head(self, chain_id: bytes) -> None:
        raw = self._file.read(0, _FILE_HEAD.size)
        if len(raw) < _FILE_HEAD.size:
            raise BlockLogError("the block log ends within its first 42 bytes")
        magic, version, found = _FILE_HEAD.unpack(raw)
        if (magic, version) != (_MAGIC, _FORMAT):
            raise BlockLogError("the block log does not begin with its format, at byte 0")
        if found != chain_id:
            raise BlockLogError("the block log belongs to another chain, at byte 10")

    # Reading at start.

    def _scan(self, durable_size: int) -> None:
        end = self._file.size()
        if end < durable_size:
            raise BlockLogError(f"the block log is truncated: {end} bytes where {durable_size} had been durable")
        while self.size < end:
            try:
                kind, payload = self._entry(self.size, end)
                self._index(kind, payload, _Place(self.size + _ENTRY_HEAD.size, len(payload)))
            except (BlockLogError, DecodeError) as error:
                if self.size < durable_size:
                    raise BlockLogError(f"the block log is damaged at byte {self.size}: {error}") from error
                self.recovered = end - self.size
                self._file.truncate(self.size)
                return
            self.size += _ENTRY_HEAD.size + len(payload)

    def _entry(self, offset: int, end: int) -> tuple[int, bytes]:
        raw = self._file.read(offset, _ENTRY_HEAD.size)
        if len(raw) < _ENTRY_HEAD.size:
            raise BlockLogError("an entry's head ends early")
        length, kind, crc = _ENTRY_HEAD.unpack(raw)
        if length > MAX_ENTRY_BYTES or offset + _ENTRY_HEAD.size + length > end:
            raise BlockLogError(f"an entry of {length} bytes ends early")
        payload = self._file.read(offset + _ENTRY_HEAD.size, length)
        if zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != crc:
            raise BlockLogError("checksum differs")
        return kind, payload

    def _index(self, kind: int, payload: bytes, place: _Place) -> None:
        match kind:
            case EntryKind.BLOCK:
                self._blocks[block_id(PROPOSAL.decode(payload).header)] = place
            case EntryKind.BATCH:
                batch = BATCH.decode(payload)
                ref = reference(batch, payload)
                self._batches[ref.digest] = place
                self.refs[ref.digest] = ref
            case EntryKind.COMMIT:
                marker = _read_marker(payload)
                self.markers[marker.height] = marker
            case _:
                raise BlockLogError(f"unknown kind of entry {kind}")

    # Writing.

    def append_block(self, proposal: Proposal) -> None:
        identity = block_id(proposal.header)
        if identity not in self._blocks:
            self._blocks[identity] = self._append(EntryKind.BLOCK, PROPOSAL.encode(proposal))

    def append_batch(self, batch: Batch, encoded: bytes, ref: BatchRef) -> bool:
        """False where the log has it already."""
        assert batch.seq == ref.seq
        if ref.digest in self._batches:
            return False
        self._batches[ref.digest] = self._append(EntryKind.BATCH, encoded)
        self.refs[ref.digest] = ref
        return True

    def append_commit(self, marker: CommitMarker) -> None:
        """Not synced for itself: a lost marker is found again from the certificates."""
        if marker.height in self.markers:
            return
        qc = QUORUM_CERT.encode(marker.qc) if marker.qc else b""
        self._append(EntryKind.COMMIT, marker.height.to_bytes(8, "big") + marker.id + qc)
        self.markers[marker.height] = marker

    def _append(self, kind: EntryKind, payload: bytes) -> _Place:
        crc = zlib.crc32(payload, zlib.crc32(bytes((kind,))))
        self._file.write(self.size, _ENTRY_HEAD.pack(len(payload), kind, crc) + payload)
        place = _Place(self.size + _ENTRY_HEAD.size, len(payload))
        self.size += _ENTRY_HEAD.size + len(payload)
        self._dirty = True
        return place

    def sync(self) -> None:
        """Everything appended is durable; costs nothing where nothing was."""
        if self._dirty:
            self._file.sync()
            self._dirty = False

    # Reading.

    def block(self, identity: bytes) -> Proposal | None:
        place = self._blocks.get(identity)
        return PROPOSAL.decode(self._file.read(place.offset, place.length)) if place else None

    def batch_bytes(self, digest: bytes) -> bytes | None:
        """The batch's encoding."""
        place = self._batches.get(digest)
        return self._file.read(place.offset, place.length) if place else None

    def batch_signature(self, digest: bytes) -> bytes:
        """The lane's, for a batch that is here: the last field of its encoding."""
        place = self._batches[digest]
        return self._file.read(place.offset + place.length - 64, 64)

    def has_batch(self, digest: bytes) -> bool:
        return digest in self._batches

    def blocks_not(self, known: set[bytes]) -> Iterator[Proposal]:
        """All blocks of the log but those of these ids."""
        for identity in self._blocks:
            if identity not in known:
                block = self.block(identity)
                assert block is not None
                yield block

    def close(self) -> None:
        self._file.close()


def reference(batch: Batch, encoded: bytes) -> BatchRef:
    """How a block names the batch. The digest counts the last 64 bytes, the signature, as zeros (`batch_digest`)."""
    digest = hashlib.sha256(encoded[:-64] + bytes(64)).digest()
    return BatchRef(batch.member, batch.incarnation, batch.seq, digest, batch.count, len(encoded))


def _read_marker(payload: bytes) -> CommitMarker:
    if len(payload) < 40:
        raise BlockLogError("a commit marker ends early")
    qc = QUORUM_CERT.decode(payload[40:]) if len(payload) > 40 else None
    return CommitMarker(int.from_bytes(payload[:8], "big"), payload[8:40], qc)
