"""Session affinity, `ClientIP`: each calling host keeps to one endpoint of a service.

To a sidecar all callers of its host are one workload, and most of them arrive from one loopback address. So a sidecar's
own listeners say who calls: the address of its host, as filter state of each connection. Where the kernel redirects
connections, their source says the same. Routes and TCP listeners hash it, always; whether the hash matters is
for the cluster to say, by its balancer, so that a change of affinity changes clusters alone.

The balancer is Maglev: when one of n endpoints goes, its callers move, and of the others fewer than 1 in 200 (computed for 2
to 50 endpoints). Envoy's ring, which always has about as many entries, moved 1 in 8: with fewer endpoints each has more
entries, between which the others' are. Until a dead endpoint is ejected, and when its rest ends, retries go to any other one.
Among owners the aggregate decides as ever, by order, health and share.
"""

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config
from envoy.type.v3.hash_policy_pb2 import HashPolicy
from google.protobuf.wrappers_pb2 import UInt64Value

from discovery.core.view import Service

CALLER_KEY = "isthmus.caller"
CALLER_FILTER = "envoy.filters.network.set_filter_state"
# Envoy's own type of a string that can be hashed.
_HASHABLE = "envoy.hashable_string"
# A prime. Of each cluster with affinity, in a few bits each: 16 KiB for 3 endpoints, 56 KiB for 100.
TABLE_ENTRIES = 65_537
# Of what is healthy, Envoy's factor when there is no affinity.
OVERPROVISIONING_DEFAULT = 140


def is_sticky(service: Service) -> bool:
    """Whether callers of the service keep to one endpoint."""
    return service.affinity == "ClientIP"


def choose_by_caller(cluster: Any) -> None:
    """Make a cluster choose endpoints by the hash of who calls."""
    cluster.lb_policy = Cluster.MAGLEV
    cluster.maglev_lb_config.CopyFrom(Cluster.MaglevLbConfig(table_size=UInt64Value(value=TABLE_ENTRIES)))


def overprovisioning(endpoint_count: int) -> int:
    """How much of its traffic an owner takes per healthy hundredth, so that a single healthy endpoint takes all.

    By Envoy's default an owner with fewer than 5 of 7 endpoints healthy gives part of the requests to the next one,
    by chance, and a caller would not keep to anybody.
    """
    return max(OVERPROVISIONING_DEFAULT, 100 * endpoint_count)


def caller_config(address: str) -> Config:
    """What makes a listener of a sidecar say that the host of this address calls."""
    said = SubstitutionFormatString(
        text_format_source=DataSource(inline_string=address.replace("%", "%%"))  # An IPv6 zone's.
    )
    value = FilterStateValue(object_key=CALLER_KEY, factory_key=_HASHABLE, format_string=said)
    return Config(on_new_connection=[value])


def hash_of_requests() -> Sequence[Any]:
    """By what a route tells callers apart: what the listener says, or where that is silent the connection's source."""
    return (
        RouteAction.HashPolicy(
            filter_state=RouteAction.HashPolicy.FilterState(key=CALLER_KEY), terminal=True
        ),
        RouteAction.HashPolicy(
            connection_properties=RouteAction.HashPolicy.ConnectionProperties(source_ip=True)
        ),
    )


def hash_of_connections(*, named: bool) -> Sequence[Any]:
    """The same of a TCP listener. `named`: the listener says who calls."""
    if named:
        return (HashPolicy(filter_state=HashPolicy.FilterState(key=CALLER_KEY)),)
    return (HashPolicy(source_ip=HashPolicy.SourceIp()),)
