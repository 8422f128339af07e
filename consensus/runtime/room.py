"""A full disk: waiting until it takes as much again as the next files may need."""

import asyncio
import contextlib
import shutil
from pathlib import Path

from consensus.runtime.disk import Disk

ROOM_POLL_S = 1.0
ROOM_MIN_BYTES = 1024 * 1024  # What a full disk must offer besides room for another snapshot.
ROOM_FILE = "room"  # Written and removed to see whether there is.


async def wait_for_room(directory: Path, disk: Disk, needed_bytes: int) -> None:
    """Return when the file system has `needed_bytes` and takes ROOM_MIN_BYTES durably, whatever a quota says."""
    while True:
        await asyncio.sleep(ROOM_POLL_S)
        with contextlib.suppress(OSError):
            if shutil.disk_usage(directory).free >= needed_bytes:
                _try(directory / ROOM_FILE, disk)
                return


def _try(probe: Path, disk: Disk) -> None:
    try:
        descriptor = disk.create(probe)
        try:
            disk.write(descriptor, bytes(ROOM_MIN_BYTES))
            disk.sync_data(descriptor)
        finally:
            disk.close(descriptor)
    finally:
        disk.remove(probe)
