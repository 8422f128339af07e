"""Writes a follower's updates to its disk copy, off the event loop."""

import asyncio
from collections.abc import Callable

import structlog

from federation.replication.disk_copy import DiskCopy
from federation.replication.state import Image, Update

# Updates waiting to be written. More than this, and the whole copy is written instead.
UPDATES_QUEUED_MAX = 1_000
# How often an unchanged copy is marked as still up to date.
SYNCED_EVERY_S = 10.0
# After a failed write. Following goes on meanwhile: a full disk costs only the next cold start.
RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class CopyKeeper:
    """Keeps a `DiskCopy` behind the follower; `run` ends only by cancellation.

    What is queued at that moment is not written: a restart resumes a little earlier.
    """

    def __init__(self, copy: DiskCopy, *, image: Callable[[], Image | None]) -> None:
        self._copy = copy
        self._image = image
        self._queue: list[Update] = []
        self._whole = False
        self._something = asyncio.Event()

    def load(self) -> Image | None:
        """Return what the disk holds."""
        return self._copy.load()

    def changed(self, update: Update) -> None:
        """Have an update written."""
        if len(self._queue) < UPDATES_QUEUED_MAX:
            self._queue.append(update)
        else:
            self._whole = True
            self._queue.clear()
        self._something.set()

    async def run(self) -> None:
        """Write until cancelled."""
        written_unix_ms = 0
        while True:
            await self._wait()
            # Image and queue belong to the same moment: there is no await between them.
            image, updates, self._queue = self._image(), self._queue, []
            if image is None or (not updates and image.synced_unix_ms == written_unix_ms):
                continue
            whole, self._whole = self._whole or self._copy.wants_rewrite, False
            try:
                if whole:
                    await asyncio.to_thread(self._copy.rewrite, image)
                else:
                    await asyncio.to_thread(self._copy.append, updates, synced_unix_ms=image.synced_unix_ms)
                written_unix_ms = image.synced_unix_ms
            except OSError as error:
                _log.error("catalog copy not written", reason=str(error))
                self._whole = True
                await asyncio.sleep(RETRY_S)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(SYNCED_EVERY_S):
                await self._something.wait()
        except TimeoutError:
            pass
        self._something.clear()
