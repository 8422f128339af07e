"""A proxy's description is a claim from outside: checked before anything is made of it."""

import msgspec
import pytest

from federation.kernel.errors import BadIdentityError, InvalidInputError
from gateways.core.proxy import (
    OUTBOUND_TCP_MAX,
    PORTS_PER_WORKLOAD_MAX,
    OutboundTcp,
    Proxy,
    check_peer,
    decode_proxy,
    encode_proxy,
)
from tests.unit.gateways.builders import sidecar, workload


def test_a_description_survives_the_wire():
    proxy = sidecar(workloads=[workload()])
    assert decode_proxy(encode_proxy(proxy), node_id=proxy.id) == proxy


def changed(**fields) -> str:
    return encode_proxy(msgspec.structs.replace(sidecar(workloads=[workload()]), **fields))


def with_port(**fields) -> str:
    found = workload()
    port = msgspec.structs.replace(found.ports[0], **fields)
    return changed(workloads=(msgspec.structs.replace(found, ports=(port,)),))


TO_LEDGER = OutboundTcp(
    namespace="bank", service="ledger", service_port=5432, address="127.105.0.1", listen_port=15432
)


def with_tcp(**fields) -> str:
    return changed(outbound_tcp=(msgspec.structs.replace(TO_LEDGER, **fields),))


@pytest.mark.parametrize(
    ("description", "message"),
    [
        pytest.param("", "is missing", id="empty"),
        pytest.param("{", "metadata.isthmus: ", id="not-json"),
        pytest.param("[]", "expected `object`, got `array`", id="not-an-object"),
        pytest.param("x" * 70_000, "has 70000 characters, at most 65536", id="too-long"),
        pytest.param(changed(id="other"), "id is 'other', expected the node's own id 's1'", id="another-id"),
        pytest.param(changed(cluster="Alpha"), "cluster: 'Alpha' is not a name", id="cluster"),
        pytest.param(changed(cluster="a" * 64), "has 64 characters, at most 63", id="label-too-long"),
        pytest.param(changed(address="localhost"), "address: 'localhost' is not an IP address", id="address"),
        pytest.param(changed(outbound=("127.0.0.1", 0)), "outbound[1] is 0, expected a port", id="outbound"),
        pytest.param(changed(capture=True, outbound=None), "outbound is None", id="capture-nowhere"),
        pytest.param(
            changed(capture=True, outbound=("0.0.0.0", 1)), "expected one IPv4", id="capture-wildcard"
        ),
        pytest.param(changed(capture=True, outbound=("::1", 1)), "expected one IPv4", id="capture-ipv6"),
        pytest.param(with_tcp(listen_port=0), "outbound_tcp[0].listen_port is 0", id="tcp-port"),
        pytest.param(with_tcp(address="x"), "outbound_tcp[0].address: 'x'", id="tcp-address"),
        pytest.param(with_tcp(service="A"), "outbound_tcp[0].service: 'A'", id="tcp-service"),
        pytest.param(with_tcp(listen_port=15001), "('127.105.0.1', 15001) is given twice", id="tcp-taken"),
        pytest.param(
            changed(outbound_tcp=(TO_LEDGER,) * (OUTBOUND_TCP_MAX + 1)), "has 65 entries", id="tcp-too-many"
        ),
        pytest.param(changed(kind="gateway"), "gateway_name", id="gateway-without-name"),
        pytest.param(with_port(listen_port=70_000), "listen_port is 70000", id="port"),
        pytest.param(with_port(app_address="x"), "app_address: 'x' is not an IP", id="app"),
        pytest.param(
            changed(workloads=(workload(), workload(listen_port=15007))),
            "service_port",
            id="service-port-twice",
        ),
        pytest.param(
            changed(workloads=(workload(), workload(service_port=81))),
            "listen_port 15006 is given twice",
            id="listen",
        ),
        pytest.param(
            changed(workloads=tuple(workload(service_port=n, listen_port=n) for n in range(1, 70))),
            "workloads has 69 entries, at most 64",
            id="too-many",
        ),
        pytest.param(
            changed(
                workloads=(
                    msgspec.structs.replace(
                        workload(), ports=workload().ports * (PORTS_PER_WORKLOAD_MAX + 1)
                    ),
                )
            ),
            "ports has 33 entries",
            id="too-many-ports",
        ),
        pytest.param(
            changed(workloads=(msgspec.structs.replace(workload(), identity="spiffe://A/x"),)),
            "is not a trust domain",
            id="identity",
        ),
    ],
)
def test_a_malformed_description_is_refused_and_says_where(description, message):
    with pytest.raises(InvalidInputError) as caught:
        decode_proxy(description, node_id="s1")
    assert message in caught.value.message
    assert "xds node 's1'" in caught.value.message or "spiffe" in message or "trust domain" in message


@pytest.mark.parametrize(
    ("kind", "peer", "allowed"),
    [
        ("sidecar", "spiffe://alpha.example/isthmus/alpha/agent/a1", True),
        ("gateway", "spiffe://alpha.example/isthmus/alpha/gateway/a1", True),
        ("sidecar", "spiffe://alpha.example/isthmus/alpha/gateway/a1", True),
        ("gateway", "spiffe://alpha.example/isthmus/alpha/agent/a1", False),
        ("sidecar", "spiffe://alpha.example/isthmus/alpha/agent/a2", False),
        ("sidecar", "spiffe://alpha.example/isthmus/beta/agent/a1", False),
        ("sidecar", "spiffe://alpha.example/isthmus/alpha/controller/a1", False),
        ("sidecar", "spiffe://alpha.example/ns/shop/sa/a1", False),
    ],
)
def test_only_its_own_agent_speaks_for_a_proxy(kind, peer, allowed):
    proxy = Proxy(id="p", cluster="alpha", agent="a1", kind=kind, address="127.0.0.1", gateway_name="g")
    if allowed:
        check_peer(proxy, peer)
    else:
        with pytest.raises(BadIdentityError, match="may not speak for"):
            check_peer(proxy, peer)
