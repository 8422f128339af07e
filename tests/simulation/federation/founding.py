"""What a federation has before anything goes wrong, and what a cluster brings along when it joins."""

from collections.abc import Iterable

import msgspec

from certs.core.spiffe import system_id
from discovery.core.commands import Operation, Put
from discovery.core.model import ResourceKey
from discovery.core.specs import (
    AgentSpec,
    AnySpec,
    ClusterSpec,
    ControllerSpec,
    ExportPolicySpec,
    FederationSpec,
    GrantSource,
    GrantSpec,
    TrustDomainSpec,
)
from federation.kernel.versions import PROTOCOL_VERSION
from tests.simulation.federation.agents import ACCOUNT, NAMESPACE, SERVICES
from tests.simulation.federation.outside import declarations

HOME = "alpha"  # Of the remote cluster, where there is one.


def trust_domain(cluster: str, primaries: Iterable[str]) -> str:
    """A remote cluster uses its home's."""
    return f"{cluster if cluster in primaries else HOME}.test"


def controller_spec(name: str, domain: str) -> ControllerSpec:
    """Return what the federation knows of a controller."""
    cluster, _, number = name.partition("-")
    return ControllerSpec(
        cluster=cluster,
        role="member",
        identity=str(system_id(domain, cluster, "controller", number)),
        control="10.255.0.1:7443",
        protocol=PROTOCOL_VERSION,
    )


def founding() -> list[Operation]:
    """Return what the first write brings beside its cluster."""
    return [put(ResourceKey("", "Federation", "", "federation"), FederationSpec(id="f1"))]


def joining(cluster: str, primaries: Iterable[str], *, epoch: int = 1) -> list[Operation]:
    """Return the write that lets a cluster join; one network, so that everybody reaches everybody's endpoints."""
    domain = trust_domain(cluster, primaries)
    home = "" if cluster in primaries else HOME
    spec = ClusterSpec(
        role="remote" if home else "primary", trust_domain=domain, home=home, network="net", epoch=epoch
    )
    roots = [] if home else [put(ResourceKey("", "TrustDomain", "", domain), TrustDomainSpec(roots=("PEM",)))]
    return [put(ResourceKey("", "Cluster", "", cluster), spec, new=True), *roots]


def belongings(
    cluster: str, domain: str, *, controllers: Iterable[str], agents: Iterable[str], exports_all: bool
) -> list[Operation]:
    """Return what a cluster that has joined writes next."""
    services = SERVICES if exports_all else SERVICES[:-1]
    grant = GrantSpec(services=("*",), sources=(GrantSource(),))
    agent = AgentSpec(role="agent", namespace=NAMESPACE, service_account=ACCOUNT)
    return [
        put(ResourceKey(cluster, "ExportPolicy", NAMESPACE, "base"), ExportPolicySpec(services=services)),
        put(ResourceKey(cluster, "Grant", NAMESPACE, "base"), grant),
        *(
            put(ResourceKey("", "Controller", "", name), controller_spec(name, domain))
            for name in controllers
        ),
        *(put(ResourceKey(cluster, "Agent", "", f"agent.{name}"), agent) for name in agents),
        *declarations(cluster),
    ]


def put(key: ResourceKey, spec: AnySpec, *, new: bool = False) -> Put:
    """Return what writes a resource; `new`: it must not exist."""
    return Put(key=key, spec=msgspec.json.encode(spec), expected_revision=0 if new else None)
