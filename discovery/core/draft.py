"""What one command would change, before it is known whether all of it may."""

import hashlib
from collections.abc import Iterator

from discovery.core.model import (
    Change,
    Endpoint,
    EndpointKey,
    Resource,
    ResourceKey,
    TableName,
    pack,
    unpack_resource,
)
from discovery.core.poison import ControllerPlaces
from discovery.core.tables import Tables, endpoint_prefix, resource_prefix
from discovery.core.tokens import TokenIndex
from discovery.core.usage import Usage


class Draft:
    """The tables with a command's changes laid over them. Dropping it undoes them all."""

    def __init__(
        self,
        tables: Tables,
        *,
        index: int,
        now_ms: int,
        usage: Usage,
        schema: int,
        places: ControllerPlaces,
        tokens: TokenIndex,
    ) -> None:
        self.base = tables
        self.index = index
        self.now_ms = now_ms
        self.schema = schema  # Of the command: rules grew stricter from one to the next.
        self.places = places  # Where controllers listen.
        self.tokens = tokens  # Of `tables`.
        self.usage = Usage(usage)
        self.clusters_created: set[str] = set()
        self.before: tuple[bytes | None, ...] = ()  # What `changes` replace, in their order.
        self._changed: dict[tuple[TableName, bytes], bytes | None] = {}
        self._replaced: dict[tuple[TableName, bytes], bytes | None] = {}  # What the base has of them.

    @property
    def founding(self) -> bool:
        """True for the first write of a catalog: nobody is there yet who could own anything."""
        return len(self.base.resources) == 0

    def count(self, table: TableName, cluster: str) -> int:
        """How many rows the table has for a cluster, this draft included."""
        return self.usage.count(table, cluster)

    def value(self, table: TableName, key: bytes) -> bytes | None:
        """The packed row at `key`, this draft included."""
        if (place := (table, key)) in self._changed:
            return self._changed[place]
        return (self.base.resources if table == "resources" else self.base.endpoints).get(key)

    def resource(self, key: ResourceKey) -> Resource | None:
        """One resource, this draft included."""
        value = self.value("resources", key.encode())
        return None if value is None else unpack_resource(value)

    def list_resources(self, scope: str, kind: str) -> Iterator[Resource]:
        """The resources of a kind in a scope, this draft included; in no particular but a fixed order."""
        prefix = resource_prefix(scope, kind)
        for key, value in self.base.resources.items(prefix):
            if ("resources", key) not in self._changed:
                yield unpack_resource(value)
        yield from self.changed_resources(scope, kind)

    def changed_resources(self, scope: str, kind: str) -> Iterator[Resource]:
        """Those of them that this draft created or changed."""
        prefix = resource_prefix(scope, kind)
        for (table, key), changed in self._changed.items():
            if table == "resources" and changed is not None and key.startswith(prefix):
                yield unpack_resource(changed)

    def make_uid(self, key: ResourceKey) -> str:
        """The uid of a resource that this command creates: the same on every member."""
        name = hashlib.sha256(b"%d\0" % self.index + key.encode()).hexdigest()
        return f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}"

    def put(self, row: Resource | Endpoint) -> None:
        """Set a row."""
        table: TableName = "resources" if isinstance(row, Resource) else "endpoints"
        self._set(table, row.key.encode(), pack(row))

    def remove(self, key: ResourceKey | EndpointKey) -> None:
        """Remove a row; one that is not there stays away."""
        self._set("resources" if isinstance(key, ResourceKey) else "endpoints", key.encode(), None)

    def remove_cluster(self, cluster: str) -> None:
        """Remove every row that lives in a cluster. Cost: one search for each service of the catalog."""
        scope = f"{cluster}\0".encode()
        for key in self.base.resources.keys(scope):
            self._set("resources", key, None)
        for service in self.base.list_services():
            for key in self.base.endpoints.keys(endpoint_prefix(service, cluster)):
                self._set("endpoints", key, None)
        for table, key in tuple(self._changed):
            if cluster_of(table, key) == cluster:
                self._set(table, key, None)

    def changes(self) -> tuple[Change, ...]:
        """The rows that differ from the base, in the order in which they were first touched."""
        changes: list[Change] = []
        before: list[bytes | None] = []
        for place, value in self._changed.items():
            old = self._replaced[place]
            if value != old:
                changes.append(Change(*place, value))
                before.append(old)
        self.before = tuple(before)
        return tuple(changes)

    def _set(self, table: TableName, key: bytes, value: bytes | None) -> None:
        self.set(table, key, value, self.value(table, key))

    def set(self, table: TableName, key: bytes, value: bytes | None, there: bytes | None) -> None:
        """Set a packed row, or remove it; `there` is what `value` says of the key."""
        rows = (value is not None) - (there is not None)
        size = len(value or b"") - len(there or b"") + rows * len(key)
        if rows or size:
            self.usage.note(table, key, rows, size)
        place = (table, key)
        if place not in self._changed:
            self._replaced[place] = there
        self._changed[place] = value


def cluster_of(table: TableName, key: bytes) -> str:
    """The cluster in which a row lives, read from its key; "" for the federation."""
    return key.split(b"\0", 3)[0 if table == "resources" else 2].decode()
