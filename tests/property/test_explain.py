"""Explanations and forecasts over generated catalogs, against the view, the compiled resources and the zone."""

from collections.abc import Callable, Collection, Iterator

import dns.message
import msgspec
import pytest
from envoy.config.core.v3.health_check_pb2 import UNHEALTHY
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.core.model import Change, Endpoint, EndpointPort, Resource, ServiceKey, pack
from discovery.core.tables import EMPTY_TABLES, Tables
from discovery.core.verdicts import verdict_key
from discovery.core.view import Service
from discovery.core.views import ViewIndex
from gateways.core import endpoints, names
from gateways.core.compile import ViewCompiler
from gateways.core.explain import Caller, explain
from gateways.core.explained import Explanation, OwnerFact
from gateways.core.whatif import ServiceLoss, lose_service
from gateways.core.wire import CLUSTER, ENDPOINTS
from tests.property.catalog_rows import (
    ALL_KEYS,
    CLUSTERS,
    COMMON,
    export_rows,
    external_rows,
    grant_rows,
    loss_rows,
    rows,
)
from tests.unit.discovery.builders import endpoint, gateway, put, resource
from tests.unit.gateways.decoding import addresses, decode, members

PORTS = {
    number: EndpointPort(name=f"p{number}", service_port=number, listen_port=15000 + number)
    for number in (80, 81)
}
# Absent, or ready or not, at one port or both.
instances = st.none() | st.tuples(st.booleans(), st.sampled_from(((80,), (81,), (80, 81))))
gateways = st.sampled_from((None, True, True, False))
# What decides about a service, dense enough to meet every case; what other rows do comes on top.
catalogs = st.builds(
    lambda found, edges, policies, more: [*BASE, *instances_of(found), *gateways_of(edges), *policies, *more],
    st.fixed_dictionaries({(cluster, name): instances for cluster in CLUSTERS for name in ("e1", "e2")}),
    st.fixed_dictionaries(dict.fromkeys(CLUSTERS, gateways)),
    st.lists(st.one_of(export_rows(), grant_rows()), max_size=6),
    st.lists(rows, max_size=4),
)
# Everybody has instances that callers reach, ready or not: what a loss does is a question of readiness alone.
ready_or_not = st.builds(
    lambda found: [
        *COMMON,
        *instances_of({(name, "e1"): (ready, (80,)) for name, ready in found.items()}),
        *gateways_of(dict.fromkeys(CLUSTERS, True)),
    ],
    st.fixed_dictionaries(dict.fromkeys(CLUSTERS, st.booleans())),
)
# Clusters that declared addresses outside of themselves, and what others are to make of them after a death.
losses = st.builds(
    lambda found, more: [*COMMON, *found, *more],
    st.lists(st.one_of(external_rows(), loss_rows()), min_size=4, max_size=8),
    st.lists(rows, max_size=4),
)
lost_clusters = st.sets(st.sampled_from(CLUSTERS), min_size=1, max_size=3)
# Everybody exports and grants the service, but for delta, which leaves it to what is drawn.
BASE = [
    row
    for row in COMMON
    if isinstance(row, Resource) and not (row.key.scope == "delta" and row.key.kind == "ExportPolicy")
]


def instances_of(found: dict[tuple[str, str], tuple[bool, tuple[int, ...]] | None]) -> list[Endpoint]:
    return [
        endpoint(
            cluster,
            name,
            ready=state[0],
            ports=tuple(PORTS[port] for port in state[1]),
            address=f"10.{CLUSTERS.index(cluster)}.0.{name[1]}",
        )
        for (cluster, name), state in found.items()
        if state is not None
    ]


def gateways_of(edges: dict[str, bool | None]) -> list[Endpoint]:
    return [gateway(cluster, ready=ready) for cluster, ready in edges.items() if ready is not None]


def tables_of(catalog: list[Resource | Endpoint]) -> Tables:
    return EMPTY_TABLES.with_changes(changes(*catalog), 1)


def changes(*found: Resource | Endpoint) -> tuple[Change, ...]:
    return tuple(
        Change("endpoints" if isinstance(row, Endpoint) else "resources", row.key.encode(), pack(row))
        for row in found
    )


@settings(max_examples=60)
@given(catalog=catalogs, viewer=st.sampled_from(CLUSTERS))
def test_an_explanation_agrees_with_what_is_seen_sent_and_answered(catalog, viewer):
    tables = tables_of(catalog)
    view = ViewIndex(viewer)
    compiler, zone = ViewCompiler(viewer, view), CompiledZone()
    compiler.update(view.reset(tables))
    if viewer not in view.policies.clusters:
        return
    zone.replace(view)
    for key in ALL_KEYS:
        found = explain(view, compiler, Caller(viewer, "shop", "web"), key, ())
        called = view.target(key)  # Of an alias: what it stands for.
        check_owners(found, view.service(key), tables, called)
        check_envoy(found, compiler, tables, called)
        check_dns(found, zone)
        check_admission(found, tables, viewer, called)


def check_owners(found: Explanation, service: Service | None, tables: Tables, key: ServiceKey) -> None:
    owners = () if service is None else service.owners
    assert found.visible == (service is not None)
    assert [one.cluster for one in found.owners if one.visible] == [one.cluster for one in owners]
    assert [one.order for one in found.owners] == [
        *range(len(owners)),
        *[None] * (len(found.owners) - len(owners)),
    ]
    # Every endpoint of the catalog has its say, seen or not.
    told = {(one.cluster, e.name, e.service_port) for one in found.owners for e in one.endpoints}
    assert told == {
        (row.key.cluster, row.key.name, port.service_port)
        for row in (*tables.list_endpoints(key), *outside(tables, key))
        for port in row.ports
    }
    told_of = {one.cluster for one in found.owners if not one.external}
    for one in found.owners:
        if one.external and one.cluster in told_of:
            continue  # What policies say of its cluster is said once.
        exported = any(fact.applies for fact in one.policies if fact.kind.endswith("ExportPolicy"))
        if one.visible and one.cluster != found.cluster:
            assert exported


def outside(tables: Tables, key: ServiceKey) -> list[Endpoint]:
    """The addresses that clusters declared outside, joined or not."""
    view = ViewIndex("alpha")
    view.reset(tables)
    parts = view.policies.external_parts(key)
    return [row for part in parts.values() for row in (*part.endpoints, *part.unserved)]


def check_envoy(found: Explanation, compiler: ViewCompiler, tables: Tables, key: ServiceKey) -> None:
    """What is told of Envoy is every byte that tells it, and each endpoint's fate is that of its address."""
    told = {(port.cluster, *(member.name for member in port.members)) for port in found.envoy}
    aggregates = {
        name for name in compiler.shared("sidecar", CLUSTER) if name.endswith(f"||{names.host(key)}")
    }
    assert told == {
        (name, *members(decode(compiler.shared("sidecar", CLUSTER)[name]))) for name in aggregates
    }
    for port in found.envoy:
        for member in port.members:
            sent = addresses(decode(compiler.shared("sidecar", ENDPOINTS)[member.name]))
            assert [f"{one.address}:{one.port}" for one in member.targets] == sent
            owner = next(one for one in found.owners if member.name.endswith(f"|{part(one)}"))
            healthy = any(target.health == "unknown" for target in member.targets)
            at_port = [e for e in owner.endpoints if e.service_port == port.service_port]
            fates = {(e.address, e.listen_port): e.called for e in at_port}
            if owner.direct:
                assert fates == {
                    **dict.fromkeys(fates, "no"),
                    **{
                        (one.address, one.port): "yes" if one.health == "unknown" else "last resort"
                        for one in member.targets
                    },
                }
                continue
            # What stands behind a gateway is what that gateway itself was sent, in its own cluster's view.
            behind = passed_on(owner.cluster, port.service_port, tables, key)
            expected = {
                place: "no" if not sent or ready is None else "yes" if healthy and ready else "last resort"
                for place in fates
                for ready in (behind.get(place),)
            }
            assert fates == expected


def part(one: OwnerFact) -> str:
    return f"{one.cluster}.external" if one.external else one.cluster


def passed_on(cluster: str, port: int, tables: Tables, key: ServiceKey) -> dict[tuple[str, int], bool]:
    """What the gateways of a cluster are sent for a service, by address: whether it is healthy."""
    view = ViewIndex(cluster)
    compiler = ViewCompiler(cluster, view)
    compiler.update(view.reset(tables))
    sent = compiler.shared("gateway", ENDPOINTS).get(names.service_sni(key, port))
    if sent is None:
        return {}  # Nobody serves the port there.
    assignment = decode(sent)
    return {
        (place.address, place.port_value): each.health_status != UNHEALTHY
        for locality in assignment.endpoints
        for each in locality.lb_endpoints
        for place in (each.endpoint.address.socket_address,)
    }


def check_dns(found: Explanation, zone: CompiledZone) -> None:
    for kind in ("A", "AAAA", "SRV"):
        question = dns.message.make_query(found.host, kind)
        reply = answer(question.to_wire(), zone, transport="udp")
        assert reply is not None
        sets = dns.message.from_wire(reply).answer
        expected = sorted(record.to_text() for each in sets for record in each)
        told = sorted(one.data for one in found.dns if one.name == found.host and one.type == kind)
        assert told == expected


def check_admission(found: Explanation, tables: Tables, viewer: str, key: ServiceKey) -> None:
    """The owner's own view, which makes its listeners, admits whom the explanation says."""
    for one in found.owners:
        theirs = ViewIndex(one.cluster)
        theirs.reset(tables)
        admission = theirs.admission(key)
        if one.external:
            assert one.admits_caller  # Nobody there asks.
            continue
        if admission is None:
            assert one.admits_caller is False
            continue
        domain = found.identity.split("/")[2]
        by_grant = any(
            source.trust_domain == domain
            and (not source.namespaces or "shop" in source.namespaces)
            and (not source.principals or found.identity in source.principals)
            for source in admission.sources
        )
        assert one.admits_caller == (domain == admission.own_trust_domain or by_grant)


@settings(max_examples=60)
@given(
    catalog=catalogs | ready_or_not | losses,
    viewer=st.sampled_from(CLUSTERS),
    lost=lost_clusters,
    dead=lost_clusters,
)
def test_a_forecast_is_what_is_sent_when_the_endpoints_are_gone(catalog, viewer, lost, dead):
    """Clusters are found dead for real, and what is lost answers nobody; what is compiled then is what was foretold."""
    check_forecasts(lose_service, catalog, viewer, lost, dead)


Forecast = Callable[[Service, Service | None, str, Collection[str]], Iterator[ServiceLoss]]


def first_owner(
    service: Service, then: Service | None, caller: str, lost: Collection[str]
) -> Iterator[ServiceLoss]:
    """A forecast that takes the first owner for the first one that is ready."""
    for loss in lose_service(service, then, caller, lost):
        yield msgspec.structs.replace(loss, served_then=(*loss.owners_then, "")[0])


def keeps_the_lost(
    service: Service, then: Service | None, caller: str, lost: Collection[str]
) -> Iterator[ServiceLoss]:
    """A forecast that goes on counting on who was lost."""
    for loss in lose_service(service, then, caller, lost):
        yield msgspec.structs.replace(loss, served_then=loss.served_by)


def forgets_policies(
    service: Service, then: Service | None, caller: str, lost: Collection[str]
) -> Iterator[ServiceLoss]:
    """A forecast that does not know what LossPolicies say of who is found dead."""
    return lose_service(service, service, caller, lost)


@pytest.mark.parametrize(
    ("wrong", "catalogs"),
    [(first_owner, ready_or_not), (keeps_the_lost, ready_or_not), (forgets_policies, losses)],
)
def test_the_catalogs_that_are_drawn_find_a_wrong_forecast(wrong, catalogs):
    def is_found(drawn: tuple[list[Resource | Endpoint], str, set[str], set[str]]) -> bool:
        try:
            check_forecasts(wrong, *drawn)
        except AssertionError:
            return True
        return False

    # As many as the property gets, and the same ones each time: a find by luck would prove nothing.
    drawing = settings(max_examples=60, derandomize=True, database=None, phases=[Phase.generate])
    find(
        st.tuples(catalogs, st.sampled_from(CLUSTERS), lost_clusters, lost_clusters),
        is_found,
        settings=drawing,
    )


def check_forecasts(
    forecast: Forecast, catalog: list[Resource | Endpoint], viewer: str, lost: set[str], dead: set[str]
) -> None:
    tables = tables_of(catalog)
    lost = lost - {viewer}
    dead = dead & lost
    verdicts = [resource(put(verdict_key(name), {"state": "dead", "sinceMs": 1})) for name in dead]
    before, after = ViewIndex(viewer), ViewIndex(viewer)
    before.reset(tables)
    after.reset(tables.with_changes(changes(*verdicts), 2))
    for key in ALL_KEYS:
        service, left = before.service(key), after.service(key)
        then = before.service_without(key, dead)
        assert then == left
        foretold = () if service is None else tuple(forecast(service, then, viewer, lost))
        ports = {port.service_port: port for port in (left.ports if left else ())}
        for loss in foretold:
            called = dict(sendings(left, ports.get(loss.service_port), lost))
            sent = list(called)
            ready = [name for name in sent if any(target.ready for target in called[name])]
            assert list(loss.owners_then) == sent
            assert loss.served_then == (ready or sent or [""])[0]
            assert (loss.outcome == "dies") == (not sent)
        told = {loss.service_port for loss in foretold}
        # What is not foretold is served as before, if need be in another order behind who serves.
        for port in () if service is None else service.ports:
            if port.service_port not in told:
                assert sorted(sendings(service, port)) == sorted(
                    sendings(left, ports.get(port.service_port), lost)
                )


def sendings(
    service: Service | None, port: EndpointPort | None, lost: Collection[str] = ()
) -> list[tuple[str, list[endpoints.Target]]]:
    """Whom callers are sent to at a port, but for what answers nobody any more."""
    if service is None or port is None:
        return []
    found = [
        (one.part, endpoints.owner_targets(one, port))
        for one in service.owners
        if one.external or one.cluster not in lost
    ]
    return [(part, targets) for part, targets in found if targets]
