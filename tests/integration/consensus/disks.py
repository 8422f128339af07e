"""Disks that fail: wrappers of the Disk port around real files."""

import errno
import os
import signal
import time
from pathlib import Path

from consensus.runtime.disk import FileDisk


class FullDisk(FileDisk):
    """Takes nothing more while `is_full`: at the write, or, as delayed allocation does, at the sync."""

    def __init__(self, *, at_sync: bool = False) -> None:
        self.is_full = False
        self.refused = 0
        self._at_sync = at_sync

    def create(self, path: Path) -> int:
        self._check(path.name)
        return super().create(path)

    def write(self, descriptor: int, data: bytes) -> None:
        if self.is_full and not self._at_sync:
            os.write(descriptor, data[: len(data) // 2])
            self._check("write")
        super().write(descriptor, data)

    def sync_data(self, descriptor: int) -> None:
        self._check("sync")
        super().sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        self._check("sync")
        super().sync(descriptor)

    def _check(self, what: str) -> None:
        if self.is_full:
            self.refused += 1
            raise OSError(errno.ENOSPC, f"no space left for {what}")


class UnsyncedDisk(FileDisk):
    """Leaves out the syncs, which cost most of a test's time: what a process wrote outlives it without them.

    What a power cut takes is the simulation's business.
    """

    def sync_data(self, descriptor: int) -> None:
        pass

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, directory: Path) -> None:
        pass


UNSYNCED_DISK = UnsyncedDisk()


class StoppedHere(BaseException):
    """The process ended inside a file operation; no `except Exception` may see it."""


class StoppingDisk(UnsyncedDisk):
    """Ends the process at operation `stop_at` that changes a file: in front of it, or, `torn`, in the midst."""

    def __init__(self, *, stop_at: int, torn: bool = False) -> None:
        self.operations = 0
        self._stop_at = stop_at
        self._torn = torn
        self._descriptors: set[int] = set()

    def process_ended(self) -> None:
        """Close what the process had open, as the kernel does."""
        for descriptor in self._descriptors:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        if path.exists():
            self._operation()
        super().remove(path)

    def rename(self, new: Path, path: Path) -> None:
        self._operation()
        super().rename(new, path)

    def sync_directory(self, directory: Path) -> None:
        self._operation()
        super().sync_directory(directory)

    def create(self, path: Path) -> int:
        self._operation()
        return self._opened(super().create(path))

    def open_append(self, path: Path) -> int:
        return self._opened(super().open_append(path))

    def open_read(self, path: Path) -> int:
        return self._opened(super().open_read(path))

    def write(self, descriptor: int, data: bytes) -> None:
        if self._torn and self.operations + 1 == self._stop_at:
            super().write(descriptor, data[: len(data) // 2])
        self._operation()
        super().write(descriptor, data)

    def truncate(self, descriptor: int, length: int) -> None:
        self._operation()
        super().truncate(descriptor, length)

    def sync_data(self, descriptor: int) -> None:
        self._operation()
        super().sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        self._operation()
        super().sync(descriptor)

    def close(self, descriptor: int) -> None:
        self._descriptors.discard(descriptor)
        super().close(descriptor)

    def _opened(self, descriptor: int) -> int:
        self._descriptors.add(descriptor)
        return descriptor

    def _operation(self) -> None:
        self.operations += 1
        if self.operations == self._stop_at:
            raise StoppedHere


class _PointDisk(FileDisk):
    """Does something in front of each operation that `point` names.

    A point is an operation and a file's name: "rename snapshot.new", "sync journal.new"; "renamed" is behind it.
    """

    def __init__(self, point: str) -> None:
        self._operation, self._file = point.split()
        self._names: dict[int, str] = {}

    def rename(self, new: Path, path: Path) -> None:
        self._at("rename", new.name)
        super().rename(new, path)
        # Whoever holds it open goes on writing under its new name.
        self._names |= {one: path.name for one, name in self._names.items() if name == new.name}
        self._at("renamed", new.name)

    def create(self, path: Path) -> int:
        self._at("create", path.name)
        return self._named(super().create(path), path)

    def open_append(self, path: Path) -> int:
        return self._named(super().open_append(path), path)

    def write(self, descriptor: int, data: bytes) -> None:
        self._at("write", self._names[descriptor])
        super().write(descriptor, data)

    def sync_data(self, descriptor: int) -> None:
        self._at("sync", self._names[descriptor])
        super().sync_data(descriptor)

    def sync(self, descriptor: int) -> None:
        self._at("sync", self._names[descriptor])
        super().sync(descriptor)

    def _named(self, descriptor: int, path: Path) -> int:
        self._names[descriptor] = path.name
        return descriptor

    def _at(self, operation: str, file: str) -> None:
        if (operation, file) == (self._operation, self._file):
            self._reached()

    def _reached(self) -> None:
        raise NotImplementedError


class KillingDisk(_PointDisk):
    """Kills its process at the point, as `kill -9` does."""

    def _reached(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class FailingDisk(_PointDisk):
    """Fails at the point, each time."""

    def __init__(self, point: str) -> None:
        super().__init__(point)
        self.failed = 0

    def _reached(self) -> None:
        self.failed += 1
        raise OSError(errno.EIO, "Input/output error")


class FailingSyncs(FileDisk):
    """A disk that begins to fail, or to be slow, when told so."""

    def __init__(self) -> None:
        self.is_failing = False
        self.pause_s = 0.0
        self.failed = 0

    def sync_data(self, descriptor: int) -> None:
        if self.is_failing:
            self.failed += 1
            raise OSError(errno.EIO, "Input/output error")
        time.sleep(self.pause_s)
        super().sync_data(descriptor)
