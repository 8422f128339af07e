"""Who may write what (F3), as the state machine answers it."""

import pytest

from discovery.core.commands import Delete, PublishEndpoints
from federation.kernel.errors import Code
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    key,
    put,
    put_cluster,
    put_controller,
    put_export,
    put_grant,
    put_token,
    put_trust_domain,
)

OK = 0
SECRET = "a" * 64


@pytest.mark.parametrize(
    ("proposer", "operation", "expected"),
    [
        pytest.param("alpha", put_export("alpha", "shop", "*"), OK, id="own-export"),
        pytest.param("alpha", put_export("delta", "shop", "*"), OK, id="home-writes-for-its-remote"),
        pytest.param("delta", put_export("delta", "shop", "*"), OK, id="a-remote-writes-for-itself"),
        pytest.param("delta", put_export("alpha", "shop", "*"), Code.PERMISSION_DENIED, id="a-remote-not-for-its-home"),
        pytest.param("beta", put_export("alpha", "shop", "*"), Code.PERMISSION_DENIED, id="export-of-another"),
        pytest.param("beta", put_grant("delta", "shop", "*"), Code.PERMISSION_DENIED, id="grant-of-anothers-remote"),
        pytest.param("alpha", put_export("gamma", "shop", "*"), Code.FAILED_PRECONDITION, id="unknown-scope"),
        pytest.param("gamma", put_export("gamma", "shop", "*"), Code.FAILED_PRECONDITION, id="not-joined"),
        pytest.param("gamma", put_cluster("gamma"), Code.PERMISSION_DENIED, id="nobody-lets-itself-in"),
        pytest.param("delta", put_cluster("gamma"), Code.PERMISSION_DENIED, id="a-remote-lets-nobody-in"),
        pytest.param("beta", put_cluster("gamma"), OK, id="any-primary-lets-a-primary-in"),
        pytest.param("beta", put_cluster("gamma", role="witness"), OK, id="any-primary-lets-a-witness-in"),
        pytest.param("beta", put_cluster("alpha", region="x"), Code.PERMISSION_DENIED, id="spec-of-another-cluster"),
        pytest.param("alpha", put_cluster("alpha", region="x"), OK, id="own-spec"),
        pytest.param("alpha", put_cluster("delta", role="remote", home="alpha", zone="z"), OK, id="spec-of-own-remote"),
        pytest.param("beta", put(key("Cluster", "alpha"), status=b'{"state":"dead"}'), Code.PERMISSION_DENIED, id="status-of-another-cluster"),
        pytest.param("delta", put(key("Cluster", "alpha"), status=b"{}"), Code.PERMISSION_DENIED, id="status-of-its-home"),
        pytest.param("beta", put_trust_domain("alpha.test", sequence=2), Code.PERMISSION_DENIED, id="roots-of-another"),
        pytest.param("alpha", put_trust_domain("alpha.test", sequence=2), OK, id="own-roots"),
        pytest.param("delta", put_trust_domain("alpha.test", sequence=2), Code.PERMISSION_DENIED, id="a-remotes-roots-are-its-homes"),
        pytest.param("alpha", put_trust_domain("gamma.test"), Code.FAILED_PRECONDITION, id="roots-of-nobody"),
        pytest.param("beta", put_controller("alpha-2", "alpha"), Code.PERMISSION_DENIED, id="controller-of-another"),
        pytest.param("beta", put_controller("beta-2", "beta"), OK, id="own-controller"),
        pytest.param("alpha", put_controller("delta-1", "delta"), OK, id="controller-of-own-remote"),
        pytest.param("beta", put_token("t", "beta", SECRET), OK, id="token-for-own-agents"),
        pytest.param("beta", put_token("t", "alpha", SECRET), Code.PERMISSION_DENIED, id="token-for-agents-of-another"),
        pytest.param("alpha", put_token("t", "delta", SECRET), OK, id="token-for-agents-of-own-remote"),
        pytest.param("beta", put_token("t", "gamma", SECRET, purpose="cluster"), OK, id="token-for-a-new-cluster"),
        pytest.param("delta", put_token("t", "gamma", SECRET, purpose="cluster"), Code.PERMISSION_DENIED, id="a-remote-invites-nobody"),
        pytest.param("alpha", put(key("Federation", "f2"), {"id": "x"}), Code.ALREADY_EXISTS, id="one-federation"),
        pytest.param("alpha", put(key("Federation", "federation"), {"id": "x"}), Code.FAILED_PRECONDITION, id="its-id-never-changes"),
        pytest.param("alpha", Delete(key=key("Federation", "federation")), Code.FAILED_PRECONDITION, id="nor-does-it-go"),
        pytest.param("beta", Delete(key=key("Controller", "alpha-1")), Code.PERMISSION_DENIED, id="delete-anothers-controller"),
        pytest.param("alpha", Delete(key=key("TrustDomain", "alpha.test")), Code.FAILED_PRECONDITION, id="roots-in-use"),
        pytest.param("beta", Delete(key=key("Cluster", "alpha")), Code.FAILED_PRECONDITION, id="a-home-stays-while-used"),
        pytest.param("delta", Delete(key=key("Cluster", "beta")), Code.PERMISSION_DENIED, id="a-remote-removes-no-other"),
        pytest.param("delta", Delete(key=key("Cluster", "delta")), OK, id="a-remote-leaves"),
        pytest.param("alpha", Delete(key=key("Cluster", "beta")), OK, id="a-dead-cluster-is-removed-by-another"),
    ],
)  # fmt: skip
def test_only_the_owner_writes_a_record(proposer, operation, expected):
    log = founded()
    before = log.catalog.tables
    outcome = log.write(proposer, operation)
    assert outcome.code == expected, outcome.message
    assert (log.catalog.tables is before) == (expected != OK)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        pytest.param(
            put_cluster("beta", role="witness"),
            "cluster beta has joined with role 'primary', not 'witness': choose another name",
            id="name-taken",
        ),
        pytest.param(
            put(key("Cluster", "gamma"), {"role": "primary", "trustDomain": "beta.test"}),
            "cluster gamma: trust domain beta.test belongs to cluster beta",
            id="trust-domain-taken",
        ),
        pytest.param(
            put(key("Cluster", "gamma"), {"role": "primary", "trustDomain": "alpha.test"}),
            "cluster gamma: trust domain alpha.test belongs to cluster alpha",
            id="trust-domain-of-a-primary-with-remotes",
        ),
        pytest.param(put(key("Cluster", "beta"), {"role": "primary", "trustDomain": "x.test"}, expected_revision=0),
            "Cluster/beta exists since revision 2", id="joining-under-a-taken-name"),
    ],
)  # fmt: skip
def test_a_name_or_trust_domain_that_is_taken_is_refused_as_such(operation, message):
    outcome = founded().write("alpha", operation)
    assert (outcome.code, outcome.message) == (Code.ALREADY_EXISTS, message)


@pytest.mark.parametrize(
    ("proposer", "spec", "expected"),
    [
        pytest.param("beta", {"home": "alpha", "trustDomain": "alpha.test"}, Code.PERMISSION_DENIED, id="anothers-home"),
        pytest.param("beta", {"home": "beta", "trustDomain": "alpha.test"}, Code.INVALID_ARGUMENT, id="not-its-homes-domain"),
        pytest.param("beta", {"home": "delta", "trustDomain": "alpha.test"}, Code.FAILED_PRECONDITION, id="home-is-no-primary"),
        pytest.param("beta", {"home": "beta", "trustDomain": "beta.test"}, OK, id="joins-its-home"),
    ],
)  # fmt: skip
def test_a_remote_joins_only_through_its_home_and_in_its_trust_domain(proposer, spec, expected):
    outcome = founded().write(proposer, put(key("Cluster", "epsilon"), {"role": "remote", **spec}))
    assert outcome.code == expected, outcome.message


def test_a_cluster_joins_with_its_roots_and_controllers_in_one_write_but_not_before_it():
    log = founded()
    early = log.write("alpha", put_trust_domain("gamma.test"), put_cluster("gamma"))
    assert early.code == Code.FAILED_PRECONDITION
    log.accept(
        "alpha", put_cluster("gamma"), put_trust_domain("gamma.test"), put_controller("gamma-1", "gamma")
    )
    owners = {row.owner for row in log.catalog.tables.list_resources("", "TrustDomain")}
    assert owners == {"alpha", "beta", "gamma"}


def test_the_first_write_founds_and_must_create_its_own_cluster():
    log = Log()
    outcome = log.write("alpha", put_cluster("beta"))
    assert (outcome.code, outcome.message) == (
        Code.FAILED_PRECONDITION,
        "the catalog is empty: its first write must create cluster alpha",
    )
    assert log.write("alpha", put_cluster("alpha")).code == OK


def test_a_controller_must_carry_an_identity_of_its_own_cluster():
    spec = {"cluster": "beta", "role": "member", "identity": "spiffe://alpha.test/isthmus/alpha/controller/x"}
    outcome = founded().write("beta", put(key("Controller", "beta-9"), spec))
    assert outcome.code == Code.PERMISSION_DENIED
    assert "expected spiffe://beta.test/isthmus/beta/controller/..." in outcome.message


def test_a_removed_cluster_takes_all_that_it_owned_along_and_nothing_else():
    log = founded()
    log.accept("beta", put_export("beta", "shop", "*"), put_token("t", "beta", SECRET))
    assert log.publish("beta", endpoint("beta"), endpoint("beta", "orders-2")).code == OK
    assert log.publish("alpha", endpoint("alpha")).code == OK
    log.accept("alpha", Delete(key=key("Cluster", "beta")))
    tables = log.catalog.tables
    assert not [k for table in (tables.resources, tables.endpoints) for k in table if b"beta" in k]
    assert [row.key.cluster for row in tables.list_endpoints(endpoint().key.service_key)] == ["alpha"]
    assert [row.key.name for row in tables.list_resources("", "Controller")] == ["alpha-1"]
    assert [row.key.name for row in tables.list_resources("", "TrustDomain")] == ["alpha.test"]
    assert log.catalog.lease("publish/beta") is None
    assert log.catalog.lease("publish/alpha") is not None


def test_what_a_removed_cluster_had_is_free_within_the_same_write():
    log = founded()
    heir = put(key("Cluster", "gamma"), {"role": "primary", "trustDomain": "beta.test"})
    log.accept("alpha", Delete(key=key("Cluster", "beta")), heir, put_trust_domain("beta.test"))
    assert [row.owner for row in log.catalog.tables.list_resources("", "TrustDomain")] == ["alpha", "gamma"]


@pytest.mark.parametrize(
    ("cluster", "proposer", "expected"),
    [
        pytest.param("alpha", "alpha", OK, id="own"),
        pytest.param("delta", "alpha", OK, id="home"),
        pytest.param("delta", "delta", OK, id="a-remote-with-a-controller"),
        pytest.param("alpha", "beta", Code.PERMISSION_DENIED, id="anothers"),
        pytest.param("alpha", "delta", Code.PERMISSION_DENIED, id="a-remote-for-its-home"),
        pytest.param("gamma", "gamma", Code.FAILED_PRECONDITION, id="not-joined"),
    ],
)
def test_only_a_cluster_and_its_home_publish_its_endpoints(cluster, proposer, expected):
    log = founded()
    fence = log.lease(f"publish/{cluster}", "p", proposer=cluster).lease
    row = endpoint(cluster if cluster != "gamma" else "gamma")
    batch = PublishEndpoints(cluster=cluster, fence=fence.fence if fence else 1, put=(row,))
    outcome = log.send(proposer, batch)
    assert outcome.code == expected, outcome.message
    assert len(log.catalog.tables.endpoints) == (expected == OK)


@pytest.mark.parametrize(
    ("name", "proposer", "expected"),
    [
        pytest.param("publish/alpha", "alpha", OK, id="own"),
        pytest.param("publish/delta", "alpha", OK, id="home"),
        pytest.param("publish/alpha", "beta", Code.PERMISSION_DENIED, id="anothers"),
        pytest.param("publish/gamma", "alpha", Code.FAILED_PRECONDITION, id="not-joined"),
        pytest.param("compaction", "beta", OK, id="a-duty-of-the-federation"),
        pytest.param("compaction", "delta", Code.PERMISSION_DENIED, id="not-by-a-remote"),
        pytest.param("a/b/c", "alpha", Code.INVALID_ARGUMENT, id="no-name"),
    ],
)
def test_a_lease_belongs_to_its_cluster(name, proposer, expected):
    outcome = founded().lease(name, "someone", proposer=proposer)
    assert outcome.code == expected, outcome.message
