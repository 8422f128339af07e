"""The controller's figures, taken when Prometheus asks."""

from collections.abc import Iterator, Mapping
from typing import Protocol, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from consensus.core.contract import LATENCY_BOUNDS_US, Counters, Histogram, Role, Status
from discovery.core.catalog import Catalog
from discovery.core.quotas import quota_of, shares
from federation.api.audit import AuditTrail
from federation.api.registry import ClusterRegistry
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from gateways.runtime.xds_service import XdsService

ROLES: tuple[Role, ...] = get_args(Role)


class Engine(Protocol):
    """What is asked of the engine."""

    def status(self) -> Status:
        """Its own view."""

    def counters(self) -> Counters:
        """Its totals."""


class Credentials(Protocol):
    """What is asked of the credentials."""

    leaf: LeafIdentity


class Traces(Protocol):
    """What is asked of the desk for traces."""

    tracer: Tracer


class Parts(Protocol):
    """A controller, as far as its figures go."""

    engine: Engine
    catalog: Catalog
    feed: Feed
    xds: XdsService
    traces: Traces
    registries: dict[str, ClusterRegistry]
    credentials: Credentials
    audit: AuditTrail

    def snapshot_unix_ms(self) -> int | None:
        """When the newest snapshot of the log was written, None while there is none."""


class ControllerCollector(Collector):
    """Reads a controller's parts; nothing is counted here."""

    def __init__(self, parts: object) -> None:
        self._parts: Parts = parts  # type: ignore[assignment]  # protocols of attributes are invariant

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        parts = self._parts
        status = parts.engine.status()
        yield from _raft_gauges(status)
        if (written_unix_ms := parts.snapshot_unix_ms()) is not None:
            yield _gauge(
                "isthmus_raft_snapshot_age_seconds",
                "Since the newest snapshot was written",
                max(0.0, utc_now().timestamp() - written_unix_ms / 1000),
            )
        yield from _raft_peers(status)
        yield from _raft_totals(parts.engine.counters())
        tables = parts.catalog.tables
        yield _gauge("isthmus_catalog_revision", "Newest revision of the catalog", tables.revision)
        yield _gauge("isthmus_catalog_endpoints", "Endpoints in the catalog", len(tables.endpoints))
        yield _gauge("isthmus_catalog_resources", "Resources in the catalog", len(tables.resources))
        yield _gauge(
            "isthmus_replication_followers", "Processes that follow the catalog here", parts.feed.subscribers
        )
        yield _gauge("isthmus_xds_proxies", "Proxies that are connected here", len(parts.xds.status()))
        yield from parts.traces.tracer.metrics()
        yield from _audit(parts.audit)
        yield from _quotas(parts.catalog, parts.registries)
        yield agent_gauges(parts.registries)
        yield _gauge(
            "isthmus_identity_expiry_timestamp_seconds",
            "When the certificate of this controller expires",
            parts.credentials.leaf.not_after.timestamp(),
        )


def _quotas(catalog: Catalog, registries: dict[str, ClusterRegistry]) -> Iterator[Metric]:
    used = GaugeMetricFamily("isthmus_quota_used", "In the catalog", labels=("cluster", "measure"))
    limit = GaugeMetricFamily("isthmus_quota_limit", "Allowed by its Quota", labels=("cluster", "measure"))
    for row in catalog.tables.list_resources("", "Cluster"):
        name = row.key.name
        for measure, (there, most) in shares(catalog.usage, name, quota_of(catalog.tables, name)).items():
            used.add_metric((name, measure), there)
            limit.add_metric((name, measure), most)
    yield used
    yield limit
    delayed = CounterMetricFamily(
        "isthmus_publish_delayed_seconds", "Waited for the cluster's rate", labels=("cluster",)
    )
    limited = GaugeMetricFamily(
        "isthmus_publish_limited", "1 while a limit keeps new endpoints out", labels=("cluster",)
    )
    unpublished = GaugeMetricFamily(
        "isthmus_publish_refused", "Endpoints that may not be published", labels=("cluster",)
    )
    for cluster, registry in registries.items():
        delayed.add_metric((cluster,), registry.delayed_s)
        limited.add_metric((cluster,), bool(registry.limited))
        unpublished.add_metric((cluster,), len(registry.unpublished))
    yield delayed
    yield limited
    yield unpublished


def _audit(audit: AuditTrail) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "isthmus_refused_writes",
        "Writes refused, by where they were and why",
        labels=("layer", "reason"),
    )
    for (layer, reason), count in sorted(audit.refused.copy().items()):
        refused.add_metric((layer, reason), count)
    yield refused
    for name, text, value in (
        ("records", "Records of the audit trail", audit.recorded),
        ("dropped", "Records that found no room in memory or on disk", audit.dropped),
    ):
        yield CounterMetricFamily(f"isthmus_audit_{name}", text, value=value)


def agent_gauges(registries: Mapping[str, ClusterRegistry]) -> Metric:
    """Return how many agents of each served cluster are in each phase."""
    agents = GaugeMetricFamily("isthmus_agents", "Agents by cluster and phase", labels=("cluster", "phase"))
    for cluster, registry in registries.items():
        phases = list(registry.agents().values())
        for phase in ("unheard", "live", "lost", "ended"):
            agents.add_metric((cluster, phase), phases.count(phase))
    return agents


def _raft_gauges(status: Status) -> Iterator[Metric]:
    yield _gauge("isthmus_raft_leader", "1 while this member leads", int(status.role == "leader"))
    yield _gauge(
        "isthmus_raft_has_leader", "1 while this member knows a leader", int(status.leader is not None)
    )
    roles = GaugeMetricFamily("isthmus_raft_role", "1 for the role that this member has", labels=("role",))
    for role in ROLES:
        roles.add_metric((role,), int(status.role == role))
    yield roles
    yield _gauge("isthmus_raft_term", "Raft term", status.term)
    yield _gauge("isthmus_raft_last_index", "Newest log index, committed or not", status.last_index)
    yield _gauge("isthmus_raft_commit_index", "Committed log index", status.commit_index)
    yield _gauge("isthmus_raft_applied_index", "Applied log index", status.applied_index)
    yield _gauge(
        "isthmus_raft_applied_lag_entries",
        "Committed entries that are not applied yet",
        max(0, status.commit_index - status.applied_index),
    )
    yield _gauge("isthmus_raft_members", "Members that vote", len(status.members))
    yield _gauge("isthmus_raft_connected_members", "Members that are connected", len(status.connected))
    yield _gauge("isthmus_raft_journal_bytes", "Size of the journal", status.journal_bytes)
    if status.last_leader_contact_ms_ago is not None:
        yield _gauge(
            "isthmus_raft_leader_contact_age_seconds",
            "Since a leader was heard; on a leader, since its quorum was",
            status.last_leader_contact_ms_ago / 1000,
        )


def _raft_peers(status: Status) -> Iterator[Metric]:
    """What only a leader knows."""
    lag = GaugeMetricFamily(
        "isthmus_raft_peer_lag_entries", "Entries that another member lacks", labels=("member",)
    )
    age = GaugeMetricFamily(
        "isthmus_raft_peer_contact_age_seconds", "Since another member answered", labels=("member",)
    )
    for peer in status.peers:
        lag.add_metric((peer.id,), max(0, status.last_index - peer.match_index))
        if peer.last_contact_ms_ago is not None:
            age.add_metric((peer.id,), peer.last_contact_ms_ago / 1000)
    yield lag
    yield age


def _raft_totals(counters: Counters) -> Iterator[Metric]:
    for name, text in (
        ("proposals", "Commands proposed here"),
        ("proposals_refused", "Commands refused here"),
        ("applied", "Log entries applied"),
        ("campaigns", "Elections begun by this member"),
        ("leader_changes", "Leaders that this member came to know"),
        ("snapshots_written", "Snapshots written"),
        ("snapshots_installed", "Snapshots received from a leader"),
        ("connections_refused", "Connections of strangers refused"),
        ("connections_dropped", "Connections dropped"),
    ):
        yield CounterMetricFamily(f"isthmus_raft_{name}", text, value=getattr(counters, name))
    yield _histogram(
        "isthmus_raft_journal_sync_seconds", "Write and fdatasync of the journal", counters.journal_sync
    )
    yield _histogram(
        "isthmus_raft_turn_seconds", "One turn of the log's loop, its disk calls included", counters.turn
    )
    yield _gauge(
        "isthmus_raft_longest_turn_seconds",
        "The longest turn of the log's loop since the start",
        counters.turn.longest_us / 1_000_000,
    )
    yield _histogram(
        "isthmus_raft_commit_seconds", "From a command's proposal here to its result", counters.commit
    )


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    total = 0
    buckets: list[tuple[str, float]] = []
    bounds = [*(str(bound / 1_000_000) for bound in LATENCY_BOUNDS_US), "+Inf"]
    # A copy: the engine's thread goes on counting.
    for bound, count in zip(bounds, tuple(histogram.counts), strict=True):
        total += count
        buckets.append((bound, total))
    metric = HistogramMetricFamily(name, documentation)
    metric.add_metric((), buckets, histogram.sum_us / 1_000_000)
    return metric


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)
