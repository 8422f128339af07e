"""The controller's side: everybody who follows the catalog, and what each still has to get.

Lives on the event loop. The wiring posts what the catalog applied (`changed`) and what the agents of a
served cluster declared (`local_changed`); each follower reads its answers from `subscribe`. A follower
that reads too slowly loses its queue, not its stream: it gets the missing revisions from the catalog's
history, or a snapshot when they are gone, so that it costs a bounded amount and delays nobody.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Change, ResourceKey, unpack_resource
from discovery.core.specs import FederationSpec
from discovery.core.tables import Table, Tables
from federation.kernel.errors import (
    CompactedError,
    InvalidInputError,
    LimitExceededError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.places import Places
from federation.kernel.versions import PROTOCOL_VERSION_MIN, speaks
from federation.replication.messages import (
    Delta,
    FollowAnswer,
    FollowRequest,
    Heartbeat,
    LocalRows,
    Resumed,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotRows,
)
from federation.replication.wire import chunks, hidden, shown

HEARTBEAT_S = 1.0
# Answers waiting for one follower. They are shared between followers, so this bounds how far one may
# fall behind before it is cheaper to read the history again.
ANSWERS_QUEUED_MAX = 1_000
SUBSCRIBERS_MAX = 4_096
# A revision that changed more than this goes out as a snapshot: gRPC refuses messages above 4 MiB.
DELTA_BYTES_MAX = 2 * 1024 * 1024


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """A follower that has not taken the newest change yet."""

    cluster: str
    name: str
    behind_ms: int


class CatalogReader(Protocol):
    """What the feed reads of the catalog, from the event loop's thread."""

    @property
    def tables(self) -> Tables:
        """The newest tables."""

    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        """Changes after a revision, in order; raises `CompactedError` when they are gone."""


def federation_id(tables: Tables) -> str:
    """Return the id of the federation that a catalog belongs to, "" while it belongs to none."""
    prefix = ResourceKey(FEDERATION_SCOPE, "Federation", "", "").encode()
    for key, value in tables.resources.items(prefix=prefix):
        spec = decode_spec("Federation", unpack_resource(value).spec, where=str(ResourceKey.decode(key)))
        if isinstance(spec, FederationSpec):
            return spec.id
    return ""


class Feed:
    """Gives every follower the catalog's changes in order, each once."""

    def __init__(
        self,
        catalog: CatalogReader,
        *,
        unix_ms: Callable[[], int],
        leader_contact_age_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._catalog = catalog
        self._unix_ms = unix_ms
        self._leader_contact_age_ms = leader_contact_age_ms
        self._local: dict[str, Table] = {}
        self._subscribers: dict[_Subscriber, None] = {}  # In the order in which they came.
        self._places = Places()

    @property
    def subscribers(self) -> int:
        """How many follow now."""
        return len(self._subscribers)

    def names(self) -> set[tuple[str, str]]:
        """Return who follows: cluster and name."""
        return {(subscriber.cluster, subscriber.name) for subscriber in self._subscribers}

    def behind(self) -> list[Behind]:
        """Return those that have something to take, and for how long already."""
        now_ms = self._unix_ms()
        return [
            Behind(
                cluster=subscriber.cluster,
                name=subscriber.name,
                behind_ms=max(0, now_ms - subscriber.behind_unix_ms),
            )
            for subscriber in self._subscribers
            if subscriber.behind_unix_ms is not None
        ]

    def changed(self, revision: int, changes: Iterable[Change]) -> None:
        """Take what the catalog applied at `revision`; call it for each revision, in order."""
        delta = Delta(revision=revision, changes=shown(changes))
        for subscriber in self._subscribers:
            subscriber.offer(delta)

    def reset(self) -> None:
        """Say that a snapshot replaced the catalog: what every follower still has to get is unknown now."""
        for subscriber in self._subscribers:
            subscriber.lag()

    def serve_local(self, cluster: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin to serve the local list of `cluster`, which is `rows` now; again: replaces the list."""
        self._local[cluster] = Table.of_sorted(sorted(rows))
        for subscriber in self._subscribers:
            if subscriber.cluster == cluster:
                subscriber.lag()

    def leave_local(self, cluster: str) -> None:
        """Serve the local list of `cluster` no longer: its followers go on with what the catalog says."""
        if self._local.pop(cluster, None) is None:
            return
        for subscriber in self._subscribers:
            if subscriber.cluster == cluster:
                subscriber.opening = True
                subscriber.lag()

    def local_changed(self, cluster: str, changes: Iterable[Change]) -> None:
        """Take what changed in the local list of a cluster, if it is served still."""
        if cluster not in self._local:
            return
        changed = tuple(changes)
        self._local[cluster] = self._local[cluster].set([(change.key, change.value) for change in changed])
        for part in chunks(changed):
            answer = LocalRows(changes=part)
            for subscriber in self._subscribers:
                if subscriber.cluster == cluster:
                    subscriber.offer(answer)

    async def subscribe(
        self, cluster: str, request: FollowRequest, *, name: str = ""
    ) -> AsyncGenerator[FollowAnswer]:
        """Answer one follower in `cluster` until it closes the iterator; `name` is for people.

        Raises `UnavailableError` while there is no catalog yet, `PreconditionError` for a follower of
        another federation or a protocol that is too old, `LimitExceededError` when too many follow, or too often by one name.
        """
        history = self._admit(request)
        with self._places.hold(f"{name} of cluster {cluster}" if name else ""):
            async with contextlib.aclosing(self._answer(cluster, request, history, name)) as answers:
                async for answer in answers:
                    yield answer

    async def _answer(
        self, cluster: str, request: FollowRequest, history: str, name: str
    ) -> AsyncGenerator[FollowAnswer]:
        revision = request.revision if request.history else None
        subscriber = _Subscriber(cluster, revision, name=name, unix_ms=self._unix_ms)
        self._subscribers[subscriber] = None
        try:
            async with contextlib.aclosing(self._catch_up(subscriber, history, opening=True)) as answers:
                async for answer in answers:
                    yield answer
            async with contextlib.aclosing(self._go_on(subscriber, history)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            del self._subscribers[subscriber]

    def _admit(self, request: FollowRequest) -> str:
        """Return the history that the follower will get, or refuse it."""
        if not speaks(request.protocol):
            raise PreconditionError(
                f"follower speaks protocol {request.protocol}, expected at least {PROTOCOL_VERSION_MIN}"
            )
        history = federation_id(self._catalog.tables)
        if not history:
            raise UnavailableError("this controller has no catalog yet")
        if request.history and request.history != history:
            raise PreconditionError(
                f"follower holds a copy of federation {request.history[:80]!r}, this is {history!r}"
            )
        if request.revision < 0:
            raise InvalidInputError(f"follow request: revision is {request.revision}, expected 0 or more")
        if len(self._subscribers) >= SUBSCRIBERS_MAX:
            raise LimitExceededError(f"{SUBSCRIBERS_MAX} followers already: follow another controller")
        return history

    async def _go_on(self, subscriber: "_Subscriber", history: str) -> AsyncGenerator[FollowAnswer]:
        loop = asyncio.get_running_loop()
        heartbeat_at_s = loop.time()
        while True:
            if loop.time() >= heartbeat_at_s:
                heartbeat_at_s = loop.time() + HEARTBEAT_S
                yield self._heartbeat()
            if subscriber.lagging:
                async with contextlib.aclosing(
                    self._catch_up(subscriber, history, opening=subscriber.opening)
                ) as answers:
                    async for answer in answers:
                        yield answer
            elif (queued := subscriber.take()) is not None:
                yield queued
                await asyncio.sleep(0)
            else:
                await subscriber.wait(until_s=heartbeat_at_s)

    async def _catch_up(
        self, subscriber: "_Subscriber", history: str, *, opening: bool
    ) -> AsyncGenerator[FollowAnswer]:
        """Yield what leads from the subscriber's revision to the newest, and the local list."""
        # No await until the first yield: queue, tables, history and list belong to one moment.
        subscriber.caught_up()
        subscriber.opening = False
        tables = self._catalog.tables
        local = self._local.get(subscriber.cluster)
        missing = self._missing(subscriber.revision, tables)
        if missing is None:
            subscriber.revision = tables.revision
            yield SnapshotBegin(history=history, revision=tables.revision)
        elif opening:
            yield Resumed(history=history, revision=tables.revision)
        if local is not None:
            for answer in _local_list(local):
                yield answer
                await asyncio.sleep(0)
        if missing is None:
            for part in chunks(_rows(tables)):
                yield SnapshotRows(rows=part)
                await asyncio.sleep(0)  # A follower in this process would otherwise hold the loop.
            yield SnapshotEnd(revision=tables.revision)
            return
        for delta in missing:
            subscriber.revision = delta.revision
            yield delta
            await asyncio.sleep(0)

    def _missing(self, revision: int | None, tables: Tables) -> Iterator[Delta] | None:
        """Return the changes after `revision`, or None when only a snapshot leads on."""
        if revision is None:
            return None
        if revision >= tables.revision:
            return iter(())  # The follower knows more than this controller: it waits for it.
        try:
            events = self._catalog.history(revision)
        except CompactedError:
            return None
        deltas = [Delta(revision=at, changes=shown(changes)) for at, changes in events]
        if any(_too_large(delta) for delta in deltas):
            return None
        return iter(deltas)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            revision=self._catalog.tables.revision,
            unix_ms=self._unix_ms(),
            leader_contact_age_ms=self._leader_contact_age_ms(),
        )


class _Subscriber:
    """What one follower still has to get. `revision` is what it was given last, None when nothing."""

    def __init__(self, cluster: str, revision: int | None, *, name: str, unix_ms: Callable[[], int]) -> None:
        self.cluster = cluster
        self.name = name
        self.revision = revision
        self.lagging = False
        self.opening = False  # It is to begin anew: without the local list that it was given.
        self.behind_unix_ms: int | None = unix_ms()  # Since when it has something to take.
        self._unix_ms = unix_ms
        self._queue: deque[Delta | LocalRows] = deque()
        self._something = asyncio.Event()

    def offer(self, answer: Delta | LocalRows) -> None:
        """Queue an answer, or give up the queue when it is full or the answer fits no message."""
        if self.lagging:
            return
        if isinstance(answer, Delta) and _too_large(answer):
            self.revision = None
            self.lag()
        elif len(self._queue) >= ANSWERS_QUEUED_MAX:
            self.lag()
        else:
            self._queue.append(answer)
            self._is_behind()
            self._something.set()

    def lag(self) -> None:
        """Have the follower catch up from the catalog instead of the queue."""
        self.lagging = True
        self._is_behind()
        self._queue.clear()
        self._something.set()

    def caught_up(self) -> None:
        """Queue again from this moment on."""
        self.lagging = False
        self._queue.clear()

    def take(self) -> Delta | LocalRows | None:
        """Return the next answer that the follower does not know yet, or None."""
        while self._queue:
            answer = self._queue.popleft()
            if isinstance(answer, LocalRows):
                return answer
            if self.revision is None or answer.revision > self.revision:
                self.revision = answer.revision
                return answer
        self._something.clear()
        self.behind_unix_ms = None
        return None

    def _is_behind(self) -> None:
        if self.behind_unix_ms is None:
            self.behind_unix_ms = self._unix_ms()

    async def wait(self, *, until_s: float) -> None:
        """Return when there is something to send, or at `until_s` of the loop's clock."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._something.wait()


def _too_large(delta: Delta) -> bool:
    return sum(len(change.key) + len(change.value or b"") for change in delta.changes) > DELTA_BYTES_MAX


def _rows(tables: Tables) -> Iterator[Change]:
    for key, value in tables.resources.items():
        if not hidden("resources", key):
            yield Change("resources", key, value)
    for key, value in tables.endpoints.items():
        yield Change("endpoints", key, value)


def _local_list(rows: Table) -> Iterator[LocalRows]:
    """Yield the whole list. The last part is empty, so that nobody has to look ahead."""
    first = True
    for part in chunks(Change("endpoints", key, value) for key, value in rows.items()):
        yield LocalRows(changes=part, first=first)
        first = False
    yield LocalRows(changes=(), first=first, complete=True)
