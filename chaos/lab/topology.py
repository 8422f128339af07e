"""The demo's federation: which clusters, processes, services and addresses there are.

Every cluster has a frontend. catalogue and orders live in two clusters each, on different sides of every region;
payments lives in one cluster alone, the remote one, so that a purchase always crosses clusters.
"""

import ipaddress
import math

from msgspec import Struct

from chaos.lab.regions import longest_round_trip_ms

NAMESPACE = "shop"
SERVICE_ACCOUNT = "shop"
SERVICE_PORT = 8080
RAFT_PORT, CONTROL_PORT, API_PORT, METRICS_PORT = 7443, 7444, 7445, 7446
OUTBOUND_PORT, GATEWAY_PORT, DNS_PORT = 15001, 15443, 5353
_DNS_PORT_OF_RESOLVERS = 53
_APP_PORT_FIRST = 8081
_USER_FIRST = 61_001  # Of captured applications; no account has these.
_ROUND_TRIP_MARGIN = 1.1  # Jitter, and a busy machine.

# The order in which a purchase passes through the shop (`chaos.shop.app`).
SERVICES = ("frontend", "catalogue", "orders", "payments")
LATE_SERVICE = "returns"  # Registered by a late agent.


class Workload(Struct, frozen=True, kw_only=True):
    """One instance of a service, served by an application process of its own."""

    service: str
    app: str  # Name of the application process.
    port: int  # Where the application listens.


class AgentPlan(Struct, frozen=True, kw_only=True):
    """One agent and its workloads."""

    name: str  # Also the instance that its applications call themselves.
    address: str
    workloads: tuple[Workload, ...]
    group: str = ""  # The WorkloadGroup that says what it serves; empty: its own configuration does.
    user: int = 0  # Number of the user whose connections it captures: its applications'; 0: it captures none.


class ClusterPlan(Struct, frozen=True, kw_only=True):
    """One cluster. `controller` is empty for a remote cluster."""

    name: str
    role: str
    region: str
    trust_domain: str
    home: str
    cidr: str
    controller: str
    dns: str
    gateway: str
    agents: tuple[AgentPlan, ...]
    round_trip_ms: int = 0  # Longest between members, 0 for that of one machine.
    capture: bool = False  # Applications call plain names, and their agents capture that.

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that one of its processes may listen on."""
        fixed = (address for address in (self.controller, self.dns, self.gateway) if address)
        agents = (agent.address for agent in (*self.agents, late_agent(self)))
        return (*fixed, *agents)

    @property
    def serves(self) -> bool:
        """False for a witness, which has neither agents nor gateways."""
        return bool(self.gateway)

    @property
    def dns_port(self) -> int:
        """Where its DNS process answers: at the port that resolvers ask, where applications resolve by it."""
        return _DNS_PORT_OF_RESOLVERS if self.capture else DNS_PORT

    @property
    def services(self) -> tuple[str, ...]:
        """The services that it has instances of."""
        return tuple(sorted({one.service for agent in self.agents for one in agent.workloads}))

    @property
    def groups(self) -> tuple[str, ...]:
        """Its WorkloadGroups; each has the name of its service."""
        return tuple(agent.group for agent in self.agents if agent.group)

    def instances(self, service: str) -> tuple[str, ...]:
        """The instances of a service that it has."""
        return tuple(
            agent.name for agent in self.agents if service in (one.service for one in agent.workloads)
        )


# Which services each agent runs. Those of gamma are virtual machines and bare metal: one service each, by a group.
_WORKLOADS = {
    ("alpha", "alpha-1"): ("frontend", "catalogue"),
    ("alpha", "alpha-2"): ("catalogue",),
    ("beta", "beta-1"): ("frontend", "orders"),
    ("gamma", "gamma-1"): ("frontend",),
    ("gamma", "gamma-2"): ("catalogue",),
    ("delta", "delta-1"): ("frontend", "orders", "payments"),
}
_CLUSTERS_OF_GROUPS = ("gamma",)
_SHAPES = (
    # name, role, region, home
    ("alpha", "primary", "eu-west", ""),
    ("beta", "primary", "us-east", ""),
    ("gamma", "primary", "onprem", ""),
    ("delta", "remote", "eu-west", "alpha"),
)
# Hosts within a cluster's range.
_CONTROLLER, _DNS, _GATEWAY, _AGENT_FIRST, _LATE_AGENT = 1, 2, 3, 10, 20


def demo_topology(prefix: str) -> tuple[ClusterPlan, ...]:
    """Return the clusters on the block `prefix`.0/24: three primaries and a remote cluster."""
    return tuple(_cluster(*shape, f"{prefix}.{64 * position}/26") for position, shape in enumerate(_SHAPES))


def routed_topology(prefix: str, *, capture: bool = False) -> tuple[ClusterPlan, ...]:
    """Return the same clusters, each on a range `prefix`.N.0/24 of its own."""
    members = (region for _, role, region, _ in _SHAPES if role != "remote")
    round_trip_ms = math.ceil(_ROUND_TRIP_MARGIN * longest_round_trip_ms(members))
    return tuple(
        _cluster(*shape, f"{prefix}.{number}.0/24", capture=capture, round_trip_ms=round_trip_ms)
        for number, shape in enumerate(_SHAPES, start=1)
    )


def _cluster(
    name: str,
    role: str,
    region: str,
    home: str,
    cidr: str,
    *,
    capture: bool = False,
    round_trip_ms: int = 0,
) -> ClusterPlan:
    placed = [(agent, services) for (cluster, agent), services in _WORKLOADS.items() if cluster == name]
    return ClusterPlan(
        name=name,
        role=role,
        region=region,
        home=home,
        trust_domain=f"{home or name}.example",
        cidr=cidr,
        controller="" if role == "remote" else _host(cidr, _CONTROLLER),
        dns=_host(cidr, _DNS),
        gateway=_host(cidr, _GATEWAY),
        agents=tuple(
            _agent(
                agent,
                _host(cidr, _AGENT_FIRST + position),
                services,
                group=services[0] if name in _CLUSTERS_OF_GROUPS else "",
                user=_USER_FIRST + position if capture else 0,
            )
            for position, (agent, services) in enumerate(placed)
        ),
        capture=capture,
        round_trip_ms=round_trip_ms,
    )


def _host(cidr: str, number: int) -> str:
    return str(ipaddress.ip_network(cidr)[number])


def _agent(
    name: str, address: str, services: tuple[str, ...], *, group: str = "", user: int = 0
) -> AgentPlan:
    workloads = tuple(
        Workload(service=service, app=f"app-{name}-{service}", port=_APP_PORT_FIRST + position)
        for position, service in enumerate(services)
    )
    return AgentPlan(name=name, address=address, workloads=workloads, group=group, user=user)


def late_agent(cluster: ClusterPlan, *services: str) -> AgentPlan:
    """A cluster's agent that is enrolled early with nothing to register, and started with services later."""
    return _agent(f"{cluster.name}-late", _host(cluster.cidr, _LATE_AGENT), services)


def service_host(service: str) -> str:
    """The Host header by which a sidecar knows a service."""
    return f"{service}.{NAMESPACE}:{SERVICE_PORT}"


def plain_name(service: str) -> str:
    """The host and port by which an application calls a service that its agent captures calls to."""
    return f"{service}.{NAMESPACE}.svc.clusterset.local:{SERVICE_PORT}"
