"""Files as the replica needs them: read, write at a place, make durable. A test's disk loses what was not synced."""

import errno
import os
from pathlib import Path
from typing import Protocol, Self

from runtime.durable import sync_directory


class DiskFile(Protocol):
    """One open file. `sync` returns when everything written before is durable."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def size(self) -> int: ...

    def truncate(self, size: int) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class RealFile:
    """A file of the operating system. Counts its syncs, since that is what durability rests on.

    Its directory entry is made durable as well, since a record whose directory was never synced is lost. Also for a file
    that exists: the process that made it may have been killed before it came to that.

    A sync that failed is the last one: the system may let go of what it could not write, and call the next sync good.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.syncs = 0
        self._failed = False
        sync_directory(path.parent)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Raises OSError, and after that at every call."""
        if self._failed:
            raise OSError(errno.EIO, "an earlier sync of this file failed")
        self.syncs += 1
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._failed = True
            raise

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_durable_directory(path: Path) -> None:
    """Makes the directory with its parents; the entry of each new one is durable when it returns."""
    if not path.is_dir():
        make_durable_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
