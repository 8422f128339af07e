"""From the configuration file to rows and the proxy's description."""

from pathlib import Path

import msgspec
import pytest

from discovery.core.specs import ClusterSpec
from federation.agent.config import (
    AgentConfig,
    CaptureSection,
    GatewayConfig,
    OutboundTcpSection,
    WorkloadSection,
)
from federation.agent.enrollment import Enrollment
from federation.agent.workloads import agent_workloads, gateway_proxy, gateway_workload, sidecar_proxy
from federation.kernel.errors import InvalidInputError

ENROLLMENT = Enrollment(
    purpose="agent",
    id="web-1",
    identity="spiffe://alpha.example/isthmus/alpha/agent/web-1",
    federation="f1",
    cluster="alpha",
    cluster_spec=ClusterSpec(role="primary", trust_domain="alpha.example", region="r1", zone="z1"),
    namespace="shop",
    workload_identity="spiffe://alpha.example/ns/shop/sa/orders",
)


def config(*workloads: WorkloadSection, **keys: str) -> AgentConfig:
    return AgentConfig(id="web-1", data_dir="data", address="127.106.0.9", workload=workloads, **keys)


def workload(service: str = "orders", **keys: object) -> WorkloadSection:
    return msgspec.convert(
        {"service": service, "port": 8080, "app": "127.0.0.1:9000", **keys}, WorkloadSection
    )


def test_a_workload_becomes_an_endpoint_behind_the_sidecar() -> None:
    (one,) = agent_workloads(config(workload()), ENROLLMENT)
    endpoint = one.endpoint
    assert endpoint.key == ("shop", "orders", "alpha", "orders-web-1")
    assert (endpoint.address, endpoint.region, endpoint.zone, endpoint.agent) == (
        "127.106.0.9",
        "r1",
        "z1",
        "web-1",
    )
    (port,) = endpoint.ports
    assert (port.name, port.service_port, port.listen_port) == ("http", 8080, 15006)
    assert endpoint.identity == ENROLLMENT.workload_identity
    assert endpoint.ready is False


def test_a_local_address_for_a_tcp_service_is_of_the_agents_namespace_unless_it_says_another() -> None:
    sections = (
        OutboundTcpSection(service="ledger", port=5432, listen="127.0.0.1:15432"),
        OutboundTcpSection(service="ledger", namespace="bank", port=5432, listen="127.0.0.1:15433"),
    )
    proxy = sidecar_proxy(msgspec.structs.replace(config(), outbound_tcp=sections), ENROLLMENT)
    assert [(each.key, each.listen_port) for each in proxy.outbound_tcp] == [
        (("shop", "ledger"), 15432),
        (("bank", "ledger"), 15433),
    ]


def test_what_captures_connections_needs_one_address_to_take_them() -> None:
    capture = CaptureSection(enabled=True)
    captured = msgspec.structs.replace(config(), capture=capture)
    assert sidecar_proxy(captured, ENROLLMENT).capture
    wildcard = msgspec.structs.replace(captured, outbound="0.0.0.0:15001")
    with pytest.raises(InvalidInputError, match=r"outbound is 0\.0\.0\.0, expected one IPv4 address"):
        sidecar_proxy(wildcard, ENROLLMENT)


def test_the_agents_own_place_goes_before_the_clusters() -> None:
    (one,) = agent_workloads(config(workload(), region="r2", zone="z9"), ENROLLMENT)
    assert (one.endpoint.region, one.endpoint.zone) == ("r2", "z9")


def test_inbound_ports_are_given_in_order_around_those_configured() -> None:
    configured = config(workload("a"), workload("b", inbound_port=15007), workload("c"))
    listen = [one.endpoint.ports[0].listen_port for one in agent_workloads(configured, ENROLLMENT)]
    assert listen == [15006, 15007, 15008]


@pytest.mark.parametrize(
    ("configured", "text"),
    [
        pytest.param(
            config(workload("a", inbound_port=15010), workload("b", inbound_port=15010)),
            "workload.inbound_port",
            id="one-port-twice",
        ),
        pytest.param(config(workload("a" * 60)), "workload.name", id="default-name-too-long"),
        pytest.param(
            config(workload(app="localhost:9000")), "workload.app", id="a-name-where-an-address-is-needed"
        ),
    ],
)
def test_a_workload_that_cannot_be_is_refused_by_key(configured: AgentConfig, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        _ = agent_workloads(configured, ENROLLMENT), sidecar_proxy(configured, ENROLLMENT)


def test_the_sidecar_is_described_by_its_workloads() -> None:
    proxy = sidecar_proxy(config(workload(), outbound="127.106.0.9:15001"), ENROLLMENT)
    assert (proxy.kind, proxy.cluster, proxy.agent, proxy.namespace) == ("sidecar", "alpha", "web-1", "shop")
    assert proxy.outbound == ("127.106.0.9", 15001)
    (port,) = proxy.workloads[0].ports
    assert (port.service_port, port.listen_port, port.app_address, port.app_port) == (
        8080,
        15006,
        "127.0.0.1",
        9000,
    )


def test_a_gateway_is_an_endpoint_of_the_system_service() -> None:
    configured = GatewayConfig(id="gw-1", data_dir=str(Path("data")), listen="127.106.0.8:15443")
    enrollment = msgspec.structs.replace(
        ENROLLMENT, purpose="gateway", id="gw-1", identity="spiffe://x/isthmus/alpha/gateway/gw-1"
    )
    endpoint = gateway_workload(configured, enrollment).endpoint
    assert endpoint.key == ("isthmus-system", "eastwest", "alpha", "gw-1")
    assert endpoint.agent == "gateway.gw-1"  # As controllers call it.
    assert (endpoint.address, endpoint.ports[0].listen_port) == ("127.106.0.8", 15443)
    assert endpoint.identity == "spiffe://x/isthmus/alpha/gateway/gw-1"
    proxy = gateway_proxy(configured, enrollment)
    assert (proxy.kind, proxy.gateway_name, proxy.gateway_port) == ("gateway", "gw-1", 15443)
