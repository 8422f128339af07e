"""The demo's federation: which clusters, processes, services and addresses there are."""

import ipaddress
from pathlib import Path

from msgspec import Struct

NAMESPACE = "shop"
SERVICE_PORT = 8080
RAFT_PORT, CONTROL_PORT, API_PORT, METRICS_PORT = 7443, 7444, 7445, 7446
OUTBOUND_PORT, GATEWAY_PORT, DNS_PORT = 15001, 15443, 5353
_APP_PORT_FIRST = 8081


class Workload(Struct, frozen=True, kw_only=True):
    """One instance of a service, and the application process that serves it."""

    service: str
    app: str  # Name of the application process; several services may share one.
    port: int  # Where the application listens.


class AgentPlan(Struct, frozen=True, kw_only=True):
    """One agent and its workloads."""

    name: str  # Also the instance that its applications call themselves.
    address: str
    workloads: tuple[Workload, ...]

    def apps(self) -> dict[str, list[Workload]]:
        """The application processes behind this agent."""
        found: dict[str, list[Workload]] = {}
        for workload in self.workloads:
            found.setdefault(workload.app, []).append(workload)
        return found


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


# Which services each agent runs. "stock" has an application process of its own, to be killed alone.
_WORKLOADS = {
    ("alpha", "alpha-1"): ("alpha", "catalogue", "orders", "stock"),
    ("beta", "beta-1"): ("beta", "catalogue", "orders", "payments", "stock"),
    ("beta", "beta-2"): ("orders", "stock"),
    ("delta", "delta-1"): ("delta", "payments", "stock"),
}
LATE_SERVICE = "returns"  # Registered by the late agent of beta.
SHARED_SERVICES = ("catalogue", "orders", "payments", "stock")  # Each has instances in two clusters or more.
_SHAPES = (
    # name, role, region, home
    ("alpha", "primary", "eu-west", ""),
    ("beta", "primary", "us-east", ""),
    ("delta", "remote", "eu-west", "alpha"),
    ("witness", "witness", "eu-north", ""),
)
# Hosts within a cluster's range.
_CONTROLLER, _DNS, _GATEWAY, _AGENT_FIRST, _LATE_AGENT = 1, 2, 3, 10, 20


def demo_topology(prefix: str) -> tuple[ClusterPlan, ...]:
    """Return the clusters on the block `prefix`.0/24: two primaries, a remote cluster, a witness."""
    return tuple(_cluster(*shape, f"{prefix}.{64 * position}/26") for position, shape in enumerate(_SHAPES))


def routed_topology(prefix: str) -> tuple[ClusterPlan, ...]:
    """Return the same clusters, each on a range `prefix`.N.0/24 of its own."""
    return tuple(_cluster(*shape, f"{prefix}.{number}.0/24") for number, shape in enumerate(_SHAPES, start=1))


def _cluster(name: str, role: str, region: str, home: str, cidr: str) -> ClusterPlan:
    agents = [
        _agent(agent, _host(cidr, _AGENT_FIRST + position), services)
        for position, ((cluster, agent), services) in enumerate(_WORKLOADS.items())
        if cluster == name
    ]
    return ClusterPlan(
        name=name,
        role=role,
        region=region,
        home=home,
        trust_domain=f"{home or name}.example",
        cidr=cidr,
        controller="" if role == "remote" else _host(cidr, _CONTROLLER),
        dns="" if role == "witness" else _host(cidr, _DNS),
        gateway="" if role == "witness" else _host(cidr, _GATEWAY),
        agents=tuple(agents),
    )


def _host(cidr: str, number: int) -> str:
    return str(ipaddress.ip_network(cidr)[number])


def _agent(name: str, address: str, services: tuple[str, ...]) -> AgentPlan:
    workloads = tuple(
        Workload(
            service=service,
            app=f"app-{name}-stock" if service == "stock" else f"app-{name}",
            port=_APP_PORT_FIRST + position,
        )
        for position, service in enumerate(services)
    )
    return AgentPlan(name=name, address=address, workloads=workloads)


def late_agent(cluster: ClusterPlan, *services: str) -> AgentPlan:
    """A cluster's agent that is enrolled early with nothing to register, and started with services later."""
    return _agent(f"{cluster.name}-late", _host(cluster.cidr, _LATE_AGENT), services)


def controller_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The controller's configuration file."""
    ports = {"raft": RAFT_PORT, "control": CONTROL_PORT, "api": API_PORT, "metrics": METRICS_PORT}
    listen = "".join(f'{name} = "{cluster.controller}:{port}"\n' for name, port in ports.items())
    return (
        f'id = "c1"\ndata_dir = "{data_dir}"\n\n{cluster_section(cluster)}\n[listen]\n{listen}\n'
        '[agents]\nlease = "10s"\n'
    )


def cluster_section(cluster: ClusterPlan) -> str:
    """The `[cluster]` section: all that a remote cluster's join needs."""
    home = f'home = "{cluster.home}"\n' if cluster.home else ""
    domain = "" if cluster.home else f'trust_domain = "{cluster.trust_domain}"\n'
    return (
        f'[cluster]\nname = "{cluster.name}"\nrole = "{cluster.role}"\nregion = "{cluster.region}"\n'
        f'{domain}{home}ranges = ["{cluster.cidr}"]\n'
    )


def agent_config(agent: AgentPlan, data_dir: Path) -> str:
    """The agent's configuration file."""
    workloads = "".join(
        f'\n[[workload]]\nservice = "{workload.service}"\nport = {SERVICE_PORT}\n'
        f'app = "{agent.address}:{workload.port}"\n'
        '[workload.probe]\nkind = "http"\ninterval = "500ms"\n'
        for workload in agent.workloads
    )
    return (
        f'id = "{agent.name}"\ndata_dir = "{data_dir}"\naddress = "{agent.address}"\n'
        f'outbound = "{agent.address}:{OUTBOUND_PORT}"\ndrain = "1s"\n{workloads}'
    )


def gateway_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The gateway's configuration file."""
    return f'id = "gw1"\ndata_dir = "{data_dir}"\nlisten = "{cluster.gateway}:{GATEWAY_PORT}"\ndrain = "1s"\n'


def dns_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The DNS process's configuration file."""
    return f'id = "dns1"\ndata_dir = "{data_dir}"\nlisten = ["{cluster.dns}:{DNS_PORT}"]\n'


def policies(cluster: ClusterPlan, trust_domains: tuple[str, ...]) -> str:
    """What a cluster exports, and to whom it grants it: everything of the shop to the whole federation."""
    sources = "".join(f"\n  - trustDomains: [{domain}]" for domain in trust_domains)
    head = "apiVersion: federation.isthmus.dev/v1alpha1"
    place = f"metadata: {{name: shop, namespace: {NAMESPACE}, cluster: {cluster.name}}}"
    return (
        f'{head}\nkind: ExportPolicy\n{place}\nspec: {{services: ["*"]}}\n---\n'
        f'{head}\nkind: Grant\n{place}\nspec:\n  services: ["*"]\n  sources:{sources}\n'
    )
