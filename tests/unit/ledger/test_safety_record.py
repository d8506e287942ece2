"""Two slots in turn: whichever write the power interrupts, the other slot holds."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_commit.adapters.disk import RealFile, make_durable_directory
from ledger_commit.adapters.safety_record import SLOT_BYTES, SafetyFile, SafetyRecordLostError
from ledger_commit.consensus.events import SafetyRecord
from ledger_commit.opening import fresh_safety
from tests.unit.ledger.losing_disk import LosingFile, Power, PowerLossError

CHAIN_ID = bytes(32)


def record(last_voted_round: int) -> SafetyRecord:
    return replace(fresh_safety(CHAIN_ID), last_voted_round=last_voted_round)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record saved for rounds 1, 2 and 3: slot 1 holds the newest."""
    place = tmp_path / "safety.rec"
    with RealFile(place) as file:
        safety = SafetyFile(file)
        for number in (1, 2, 3):
            safety.save(record(number), number * 100)
        assert file.syncs == 3, "each save is durable before it returns"
    return place


def loaded(path: Path) -> tuple[int, int]:
    with RealFile(path) as file:
        safety, log_size = SafetyFile(file).load()
        return safety.last_voted_round, log_size


def change(path: Path, offset: int, data: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)


def test_the_newest_slot_counts(path: Path) -> None:
    assert loaded(path) == (3, 300)
    assert path.stat().st_size == 2 * SLOT_BYTES


@pytest.mark.parametrize("offset", [0, 4, 6, 13, 14, 21, 22, 26, 29, 30, 60])
def test_a_torn_newest_slot_leaves_the_one_before(path: Path, offset: int) -> None:
    """Each field of the slot's head, and its content, is covered by a check."""
    byte = path.read_bytes()[SLOT_BYTES + offset]
    change(path, SLOT_BYTES + offset, bytes((byte ^ 1,)))
    assert loaded(path) == (2, 200)


def test_a_torn_oldest_slot_changes_nothing(path: Path) -> None:
    change(path, 0, bytes(SLOT_BYTES))
    assert loaded(path) == (3, 300)


@pytest.mark.parametrize("content", [b"", b"\x00" * 10, bytes(2 * SLOT_BYTES), b"CLSR" * 2048])
def test_without_a_valid_slot_the_record_is_lost_by_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SafetyRecordLostError, match="no slot holds a valid record"):
        loaded(path)


def test_a_later_save_goes_over_the_torn_slot_and_not_over_the_good_one(path: Path) -> None:
    change(path, SLOT_BYTES, bytes(100))
    power = Power()
    file = LosingFile(path, power)
    safety = SafetyFile(file)
    assert safety.load()[0].last_voted_round == 2
    power.off_at = power.operations + 2  # after the write, at its sync
    with pytest.raises(PowerLossError):
        safety.save(record(4), 400)
    file.lose(20)
    assert loaded(path) == (2, 200)


@pytest.mark.parametrize("torn", [0, 1, 29, 30, 100, 4095, 4096])
def test_a_save_that_the_power_interrupts_gives_the_old_or_the_new_record(path: Path, torn: int) -> None:
    power = Power()
    file = LosingFile(path, power)
    safety = SafetyFile(file)
    safety.load()
    power.off_at = power.operations + 2  # after the write, at its sync
    with pytest.raises(PowerLossError):
        safety.save(record(4), 400)
    file.lose(torn)
    assert loaded(path) in {(3, 300), (4, 400)}
    assert torn > 29 or loaded(path) == (3, 300)


def test_a_record_that_a_killed_process_did_not_sync_is_durable_before_it_counts(path: Path) -> None:
    """The page cache has it, and its vote is sent again from there; then the power goes."""
    file = LosingFile(path, Power())
    killed = SafetyFile(file)
    killed.load()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file, "sync", lambda: None)
        killed.save(record(4), 400)
    assert SafetyFile(file).load() == (record(4), 400)
    file.lose(0)
    assert loaded(path) == (4, 400)


def test_directory_entries_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression 17 of consensus.md: a record whose directory was never synced is lost with the power.

    A file that exists may be one whose entry a killed process never synced, so every opening syncs it.
    """
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    make_durable_directory(tmp_path / "data" / "replica")
    assert synced == [str(tmp_path), str(tmp_path / "data")]
    for _ in range(2):
        synced.clear()
        RealFile(tmp_path / "data" / "replica" / "safety.rec").close()
        assert synced == [str(tmp_path / "data" / "replica")]
