"""The clusters that a controller serves: their registries, publishing, leases, memory, the other controllers' word."""

import asyncio
import time
from collections.abc import Iterator
from typing import NamedTuple

from certs.runtime.identity import LeafIdentity
from discovery.core.model import Change, EndpointKey
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from federation.agent.directory import DirectoryStore
from federation.api.directory import resources
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.registry import ClusterRegistry
from federation.app.fellows import FellowListener
from federation.app.publisher import Publisher
from federation.app.remembering import LocalMemory
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from federation.replication.local_journal import LocalJournal

SWEEP_S = 1.0
_PLACE_KINDS = (b"Cluster", b"Controller")  # What says where endpoints may be.


class Me(NamedTuple):
    """Which controller this is, and how it proves that to others."""

    name: str  # CLUSTER-ID
    cluster: str
    lease_ms: int  # Of agents.
    journal: LocalJournal
    leaf: LeafIdentity
    directory: DirectoryStore


class ServedClusters:
    """Serves the own cluster and the remote ones whose home it is, or will be; `run` ends only by cancellation."""

    def __init__(
        self, me: Me, *, catalog: CatalogReader, proposer: Proposer, feed: Feed, tracer: Tracer
    ) -> None:
        self.registries: dict[str, ClusterRegistry] = {}
        self._epochs: dict[str, int] = {}  # Of the cluster that each of them is for: names are taken again.
        self._me = me
        self._catalog = catalog
        self._proposer = proposer
        self._feed = feed
        self._tracer = tracer
        self._publishers: asyncio.Queue[Publisher] = asyncio.Queue()  # Bounded by the number of clusters.
        self._fellows = FellowListener(me.name, leaf=me.leaf, directory=me.directory)
        self._memory = LocalMemory(me.journal, tables=lambda: catalog.tables, registries=self.registries)

    def learn(self) -> Iterator[str]:
        """Serve the clusters that the catalog shows now, and no others; yield every cluster that has views."""
        tables = self._catalog.tables
        for gone in [name for name in self.registries if not self._is_served(tables.cluster(name), name)]:
            registry = self.registries.pop(gone)
            del self._epochs[gone]
            registry.retire()
            self._fellows.leave(registry)
            self._feed.leave_local(gone)
            self._memory.leave(gone)  # Its rows are another one's to remember, if it is not removed.
        for row, spec in resources(tables, "Cluster"):
            assert isinstance(spec, ClusterSpec)
            name = row.key.name
            if spec.role != "witness":
                yield name
            if name not in self.registries and self._is_ours(spec, name):
                self._epochs[name] = spec.epoch
                self._serve(name)

    def _is_served(self, spec: ClusterSpec | None, name: str) -> bool:
        """True for a cluster that is ours still, and no other one that has joined under its name meanwhile."""
        return spec is not None and self._is_ours(spec, name) and spec.epoch == self._epochs[name]

    def _is_ours(self, spec: ClusterSpec, name: str) -> bool:
        return self._me.cluster in (name, *spec.homes)

    def changed(self, changes: tuple[Change, ...]) -> None:
        """Follow what the catalog says of the served clusters."""
        kinds = {change.key.split(b"\0", 2)[1] for change in changes if change.table == "resources"}
        for cluster, registry in self.registries.items():
            mine = tuple(change for change in changes if _is_endpoint_of(change, cluster))
            if mine:
                registry.absorb(mine)
                self._memory.touched(change.key for change in mine)
            if kinds:
                registry.rules_changed()
            if not kinds.isdisjoint(_PLACE_KINDS):
                registry.judge()

    def reset(self) -> None:
        """Follow a catalog that was replaced as a whole."""
        for registry in self.registries.values():
            changes = _all_changed(self._catalog.tables, registry)
            registry.absorb(changes)
            self._memory.touched(change.key for change in changes)
            registry.judge()

    async def run(self) -> None:
        """Publish, end leases, and listen to the other controllers of the served clusters until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep(), name="served/leases")
            tasks.create_task(self._fellows.run(), name="served/fellows")
            tasks.create_task(self._memory.run(), name="served/memory")
            while True:
                publisher = await self._publishers.get()
                tasks.create_task(publisher.run(), name="served/publisher")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for registry in self.registries.values():
                registry.sweep()

    def _declared(self, cluster: str, changes: tuple[Change, ...]) -> None:
        known = self._catalog.tables.endpoints
        self._tracer.declared(change for change in changes if known.get(change.key) != change.value)
        self._feed.local_changed(cluster, changes)
        self._memory.touched(change.key for change in changes)

    def _serve(self, cluster: str) -> None:
        registry = ClusterRegistry(
            cluster,
            catalog=self._catalog,
            lease_ms=self._me.lease_ms,
            clock=time.monotonic,
            changed=self._declared,
        )
        self.registries[cluster] = registry
        registry.recall(*self._memory.recall(cluster))
        self._feed.serve_local(cluster, registry.rows())
        self._fellows.serve(registry)
        self._publishers.put_nowait(
            Publisher(registry, holder=self._me.name, catalog=self._catalog, proposer=self._proposer)
        )


def _is_endpoint_of(change: Change, cluster: str) -> bool:
    return change.table == "endpoints" and EndpointKey.decode(change.key).cluster == cluster


def _all_changed(tables: Tables, registry: ClusterRegistry) -> tuple[Change, ...]:
    """Return the endpoints of a cluster as if each had just changed, also those that are gone."""
    there = {
        key: value
        for key, value in tables.endpoints.items()
        if EndpointKey.decode(key).cluster == registry.cluster
    }
    gone = (Change("endpoints", key, None) for key, _ in registry.rows() if key not in there)
    return (*(Change("endpoints", key, value) for key, value in there.items()), *gone)
