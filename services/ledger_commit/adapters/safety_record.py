"""What a replica must never forget, in two slots of 4 KiB written in turn.

No rename and no new directory entry: a write and one fdatasync. A slot is magic(4) ‖ format(2) ‖ sequence(8) ‖ log_size(8)
‖ length(4) ‖ crc32(4) ‖ SafetyRecord. A crash in the middle of a write leaves the other slot, and nothing that relied on the
unfinished one was sent. `log_size` is how much of the block log was durable then: damage before it is damage, and
not the torn end of an unfinished write.

Source: consensus.md §8; ADR 0009 (CRC-32 of zlib instead of CRC32C).
"""

import struct
import zlib
from typing import Final

from claims.encoding import DecodeError
from ledger_commit.adapters.disk import DiskFile
from ledger_commit.consensus.events import SAFETY_RECORD, SafetyRecord

SLOT_BYTES: Final = 4096
_HEAD: Final = struct.Struct(">4sHQQII")
_MAGIC: Final = b"CLSR"
_FORMAT: Final = 1


class SafetyRecordLostError(Exception):
    """There is no trustworthy record: the replica must not vote. `reason` says what was found."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the safety record is lost: {reason}")
        self.reason = reason


class SafetyFile:
    """The record on disk."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._sequence = 0

    @property
    def is_new(self) -> bool:
        """Nothing was ever written."""
        return self._file.size() == 0

    def load(self) -> tuple[SafetyRecord, int]:
        """The latest record and the log size with it, durable: a process that was killed in the middle of a save leaves a
        record that only the page cache has. Raises SafetyRecordLostError."""
        self._file.sync()
        found = [slot for slot in map(self._read, (0, 1)) if slot]
        if not found:
            raise SafetyRecordLostError("no slot holds a valid record")
        self._sequence, log_size, data = max(found)
        try:
            return SAFETY_RECORD.decode(data), log_size
        except DecodeError as error:
            raise SafetyRecordLostError(str(error)) from error

    def save(self, record: SafetyRecord, log_size: int) -> None:
        """Durable when it returns."""
        data = SAFETY_RECORD.encode(record)
        self._sequence += 1
        crc = zlib.crc32(data, zlib.crc32(struct.pack(">QQ", self._sequence, log_size)))
        slot = _HEAD.pack(_MAGIC, _FORMAT, self._sequence, log_size, len(data), crc) + data
        assert len(slot) <= SLOT_BYTES, "the record fits its slot for every committee size"
        self._file.write(self._sequence % 2 * SLOT_BYTES, slot.ljust(SLOT_BYTES, b"\x00"))
        self._file.sync()

    def _read(self, slot: int) -> tuple[int, int, bytes] | None:
        raw = self._file.read(slot * SLOT_BYTES, SLOT_BYTES)
        if len(raw) < _HEAD.size:
            return None
        magic, version, sequence, log_size, length, crc = _HEAD.unpack_from(raw)
        data = raw[_HEAD.size : _HEAD.size + length]
        if (magic, version) != (_MAGIC, _FORMAT) or len(data) != length:
            return None
        if zlib.crc32(data, zlib.crc32(struct.pack(">QQ", sequence, log_size))) != crc:
            return None
        return sequence, log_size, data

    def close(self) -> None:
        self._file.close()
