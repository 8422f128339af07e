"""Follows the catalog of whichever controller can be reached, and keeps the copy on disk.

Controllers are tried in order of preference. A stream that breaks or falls silent is left for the next
one at once; after all have failed the follower waits, longer each time. Those that are preferred to the
followed one, by the order of then, are tried every few seconds: only controllers of the own cluster, or of
its home, know its local list.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
import structlog

from federation.kernel.errors import IsthmusError, UnavailableError
from federation.replication.disk_copy import DiskCopy
from federation.replication.keeper import CopyKeeper
from federation.replication.messages import (
    Delta,
    FollowAnswer,
    Heartbeat,
    LocalRows,
    Resumed,
    SnapshotBegin,
    SnapshotEnd,
)
from federation.replication.source import Source
from federation.replication.state import FollowerState, Image, Update

# A controller sends a heartbeat every second; also the time it has to give the first answer.
SILENCE_MAX_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
# A stream that lived this long ended for a reason of its own: no need to wait before the next.
STREAM_LIVED_S = 10.0
PREFERRED_RETRY_S = 3.0
# The pause between two reports of what is held: they are for people.
HOLD_INTERVAL_S = 0.1

# Answers after which the copy on disk may differ.
_KEPT = Delta | SnapshotEnd | LocalRows

_log = structlog.get_logger(__name__)


class FollowerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a follower stands."""

    complete: bool  # It has a copy.
    source: str  # The controller that it follows now; "" when none.
    local: bool  # That controller declares the own cluster's endpoints.
    revision: int
    newest_revision: int
    age_ms: int | None  # How long ago the copy was last known to be up to date; None: never.
    last_error: str


class Follower:
    """Keeps a `FollowerState` up to date; `run` ends only by cancellation.

    `sources` gives the controllers, most preferred first, whenever it is asked. `on_change` is called on the
    event loop with each update that changed a row or the revision, the first of which holds the whole copy
    (from disk, if `copy` has one).
    """

    def __init__(
        self,
        state: FollowerState,
        *,
        sources: Callable[[], Sequence[Source]],
        on_change: Callable[[Update], None],
        copy: DiskCopy | None = None,
        jitter: Callable[[], float] = random.random,
        unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.ready = asyncio.Event()  # There is a copy.
        self._sources = sources
        self._on_change = on_change
        self._keeper = None if copy is None else CopyKeeper(copy, image=self._image)
        self._jitter = jitter
        self._unix_ms = unix_ms
        self._clock = clock
        self._synced_unix_ms: int | None = None
        self._synced_s = 0.0  # The same by `clock`, which nobody sets.
        self._told_revision = -1
        self._moved = asyncio.Event()
        self._following = ""
        self._last_error = ""
        self._holds_more = asyncio.Event()  # It serves by a newer revision.

    @property
    def status(self) -> FollowerStatus:
        """How it stands now."""
        return FollowerStatus(
            complete=self.state.complete,
            source=self._following,
            local=self.state.local_served,
            revision=self.state.revision,
            newest_revision=max(self.state.newest_revision, self.state.revision),
            age_ms=self._age_ms(),
            last_error=self._last_error,
        )

    def _age_ms(self) -> int | None:
        """How old the copy is by the clock that says more: one that was set back makes it no younger."""
        if self._synced_unix_ms is None:
            return None
        return max(0, self._unix_ms() - self._synced_unix_ms, int((self._clock() - self._synced_s) * 1000))

    def _synced(self, unix_ms: int) -> None:
        """The copy was up to date at that time."""
        self._synced_unix_ms = unix_ms
        self._synced_s = self._clock() - max(0, self._unix_ms() - unix_ms) / 1000

    async def run(self) -> None:
        """Start from disk, then follow until cancelled.

        Raises `PreconditionError` when the disk holds the copy of another federation or cluster: it is
        not ours to overwrite.
        """
        self._start_from_disk()
        async with asyncio.TaskGroup() as tasks:
            if self._keeper is not None:
                tasks.create_task(self._keeper.run(), name="replication/keep")
            tasks.create_task(self._follow_somebody(), name="replication/follow")

    def _start_from_disk(self) -> None:
        image = None if self._keeper is None else self._keeper.load()
        if image is None:
            return
        update = self.state.restore(image)
        self._synced(image.synced_unix_ms)
        _log.info("started from the stored copy", revision=update.revision, age_ms=self.status.age_ms)
        self._tell(update)

    async def _follow_somebody(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_at_s = loop.time()
            sources = tuple(self._sources())
            if not sources:
                self._failed("no controller is known")
            for source in sources:
                started_at_s = loop.time()
                error = await self._follow(source)
                if error is None:
                    break
                self._failed(error.message, source=source.name)
            lived = loop.time() - started_at_s >= STREAM_LIVED_S
            failures = 0 if lived else failures + 1
            await asyncio.sleep(self._backoff_s(failures))

    def _backoff_s(self, failures: int) -> float:
        if failures == 0:
            return 0.0
        longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * float(1 << min(failures - 1, 10)))
        return longest_s * (0.5 + self._jitter() / 2)

    async def _follow(self, source: Source) -> IsthmusError | None:
        """Follow one controller; returns why it failed, or None when it is time to choose again."""
        async with asyncio.TaskGroup() as tasks:
            prober = tasks.create_task(self._wait_for_better(source.name), name="replication/probe")
            teller = tasks.create_task(self._tell_holds(source), name="replication/holds")
            try:
                return await self._read(source, prober)
            finally:
                teller.cancel()
                prober.cancel()
                self.state.disconnected()
                self._following = ""

    async def _read(self, source: Source, prober: asyncio.Task[None]) -> IsthmusError | None:
        async with contextlib.aclosing(source.follow(self.state.request())) as answers:
            while not prober.done():
                try:
                    answer = await _next(answers, source.name)
                    if answer is None:
                        return None
                    update = self.state.apply(answer)
                except IsthmusError as error:
                    return error
                if not self._following:
                    self._following = source.name
                    _log.info("following", controller=source.name, revision=self.state.revision)
                self._took(answer, update)
        return None

    def _took(self, answer: FollowAnswer, update: Update) -> None:
        heard = isinstance(answer, Heartbeat) and self.state.up_to_date
        if heard or (self._synced_unix_ms is None and self.state.complete):
            self._synced(self._unix_ms() - self.state.leader_contact_age_ms)
        first = self.state.complete and not self.ready.is_set()
        # An empty revision is kept too, so that a restart resumes behind it.
        if self._keeper is not None and self.state.complete and (first or isinstance(answer, _KEPT)):
            self._keeper.changed(update)
        if first or not update.empty or (self.ready.is_set() and update.revision != self._told_revision):
            self._tell(update)
        if self.state.complete:
            self._holds_more.set()

    async def _tell_holds(self, source: Source) -> None:
        """Tell the controller up to where this follower serves, so that it can say how far a write has come."""
        told = -1
        while True:
            await self._holds_more.wait()
            self._holds_more.clear()
            revision = self.state.revision
            if revision > told:
                try:
                    await source.hold(revision)
                except IsthmusError as error:
                    _log.debug("not told what is held", controller=source.name, reason=error.message)
                told = revision
            await asyncio.sleep(HOLD_INTERVAL_S)

    def _tell(self, update: Update) -> None:
        self._told_revision = update.revision
        self._on_change(update)
        self.ready.set()
        self._moved.set()
        self._moved = asyncio.Event()

    async def reached(self, revision: int) -> None:
        """Wait until the copy has everything up to `revision`."""
        while not self.ready.is_set() or self.state.revision < revision:
            await self._moved.wait()

    def _image(self) -> Image | None:
        synced = self._synced_unix_ms
        return None if synced is None else self.state.image(synced_unix_ms=synced)

    async def _wait_for_better(self, followed: str) -> None:
        """Return when one would be followed that is preferred to this one now: with its home, a cluster's order changes."""
        while True:
            await asyncio.sleep(PREFERRED_RETRY_S)
            for source in itertools.takewhile(lambda one: one.name != followed, self._sources()):
                if await self._would_answer(source):
                    return

    async def _would_answer(self, source: Source) -> bool:
        async with contextlib.aclosing(source.follow(self.state.request())) as answers:
            try:
                first = await _next(answers, source.name)
            except IsthmusError:
                return False  # It was logged when it failed as the first choice.
        return isinstance(first, Resumed | SnapshotBegin) and first.history == self.state.history

    def _failed(self, reason: str, *, source: str = "") -> None:
        if reason != self._last_error:
            _log.warning("controller not followed", controller=source, reason=reason)
        self._last_error = reason


async def _next(answers: AsyncGenerator[FollowAnswer], name: str) -> FollowAnswer | None:
    try:
        async with asyncio.timeout(SILENCE_MAX_S):
            return await anext(answers)
    except StopAsyncIteration:
        return None
    except TimeoutError as error:
        raise UnavailableError(f"{name} said nothing for {SILENCE_MAX_S:g} s") from error
