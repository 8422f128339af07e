"""What each cluster, and each of its namespaces, takes up in the catalog: rows, services and bytes.

Counted as rows come and go, so that a limit costs nothing to check. The federation's own rows count for the
cluster named "".
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from discovery.core.model import TableName
from discovery.core.tables import Tables

_Key = TypeVar("_Key", "Place", bytes)

Measure: TypeAlias = Literal["endpoints", "services", "resources", "bytes"]


class Place(NamedTuple):
    """A measure of a cluster as a whole, or of one of its namespaces."""

    measure: Measure
    cluster: str
    namespace: str = ""  # "": of all.


class Usage:
    """Counts, or on top of a `base`, which has none itself, what a draft would change of them. Bounded by the rows counted."""

    def __init__(self, base: "Usage | None" = None) -> None:
        self._base = base
        self.counts: dict[Place, int] = {}
        # Endpoints of one service in one cluster, by the part of their keys that they share.
        self.of_service: dict[bytes, int] = {}

    @classmethod
    def of(cls, tables: Tables) -> "Usage":
        """Count a whole catalog, or a table of endpoints. Cost: one look at each row."""
        usage = cls()
        for key, value in tables.resources.items():
            usage.note("resources", key, 1, len(key) + len(value))
        for shared, rows in groupby(tables.endpoints.items(), lambda row: row[0].rpartition(b"\0")[0]):
            count = size = 0
            for key, value in rows:
                count += 1
                size += len(key) + len(value)
            usage.note("endpoints", shared + b"\0", count, size)
        return usage

    def count(self, measure: Measure, cluster: str, namespace: str = "") -> int:
        """How much there is, the base included."""
        return self._total(Place(measure, cluster, namespace))

    def changes(self) -> Iterator[tuple[Place, int]]:
        """Yield by how much each count differs from the base's."""
        return ((place, change) for place, change in self.counts.items() if change)

    def note(self, table: TableName, key: bytes, rows: int, size_bytes: int) -> None:
        """Count `rows` more of a table (fewer, if negative), and `size_bytes` more of keys and values."""
        parts = key.split(b"\0", 3)
        if table == "resources":
            cluster, namespace = parts[0].decode(), parts[2].decode()
            self._add("resources", cluster, namespace, rows)
        else:
            cluster, namespace = parts[2].decode(), parts[0].decode()
            self._add("endpoints", cluster, namespace, rows)
            shared = key[: len(key) - len(parts[3])]
            before = self._endpoints_of(shared)
            self.of_service[shared] = self.of_service.get(shared, 0) + rows
            if (before == 0) != (before + rows == 0):
                self._add("services", cluster, namespace, 1 if before == 0 else -1)
        self._add("bytes", cluster, namespace, size_bytes)

    def take(self, draft: "Usage") -> None:
        """Make a draft on top of these counts come true."""
        _merge(self.counts, draft.counts.items())
        _merge(self.of_service, draft.of_service.items())

    def _endpoints_of(self, shared: bytes) -> int:
        base = 0 if self._base is None else self._base.of_service.get(shared, 0)
        return base + self.of_service.get(shared, 0)

    def _total(self, place: Place) -> int:
        base = 0 if self._base is None else self._base.counts.get(place, 0)
        return base + self.counts.get(place, 0)

    def _add(self, measure: Measure, cluster: str, namespace: str, change: int) -> None:
        if not change:
            return
        for inside in ("", namespace) if namespace else ("",):
            place = Place(measure, cluster, inside)
            self.counts[place] = self.counts.get(place, 0) + change


def _merge(counts: dict[_Key, int], changes: Iterable[tuple[_Key, int]]) -> None:
    for key, change in changes:
        total = counts.get(key, 0) + change
        if total:
            counts[key] = total
        else:
            counts.pop(key, None)
