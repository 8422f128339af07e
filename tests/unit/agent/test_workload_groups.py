"""What an agent makes of its group's template and of `[group]`."""

from typing import Any

import msgspec
import pytest

from discovery.core.model import EndpointPort
from discovery.core.specs import ClusterSpec, GroupPort, GroupProbe, WorkloadGroupSpec
from federation.agent.config import AgentConfig
from federation.agent.enrollment import Enrollment
from federation.agent.workloads import agent_workloads, sidecar_proxy
from federation.kernel.configfile import decode_config
from federation.kernel.errors import InvalidInputError

TEMPLATE = WorkloadGroupSpec(
    service_account="orders",
    service="orders",
    ports=(GroupPort(name="web", port=8080),),
    probe=GroupProbe(kind="http", path="/up", interval="2s", failures=4),
    labels={"version": "v1", "tier": "gold"},
    weight=5,
)
TWO_PORTS = msgspec.structs.replace(
    TEMPLATE, ports=(GroupPort(name="web", port=8080), GroupPort(name="admin", port=9090, protocol="tcp"))
)
BASE = 'id = "vm1"\ndata_dir = "data"\naddress = "127.106.0.9"\n'
WORKLOAD = '[[workload]]\nservice = "stock"\nport = 1\napp = "127.0.0.1:9000"\n'
ONE_APP = '[group]\napp = "127.0.0.1:9001"\n'


def config(text: str) -> AgentConfig:
    return decode_config(BASE + text, AgentConfig, path="agent.toml")


def enrolled(template: WorkloadGroupSpec | None = TEMPLATE) -> Enrollment:
    return Enrollment(
        purpose="agent",
        id="vm1",
        identity="spiffe://alpha.example/isthmus/alpha/agent/vm1",
        federation="f1",
        cluster="alpha",
        cluster_spec=ClusterSpec(role="primary", trust_domain="alpha.example", region="r1", zone="z1"),
        namespace="shop",
        workload_identity="spiffe://alpha.example/ns/shop/sa/orders",
        workload_group="" if template is None else "machines",
        template=template,
    )


def test_the_template_and_an_address_become_an_endpoint_and_its_probe() -> None:
    (one,) = agent_workloads(config(ONE_APP), enrolled())
    endpoint = one.endpoint
    assert endpoint.key == ("shop", "orders", "alpha", "orders-vm1")
    assert endpoint.ports == (EndpointPort(name="web", service_port=8080, listen_port=15006),)
    assert (endpoint.weight, endpoint.labels) == (5, (("tier", "gold"), ("version", "v1")))
    assert (endpoint.address, endpoint.region, endpoint.zone) == ("127.106.0.9", "r1", "z1")
    assert endpoint.identity == "spiffe://alpha.example/ns/shop/sa/orders"
    assert one.probe is not None
    assert (one.probe.url, one.probe.interval_ms) == ("http://127.0.0.1:9001/up", 2_000)
    assert one.probe.thresholds.failures == 4


def test_a_group_and_a_workload_that_say_the_same_make_the_same() -> None:
    plain = WorkloadGroupSpec(
        service_account="orders", service="orders", ports=(GroupPort(name="http", port=80),)
    )
    section = '[[workload]]\nservice = "orders"\nport = 80\napp = "127.0.0.1:9001"\n'
    assert agent_workloads(config(ONE_APP), enrolled(plain)) == agent_workloads(
        config(section), enrolled(None)
    )
    assert sidecar_proxy(config(ONE_APP), enrolled(plain)) == sidecar_proxy(config(section), enrolled(None))


def test_each_port_has_its_own_application_and_the_first_is_probed() -> None:
    text = '[group.app]\nadmin = "127.0.0.1:9002"\nweb = "127.0.0.1:9001"\n'
    (one,) = agent_workloads(config(text), enrolled(TWO_PORTS))
    ports = [(port.name, port.service_port, port.listen_port, port.protocol) for port in one.endpoint.ports]
    assert ports == [("web", 8080, 15006, "http"), ("admin", 9090, 15007, "tcp")]
    (workload,) = sidecar_proxy(config(text), enrolled(TWO_PORTS)).workloads
    assert [(port.listen_port, port.app_port) for port in workload.ports] == [(15006, 9001), (15007, 9002)]
    assert one.probe is not None
    assert one.probe.port == 9001


def test_configured_workloads_go_before_the_template() -> None:
    (one,) = agent_workloads(config(WORKLOAD), enrolled())
    assert one.endpoint.key.service == "stock"


@pytest.mark.parametrize(
    ("text", "template", "message"),
    [
        (ONE_APP, None, "group: this agent was not enrolled by a workload group"),
        ("", TEMPLATE, "group.app is missing: this agent was enrolled by workload group shop/machines"),
        (ONE_APP, TWO_PORTS, "group.app: workload group shop/machines has several ports: .* each of web, admin"),
        ('[group.app]\nweb = "127.0.0.1:1"\n', TWO_PORTS, "addresses are given for web, .* has web, admin"),
        ('[group.app]\nhttp = "127.0.0.1:1"\n', TEMPLATE, "addresses are given for http, .* has web"),
        ("[group.app]\n", TEMPLATE, "addresses are given for no port"),
        ('[group]\napp = "localhost:80"\n', TEMPLATE, "group.app: 'localhost:80' is not an IP address and port"),
        ('[group.app]\nweb = "localhost:80"\n', TEMPLATE, r"group\.app\.web: 'localhost:80' is not an IP"),
    ],
)  # fmt: skip
def test_a_group_that_does_not_fit_is_refused_by_key(
    text: str, template: WorkloadGroupSpec | None, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        sidecar_proxy(config(text), enrolled(template))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[group]\n", "missing required field `app`"),
        ('[group]\napp = "127.0.0.1"\n', "group.app: '127.0.0.1' is not an address"),
        ('[group.app]\nweb = "nowhere"\n', "group.app.web: 'nowhere' is not an address"),
        ("[group]\napp = 8080\n", "expected `str | object`, got `int`"),
        ('[group]\napp = "127.0.0.1:1"\nport = 1\n', "unknown field `port`"),
        (ONE_APP + WORKLOAD, "workload and group: expected one of them, not both"),
    ],
)
def test_a_bad_group_section_is_refused_naming_file_and_key(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        config(text)
    assert caught.value.message.startswith("agent.toml: ")
    assert message in caught.value.message


def test_an_enrollment_of_an_older_version_is_still_read() -> None:
    old: dict[str, Any] = msgspec.to_builtins(enrolled(None))
    del old["workload_group"], old["template"]
    assert msgspec.convert(old, Enrollment) == enrolled(None)
