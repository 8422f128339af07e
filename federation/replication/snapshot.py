"""A snapshot on its way into a follower's copy, compared with it as it arrives. Pure.

The rows come in the order of their keys, table by table. So each message is compared with the stretch of the
copy that it covers: rows that it skips are gone. What the end of the snapshot leaves to do is short, however
large the catalog is, and the event loop stands still for one message at a time.
"""

from collections.abc import Iterator, Sequence

from discovery.core.model import Change, EndpointKey, TableName
from discovery.core.tables import Table, Tables
from federation.kernel.errors import InvalidInputError
from federation.replication.incoming import ListBound


class IncomingSnapshot:
    """What the rows that have come so far make of `copy`, which must not change meanwhile."""

    def __init__(self, revision: int, history: str, *, copy: Tables, cluster: str) -> None:
        self.revision = revision
        self.history = history
        self.first = len(copy.resources) == len(copy.endpoints) == 0  # There was nothing before.
        self.changes: list[Change] = []  # Unless it is the first: then they are all rows.
        self.own: list[Change] = []  # Endpoints of `cluster` that changed.
        self._cluster = cluster
        self._bound = ListBound("snapshot")
        self._parts: dict[TableName, _Comparison] = {
            "resources": _Comparison("resources", copy.resources),
            "endpoints": _Comparison("endpoints", copy.endpoints),
        }

    def add(self, rows: Sequence[Change]) -> None:
        """Take rows; raises `InvalidInputError` for a removal, a row out of order, or too many bytes."""
        for table, part in self._parts.items():
            mine = [(row.key, self._bound.row(row)) for row in rows if row.table == table]
            self._took(part.add(mine))

    def finish(self) -> Tables:
        """Return the new tables; `changes` then holds all that leads to them, if there was something before."""
        for part in self._parts.values():
            self._took(part.finish())
        return Tables(
            revision=self.revision,
            resources=self._parts["resources"].table,
            endpoints=self._parts["endpoints"].table,
        )

    def _took(self, changes: list[Change]) -> None:
        if not self.first:
            self.changes += changes
        self.own += (
            change
            for change in changes
            if change.table == "endpoints" and EndpointKey.decode(change.key).cluster == self._cluster
        )


class _Comparison:
    """One table of the snapshot beside the same one of the copy. `table` is the copy with all changes so far."""

    def __init__(self, name: TableName, copy: Table) -> None:
        self.table = copy
        self._name = name
        self._copy = iter(copy.items())
        self._next: tuple[bytes, bytes] | None = next(self._copy, None)
        self._last_key = b""

    def add(self, rows: list[tuple[bytes, bytes]]) -> list[Change]:
        """Return what `rows` change."""
        changes: list[Change] = []
        for key, value in rows:
            if key <= self._last_key:
                raise InvalidInputError(
                    f"snapshot: {key[:80]!r} came after {self._last_key[:80]!r}, expected ascending keys"
                )
            self._last_key = key
            changes += self._gone(before=key)
            held = self._next
            if held is not None and held[0] == key:
                self._next = next(self._copy, None)
            if held != (key, value):
                changes.append(Change(self._name, key, value))
        return self._apply(changes)

    def finish(self) -> list[Change]:
        """Return what is gone behind the last row."""
        return self._apply(list(self._gone(before=None)))

    def _gone(self, *, before: bytes | None) -> Iterator[Change]:
        while self._next is not None and (before is None or self._next[0] < before):
            yield Change(self._name, self._next[0], None)
            self._next = next(self._copy, None)

    def _apply(self, changes: list[Change]) -> list[Change]:
        self.table = self.table.set((change.key, change.value) for change in changes)
        return changes
