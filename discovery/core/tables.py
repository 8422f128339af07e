"""Immutable sorted tables of packed rows: what the catalog, mirrors and views hold.

A `Table` keeps its rows in shards of at most `SHARD_ROWS_MAX`. A change copies the shards that it touches
and the list of shards, nothing else, so that a snapshot, a watch and a view may go on reading an older
version while the log is applied. Rows stay packed; readers decode what they use.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Self, TypeAlias

import msgspec

from discovery.core.kinds import decode_spec
from discovery.core.model import (
    FEDERATION_SCOPE,
    Change,
    Endpoint,
    EndpointKey,
    Resource,
    ResourceKey,
    ServiceKey,
    unpack_endpoint,
    unpack_resource,
)
from discovery.core.specs import ClusterSpec

# A change copies one shard: 1,000 rows are two tuples of 8 KB, which takes a few microseconds.
SHARD_ROWS_MAX = 1_000
# A shard smaller than this joins its neighbour, so that deletions leave no dust.
SHARD_ROWS_MIN = SHARD_ROWS_MAX // 4

# Sorts after every name: 0xFF occurs in no UTF-8 text.
AFTER_ALL = b"\xff"

_Shard: TypeAlias = tuple[tuple[bytes, ...], tuple[bytes, ...]]  # Keys, ascending, and their values.


class Table:
    """A sorted map from bytes to bytes of which no version ever changes. Safe to read from any thread."""

    __slots__ = ("_count", "_firsts", "_shards")

    def __init__(
        self, shards: tuple[_Shard, ...] = (), firsts: tuple[bytes, ...] = (), count: int = 0
    ) -> None:
        self._shards = shards
        self._firsts = firsts  # The first key of each shard.
        self._count = count

    @classmethod
    def of_sorted(cls, rows: Iterable[tuple[bytes, bytes]]) -> Self:
        """Build a table of rows whose keys ascend strictly; raises ValueError where they do not."""
        shards: list[_Shard] = []
        count = 0
        # Three quarters full: room to grow without a split.
        for part in _parts(rows, SHARD_ROWS_MAX * 3 // 4):
            keys = tuple([key for key, _ in part])
            previous = (shards[-1][0][-1],) if shards else ()
            for earlier, later in pairwise(previous + keys):
                if earlier >= later:
                    raise ValueError(f"row {later!r} comes after {earlier!r}: expected ascending keys")
            shards.append((keys, tuple([value for _, value in part])))
            count += len(keys)
        return cls(tuple(shards), tuple([keys[0] for keys, _ in shards]), count)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return len(self) == len(other) and all(
            a == b for a, b in zip(self.items(), other.items(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # as for every container that compares by content

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        shard = bisect_right(self._firsts, key) - 1
        if shard < 0:
            return None
        keys, values = self._shards[shard]
        position = bisect_left(keys, key)
        return values[position] if position < len(keys) and keys[position] == key else None

    def items(self, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Iterate in key order over rows that start with `prefix` and, if `after` is given, come after it."""
        for keys, values, position in self._from(prefix, after):
            for row in range(position, len(keys)):
                if not keys[row].startswith(prefix):
                    return
                yield keys[row], values[row]

    def keys(self, prefix: bytes = b"", after: bytes = b"") -> Iterator[bytes]:
        """Iterate over the keys of `items`."""
        for keys, _, position in self._from(prefix, after):
            for row in range(position, len(keys)):
                if not keys[row].startswith(prefix):
                    return
                yield keys[row]

    def _from(
        self, prefix: bytes, after: bytes
    ) -> Iterator[tuple[tuple[bytes, ...], tuple[bytes, ...], int]]:
        """Each shard from the first key wanted on, with that key's position."""
        skip = bool(after) and after >= prefix
        start = after if skip else prefix
        first = max(bisect_right(self._firsts, start) - 1, 0)
        for number in range(first, len(self._shards)):
            keys, values = self._shards[number]
            position = 0
            if number == first:
                position = bisect_right(keys, start) if skip else bisect_left(keys, start)
            yield keys, values, position

    def set(self, changes: Iterable[tuple[bytes, bytes | None]]) -> Self:
        """Return this table with rows set, or removed where the value is None; the last change of a key wins.

        Removing a row that is not there changes nothing. Cost: one shard and the list of shards for each
        shard touched.
        """
        latest = dict(changes)
        if not self._shards:
            return self.of_sorted((key, value) for key, value in sorted(latest.items()) if value is not None)
        touched: dict[int, list[tuple[bytes, bytes | None]]] = {}
        ends, edits = b"", []  # Of the shard at hand: the keys ascend.
        for key in sorted(latest):
            if key >= ends:
                number = max(bisect_right(self._firsts, key) - 1, 0)
                ends = self._firsts[number + 1] if number + 1 < len(self._firsts) else AFTER_ALL
                edits = touched.setdefault(number, [])
            edits.append((key, latest[key]))
        if not touched:
            return self
        shards, count = list(self._shards), self._count
        firsts: list[bytes] | None = None  # Copied once keys come or go.
        # From the last to the first, so that a split or a merge moves no shard that is still to come.
        for number in reversed(touched):
            shard = _edited(shards[number], touched[number])
            if shard[0] is shards[number][0]:
                shards[number] = shard
                continue
            count += len(shard[0]) - len(shards[number][0])
            firsts = list(self._firsts) if firsts is None else firsts
            _replace(shards, firsts, number, shard)
        return type(self)(tuple(shards), self._firsts if firsts is None else tuple(firsts), count)

    def digest(self) -> str:
        """SHA-256 over all rows, as hex; tables with the same rows have the same digest."""
        total = hashlib.sha256()
        for key, value in self.items():
            total.update(len(key).to_bytes(4))
            total.update(key)
            total.update(len(value).to_bytes(4))
            total.update(value)
        return total.hexdigest()


def _parts(rows: Iterable[tuple[bytes, bytes]], size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    rest = iter(rows)
    while part := list(islice(rest, size)):
        yield part


def _edited(shard: _Shard, changes: Iterable[tuple[bytes, bytes | None]]) -> _Shard:
    keys: Sequence[bytes] = shard[0]
    values = list(shard[1])
    copied: list[bytes] | None = None  # Once keys change: most changes are of rows that are there.
    for key, value in changes:
        position = bisect_left(keys, key)
        found = position < len(keys) and keys[position] == key
        if found and value is not None:
            values[position] = value
        elif found or value is not None:
            if copied is None:
                keys = copied = list(keys)
            if value is None:
                del copied[position], values[position]
            else:
                copied.insert(position, key)
                values.insert(position, value)
    return (shard[0] if copied is None else tuple(copied)), tuple(values)


def _replace(shards: list[_Shard], firsts: list[bytes], number: int, shard: _Shard) -> None:
    """Put `shard` at `number`, joined to a neighbour where it is too small, split where it is too large."""
    keys, values = shard
    start, stop = number, number + 1
    if keys and len(keys) < SHARD_ROWS_MIN and len(shards) > 1:
        left = number - 1 if number else 0
        one, other = (shards[left], shard) if number else (shard, shards[1])
        keys, values = one[0] + other[0], one[1] + other[1]
        start, stop = left, left + 2
    pieces = -(-len(keys) // SHARD_ROWS_MAX)
    size = -(-len(keys) // max(pieces, 1))
    starts = [piece * size for piece in range(pieces)]
    shards[start:stop] = [(keys[at : at + size], values[at : at + size]) for at in starts]
    firsts[start:stop] = [keys[at] for at in starts]


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the whole catalog."""

    revision: int
    resources: Table
    endpoints: Table

    def with_changes(self, changes: Iterable[Change], revision: int) -> "Tables":
        """Return the tables after `changes`, at `revision`; these stay as they are."""
        rows: dict[str, list[tuple[bytes, bytes | None]]] = {"resources": [], "endpoints": []}
        for change in changes:
            rows[change.table].append((change.key, change.value))
        return Tables(
            revision=revision,
            resources=self.resources.set(rows["resources"]),
            endpoints=self.endpoints.set(rows["endpoints"]),
        )

    def resource(self, key: ResourceKey) -> Resource | None:
        """Return one resource, or None."""
        value = self.resources.get(key.encode())
        return None if value is None else unpack_resource(value)

    def cluster(self, name: str) -> ClusterSpec | None:
        """Return the spec of a cluster that has joined, or None; raises `InvalidInputError` if it is unreadable."""
        row = self.resource(ResourceKey(FEDERATION_SCOPE, "Cluster", "", name))
        if row is None:
            return None
        spec = decode_spec("Cluster", row.spec, where=str(row.key))
        assert isinstance(spec, ClusterSpec)
        return spec

    def endpoint(self, key: EndpointKey) -> Endpoint | None:
        """Return one endpoint, or None."""
        value = self.endpoints.get(key.encode())
        return None if value is None else unpack_endpoint(value)

    def list_resources(self, scope: str, kind: str, namespace: str | None = None) -> Iterator[Resource]:
        """Iterate over the resources of a kind in a scope, and namespace if given, by key."""
        for _, value in self.resources.items(resource_prefix(scope, kind, namespace)):
            yield unpack_resource(value)

    def list_endpoints(self, service: ServiceKey, cluster: str | None = None) -> Iterator[Endpoint]:
        """Iterate over the endpoints of a service, of one cluster if given, by key."""
        for _, value in self.endpoints.items(endpoint_prefix(service, cluster)):
            yield unpack_endpoint(value)

    def list_services(self, namespace: str | None = None) -> Iterator[ServiceKey]:
        """Iterate over the services that have endpoints. Cost: one search for each service, not each row."""
        prefix = b"" if namespace is None else f"{namespace}\0".encode()
        after = b""
        while (row := next(self.endpoints.keys(prefix, after), None)) is not None:
            key = EndpointKey.decode(row).service_key
            yield key
            after = endpoint_prefix(key) + AFTER_ALL


EMPTY_TABLES = Tables(revision=0, resources=Table(), endpoints=Table())


def resource_prefix(scope: str, kind: str, namespace: str | None = None) -> bytes:
    """The bytes that the keys of these resources start with."""
    parts = (scope, kind) if namespace is None else (scope, kind, namespace)
    return "".join(f"{part}\0" for part in parts).encode()


def endpoint_prefix(service: ServiceKey, cluster: str | None = None) -> bytes:
    """The bytes that the keys of these endpoints start with."""
    parts = service if cluster is None else (*service, cluster)
    return "".join(f"{part}\0" for part in parts).encode()
