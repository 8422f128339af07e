"""A disk in memory that loses, on a power cut, what was not synced.

The fault model is the usual one of file systems: bytes are durable after a sync of their file, names
after a sync of their directory. A power cut keeps a prefix of the unsynced bytes of a file, possibly
with a hole of zeros in it (blocks reach a disk in any order), and a prefix of the unsynced names. A
killed process loses nothing: the kernel keeps its pages.
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path

HOLE_BYTES_MAX = 512


class StoppedHere(BaseException):
    """The process ended inside a file operation; no `except Exception` may see it."""


class _File:
    __slots__ = ("data", "lost", "synced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0  # Bytes from the beginning that survive a power cut.
        self.lost: list[tuple[int, int]] = []  # Written, dropped by a failed sync, then called clean.


class SimDisk:
    """Implements consensus.runtime.disk.Disk for one member; outlives its processes."""

    def __init__(self, rng: random.Random, *, spend: Callable[[float], None]) -> None:
        self._rng = rng
        self._spend = spend  # Seconds that the calling member is busy with an operation.
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending: list[tuple[str, str, _File]] = []  # Operations on names since the last sync.
        self._open: dict[int, _File] = {}
        self._next_descriptor = 1
        self.sync_s = 0.0005
        self.room_bytes: int | None = None  # None: plenty.
        self.fail_syncs = False
        self.stop_after: int | None = None  # Operations until the process ends inside one.
        self.operations = 0

    # Faults.

    def process_ended(self) -> None:
        """Forget descriptors and armed faults; the kernel keeps the pages."""
        self._open.clear()
        self.stop_after = None

    def power_cut(self) -> None:
        """Lose what was not durable."""
        self.process_ended()
        for action, name, file in self._pending[: self._rng.randint(0, len(self._pending))]:
            _apply_name(self._durable_names, action, name, file)
        self._pending.clear()
        self._names = dict(self._durable_names)
        for file in dict.fromkeys(self._names.values()):  # Each once, in the same order in every process.
            self._tear(file)

    def durable(self, name: str) -> tuple[object, bytes]:
        """Return identity and bytes of what a power cut is sure to leave under `name`."""
        file = self._durable_names.get(name)
        if file is None:
            return None, b""
        data = file.data[: file.synced]
        for begin, end in file.lost:
            data[begin:end] = bytes(min(end, len(data)) - begin)
        return file, bytes(data)

    def empty(self) -> None:
        """Remove every file, durably."""
        self._pending.clear()
        self._names = {}
        self._durable_names = {}

    def _tear(self, file: _File) -> None:
        for begin, end in file.lost:
            file.data[begin:end] = bytes(min(end, len(file.data)) - begin)
        unsynced = len(file.data) - file.synced
        if unsynced > 0:
            del file.data[file.synced + self._rng.randint(0, unsynced) :]
            kept = len(file.data) - file.synced
            if kept and self._rng.random() < 0.5:
                begin = file.synced + self._rng.randrange(kept)
                end = min(len(file.data), begin + self._rng.randint(1, HOLE_BYTES_MAX))
                file.data[begin:end] = bytes(end - begin)
        file.synced = len(file.data)
        file.lost.clear()

    def _operation(self) -> None:
        self.operations += 1
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after <= 0:
                raise StoppedHere

    # The port.

    def exists(self, path: Path) -> bool:
        return path.name in self._names

    def size_bytes(self, path: Path) -> int:
        return len(self._find(path).data)

    def remove(self, path: Path) -> None:
        file = self._names.get(path.name)
        if file is not None:
            self._operation()
            self._change_name("remove", path.name, file)

    def rename(self, new: Path, path: Path) -> None:
        self._operation()
        file = self._find(new)
        self._change_name("remove", new.name, file)
        self._change_name("set", path.name, file)

    def sync_directory(self, directory: Path) -> None:
        self._operation()
        self._spend(self.sync_s)
        self._durable_names = dict(self._names)
        self._pending.clear()

    def create(self, path: Path) -> int:
        self._operation()
        file = _File()
        self._change_name("set", path.name, file)
        return self._descriptor(file)

    def open_append(self, path: Path) -> int:
        return self._descriptor(self._find(path))

    def open_read(self, path: Path) -> int:
        return self._descriptor(self._find(path))

    def write(self, descriptor: int, data: bytes) -> None:
        file = self._open[descriptor]
        try:
            self._operation()
        except StoppedHere:
            file.data += data[: self._rng.randint(0, len(data))]
            raise
        if self.room_bytes is not None:
            if len(data) > self.room_bytes:
                file.data += data[: self.room_bytes]
                self.room_bytes = 0
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room_bytes -= len(data)
        file.data += data

    def read(self, descriptor: int, bytes_max: int, offset: int) -> bytes:
        return bytes(memoryview(self._open[descriptor].data)[offset : offset + bytes_max])

    def truncate(self, descriptor: int, length: int) -> None:
        self._operation()
        file = self._open[descriptor]
        del file.data[length:]
        file.synced = min(file.synced, length)
        file.lost = [(begin, min(end, length)) for begin, end in file.lost if begin < length]

    def sync_data(self, descriptor: int) -> None:
        self._operation()
        file = self._open[descriptor]
        if self.fail_syncs:
            # The kernel reports the loss once, drops the pages and calls the rest clean.
            file.lost.append((file.synced, len(file.data)))
            file.synced = len(file.data)
            raise OSError(errno.EIO, "Input/output error")
        self._spend(self.sync_s * self._rng.uniform(0.5, 2))
        file.synced = len(file.data)

    def sync(self, descriptor: int) -> None:
        self.sync_data(descriptor)

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def _find(self, path: Path) -> _File:
        file = self._names.get(path.name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return file

    def _descriptor(self, file: _File) -> int:
        self._next_descriptor += 1
        self._open[self._next_descriptor] = file
        return self._next_descriptor

    def _change_name(self, action: str, name: str, file: _File) -> None:
        _apply_name(self._names, action, name, file)
        self._pending.append((action, name, file))


def _apply_name(names: dict[str, _File], action: str, name: str, file: _File) -> None:
    if action == "set":
        names[name] = file
    else:
        names.pop(name, None)
