"""Moving a remote cluster to another home: who may, by whose leave, what both homes' identities are meanwhile."""

import json

import msgspec
import pytest

from discovery.core.commands import (
    AdvanceRehoming,
    BeginRehoming,
    Body,
    Command,
    Delete,
    Put,
    RemoveCluster,
    ReturnRehoming,
    encode_command,
)
from discovery.core.external import observation_key, read_status
from discovery.core.kinds import decode_spec
from discovery.core.model import Endpoint, ServiceKey
from discovery.core.rehoming import CHANGE_LATE_MS, is_overdue, may_change, was_of
from discovery.core.specs import ClusterSpec
from discovery.core.view import Owner
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code
from federation.kernel.versions import PROTOCOL_VERSION
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    gateway,
    key,
    put,
    put_cluster,
    put_controller,
    put_export,
    put_external,
    put_grant,
    put_token,
    put_trust_domain,
)

OK = 0
SECRET = "c" * 64
ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"
ORDERS = ServiceKey("shop", "orders")
BEFORE = ("alpha", "alpha.test")
AFTER = ("beta", "beta.test")


def federation() -> Log:
    """alpha's remote delta has orders and a gateway; beta gave out a token for it."""
    log = founded()
    log.accept("alpha", put_export("delta", "shop", "*"), put_grant("delta", "shop", "*"))
    log.accept("beta", put_token("delta", "delta", SECRET, purpose="cluster", expires_ms=10_000))
    assert log.publish("delta", orders(), gateway("delta"), proposer="alpha").code == OK
    return log


def orders(trust_domain: str = "alpha.test", version: int = 1) -> Endpoint:
    return endpoint("delta", identity=f"spiffe://{trust_domain}/ns/shop/sa/orders", version=(1, version))


def changed_gateway() -> Endpoint:
    row = gateway("delta", version=(1, 2))
    return msgspec.structs.replace(row, identity=row.identity.replace("alpha.test", "beta.test"))


def begin(**other: object) -> BeginRehoming:
    wanted = {
        "cluster": "delta",
        "to": "beta",
        "secret_sha256": SECRET,
        "started_by": ADMIN,
        "within_ms": 60_000,
    }
    return BeginRehoming(**{**wanted, **other})  # type: ignore[arg-type]


ADVANCE, COMMIT, RETURNED = (
    AdvanceRehoming(cluster="delta", state=state) for state in ("announced", "moving", "returning")
)
BACK = ReturnRehoming(cluster="delta", reason="the operator asked for it")


def spec_of(log: Log, cluster: str = "delta") -> ClusterSpec:
    row = log.catalog.tables.resource(key("Cluster", cluster))
    assert row is not None
    spec = decode_spec("Cluster", row.spec, where="test")
    assert isinstance(spec, ClusterSpec)
    return spec


def accept(log: Log, proposer: str, body: Body) -> None:
    outcome = log.send(proposer, body)
    assert outcome.code == OK, outcome.message


def moving() -> Log:
    log = federation()
    accept(log, "alpha", begin())
    accept(log, "alpha", ADVANCE)
    return log


def owner_seen_by(viewer: str, log: Log) -> Owner:
    view = ViewIndex(viewer)
    view.reset(log.catalog.tables)
    service = view.service(ORDERS)
    assert service is not None
    return next(owner for owner in service.owners if owner.cluster == "delta")


def test_a_cluster_moves_once_every_endpoint_shows_the_new_trust_domain():
    log = moving()
    assert (spec_of(log).home, spec_of(log).trust_domain) == BEFORE
    assert spec_of(log).shown_trust_domain == "beta.test"
    assert log.send("alpha", COMMIT).code == Code.FAILED_PRECONDITION
    assert log.publish("delta", orders("beta.test", 2), proposer="alpha").code == OK
    late = log.send("beta", COMMIT)
    assert late.code == Code.FAILED_PRECONDITION
    assert "isthmus-system/eastwest/gw-1 still shows spiffe://alpha.test/" in late.message
    assert log.publish("delta", changed_gateway(), proposer="alpha").code == OK
    accept(log, "beta", COMMIT)
    spec = spec_of(log)
    assert (spec.home, spec.trust_domain, spec.trust_domains) == (*AFTER, ("beta.test",))
    assert log.publish("delta", orders("beta.test", 3), proposer="alpha").code == Code.PERMISSION_DENIED
    assert log.publish("delta", orders("alpha.test", 3), proposer="beta").code == Code.PERMISSION_DENIED
    assert log.publish("delta", orders("beta.test", 3), proposer="beta").code == OK
    assert log.write("beta", put_grant("delta", "shop", "*", name="more")).code == OK
    assert log.write("alpha", put_grant("delta", "shop", "*", name="less")).code == Code.PERMISSION_DENIED


def test_what_the_old_home_missed_of_external_services_counts_no_more_after_the_move():
    log = moving()
    service = key("ExternalService", "payments", scope="delta", namespace="shop")
    log.accept("alpha", put_external("delta", name=service.name))
    log.accept("alpha", put(observation_key("alpha", service), {"missed": ["203.0.113.5"]}))
    assert log.publish("delta", orders("beta.test", 2), changed_gateway(), proposer="alpha").code == OK
    states = []
    for step in (None, COMMIT):
        if step is not None:
            accept(log, "beta", step)
        row = log.catalog.tables.resource(service)
        states += [one.state for one in read_status(row).addresses]
    assert states == ["degraded", "ok"]


def test_callers_learn_of_a_move_before_any_process_changes():
    log = federation()
    accept(log, "alpha", begin())
    spec = spec_of(log)
    assert (spec.shown_trust_domain, spec.trust_domains) == ("alpha.test", ("alpha.test", "beta.test"))
    assert not may_change(spec, "alpha.test", log.catalog.now_ms)
    assert owner_seen_by("beta", log).other_trust_domain == "beta.test"
    accept(log, "alpha", ADVANCE)
    assert spec_of(log).shown_trust_domain == "beta.test"


def test_a_move_that_is_only_announced_is_taken_back_at_once():
    log = federation()
    accept(log, "alpha", begin())
    accept(log, "alpha", BACK)
    accept(log, "alpha", RETURNED)
    spec = spec_of(log)
    assert (spec.home, spec.trust_domain, spec.trust_domains) == (*BEFORE, ("alpha.test",))


def test_a_move_that_is_taken_back_ends_when_all_show_the_old_trust_domain_again():
    log = moving()
    assert log.publish("delta", orders("beta.test", 2), proposer="alpha").code == OK
    accept(log, "alpha", BACK)
    spec = spec_of(log)
    assert (spec.shown_trust_domain, spec.trust_domains) == ("alpha.test", ("alpha.test", "beta.test"))
    assert spec.rehoming is not None
    assert spec.rehoming.reason == BACK.reason
    assert log.send("alpha", RETURNED).code == Code.FAILED_PRECONDITION
    assert log.send("alpha", BACK).code == Code.FAILED_PRECONDITION
    assert log.publish("delta", orders("alpha.test", 3), proposer="alpha").code == OK
    accept(log, "alpha", RETURNED)
    spec = spec_of(log)
    assert (spec.home, spec.trust_domain, spec.trust_domains) == (*BEFORE, ("alpha.test",))
    log.accept("beta", put_token("again", "delta", "d" * 64, purpose="cluster", expires_ms=10_000))
    accept(log, "alpha", begin(secret_sha256="d" * 64))


def test_the_new_home_publishes_at_once_although_the_old_one_holds_the_lease():
    log = moving()
    rows = (orders("beta.test", 2), changed_gateway())
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    accept(log, "alpha", COMMIT)
    grant = log.lease("publish/delta", "beta-1", proposer="beta").lease
    assert grant is not None
    assert grant.granted


def test_meanwhile_callers_accept_each_endpoint_by_either_trust_domain():
    log = moving()
    for viewer in ("alpha", "beta"):
        owner = owner_seen_by(viewer, log)
        assert (owner.trust_domain, owner.other_trust_domain) == ("alpha.test", "beta.test")
        assert owner.identities == (
            "spiffe://alpha.test/ns/shop/sa/orders",
            "spiffe://beta.test/ns/shop/sa/orders",
        )
    rows = (orders("beta.test", 2), changed_gateway())
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    assert owner_seen_by("beta", log).identities == owner.identities
    accept(log, "beta", COMMIT)
    owner = owner_seen_by("beta", log)
    assert (owner.trust_domain, owner.other_trust_domain) == ("beta.test", "")
    assert owner.identities == ("spiffe://beta.test/ns/shop/sa/orders",)


def test_meanwhile_the_cluster_admits_both_homes_and_is_admitted_by_grants_to_either():
    log = moving()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    log.accept("alpha", put_grant("alpha", "shop", "*", trustDomains=["beta.test"]))
    log.accept("beta", put_export("beta", "shop", "*"))
    log.accept("beta", put_grant("beta", "shop", "*", trustDomains=["alpha.test"]))
    of_delta, of_alpha, of_beta = (admission(log, name) for name in ("delta", "alpha", "beta"))
    assert of_delta.own_trust_domain == "alpha.test"
    assert of_delta.other_own_trust_domain == "beta.test"
    assert [source.trust_domain for source in of_alpha.sources] == ["beta.test"]
    assert [source.trust_domain for source in of_beta.sources] == ["alpha.test"]


def admission(log: Log, cluster: str):
    view = ViewIndex(cluster)
    view.reset(log.catalog.tables)
    found = view.admission(ORDERS)
    assert found is not None
    return found


def test_a_view_that_follows_the_move_is_the_one_that_is_made_anew():
    log = federation()
    views = {name: ViewIndex(name) for name in ("alpha", "beta", "delta")}
    for view in views.values():
        view.reset(log.catalog.tables)
    steps = [
        lambda: accept(log, "alpha", begin()),
        lambda: accept(log, "alpha", ADVANCE),
        lambda: log.publish("delta", orders("beta.test", 2), changed_gateway(), proposer="alpha"),
        lambda: accept(log, "beta", COMMIT),
    ]
    for step in steps:
        step()
        for name, view in views.items():
            changes = [one for _, some in log.catalog.history(view.revision) for one in some]
            view.update(log.catalog.tables, changes)
            fresh = ViewIndex(name)
            fresh.reset(log.catalog.tables)
            assert view.service(ORDERS) == fresh.service(ORDERS)
            assert view.admission(ORDERS) == fresh.admission(ORDERS)


@pytest.mark.parametrize(
    ("proposer", "command", "code", "message"),
    [
        ("beta", begin(), Code.PERMISSION_DENIED, "only its home alpha may let it go, not beta"),
        ("alpha", begin(cluster="nobody"), Code.NOT_FOUND, "has not joined"),
        ("alpha", begin(cluster="beta"), Code.FAILED_PRECONDITION, "beta is a primary"),
        ("alpha", begin(to="alpha"), Code.FAILED_PRECONDITION, "alpha is its home already"),
        ("alpha", begin(to="delta"), Code.FAILED_PRECONDITION, "no primary"),
        ("alpha", begin(to="gamma"), Code.FAILED_PRECONDITION, "no primary"),
        ("alpha", begin(secret_sha256="e" * 64), Code.PERMISSION_DENIED, "no join token"),
        ("alpha", begin(secret_sha256="a" * 64), Code.PERMISSION_DENIED, "one of alpha for cluster delta"),
        ("alpha", begin(secret_sha256="b" * 64), Code.PERMISSION_DENIED, "for cluster omega"),
        ("alpha", begin(within_ms=0), Code.INVALID_ARGUMENT, "within_ms is 0, expected 1000 to"),
        ("alpha", begin(cluster="Delta"), Code.INVALID_ARGUMENT, "cluster"),
        ("alpha", ADVANCE, Code.FAILED_PRECONDITION, "delta is not moving"),
        ("alpha", BACK, Code.FAILED_PRECONDITION, "delta is not moving"),
    ],
)
def test_what_is_refused_changes_nothing(proposer, command, code, message):
    log = federation()
    log.accept("alpha", put_token("mine", "delta", "a" * 64, purpose="cluster"))
    log.accept("beta", put_token("omega", "omega", "b" * 64, purpose="cluster"))
    revision = log.catalog.revision
    outcome = log.send(proposer, command)
    assert (outcome.code, log.catalog.revision) == (code, revision), outcome.message
    assert message in outcome.message


def test_the_leave_of_the_new_home_is_good_once_and_for_a_time():
    log = federation()
    assert log.tick(10_000).code == OK
    assert "has expired" in log.send("alpha", begin()).message
    log = moving()
    accept(log, "alpha", BACK)
    assert log.publish("delta", orders(version=3), proposer="alpha").code == OK
    accept(log, "alpha", RETURNED)
    assert "was already used" in log.send("alpha", begin()).message


def test_a_third_cluster_has_no_say_in_a_move():
    log = moving()
    log.accept(
        "alpha", put_cluster("gamma"), put_trust_domain("gamma.test"), put_controller("gamma-1", "gamma")
    )
    for command in (ADVANCE, BACK):
        assert log.send("gamma", command).code == Code.PERMISSION_DENIED


def mirror(trust_domain: str) -> Put:
    identity = f"spiffe://{trust_domain}/isthmus/delta/controller/m1"
    spec = {"cluster": "delta", "role": "mirror", "identity": identity, "protocol": PROTOCOL_VERSION}
    return put(key("Controller", "delta-m1"), spec)


def test_a_mirror_of_the_cluster_changes_with_it():
    log = federation()
    log.accept("delta", mirror("alpha.test"))
    assert log.write("delta", mirror("beta.test")).code == Code.ALREADY_EXISTS
    accept(log, "alpha", begin())
    accept(log, "alpha", ADVANCE)
    rows = (orders("beta.test", 2), changed_gateway())
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    late = log.send("alpha", COMMIT)
    assert (late.code, "controller delta-m1 still is" in late.message) == (Code.FAILED_PRECONDITION, True)
    assert log.write("delta", mirror("gamma.test")).code == Code.ALREADY_EXISTS
    log.accept("delta", mirror("beta.test"))
    accept(log, "alpha", COMMIT)


def test_both_homes_publish_for_a_cluster_between_them_and_nobody_else():
    log = moving()
    log.accept("alpha", put_cluster("gamma"), put_trust_domain("gamma.test"))
    assert log.publish("delta", orders("beta.test", 2), proposer="alpha").code == OK
    log.wait(2_000)  # The lease ends.
    assert log.publish("delta", changed_gateway(), proposer="gamma").code == Code.PERMISSION_DENIED
    assert log.publish("delta", changed_gateway(), proposer="beta").code == OK
    accept(log, "beta", BACK)
    rows = (orders("alpha.test", 3), gateway("delta", version=(1, 3)))
    assert log.publish("delta", *rows, proposer="beta").code == OK
    accept(log, "beta", RETURNED)
    assert log.publish("delta", orders("alpha.test", 4), proposer="beta").code == Code.PERMISSION_DENIED


def test_neither_home_is_removed_during_the_move():
    log = moving()
    for name, other in (("alpha", "beta"), ("beta", "alpha")):
        outcome = log.send(other, RemoveCluster(cluster=name, removed_by=ADMIN, forced=True))
        assert (outcome.code, "is the home of cluster delta" in outcome.message) == (
            Code.FAILED_PRECONDITION,
            True,
        )
        assert log.write(name, Delete(key=key("Cluster", name))).code == Code.FAILED_PRECONDITION


def test_an_edit_of_the_cluster_says_nothing_of_its_move():
    log = moving()
    before = spec_of(log)
    log.accept("alpha", put_cluster("delta", role="remote", home="alpha", region="north"))
    assert spec_of(log) == msgspec.structs.replace(before, region="north")
    known = json.loads(msgspec.json.encode(before.rehoming))
    log.accept("alpha", put_cluster("delta", role="remote", home="alpha", rehoming=known))
    false = {**known, "home": "gamma"}
    outcome = log.write("alpha", put_cluster("delta", role="remote", home="alpha", rehoming=false))
    assert (outcome.code, "spec.rehoming" in outcome.message) == (Code.PERMISSION_DENIED, True)
    joining = put(
        key("Cluster", "omega"),
        {"role": "remote", "trustDomain": "alpha.test", "home": "alpha", "rehoming": known},
    )
    assert log.write("alpha", joining).code == Code.PERMISSION_DENIED


def test_who_may_still_change_its_identity():
    log = moving()
    spec, now_ms = spec_of(log), log.catalog.now_ms
    assert may_change(spec, "alpha.test", now_ms)
    assert not may_change(spec, "gamma.test", now_ms)
    rows = (orders("beta.test", 2), changed_gateway())
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    accept(log, "alpha", COMMIT)
    done = spec_of(log)
    assert may_change(done, "alpha.test", now_ms + CHANGE_LATE_MS - 1)
    assert not may_change(done, "alpha.test", now_ms + CHANGE_LATE_MS)
    assert was_of(done, "alpha.test")
    assert not was_of(done, "gamma.test")
    assert not may_change(spec_of(log, "alpha"), "alpha.test", now_ms)


def test_a_move_is_overdue_after_its_time_and_so_is_a_way_back():
    log = moving()
    since_ms = log.catalog.now_ms
    assert not is_overdue(spec_of(log), since_ms + 59_999)
    assert is_overdue(spec_of(log), since_ms + 60_000)
    assert log.publish("delta", orders("beta.test", 2), changed_gateway(), proposer="alpha").code == OK
    log.wait(1_000)
    accept(log, "alpha", BACK)
    assert not is_overdue(spec_of(log), since_ms + 60_999)
    assert is_overdue(spec_of(log), since_ms + 61_000)
    rows = (orders("alpha.test", 3), gateway("delta", version=(1, 3)))
    assert log.publish("delta", *rows, proposer="alpha").code == OK
    accept(log, "alpha", RETURNED)
    assert not is_overdue(spec_of(log), since_ms + 10**9)


def test_older_builds_are_waited_for():
    log = federation()
    data = encode_command(Command(request_id="old", proposer="alpha", body=begin(), schema=1))
    outcome = log.entry(data)
    assert (outcome.code, "finish the upgrade first" in outcome.message) == (Code.FAILED_PRECONDITION, True)


def test_a_snapshot_holds_a_move():
    log = moving()
    copy = Log()
    copy.catalog.restore(list(log.catalog.snapshot()))
    assert spec_of(copy) == spec_of(log)
    assert copy.catalog.digest() == log.catalog.digest()
