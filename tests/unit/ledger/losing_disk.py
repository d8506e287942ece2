"""A disk that forgets what was not synced, and a power switch that goes off at a chosen operation.

What lies under the path is what is durable. Everything else is in memory, and a power loss may leave the beginning of it.
"""

from pathlib import Path


class PowerLossError(Exception):
    """The machine is off: nothing it still does reaches a disk or a peer."""


class Power:
    """Goes off at operation `off_at`, counted from 1: each write, sync and send is one; None never goes off."""

    def __init__(self, off_at: int | None = None) -> None:
        self.off_at = off_at
        self.operations = 0
        self.off = False

    def step(self) -> None:
        if self.off:
            raise PowerLossError
        self.operations += 1
        if self.operations == self.off_at:
            self.off = True
            raise PowerLossError


class LosingFile:
    """A DiskFile whose unsynced writes are lost with the power."""

    def __init__(self, path: Path, power: Power) -> None:
        path.touch()
        self.path = path
        self.power = power
        self.syncs = 0
        self._content = bytearray(path.read_bytes())
        self._unsynced: list[tuple[int, bytes]] = []

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.power.step()
        self._unsynced.append((offset, data))
        _put(self._content, offset, data)

    def size(self) -> int:
        return len(self._content)

    def truncate(self, size: int) -> None:
        self.power.step()
        del self._content[size:]

    def sync(self) -> None:
        self.power.step()
        self.syncs += 1
        self.path.write_bytes(self._content)
        self._unsynced.clear()

    def close(self) -> None:
        """Closing makes nothing durable."""

    def lose(self, torn_bytes: int) -> None:
        """The power is off; of what was not synced the first bytes reached the disk."""
        durable = bytearray(self.path.read_bytes())
        for offset, data in self._unsynced:
            _put(durable, offset, data[:torn_bytes])
            torn_bytes = max(0, torn_bytes - len(data))
        self.path.write_bytes(durable)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if data:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
