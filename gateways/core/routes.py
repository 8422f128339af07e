"""Route configurations.

Outbound: one virtual host per port of a service, found by the Host header. Each has two routes, because a
request that reached an application may be repeated only if its method is idempotent (RFC 9110 section
9.2.2): those are retried after any network failure or 503, all others only while nothing was delivered.

There is no per-try timeout. A try that hangs on a dead connection is ended by HTTP/2 pings within 1 s
(`clusters`); a timeout would also end, and with outlier detection eject, applications that are just slow.

The whole configuration is one message, but it is put together from the bytes of its virtual hosts, so that a
service that comes or goes costs one virtual host and one copy.
"""

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.view import Admission, Service
from gateways.core import names
from gateways.core.affinity import hash_of_requests
from gateways.core.authorization import admit_per_route
from gateways.core.proxy import Workload, WorkloadPort
from gateways.core.wire import (
    ROUTES,
    XdsResource,
    duration,
    make_resource,
    pack_any,
    resource_of_bytes,
    serialize,
    varint,
)

REQUEST_TIMEOUT_MS = 15_000
# Together they last about 0.7 s: longer than an agent takes to start its dead Envoy again, where that is the only one.
RETRIES_PER_REQUEST_MAX = 8
RETRY_BACKOFF_MS = 25
RETRY_BACKOFF_MAX_MS = 250
# How often a retry draws again when it draws an endpoint that was tried. A dead endpoint has the fewest
# requests, so of two endpoints `LEAST_REQUEST` draws it three times out of four: 5 draws are too few.
HOST_SELECTION_ATTEMPTS_MAX = 20

_IDEMPOTENT_METHODS = "GET|HEAD|OPTIONS|PUT|DELETE|TRACE"
_RETRY_IDEMPOTENT = "connect-failure,refused-stream,unavailable,reset,retriable-status-codes"
_RETRY_UNDELIVERED = "connect-failure,refused-stream,reset-before-request"
_HTTP_PORT = 80

AUTHORIZATION_FILTER = "envoy.filters.http.rbac"
_VIRTUAL_HOSTS_TAG = b"\x12"  # Field 2 of RouteConfiguration.


def virtual_hosts(service: Service) -> tuple[bytes, ...]:
    """Return the serialized virtual hosts of a service, without its bare name; none when it has no HTTP port."""
    return tuple(
        serialize(
            _virtual_host(
                service.key, service.called_as, port, _domains(service.key, port.service_port, bare_port=bare)
            )
        )
        for port, bare in _http_ports(service)
    )


def local_virtual_hosts(service: Service) -> tuple[bytes, ...]:
    """Return the same for a caller of the service's own namespace, who may also use its bare name."""
    return tuple(
        serialize(
            _virtual_host(
                service.key,
                service.called_as,
                port,
                [
                    *_domains(service.key, port.service_port, bare_port=bare),
                    *_with_port(service.key.service, port.service_port, bare_port=bare),
                ],
            )
        )
        for port, bare in _http_ports(service)
    )


def outbound_routes(hosts: Iterable[bytes], *, cluster: str) -> XdsResource:
    """Return the route configuration of a sidecar's outbound listener from its virtual hosts, in order."""
    name = names.OUTBOUND_ROUTES
    parts = [
        serialize(
            RouteConfiguration(
                name=name,
                validate_clusters=BoolValue(value=False),
                # A stray port is another port of the service, never to be ignored.
                ignore_port_in_host_matching=False,
            )
        )
    ]
    for host in (*hosts, serialize(_unknown_host(cluster))):
        parts += (_VIRTUAL_HOSTS_TAG, varint(len(host)), host)
    return resource_of_bytes(ROUTES, name, b"".join(parts))


def service_routes(key: ServiceKey, port: EndpointPort) -> Any:
    """Return the routes of a listener that stands for one port of a service: all requests go there."""
    return RouteConfiguration(
        name=names.service_cluster(key, port.service_port),
        virtual_hosts=[_virtual_host(key, key, port, ["*"])],
        validate_clusters=BoolValue(value=False),
    )


def inbound_routes(workload: Workload, port: WorkloadPort, admission: Admission) -> XdsResource:
    """Return the route to the application, which carries who may take it.

    Authorization stands here and not in the listener because a new route takes effect on living
    connections; a new listener leaves them as they are.
    """
    name = names.inbound_cluster(workload.key, port.service_port)
    route = Route(
        match=RouteMatch(prefix="/"),
        # The caller's timeout rules; a second one here would only race it.
        route=RouteAction(cluster=name, timeout=duration(0)),
    )
    route.typed_per_filter_config[AUTHORIZATION_FILTER].CopyFrom(pack_any(admit_per_route(admission)))
    config = RouteConfiguration(
        name=name,
        virtual_hosts=[VirtualHost(name="application", domains=["*"], routes=[route])],
        validate_clusters=BoolValue(value=False),
    )
    return make_resource(ROUTES, name, config)


def _http_ports(service: Service) -> list[tuple[EndpointPort, bool]]:
    """The HTTP ports, each with whether a Host header without a port means it: 80, else the lowest."""
    ports = sorted(
        (port for port in service.ports if port.protocol == "http"), key=lambda port: port.service_port
    )
    numbers = [port.service_port for port in ports]
    bare = _HTTP_PORT if _HTTP_PORT in numbers else min(numbers, default=0)
    return [(port, port.service_port == bare) for port in ports]


def _domains(key: ServiceKey, service_port: int, *, bare_port: bool) -> list[str]:
    short = f"{key.service}.{key.namespace}"
    spellings = (names.host(key), short, f"{short}.svc", f"{short}.svc.cluster.local")
    return [
        domain for spelling in spellings for domain in _with_port(spelling, service_port, bare_port=bare_port)
    ]


def _with_port(spelling: str, service_port: int, *, bare_port: bool) -> list[str]:
    with_port = f"{spelling}:{service_port}"
    return [spelling, with_port] if bare_port else [with_port]


def _virtual_host(key: ServiceKey, called_as: ServiceKey, port: EndpointPort, domains: list[str]) -> Any:
    cluster = names.service_cluster(called_as, port.service_port)
    idempotent = HeaderMatcher(
        name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex=_IDEMPOTENT_METHODS))
    )
    return VirtualHost(
        name=f"{names.host(key)}:{port.service_port}",
        domains=domains,
        routes=[
            Route(
                match=RouteMatch(prefix="/", headers=[idempotent]),
                route=_to_cluster(cluster, _RETRY_IDEMPOTENT, retriable_status_codes=(503,)),
            ),
            Route(match=RouteMatch(prefix="/"), route=_to_cluster(cluster, _RETRY_UNDELIVERED)),
        ],
        # How often a request was tried, for the application behind and for whoever reads its log.
        include_request_attempt_count=True,
    )


def _to_cluster(cluster: str, retry_on: str, *, retriable_status_codes: tuple[int, ...] = ()) -> Any:
    return RouteAction(
        cluster=cluster,
        timeout=duration(REQUEST_TIMEOUT_MS),
        hash_policy=hash_of_requests(),
        retry_policy=RetryPolicy(
            retry_on=retry_on,
            retriable_status_codes=retriable_status_codes,
            num_retries=UInt32Value(value=RETRIES_PER_REQUEST_MAX),
            host_selection_retry_max_attempts=HOST_SELECTION_ATTEMPTS_MAX,
            retry_back_off=RetryPolicy.RetryBackOff(
                base_interval=duration(RETRY_BACKOFF_MS), max_interval=duration(RETRY_BACKOFF_MAX_MS)
            ),
            retry_host_predicate=[
                RetryPolicy.RetryHostPredicate(
                    name="envoy.retry_host_predicates.previous_hosts",
                    typed_config=pack_any(PreviousHostsPredicate()),
                )
            ],
            # Without it a retry stays in the cluster that has just failed.
            retry_priority=RetryPolicy.RetryPriority(
                name="envoy.retry_priorities.previous_priorities",
                typed_config=pack_any(PreviousPrioritiesConfig(update_frequency=1)),
            ),
        ),
    )


def _unknown_host(cluster: str) -> Any:
    text = f"no service %REQ(:AUTHORITY)% is visible to cluster {cluster}\n"
    return VirtualHost(
        name="unknown",
        domains=["*"],
        routes=[
            Route(
                match=RouteMatch(prefix="/"),
                direct_response=DirectResponseAction(
                    status=404,
                    body_format=SubstitutionFormatString(text_format_source=DataSource(inline_string=text)),
                ),
            )
        ],
    )
