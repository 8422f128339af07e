"""The catalog as a cluster's own controllers see it: its endpoints as its agents declare them, the rest global.

A process that has no local table of the cluster (a DNS process, a mirror elsewhere) uses the catalog's
tables as they are.
"""

from collections.abc import Iterable

from discovery.core.model import Change, EndpointKey
from discovery.core.tables import EMPTY_TABLES, Table, Tables, endpoint_prefix


class Overlay:
    """Tables in which the endpoint rows of one cluster come from its local table.

    Every method returns the changes of `tables`, ready for `ViewIndex.update`.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self.tables = EMPTY_TABLES

    def reset(self, tables: Tables, local: Table) -> None:
        """Begin anew from a whole catalog and a whole local table. Cost: that of the cluster's rows."""
        rows: dict[bytes, bytes | None] = {
            key: None
            for service in tables.list_services()
            for key in tables.endpoints.keys(endpoint_prefix(service, self._cluster))
        }
        rows.update(local.items())
        self.tables = Tables(
            revision=tables.revision, resources=tables.resources, endpoints=tables.endpoints.set(rows.items())
        )

    def follow(self, revision: int, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Take the catalog's changes of a revision, but for this cluster's endpoints."""
        taken = tuple(change for change in changes if not self._is_local(change))
        self.tables = self.tables.with_changes(taken, revision)
        return taken

    def declare(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Take the local table's changes."""
        taken = tuple(changes)
        self.tables = self.tables.with_changes(taken, self.tables.revision)
        return taken

    def _is_local(self, change: Change) -> bool:
        return change.table == "endpoints" and EndpointKey.decode(change.key).cluster == self._cluster
