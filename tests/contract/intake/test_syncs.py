"""Accepted means on the disk, counted where the process meets the operating system and not by what SQLite was told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.intake import syncing_program

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@pytest.fixture
def watch(tmp_path: Path) -> Path:
    """The library that notes what is synced, made for this machine."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("syncs are watched on Linux with a C compiler (cc); what SQLite is told is tested everywhere")
    library = tmp_path / "sync_watch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "sync_watch.c"], check=True)
    return library


def test_a_batch_is_answered_after_one_sync_of_the_log_whatever_its_size(watch: Path, tmp_path: Path) -> None:
    """fdatasync or fsync of SQLite's log between handing in and the answer: one, and of nothing else."""
    database, notes = tmp_path / "intake.db", tmp_path / "notes"
    around = os.environ | {
        "LD_PRELOAD": str(watch),
        "SYNC_WATCH": str(notes),
        "PYTHONPATH": f"{ROOT / 'services'}:{ROOT / 'proto' / 'python'}:{ROOT}",
    }
    program = [sys.executable, syncing_program.__file__, f"sqlite:///{database}", str(notes)]
    subprocess.run(program, env=around, check=True)
    lines = notes.read_text().splitlines()
    expected = [
        line
        for size in syncing_program.SIZES
        for line in (f"submitted {size}", f"synced {database}-wal", f"answered {size}")
    ]
    first = lines.index("submitted 1")
    assert lines[first : first + len(expected)] == expected
