"""The controller's figures, taken when Prometheus asks."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from certs.runtime.identity import LeafIdentity
from consensus.core.contract import Counters, Status
from discovery.core.catalog import Catalog
from federation.api.registry import ClusterRegistry
from federation.replication.feed import Feed
from gateways.runtime.xds_service import XdsService


class Engine(Protocol):
    """What is asked of the engine."""

    def status(self) -> Status:
        """Its own view."""

    def counters(self) -> Counters:
        """Its totals."""


class Credentials(Protocol):
    """What is asked of the credentials."""

    leaf: LeafIdentity


class Parts(Protocol):
    """A controller, as far as its figures go."""

    engine: Engine
    catalog: Catalog
    feed: Feed
    xds: XdsService
    registries: dict[str, ClusterRegistry]
    credentials: Credentials


class ControllerCollector(Collector):
    """Reads a controller's parts; nothing is counted here."""

    def __init__(self, parts: object) -> None:
        self._parts: Parts = parts  # type: ignore[assignment]  # protocols of attributes are invariant

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        parts = self._parts
        yield from _raft_metrics(parts.engine.status(), parts.engine.counters())
        tables = parts.catalog.tables
        yield _gauge("isthmus_catalog_revision", "Newest revision of the catalog", tables.revision)
        yield _gauge("isthmus_catalog_endpoints", "Endpoints in the catalog", len(tables.endpoints))
        yield _gauge("isthmus_catalog_resources", "Resources in the catalog", len(tables.resources))
        yield _gauge(
            "isthmus_replication_followers", "Processes that follow the catalog here", parts.feed.subscribers
        )
        yield _gauge("isthmus_xds_proxies", "Proxies that are connected here", len(parts.xds.status()))
        agents = GaugeMetricFamily(
            "isthmus_agents", "Agents by cluster and phase", labels=("cluster", "phase")
        )
        for cluster, registry in parts.registries.items():
            phases = list(registry.agents().values())
            for phase in ("unheard", "live", "lost", "ended"):
                agents.add_metric((cluster, phase), phases.count(phase))
        yield agents
        yield _gauge(
            "isthmus_identity_expiry_timestamp_seconds",
            "When the certificate of this controller expires",
            parts.credentials.leaf.not_after.timestamp(),
        )


def _raft_metrics(status: Status, counters: Counters) -> Iterator[Metric]:
    yield _gauge("isthmus_raft_leader", "1 while this member leads", int(status.role == "leader"))
    yield _gauge(
        "isthmus_raft_has_leader", "1 while this member knows a leader", int(status.leader is not None)
    )
    yield _gauge("isthmus_raft_term", "Raft term", status.term)
    yield _gauge("isthmus_raft_commit_index", "Committed log index", status.commit_index)
    yield _gauge("isthmus_raft_applied_index", "Applied log index", status.applied_index)
    yield _gauge("isthmus_raft_members", "Members that vote", len(status.members))
    yield _gauge("isthmus_raft_connected_members", "Members that are connected", len(status.connected))
    yield _gauge("isthmus_raft_journal_bytes", "Size of the journal", status.journal_bytes)
    for name, text in (
        ("proposals", "Commands proposed here"),
        ("proposals_refused", "Commands refused here"),
        ("applied", "Log entries applied"),
        ("campaigns", "Elections begun by this member"),
        ("journal_syncs", "Syncs of the journal"),
        ("snapshots_written", "Snapshots written"),
        ("snapshots_installed", "Snapshots received from a leader"),
        ("connections_refused", "Connections of strangers refused"),
        ("connections_dropped", "Connections dropped"),
    ):
        yield CounterMetricFamily(f"isthmus_raft_{name}", text, value=getattr(counters, name))
    yield CounterMetricFamily(
        "isthmus_raft_journal_sync_seconds", "Time spent in syncs", value=counters.journal_sync_us / 1e6
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)
