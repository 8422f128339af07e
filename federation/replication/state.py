"""What a follower holds, and how each answer of a controller changes it. Pure: no clock, no sockets.

Beside the global tables a follower keeps `own`: the endpoints of its own cluster as its views show
them. While a controller of that cluster is followed, `own` is that controller's local list (local
first). While only strangers are followed, nobody declares that list, so global changes of own
endpoints are merged into it, the newest version winning: a cluster that lost its controllers still
sees what the log agrees about it, and loses nothing that the log has not heard of yet.

    nothing --SnapshotBegin, Rows, End--> complete --Delta, LocalRows--> complete
    complete --SnapshotBegin, Rows--> complete (still the old rows) --SnapshotEnd--> complete
"""

from collections.abc import Collection, Iterable, Iterator
from typing import assert_never

import msgspec

from discovery.core.model import (
    Change,
    EndpointKey,
    TableName,
    unpack_endpoint,
    unpack_origin,
)
from discovery.core.tables import EMPTY_TABLES, Table, Tables
from federation.kernel.errors import InvalidInputError, PreconditionError
from federation.replication.incoming import IncomingList, check_row
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
from federation.replication.snapshot import IncomingSnapshot

Row = tuple[bytes, bytes]


class AllRows(Collection[Change]):
    """All rows of tables, each as a change that sets it: made when they are looked at, since they may be a million."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __iter__(self) -> Iterator[Change]:
        yield from _puts("resources", self._tables.resources.items())
        yield from _puts("endpoints", self._tables.endpoints.items())

    def __len__(self) -> int:
        return len(self._tables.resources) + len(self._tables.endpoints)

    def __contains__(self, change: object) -> bool:
        return any(one == change for one in self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collection) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as for every container that compares by content


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer changed: rows of the global tables, and rows of `own`. Both may be empty."""

    revision: int
    changes: Collection[Change] = ()
    own: tuple[Change, ...] = ()
    listed: bool = (
        False  # The whole copy was replaced or restored: what led from one to the other is unknown.
    )

    @property
    def empty(self) -> bool:
        """True when no row changed."""
        return not self.changes and not self.own


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A complete copy at one moment; its tables never change, so that it can be written out at leisure."""

    history: str
    cluster: str
    tables: Tables
    own: Table
    synced_unix_ms: int  # When it was last known to be up to date.


class FollowerState:
    """The copy of one follower in `cluster`; `history` is the federation that it must be of ("": any)."""

    def __init__(self, cluster: str, *, history: str = "") -> None:
        self.cluster = cluster
        self.history = history
        self.tables = EMPTY_TABLES
        self.own = Table()
        self.complete = False
        self.newest_revision = 0  # Of the controller that is followed.
        self.leader_contact_age_ms = 0  # How old that controller's own knowledge is.
        self.local_served = False  # Whether it declares the own cluster's list.
        self._snapshot: IncomingSnapshot | None = None
        self._list: IncomingList | None = None

    @property
    def revision(self) -> int:
        """Position of the copy in the catalog's history."""
        return self.tables.revision

    @property
    def up_to_date(self) -> bool:
        """True when the followed controller knows nothing newer."""
        return self.complete and self._snapshot is None and self.revision >= self.newest_revision

    def request(self) -> FollowRequest:
        """Return what opens the next stream."""
        if not self.complete:
            return FollowRequest()
        return FollowRequest(history=self.history, revision=self.revision)

    def image(self, *, synced_unix_ms: int) -> Image:
        """Return the copy as it is now."""
        return Image(
            history=self.history,
            cluster=self.cluster,
            tables=self.tables,
            own=self.own,
            synced_unix_ms=synced_unix_ms,
        )

    def restore(self, image: Image) -> Update:
        """Begin from a stored copy; returns all of it as one update.

        Raises `PreconditionError` when it is another federation's or cluster's.
        """
        if image.cluster != self.cluster:
            raise PreconditionError(
                f"the stored copy was made for cluster {image.cluster!r}, this process is in {self.cluster!r}"
            )
        self._check_history(image.history)
        self.tables, self.own = image.tables, image.own
        self.complete, self.history = True, image.history
        return Update(
            revision=self.revision,
            changes=AllRows(image.tables),
            own=tuple(_puts("endpoints", image.own.items())),
            listed=True,
        )

    def apply(self, answer: FollowAnswer) -> Update:
        """Change the copy; a refused answer changes nothing of it.

        Raises `PreconditionError` for another federation's history, or one that would take the copy
        back in time, and `InvalidInputError` for what breaks the protocol. Close the stream then.
        """
        match answer:
            case SnapshotBegin():
                self._check_history(answer.history)
                self._check_not_older(answer.revision)
                self._opened(answer.revision)
                self._snapshot = IncomingSnapshot(
                    answer.revision, answer.history, copy=self.tables, cluster=self.cluster
                )
            case Resumed():
                if not self.complete:
                    raise InvalidInputError("resumed: there is no copy to resume from, expected a snapshot")
                self._check_history(answer.history)
                self._opened(answer.revision)
            case SnapshotRows():
                if self._snapshot is None:
                    raise InvalidInputError("snapshot rows came outside of a snapshot")
                for change in answer.rows:
                    check_row(change)
                self._snapshot.add(answer.rows)
            case SnapshotEnd():
                return self._finish_snapshot(answer)
            case Delta():
                return self._delta(answer)
            case LocalRows():
                return self._local(answer)
            case Heartbeat():
                self.newest_revision = answer.revision
                self.leader_contact_age_ms = answer.leader_contact_age_ms
            case _:
                assert_never(answer)
        return Update(revision=self.revision)

    def disconnected(self) -> None:
        """Forget what the last stream began: an unfinished list is no list (invariant F2)."""
        self.local_served = False
        self._snapshot = self._list = None

    def _opened(self, revision: int) -> None:
        self.disconnected()
        self.newest_revision = revision

    def _check_history(self, history: str) -> None:
        if self.history and history != self.history:
            raise PreconditionError(
                f"the controller belongs to federation {history!r}, this copy to {self.history!r}: not followed"
            )
        if not history:
            raise InvalidInputError("the controller names no federation")

    def _check_not_older(self, revision: int) -> None:
        if self.complete and revision < self.revision:
            raise PreconditionError(
                f"the snapshot is of revision {revision}, older than this copy's {self.revision}: not taken"
            )

    def _finish_snapshot(self, answer: SnapshotEnd) -> Update:
        incoming = self._snapshot
        if incoming is None or answer.revision != incoming.revision:
            raise InvalidInputError(
                f"a snapshot ended at revision {answer.revision}, begun was"
                f" {'none' if incoming is None else incoming.revision}"
            )
        tables = incoming.finish()
        self._snapshot = None
        update = msgspec.structs.replace(
            self._advance(
                tables, AllRows(tables) if incoming.first else tuple(incoming.changes), incoming.own
            ),
            listed=True,
        )
        if self.complete:
            return update
        self.complete, self.history = True, incoming.history
        # Own rows that came before the snapshot were not told to anybody: there was nothing to see them in.
        return Update(
            revision=self.revision,
            changes=update.changes,
            own=tuple(_puts("endpoints", self.own.items())),
            listed=True,
        )

    def _delta(self, answer: Delta) -> Update:
        if not self.complete or self._snapshot is not None:
            raise InvalidInputError(
                f"delta of revision {answer.revision} came without a complete copy before it"
            )
        if answer.revision <= self.revision:
            return Update(revision=self.revision)  # Sent by a controller that is behind this copy.
        for change in answer.changes:
            check_row(change)
        changes = tuple(
            change
            for change in _last(answer.changes)
            if self._table(change.table).get(change.key) != change.value
        )
        own = [change for change in changes if change.table == "endpoints" and self._is_own(change.key)]
        return self._advance(self.tables.with_changes(changes, answer.revision), changes, own)

    def _advance(self, tables: Tables, changes: Collection[Change], own: Iterable[Change]) -> Update:
        """Go on to `tables`, which `changes` lead to; `own` are those of endpoints of the own cluster."""
        merged = () if self.local_served else tuple(self._merged_into_own(own))
        self.tables = tables
        self._set_own(merged)
        return Update(revision=tables.revision, changes=changes, own=merged)

    def _merged_into_own(self, changes: Iterable[Change]) -> Iterator[Change]:
        """Yield what global changes mean for `own` while no controller of the cluster declares it."""
        for change in changes:
            held = self.own.get(change.key)
            if held is None:
                if change.value is not None:
                    yield change
                continue
            # A withdrawal has the version of the row that it withdraws.
            said = change.value if change.value is not None else self.tables.endpoints.get(change.key)
            if said is not None and unpack_endpoint(said).version >= unpack_endpoint(held).version:
                yield change

    def _local(self, answer: LocalRows) -> Update:
        for change in answer.changes:
            check_row(change)
            if change.table != "endpoints" or not self._is_own(change.key):
                raise InvalidInputError(
                    f"local rows hold {change.key[:80]!r}, expected only endpoints of cluster {self.cluster!r}"
                )
        if answer.first:
            self._list = IncomingList()
        if self._list is None:
            if not self.local_served:
                raise InvalidInputError("local changes came before the complete local list")
            return self._own_changed(
                tuple(change for change in _last(answer.changes) if self.own.get(change.key) != change.value)
            )
        self._list.add(answer.changes)
        if not answer.complete:
            return Update(revision=self.revision)
        changes = tuple(_difference("endpoints", self.own, self._list.rows))
        self._list, self.local_served = None, True
        return self._own_changed(changes)

    def _is_own(self, key: bytes) -> bool:
        return EndpointKey.decode(key).cluster == self.cluster

    def _own_changed(self, said: tuple[Change, ...]) -> Update:
        """Take what a controller says; who was cut off from an agent may know less than the one that was followed before."""
        changes = tuple(change for change in said if not _is_older(change.value, self.own.get(change.key)))
        self._set_own(changes)
        return Update(revision=self.revision, own=changes if self.complete else ())

    def _set_own(self, changes: tuple[Change, ...]) -> None:
        if changes:
            self.own = self.own.set([(change.key, change.value) for change in changes])

    def _table(self, name: TableName) -> Table:
        return self.tables.resources if name == "resources" else self.tables.endpoints


def _is_older(said: bytes | None, held: bytes | None) -> bool:
    """True for a row of the same agent as the one that is held, of an earlier version."""
    if said is None or held is None:
        return False
    theirs, ours = unpack_origin(said), unpack_origin(held)
    return theirs.agent == ours.agent and theirs.version < ours.version


def _puts(table: TableName, rows: Iterable[Row]) -> Iterator[Change]:
    return (Change(table, key, value) for key, value in rows)


def _difference(table: TableName, old: Table, new: dict[bytes, bytes]) -> Iterator[Change]:
    """Yield what makes `old` into `new`."""
    for key, value in old.items():
        now = new.get(key)
        if now != value:
            yield Change(table, key, now)
    for key, value in new.items():
        if old.get(key) is None:
            yield Change(table, key, value)


def _last(changes: Iterable[Change]) -> Iterable[Change]:
    """Return the last change of each row: what an earlier one of the same revision said is over."""
    return {(change.table, change.key): change for change in changes}.values()
