"""What a service is when clusters do not agree (KEP-1645): the oldest export decides, ports are the union."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core.conflicts import Age, Claim, Statement, conflicts, settle
from discovery.core.model import EndpointPort
from tests.unit.discovery.builders import founded, key, put, put_export


def port(name: str, number: int, protocol: str = "http") -> EndpointPort:
    return EndpointPort(name=name, service_port=number, listen_port=0, protocol=protocol)  # type: ignore[arg-type]


def claim(cluster: str, age: int | None, *ports: EndpointPort, **said: Any) -> Claim:
    return Claim(
        cluster=cluster,
        age=None if age is None else Age(0, age),
        said=Statement(policy=f"ExportPolicy {cluster}", **said),
        ports=ports,
    )


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        pytest.param([claim("a", 5, type="Headless")], ("Headless", "None"), id="alone"),
        pytest.param([claim("a", 5), claim("b", 4, type="Headless")], ("Headless", "None"), id="older"),
        pytest.param([claim("b", 4), claim("a", 4, type="Headless")], ("Headless", "None"), id="equal-age-by-cluster"),
        pytest.param([claim("a", 4), claim("b", 4, type="Headless")], ("ClusterSetIP", "None"), id="equal-age-other-cluster"),
        pytest.param([claim("b", None, affinity="ClientIP"), claim("a", 1)], ("ClusterSetIP", "ClientIP"), id="for-oneself-first"),
        pytest.param([claim("a", 2, type="Headless"), claim("b", 1, affinity="ClientIP")], ("ClusterSetIP", "ClientIP"), id="one-winner-for-both"),
    ],
)  # fmt: skip
def test_the_oldest_export_decides_type_and_affinity(claims, expected):
    found = settle(claims)
    assert (found.type, found.affinity) == expected


@pytest.mark.parametrize(
    ("older", "younger", "expected"),
    [
        pytest.param([port("web", 80)], [port("admin", 81)], [port("web", 80), port("admin", 81)], id="union"),
        pytest.param([port("web", 80)], [port("web", 80, "tcp")], [port("web", 80)], id="protocol"),
        pytest.param([port("web", 80)], [port("www", 80)], [port("web", 80)], id="name-of-a-number"),
        pytest.param([port("web", 80)], [port("web", 81)], [port("web", 80), port("", 81)], id="number-of-a-name"),
        pytest.param([], [port("web", 81)], [port("web", 81)], id="silence-is-no-objection"),
    ],
)  # fmt: skip
def test_ports_are_the_union_and_the_older_export_decides_name_and_protocol(older, younger, expected):
    assert list(settle([claim("a", 2, *younger), claim("b", 1, *older)]).ports) == expected


def test_who_lost_is_told_what_to_whom_and_by_which_policy():
    winner = claim("b", 1, port("web", 80), port("grpc", 90), type="Headless")
    loser = claim("a", 2, port("web", 81), port("rpc", 90, "tcp"), affinity="ClientIP")
    found = [(one.cluster, one.policy, one.reason, one.message) for one in conflicts([loser, winner])]
    who = ("a", "ExportPolicy a")
    assert found == [
        (*who, "TypeConflict", "type is 'ClusterSetIP', b (ExportPolicy b) says 'Headless'"),
        (*who, "SessionAffinityConflict", "sessionAffinity is 'ClientIP', b (ExportPolicy b) says 'None'"),
        (*who, "PortConflict", "port web: number is '81', b (ExportPolicy b) says '80'"),
        (*who, "PortConflict", "port 90: protocol is 'tcp', b (ExportPolicy b) says 'http'"),
        (*who, "PortConflict", "port 90: name is 'rpc', b (ExportPolicy b) says 'grpc'"),
    ]


def test_who_agrees_has_no_conflict():
    assert not list(conflicts([claim("a", 2, port("web", 80)), claim("b", 1, port("web", 80))]))


def test_policies_of_one_cluster_may_differ_too():
    younger = Statement(policy="ExportPolicy b2", type="Headless")
    mine = Claim(cluster="b", age=Age(0, 1), said=Statement(policy="ExportPolicy b1"), overruled=(younger,))
    (found,) = conflicts([mine])
    assert (found.policy, found.winner, found.winner_policy) == ("ExportPolicy b2", "b", "ExportPolicy b1")


ports = st.builds(port, st.sampled_from("pqr"), st.integers(80, 82), st.sampled_from(["http", "tcp"]))
claims = st.lists(
    st.builds(
        lambda cluster, age, found, kind, affinity: claim(cluster, age, *found, type=kind, affinity=affinity),
        st.sampled_from("abcde"),
        st.none() | st.integers(1, 4),
        st.lists(ports, max_size=4),
        st.sampled_from(["ClusterSetIP", "Headless"]),
        st.sampled_from(["None", "ClientIP"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one.cluster,
)


@given(claims, st.randoms())
def test_the_order_of_arrival_does_not_matter(found, random):
    shuffled = random.sample(found, len(found))
    assert settle(shuffled) == settle(found)
    assert list(conflicts(shuffled)) == list(conflicts(found))


@given(claims)
def test_a_settled_service_has_each_number_and_each_name_once_and_all_numbers(found):
    settled = settle(found)
    numbers = [one.service_port for one in settled.ports]
    names = [one.name for one in settled.ports if one.name]
    assert numbers == sorted({one.service_port for each in found for one in each.ports})
    assert len(set(names)) == len(names)


@given(claims)
def test_there_are_no_conflicts_exactly_where_everybody_gets_what_he_said(found):
    settled = settle(found)
    content = [
        (each.said.type, each.said.affinity) == (settled.type, settled.affinity)
        and all(one in settled.ports for one in each.ports)
        for each in found
    ]
    losers = {one.cluster for one in conflicts(found)}
    assert losers == {each.cluster for each, is_content in zip(found, content, strict=True) if not is_content}


def test_the_catalog_keeps_the_revision_at_which_an_export_was_created():
    log = founded()
    target = key("ExportPolicy", "export", scope="beta", namespace="shop")
    created = log.accept("beta", put_export("beta", "shop", "orders")).revision
    changed = log.accept("beta", put_export("beta", "shop", "*")).revision
    row = log.catalog.tables.resource(target)
    assert row is not None
    assert (row.created_revision, row.revision) == (created, changed)
    log.accept("beta", put(target, status=b'{"conditions": []}'))
    row = log.catalog.tables.resource(target)
    assert row is not None
    assert row.created_revision == created
