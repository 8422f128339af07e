"""What an agent or gateway tells about itself: one value, shown as JSON and as metrics, compared in tests."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from discovery.core.model import EndpointKey
from federation.agent.identity import IdentityKeeper
from federation.agent.registration import Registrar


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the parts."""


class ControllerStatus(_Part, frozen=True, kw_only=True):
    """The registration stream to one controller of the cluster."""

    name: str
    connected: bool
    error: str = ""
    revision: int = 0  # Newest at which the log's quorum acknowledged a declaration of ours.


class EndpointStatus(_Part, frozen=True, kw_only=True):
    """One endpoint that this process declares."""

    endpoint: str  # NAMESPACE/SERVICE/NAME
    address: str  # Where its proxy listens.
    ready: bool
    level: str  # "waiting" for the first probe, "declared", "local" or "global"
    why: str = ""  # What the last probe failed with.
    refusals: tuple[str, ...] = ()  # CONTROLLER: reason


class LeafStatus(_Part, frozen=True, kw_only=True):
    """One certificate of this process."""

    identity: str
    expires: datetime | None
    valid: bool
    error: str = ""  # What the last attempt to renew failed with.


class ProxyStatus(_Part, frozen=True, kw_only=True):
    """The Envoy and where its configuration comes from."""

    state: str
    ready: bool
    restarts: int = 0
    error: str = ""
    controller: str = ""  # Followed now; empty when none can be reached.
    controller_error: str = ""  # Why none is.
    age_s: float | None = None  # Since the configuration was last known to be the newest; None: never.
    resources: int = 0
    rejected: tuple[str, ...] = ()  # Resources that Envoy refused, with its reason.


class AgentStatus(_Part, frozen=True, kw_only=True):
    """All of it. `missing` says what keeps the process from being ready."""

    purpose: str
    id: str
    cluster: str
    identity: str
    incarnation: int
    leaving: bool
    missing: tuple[str, ...]
    controllers: tuple[ControllerStatus, ...]
    endpoints: tuple[EndpointStatus, ...]
    leaves: tuple[LeafStatus, ...]
    proxy: ProxyStatus
    heard: dict[str, bool] = {}  # Of a gateway: other clusters, and whether their gateways answer it.

    @property
    def ready(self) -> bool:
        """True when workloads can be served; controllers are not needed for that (invariant F1)."""
        return not self.missing


def controllers_of(registrar: Registrar) -> tuple[ControllerStatus, ...]:
    """Return the registration streams, by controller."""
    return tuple(
        ControllerStatus(
            name=name, connected=stream.connected, error=stream.error, revision=stream.cursor.revision
        )
        for name, stream in sorted(registrar.streams.items())
    )


def endpoints_of(registrar: Registrar, why: dict[str, str]) -> tuple[EndpointStatus, ...]:
    """Return the endpoints by key; `why` holds the last failures of probes by endpoint name."""
    rows = registrar.declared.rows.values() if registrar.declared is not None else registrar.endpoints
    return tuple(
        EndpointStatus(
            endpoint=f"{row.key.namespace}/{row.key.service}/{row.key.name}",
            address=f"{row.address}:{row.ports[0].listen_port}",
            ready=row.ready,
            level=registrar.level(row.key),
            why=why.get(row.key.name, ""),
            refusals=tuple(_refusals(registrar, row.key)),
        )
        for row in sorted(rows, key=lambda row: row.key)
    )


def _refusals(registrar: Registrar, key: EndpointKey) -> Iterator[str]:
    """What controllers will not hold, or hold and may not publish, or send nobody to, and why."""
    for name, stream in sorted(registrar.streams.items()):
        if key in stream.refusals:
            yield f"{name}: {stream.refusals[key]}"
        elif key in stream.cursor.unpublished:
            yield f"{name}: not global: {stream.cursor.unpublished[key]}"


def leaves_of(keepers: Iterable[IdentityKeeper]) -> tuple[LeafStatus, ...]:
    """Return the certificates of this process."""
    return tuple(
        LeafStatus(
            identity=str(keeper.spiffe_id),
            expires=keeper.leaf.not_after if keeper.leaf.installed else None,
            valid=keeper.valid,
            error=keeper.error,
        )
        for keeper in keepers
    )


class StatusCollector(Collector):
    """The status as Prometheus metrics, made at each scrape."""

    def __init__(self, status: Callable[[], AgentStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        status = self._status()
        connected = sum(controller.connected for controller in status.controllers)
        yield _gauge("isthmus_agent_ready", "1 when workloads can be served.", status.ready)
        yield _gauge("isthmus_agent_controllers", "Controllers to register with.", len(status.controllers))
        yield _gauge("isthmus_agent_controllers_connected", "Those with an open stream.", connected)
        yield from _endpoint_metrics(status)
        yield from _proxy_metrics(status.proxy)
        heard = GaugeMetricFamily(
            "isthmus_gateway_heard", "1 while the gateways of a cluster answer this one.", labels=["cluster"]
        )
        for cluster, answers in sorted(status.heard.items()):
            heard.add_metric([cluster], answers)
        yield heard
        expiry = GaugeMetricFamily(
            "isthmus_agent_leaf_expiry_timestamp_seconds", "When a certificate expires.", labels=["identity"]
        )
        for leaf in status.leaves:
            if leaf.expires is not None:
                expiry.add_metric([leaf.identity], leaf.expires.timestamp())
        yield expiry


def _endpoint_metrics(status: AgentStatus) -> Iterator[Metric]:
    counts: dict[tuple[str, str], int] = {}
    for endpoint in status.endpoints:
        key = ("true" if endpoint.ready else "false", endpoint.level)
        counts[key] = counts.get(key, 0) + 1
    family = GaugeMetricFamily(
        "isthmus_agent_endpoints", "Endpoints by readiness and safety.", labels=["ready", "level"]
    )
    for (ready, level), count in sorted(counts.items()):
        family.add_metric([ready, level], count)
    yield family
    refused = sum(bool(endpoint.refusals) for endpoint in status.endpoints)
    text = "Endpoints that a controller refuses, or may not publish."
    yield _gauge("isthmus_agent_endpoints_refused", text, refused)


def _proxy_metrics(proxy: ProxyStatus) -> Iterator[Metric]:
    yield _gauge("isthmus_agent_proxy_ready", "1 when Envoy serves.", proxy.ready)
    restarts = CounterMetricFamily("isthmus_agent_proxy_restarts", "Starts of Envoy after the first.")
    restarts.add_metric([], proxy.restarts)
    yield restarts
    yield _gauge("isthmus_agent_configuration_resources", "Resources held for Envoy.", proxy.resources)
    yield _gauge("isthmus_agent_configuration_rejected", "Those that Envoy refused.", len(proxy.rejected))
    if proxy.age_s is not None:
        yield _gauge(
            "isthmus_agent_configuration_age_seconds",
            "Since a controller last confirmed the configuration.",
            proxy.age_s,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
