"""The block log: the torn end of an unfinished write is cut off, damage of what was durable is an error that names its place."""

import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_commit.adapters.block_log import BlockLog, BlockLogError, CommitMarker, reference
from ledger_commit.adapters.disk import RealFile
from ledger_commit.consensus.messages import BATCH, Batch
from tests.unit.ledger.losing_disk import LosingFile, Power, PowerLossError

CHAIN_ID = b"\x05" * 32
HEAD_BYTES = 42


def batch(seq: int) -> Batch:
    return Batch(0, 1, seq, 1, (b"entry %d" % seq,), bytes(64))


def append(log: BlockLog, seq: int) -> None:
    encoded = BATCH.encode(batch(seq))
    assert log.append_batch(batch(seq), encoded, reference(batch(seq), encoded))


@pytest.fixture
def ends(tmp_path: Path) -> list[int]:
    """A log of two batches and a commit marker at `log`, synced: where its head and each entry end."""
    log = BlockLog(RealFile(tmp_path / "log"), CHAIN_ID, 0)
    found = [log.size]
    for seq in (1, 2):
        append(log, seq)
        found.append(log.size)
    log.append_commit(CommitMarker(1, b"\x09" * 32, None))
    log.sync()
    found.append(log.size)
    log.close()
    return found


def opened(path: Path, durable_size: int) -> BlockLog:
    log = BlockLog(RealFile(path), CHAIN_ID, durable_size)
    log.close()
    return log


def test_what_was_appended_is_found_again(tmp_path: Path, ends: list[int]) -> None:
    log = BlockLog(RealFile(tmp_path / "log"), CHAIN_ID, ends[-1])
    assert [ref.seq for ref in log.refs.values()] == [1, 2]
    assert log.markers == {1: CommitMarker(1, b"\x09" * 32, None)}
    encoded = BATCH.encode(batch(2))
    assert log.batch_bytes(reference(batch(2), encoded).digest) == encoded
    assert not log.append_batch(batch(2), encoded, reference(batch(2), encoded)), "the log has it already"
    assert (log.size, log.recovered) == (ends[-1], 0)
    log.close()


def test_a_log_that_ends_anywhere_keeps_its_whole_entries(tmp_path: Path, ends: list[int]) -> None:
    """Every length: nothing had been durable, so what is left of the last write is cut and appending goes on there."""
    raw = (tmp_path / "log").read_bytes()
    path = tmp_path / "torn"
    for size in range(HEAD_BYTES, len(raw) + 1):
        path.write_bytes(raw[:size])
        whole = max(end for end in ends if end <= size)
        log = BlockLog(RealFile(path), CHAIN_ID, whole)
        assert (log.size, log.recovered, path.stat().st_size) == (whole, size - whole, whole)
        append(log, 3)
        log.sync()
        log.close()
        assert 3 in {ref.seq for ref in opened(path, 0).refs.values()}


def test_a_log_shorter_than_what_was_durable_is_refused(tmp_path: Path, ends: list[int]) -> None:
    raw = (tmp_path / "log").read_bytes()
    path = tmp_path / "short"
    for size in range(1, len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(BlockLogError, match=r"truncated|within its first 42 bytes"):
            opened(path, len(raw))
        assert path.stat().st_size == size, "evidence is left as it was found"


def test_any_flipped_bit_of_the_durable_part_is_found_and_named(tmp_path: Path, ends: list[int]) -> None:
    raw = (tmp_path / "log").read_bytes()
    path = tmp_path / "flipped"
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(BlockLogError, match=r"byte|another chain") as caught:
            opened(path, len(raw))
        place = bit // 8
        if place >= HEAD_BYTES:
            entry = max(end for end in ends if end <= place)
            assert f"damaged at byte {entry}:" in str(caught.value)
        assert path.read_bytes() == changed


def test_damage_after_the_durable_part_is_a_torn_end(tmp_path: Path, ends: list[int]) -> None:
    path = tmp_path / "log"
    raw = bytearray(path.read_bytes())
    raw[ends[1] + 20] ^= 1
    path.write_bytes(raw)
    log = opened(path, ends[1])
    assert [ref.seq for ref in log.refs.values()] == [1]
    assert log.recovered == ends[-1] - ends[1]


@pytest.mark.parametrize(
    ("kind", "payload", "why"), [(9, b"", "unknown kind of entry 9"), (3, b"short", "a commit marker ends early")]
)
def test_an_entry_that_is_none_is_damage_although_its_checksum_holds(
    tmp_path: Path, ends: list[int], kind: int, payload: bytes, why: str
) -> None:
    path = tmp_path / "log"
    crc = zlib.crc32(payload, zlib.crc32(bytes((kind,))))
    path.write_bytes(path.read_bytes() + struct.pack(">IBI", len(payload), kind, crc) + payload)
    with pytest.raises(BlockLogError, match=f"byte {ends[-1]}: {why}"):
        opened(path, path.stat().st_size)


def test_a_log_of_another_chain_is_refused(tmp_path: Path, ends: list[int]) -> None:
    with pytest.raises(BlockLogError, match="another chain"):
        BlockLog(RealFile(tmp_path / "log"), bytes(32), 0)


def test_the_digest_does_not_cover_the_signature_and_covers_the_rest() -> None:
    unsigned = BATCH.encode(batch(1))
    signed = BATCH.encode(replace(batch(1), signature=b"\x01" * 64))
    assert reference(batch(1), unsigned).digest == reference(batch(1), signed).digest
    assert reference(batch(1), unsigned).digest != reference(batch(2), BATCH.encode(batch(2))).digest


def test_unsynced_entries_are_lost_with_the_power_and_a_sync_without_entries_costs_nothing(tmp_path: Path) -> None:
    path, power = tmp_path / "log", Power()
    file = LosingFile(path, power)
    log = BlockLog(file, CHAIN_ID, 0)
    append(log, 1)
    log.sync()
    log.sync()
    assert file.syncs == 2, "one for the new file's head, one for the batch"
    append(log, 2)
    file.lose(0)
    assert [ref.seq for ref in opened(path, 0).refs.values()] == [1]


def test_what_a_killed_process_did_not_sync_is_durable_before_it_counts(tmp_path: Path) -> None:
    """The page cache has it: a batch that is sent from there, or a block that a vote relies on. Then the power goes."""
    file = LosingFile(tmp_path / "log", Power())
    append(BlockLog(file, CHAIN_ID, 0), 1)
    found = BlockLog(file, CHAIN_ID, 0)
    synced = file.syncs
    file.lose(0)
    assert opened(tmp_path / "log", 0).refs == found.refs != {}
    assert BlockLog(file, CHAIN_ID, found.size).refs == found.refs
    assert file.syncs == synced, "what had been durable costs nothing"


def test_a_sync_that_failed_is_followed_by_none_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may let go of what it could not write, and call the next one good: a vote behind it would rely on nothing."""

    def fail(_descriptor: int) -> None:
        raise OSError("the disk is gone")

    with RealFile(tmp_path / "log") as file:
        log = BlockLog(file, CHAIN_ID, 0)
        append(log, 1)
        with monkeypatch.context() as failing:
            failing.setattr(os, "fdatasync", fail)
            with pytest.raises(OSError, match="the disk is gone"):
                log.sync()
        with pytest.raises(OSError, match="an earlier sync of this file failed"):
            log.sync()


@pytest.mark.parametrize("torn", [0, 1, 41, 42])
def test_a_first_start_that_the_power_interrupts_can_be_repeated(tmp_path: Path, torn: int) -> None:
    file = LosingFile(tmp_path / "log", Power(2))
    with pytest.raises(PowerLossError):
        BlockLog(file, CHAIN_ID, 0)
    file.lose(torn)
    assert opened(tmp_path / "log", 0).size == HEAD_BYTES
