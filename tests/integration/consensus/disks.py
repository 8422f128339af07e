"""Disks that fail: wrappers of the Disk port around real files."""

import errno
import os
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
