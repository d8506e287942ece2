"""Directories on disk: an entry that was never synced is lost with the power, whatever its file holds."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Makes the directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
