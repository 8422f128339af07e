"""Aliases: another name for what is visible, with the same clusters, in routes, listeners, DNS and explanations."""

import dns.message
import msgspec
import pytest

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import Endpoint, EndpointPort, Resource, ServiceKey
from discovery.core.views import ViewIndex
from gateways.core.compile import ProxyConfig, ViewCompiler
from gateways.core.explain import Caller, explain
from gateways.core.proxy import OutboundTcp
from gateways.core.wire import CLUSTER, LISTENER
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    put_alias,
    put_export,
    put_grant,
    resource,
)
from tests.unit.discovery.test_views import changes, tables_of
from tests.unit.gateways.builders import sidecar
from tests.unit.gateways.decoding import decode
from tests.unit.gateways.test_compile import unresolved

ORDERS, SHORT = ServiceKey("shop", "orders"), ServiceKey("web", "buy")
SHARED = [resource(put_export("beta", "shop", "*")), resource(put_grant("beta", "shop", "*"))]
THEIRS = [endpoint("beta"), gateway("beta"), *SHARED]
ALIAS = resource(put_alias("alpha", "web", "buy", "orders", "shop"))


class Seen:
    """What alpha makes of a catalog."""

    def __init__(self, *rows: Resource | Endpoint) -> None:
        self.tables = tables_of(*rows)
        self.view = ViewIndex("alpha")
        self.compiler = ViewCompiler("alpha", self.view)
        self.zone = CompiledZone()
        self.follow(self.view.reset(self.tables))

    def follow(self, changed: frozenset[ServiceKey]) -> None:
        # One by one, in the worst order: names before what they stand for.
        for key in sorted(changed, key=lambda key: (key.namespace != "web", key)):
            self.compiler.update([key])
        self.zone.update(self.view, changed)

    def put(self, *rows: Resource | Endpoint) -> None:
        found = changes(*rows)
        self.tables = self.tables.with_changes(found, 2)
        self.follow(self.view.update(self.tables, found))

    def domains(self) -> dict[str, str]:
        """By Host header, the cluster that a caller of namespace "nowhere" is routed to."""
        config = decode(self.compiler.outbound_routes("nowhere"))
        return {
            domain: host.routes[0].route.cluster for host in config.virtual_hosts for domain in host.domains
        }

    def addresses(self, host: str) -> list[str]:
        reply = answer(dns.message.make_query(host, "A").to_wire(), self.zone, transport="udp")
        assert reply is not None
        return [rr.to_text() for found in dns.message.from_wire(reply).answer for rr in found]


def test_an_alias_leads_to_the_clusters_of_its_service_and_costs_none():
    seen = Seen(*THEIRS, ALIAS)
    target = "outbound|8080||orders.shop.svc.clusterset.local"
    assert seen.domains()["buy.web:8080"] == seen.domains()["orders.shop:8080"] == target
    assert all("buy.web" not in name for name in seen.compiler.shared("sidecar", CLUSTER))
    assert seen.compiler.problems == {}
    config = ProxyConfig(seen.compiler, sidecar())
    assert not unresolved(config)


def test_an_alias_has_an_address_of_its_own_that_is_captured():
    seen = Seen(*THEIRS, ALIAS)
    (address,) = seen.addresses("buy.web.svc.clusterset.local")
    assert [address] != seen.addresses("orders.shop.svc.clusterset.local")
    listener = seen.compiler.captured.get(f"{address}_8080")
    assert listener is not None
    assert b"outbound|8080||orders.shop.svc.clusterset.local" in listener.message_bytes


def test_a_local_tcp_address_may_name_an_alias():
    tcp = EndpointPort(name="sql", service_port=5432, listen_port=15006, protocol="tcp")
    seen = Seen(endpoint("beta", ports=(tcp,)), gateway("beta"), *SHARED, ALIAS)
    wanted = OutboundTcp(
        namespace="web", service="buy", service_port=5432, address="127.0.0.1", listen_port=5432
    )
    config = ProxyConfig(seen.compiler, sidecar())
    assert not [name for name in config.names(LISTENER) if "5432" in name]
    config = ProxyConfig(seen.compiler, msgspec.structs.replace(sidecar(), outbound_tcp=(wanted,)))
    listener = config.get(LISTENER, "outbound_tcp|127.0.0.1|5432")
    assert listener is not None
    assert b"outbound|5432||orders.shop.svc.clusterset.local" in listener.message_bytes


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([endpoint("beta"), gateway("beta"), ALIAS], id="what-is-not-exported-has-no-alias"),
        pytest.param([*THEIRS, resource(put_alias("beta", "web", "buy", "orders", "shop"))], id="of-another-cluster"),
        pytest.param([*THEIRS, resource(put_alias("alpha", "web", "buy", "orders"))], id="of-another-namespace"),
        pytest.param([*THEIRS, resource(put_alias("alpha", "web", "buy", "buy"))], id="itself"),
        pytest.param([*THEIRS, *(resource(put_alias("alpha", "web", a, b)) for a, b in (("buy", "get"), ("get", "buy")))], id="cycle"),
        pytest.param([*THEIRS, *(resource(put_alias("alpha", "web", f"a{n}" if n else "buy", f"a{n + 1}")) for n in range(8)), resource(put_alias("alpha", "web", "a8", "orders", "shop"))], id="too-long"),
        pytest.param([gateway("alpha"), resource(put_alias("alpha", "web", "buy", "eastwest", "isthmus-system"))], id="our-own-parts"),
    ],
)  # fmt: skip
def test_an_alias_of_what_is_not_visible_is_not_there(rows):
    seen = Seen(*rows)
    assert seen.view.service(SHORT) is None
    assert "buy.web" not in seen.domains()
    assert seen.addresses("buy.web.svc.clusterset.local") == []


def test_an_alias_comes_and_goes_with_its_service_also_through_others():
    second = resource(put_alias("alpha", "web", "also", "buy"))
    seen = Seen(*THEIRS[:2], ALIAS, second)
    assert list(seen.view.services()) == []
    seen.put(*SHARED)
    assert list(seen.view.services()) == [ORDERS, ServiceKey("web", "also"), SHORT]
    assert seen.domains()["also.web"] == seen.domains()["orders.shop"]
    seen.put(resource(put_export("beta", "shop", "other")))
    assert (list(seen.view.services()), seen.domains().keys()) == ([], {"*"})


def test_a_service_of_the_same_name_comes_before_the_alias():
    seen = Seen(*THEIRS, ALIAS)
    seen.put(endpoint("alpha", namespace="web", service="buy"))
    assert seen.domains()["buy.web"] == "outbound|8080||buy.web.svc.clusterset.local"
    service = seen.view.service(SHORT)
    assert service is not None
    assert service.stands_for is None


def test_an_alias_is_explained_by_what_it_stands_for():
    seen = Seen(*THEIRS, ALIAS)
    found = explain(seen.view, seen.compiler, Caller("alpha"), SHORT, ())
    assert (found.visible, found.stands_for, found.service) == (True, "shop/orders", "web/buy")
    assert [one.cluster for one in found.owners] == ["beta"]
    assert [one.cluster for one in found.envoy] == ["outbound|8080||orders.shop.svc.clusterset.local"]
    assert found.dns[0].name == "buy.web.svc.clusterset.local"
    hidden = Seen(*THEIRS[:2], ALIAS)
    found = explain(hidden.view, hidden.compiler, Caller("alpha"), SHORT, ())
    assert (found.visible, found.stands_for) == (False, "shop/orders")
    assert found.owners[0].why.startswith("not exported")
