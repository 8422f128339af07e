"""External services in the catalog: who may write what, and what is held of each address by whose observations."""

import json

import msgspec
import pytest

from discovery.core.catalog import Catalog
from discovery.core.commands import Command, Delete, Put, RemoveCluster, Write, encode_command
from discovery.core.external import LOSSES_KEPT_MAX, checkers, observation_key, read_status, state_of
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.refounding import refound
from discovery.core.specs import ClusterSpec, ExternalServiceSpec, ExternalServiceStatus
from discovery.core.verdicts import HOLD_MS_MIN
from federation.kernel.errors import Code, InvalidInputError
from tests.unit.discovery.builders import Log, key, put, put_cluster, put_controller
from tests.unit.discovery.test_verdicts import observe, three

ONE, TWO = "203.0.113.5", "203.0.113.6"
SERVICE = key("ExternalService", "payments", scope="beta", namespace="shop")
SPEC: dict[str, object] = {
    "addresses": [ONE, TWO],
    "ports": [{"name": "http", "port": 8080}],
    "checkedFrom": ["alpha", "beta", "gamma"],
}


def put_external(owner: str = "beta", name: str = "payments", **changes: object) -> Put:
    target = key("ExternalService", name, scope=owner, namespace="shop")
    return put(target, {**SPEC, **changes})


def miss(checker: str, *addresses: str, service: ResourceKey = SERVICE) -> Put:
    return put(observation_key(checker, service), {"missed": sorted(addresses)})


def see(checker: str, service: ResourceKey = SERVICE) -> Delete:
    return Delete(key=observation_key(checker, service))


def status(log: Log, service: ResourceKey = SERVICE) -> ExternalServiceStatus:
    row = log.catalog.tables.resource(service)
    assert row is not None
    return read_status(row)


def states(log: Log) -> dict[str, str]:
    return {one.address: one.state for one in status(log).addresses}


def watched(**changes: object) -> Log:
    """Primaries alpha, beta and gamma check what beta declared; delta is remote with home alpha."""
    log = three()
    log.accept("beta", put_external(**changes))
    return log


# -- who counts, and for what ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed_by", "voters", "expected"),
    [
        ("", "", "ok"),
        ("", "abc", "ok"),
        ("a", "a", "degraded"),  # The only one there is.
        ("a", "ab", "degraded"),
        ("a", "abc", "degraded"),
        ("ab", "ab", "unhealthy"),
        ("ab", "abc", "unhealthy"),
        ("ab", "abcd", "degraded"),  # Half is no majority.
        ("abc", "abcd", "unhealthy"),
        ("xy", "abc", "ok"),  # They do not count.
        ("axy", "abc", "degraded"),
    ],
)
def test_an_address_is_unhealthy_by_two_checkers_that_are_more_than_half(missed_by, voters, expected):
    assert state_of(frozenset(missed_by), frozenset(voters)) == expected


@pytest.mark.parametrize(
    ("named", "owner", "expected"),
    [
        ((), "beta", {"beta"}),
        ((), "delta", {"alpha"}),  # It has no controllers: its home.
        (("alpha", "beta"), "beta", {"alpha", "beta"}),
        (("alpha", "delta", "nowhere"), "beta", {"alpha"}),
        (("delta",), "beta", set()),
    ],
)
def test_checkers_are_joined_clusters_with_controllers_of_their_own(named, owner, expected):
    joined = {
        "alpha": ClusterSpec(role="primary", trust_domain="a"),
        "beta": ClusterSpec(role="primary", trust_domain="b"),
        "delta": ClusterSpec(role="remote", trust_domain="a", home="alpha"),
    }
    spec = ExternalServiceSpec(addresses=(ONE,), ports=(), checked_from=named)
    assert checkers(spec, owner, joined) == expected


def test_a_new_service_is_held_to_be_well():
    log = watched()
    assert states(log) == {ONE: "ok", TWO: "ok"}
    assert status(log).flips == 0


def test_one_checker_makes_a_warning_two_make_a_loss_and_the_evidence_is_named():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    assert states(log) == {ONE: "degraded", TWO: "ok"}
    assert status(log).addresses[0].missed_by == ("alpha",)
    log.accept("gamma", miss("gamma", ONE, TWO))
    assert states(log) == {ONE: "unhealthy", TWO: "degraded"}
    assert status(log).addresses[0].missed_by == ("alpha", "gamma")
    assert status(log).flips == 3


def test_a_state_lifts_at_once_when_its_evidence_does():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    log.accept("gamma", miss("gamma", ONE))
    log.accept("alpha", see("alpha"))
    assert states(log)[ONE] == "degraded"
    log.accept("gamma", see("gamma"))
    assert states(log)[ONE] == "ok"
    assert status(log).addresses[0].missed_by == ()


def test_with_one_possible_checker_the_worst_is_a_warning():
    log = watched(checkedFrom=[])
    log.accept("beta", miss("beta", ONE, TWO))
    assert states(log) == {ONE: "degraded", TWO: "degraded"}


def test_a_status_changes_neither_generation_nor_spec():
    log = watched()
    before = log.catalog.tables.resource(SERVICE)
    log.accept("alpha", miss("alpha", ONE))
    after = log.catalog.tables.resource(SERVICE)
    assert (after.generation, after.spec) == (before.generation, before.spec)
    assert after.revision == log.catalog.revision


def test_what_a_silent_checker_missed_does_not_count():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    log.accept("gamma", miss("gamma", ONE))
    assert states(log)[ONE] == "unhealthy"
    log.accept("alpha", observe("alpha", "gamma", controlLost=True))
    assert states(log)[ONE] == "unhealthy"  # One cluster's word against gamma.
    log.accept("beta", observe("beta", "gamma", controlLost=True))
    assert states(log)[ONE] == "degraded"
    log.accept("beta", Delete(key=key("Observation", "gamma", scope="beta")))
    assert status(log).addresses[0].missed_by == ("alpha", "gamma")


def test_what_a_checker_missed_that_has_lost_its_own_network_does_not_count():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    log.accept("gamma", miss("gamma", ONE))
    log.accept(
        "gamma",
        observe("gamma", "alpha", dataLost=True),
        observe("gamma", "beta", dataLost=True),
    )
    assert states(log)[ONE] == "degraded"


def test_a_checker_that_is_named_no_more_or_leaves_does_not_count():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    log.accept("gamma", miss("gamma", ONE))
    log.accept("beta", put_external(checkedFrom=["alpha", "beta"]))
    assert status(log).addresses[0].missed_by == ("alpha",)
    log.accept("beta", put_external())
    assert status(log).addresses[0].missed_by == ("alpha", "gamma")
    log.accept("alpha", Delete(key=key("Cluster", "gamma")))
    assert status(log).addresses[0].missed_by == ("alpha",)


def test_what_a_checker_missed_that_was_removed_is_forgotten_before_its_rows_are_swept():
    log = watched()
    log.accept("gamma", miss("gamma", ONE))
    assert states(log)[ONE] == "degraded"
    removal = RemoveCluster(cluster="gamma", removed_by="admin", forced=True)
    log.accept("alpha", put(key("Member", "gamma"), {"standing": "removed"}))
    assert log.send("alpha", removal).code == 0
    assert log.catalog.tables.resource(observation_key("gamma", SERVICE)) is not None
    assert (states(log)[ONE], status(log).addresses[0].missed_by) == ("ok", ())


def test_an_address_that_is_taken_out_is_forgotten_and_a_new_one_is_well():
    log = watched()
    log.accept("alpha", miss("alpha", ONE))
    log.accept("beta", put_external(addresses=[TWO, "203.0.113.7"]))
    assert states(log) == {TWO: "ok", "203.0.113.7": "ok"}


def lose(log: Log) -> None:
    for checker in ("alpha", "gamma"):
        log.accept(checker, miss(checker, ONE))


def regain(log: Log) -> None:
    for checker in ("alpha", "gamma"):
        log.accept(checker, see(checker))


def test_an_address_that_flaps_is_held_for_longer_each_time_and_found_by_a_tick():
    log = watched()
    lose(log)
    assert states(log)[ONE] == "unhealthy"  # The first time at once.
    regain(log)
    for hold in (HOLD_MS_MIN, 2 * HOLD_MS_MIN):
        lose(log)
        assert states(log)[ONE] == "degraded"
        log.wait(hold - 1)
        assert states(log)[ONE] == "degraded"
        log.wait(1)
        assert states(log)[ONE] == "unhealthy"
        assert status(log).addresses[0].held_lease_ms is None
        regain(log)
        assert states(log)[ONE] == "ok"


def test_what_is_held_survives_a_snapshot_and_what_is_kept_is_bounded():
    log = watched()
    lose(log)
    regain(log)
    lose(log)
    copy = Catalog()
    copy.restore(log.catalog.snapshot())
    other = Log(copy, index=log.index)
    other.wait(HOLD_MS_MIN)
    assert states(other)[ONE] == "unhealthy"
    for _ in range(LOSSES_KEPT_MAX + 2):
        regain(log)
        lose(log)
        log.wait(600_001)
    assert len(status(log).addresses[0].losses_lease_ms) <= LOSSES_KEPT_MAX


# -- who may write what ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposer", "operation", "code", "words"),
    [
        pytest.param("alpha", put_external(), Code.PERMISSION_DENIED, "belongs to cluster beta", id="another's service"),
        pytest.param("alpha", Delete(key=SERVICE), Code.PERMISSION_DENIED, "belongs to cluster beta", id="another's service away"),
        pytest.param("alpha", put_external("delta"), 0, "", id="a remote's, by its home"),
        pytest.param("beta", put(SERVICE, status=b"{}"), Code.PERMISSION_DENIED, "nobody writes it", id="the status"),
        pytest.param("alpha", miss("alpha", ONE), 0, "", id="own eyes"),
        pytest.param("alpha", miss("gamma", ONE), Code.PERMISSION_DENIED, "in the name of gamma", id="another's eyes"),
        pytest.param("alpha", miss("delta", ONE), Code.PERMISSION_DENIED, "in the name of delta", id="a remote's eyes"),
        pytest.param("alpha", miss("alpha", ONE, service=SERVICE._replace(name="other")), Code.FAILED_PRECONDITION, "there is no", id="of nothing"),
        pytest.param("beta", put(key("ExternalService", "a.b", scope="beta", namespace="shop"), SPEC), Code.INVALID_ARGUMENT, "not a name", id="no service's name"),
        pytest.param("beta", put(key("ExternalService", "x", scope="beta", namespace="isthmus-system"), SPEC), Code.PERMISSION_DENIED, "reserved", id="the system's namespace"),
    ],
)  # fmt: skip
def test_services_are_their_owners_and_observations_their_checkers(proposer, operation, code, words):
    outcome = watched().write(proposer, operation)
    assert outcome.code == code, outcome.message
    assert words in outcome.message


def test_only_who_is_to_check_says_anything():
    log = watched(checkedFrom=["alpha", "beta"])
    refused = log.write("gamma", miss("gamma", ONE))
    assert (refused.code, "is not checked from cluster gamma" in refused.message) == (
        Code.PERMISSION_DENIED,
        True,
    )


def test_an_older_command_cannot_write_the_kind():
    log = three()
    old = Command(request_id="r", proposer="beta", body=Write(operations=(put_external(),)), schema=1)
    assert log.entry(encode_command(old)).code == Code.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1", "means another host for each caller"),
        ("169.254.1.1", "means another host for each caller"),
        ("::1", "means another host for each caller"),
        ("fe80::1", "means another host for each caller"),
        ("169.254.169.254", "metadata service"),
        ("64:ff9b::a9fe:a9fe", "metadata service"),
        ("224.0.0.1", "no address of one host"),
        ("0.0.0.0", "no address of one host"),
        ("10.9.0.7", "lies in 10.9.0.0/16, a range of cluster gamma"),
        ("10.1.0.9:8080", "is a controller's own"),
    ],
)
def test_an_address_that_would_aim_callers_at_somebody_else_is_refused(address, words):
    log = three()
    log.accept("gamma", put_cluster("gamma", ranges=["10.9.0.0/16"]))
    spec = json.loads(put_controller("beta-2", "beta").spec or b"") | {"control": "10.1.0.9:8080"}
    log.accept("beta", put(key("Controller", "beta-2"), spec))
    refused = log.write("beta", put_external(addresses=[address.removesuffix(":8080")]))
    assert refused.code == Code.PERMISSION_DENIED
    assert words in refused.message
    assert log.catalog.tables.resource(SERVICE) is None


def test_outside_of_the_owners_ranges_is_the_point_and_within_them_allowed():
    log = three()
    log.accept("beta", put_cluster("beta", ranges=["10.1.0.0/16", "127.9.0.0/16"]))
    log.accept("beta", put_external(addresses=[ONE, "10.1.2.3", "127.9.0.1"]))
    refused = log.write("beta", put_external(addresses=["127.8.0.1"]))
    assert refused.code == Code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"addresses": []}, "spec.addresses has 0 entries, expected 1 to 64"),
        ({"addresses": [f"203.0.113.{n}" for n in range(65)]}, "spec.addresses has 65 entries"),
        ({"addresses": ["db.example.com"]}, "spec.addresses[0]: 'db.example.com' is not an IP address"),
        ({"addresses": ["2001:DB8::1"]}, "expected its shortest form"),
        ({"addresses": ["::ffff:203.0.113.5"]}, "expected 203.0.113.5"),
        ({"addresses": [ONE, ONE]}, "is given twice"),
        ({"ports": []}, "spec.ports has 0 entries"),
        ({"ports": [{"name": "http", "port": 0}]}, "spec.ports[0].port is 0"),
        ({"ports": [{"name": "http", "port": 80, "targetPort": 70000}]}, "spec.ports[0].targetPort is 70000"),
        ({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}, "spec.ports.port: '80' is given twice"),
        ({"ports": [{"name": "a", "port": 80, "protocol": "udp"}]}, "protocol"),
        ({"checkedFrom": ["alpha", "alpha"]}, "spec.checkedFrom: 'alpha' is given twice"),
        ({"checkedFrom": [f"c{n}" for n in range(17)]}, "spec.checkedFrom has 17 entries"),
        ({"check": {"port": 81}}, "spec.check.port is 81, expected one of the service's ports"),
        ({"check": {"path": "x"}}, "spec.check.path: 'x' is not a path"),
        ({"check": {"path": "/\r\nHost: x"}}, "is not a path"),
        ({"check": {"interval": "10ms"}}, "spec.check.interval is '10ms', expected 1000ms to an hour"),
        ({"check": {"timeout": "2 s"}}, "spec.check.timeout: '2 s' is not a duration"),
        ({"check": {"failures": 0}}, "spec.check.failures is 0, expected 1 to 100"),
        ({"check": {"kind": "udp"}}, "kind"),
        ({"check": {"host": "pay.example"}}, "spec.check.host is given, expected none: kind is tcp"),
        ({"check": {"statuses": [200]}}, "spec.check.statuses is given, expected none: kind is tcp"),
        ({"check": {"kind": "http", "host": "a b"}}, "spec.check.host"),
        ({"check": {"kind": "http", "host": "a\r\nX: y"}}, "spec.check.host"),
        ({"check": {"kind": "http", "statuses": [200, 600]}}, "spec.check.statuses[1] is 600, expected 200 to 599"),
        ({"check": {"kind": "http", "statuses": [200] * 17}}, "spec.check.statuses has 17 entries"),
        ({"addresses": ["3405803781"]}, "spec.addresses[0]: '3405803781' is not an IP address"),
        ({"addresses": ["0xcb.0.113.5"]}, "is not an IP address"),
        ({"addresses": ["203.0.113.05"]}, "is not an IP address"),
        ({"addresses": ["fe80::1%eth0"]}, "expected its shortest form without a zone"),
        ({"addresses": [ONE, "203.0.113.5/32"]}, "spec.addresses[1]: '203.0.113.5/32' is not an IP address"),
        ({"addresses": ["2001:db8::1", "2001:db8::1"]}, "'2001:db8::1' is given twice"),
        ({"addresses": [f"10.{n // 256}.{n % 256}.1" for n in range(10_000)]}, "spec.addresses has 10000 entries"),
        ({"addresses": ONE}, "addresses"),
        ({"addresses": [3405803781]}, "addresses"),
        ({"tls": {}}, "unknown field"),
    ],
)  # fmt: skip
def test_a_malformed_service_is_refused_by_field(changes, words):
    raw = msgspec.json.encode({**SPEC, **changes})
    with pytest.raises(InvalidInputError) as refused:
        decode_spec("ExternalService", raw, where="x")
    assert words in refused.value.message


def test_a_new_incarnation_begins_without_what_was_seen():
    log = watched()
    lose(log)
    row = log.catalog.tables.resource(key("Controller", "alpha-1"))
    spec = decode_spec("Controller", row.spec, where="x")
    anew = refound(log.catalog.state(), unix_us=1, controller="alpha-1", spec=spec).state.tables
    assert anew.resource(observation_key("alpha", SERVICE)) is None
    assert read_status(anew.resource(SERVICE)) == ExternalServiceStatus()


def test_a_cluster_has_so_many_and_changes_those_that_it_has(monkeypatch):
    monkeypatch.setattr("discovery.core.external.EXTERNAL_SERVICES_MAX", 2)
    log = watched()
    log.accept("beta", put_external(name="second"))
    refused = log.write("beta", put_external(name="third"))
    assert (refused.code, "beta has 2 external services already" in refused.message) == (
        Code.RESOURCE_EXHAUSTED,
        True,
    )
    log.accept("beta", put_external(addresses=[TWO]))
    log.accept("alpha", put_external("alpha"))


def test_a_service_at_its_largest_can_be_changed_while_everybody_misses_it():
    log = three()
    names = [f"{'a' * 58}{number:02}" for number in range(15)]
    for number, name in enumerate(names):
        spec = {"role": "primary", "trustDomain": f"t{number}.test"}
        log.accept("alpha", put(key("Cluster", name), spec))
    addresses = [f"2001:db8:1111:2222:3333:4444:5555:{number:x}" for number in range(0x1000, 0x1000 + 64)]
    changes = {"addresses": addresses, "checkedFrom": ["beta", *names]}
    log.accept("beta", put_external(**changes))
    for name in names:
        log.accept(name, miss(name, *addresses))
    row = log.catalog.tables.resource(SERVICE)
    assert set(states(log).values()) == {"unhealthy"}
    assert len(row.status) < 40_000
    log.accept("beta", put_external(**changes, check={"interval": "10s"}))
    copy = Catalog()
    copy.restore(log.catalog.snapshot())
    assert copy.digest() == log.catalog.digest()
