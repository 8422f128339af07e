"""Removing a cluster: who may, when; that it is gone at once, deleted in batches, and its name remembered."""

import pytest

from discovery.core.commands import (
    AcquireLease,
    Command,
    Delete,
    PublishEndpoints,
    Put,
    RemoveCluster,
    SweepRemoved,
    Write,
    encode_command,
)
from discovery.core.kinds import decode_spec
from discovery.core.model import EndpointKey, ServiceKey
from discovery.core.specs import FORMER_TRUST_DOMAINS_MAX, RemovedClusterSpec
from discovery.core.views import ViewIndex
from federation.kernel.errors import Code
from federation.kernel.versions import PROTOCOL_VERSION, STRICT_SCHEMA
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    gateway,
    key,
    put,
    put_cluster,
    put_controller,
    put_drain,
    put_export,
    put_grant,
    put_token,
    put_trust_domain,
)

OK = 0
ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"
ORDERS = ServiceKey("shop", "orders")


def federation(endpoints: int = 3) -> Log:
    """alpha, beta and alpha's remote delta; beta has services that alpha sees, and a member that was removed."""
    log = founded()
    log.accept("beta", put_export("beta", "shop", "*"), put_grant("beta", "shop", "*"))
    log.accept("beta", put_token("agent-token", "beta", "b" * 64))
    rows = [endpoint("beta", f"orders-{number}") for number in range(endpoints)]
    assert log.publish("beta", *rows, gateway("beta")).code == OK
    log.accept("alpha", put(key("Member", "beta"), {"standing": "removed"}), put_drain("beta", 0))
    return log


def removal(cluster: str = "beta", *, forced: bool = False) -> RemoveCluster:
    return RemoveCluster(cluster=cluster, removed_by=ADMIN, forced=forced)


def tombstone(log: Log, cluster: str = "beta") -> RemovedClusterSpec:
    row = log.catalog.tables.resource(key("RemovedCluster", cluster))
    assert row is not None
    spec = decode_spec("RemovedCluster", row.spec, where="test")
    assert isinstance(spec, RemovedClusterSpec)
    return spec


def sweep_all(log: Log, rows_max: int = 2) -> int:
    """Sweep to the end; return how many batches it took."""
    batches = 0
    while not tombstone(log).swept:
        assert log.send("alpha", SweepRemoved(cluster="beta", rows_max=rows_max)).code == OK
        batches += 1
    return batches


def of_beta(log: Log) -> list[str]:
    """Every row that speaks of beta but what is remembered of it."""
    tables = log.catalog.tables
    found = [str(one) for one in map(bytes.decode, tables.resources) if "beta" in one]
    found += [one.decode() for one in tables.endpoints if EndpointKey.decode(one).cluster == "beta"]
    return [one.replace("\0", "/") for one in found if "RemovedCluster" not in one]


def test_a_removed_cluster_is_in_nobodys_view_at_once_and_then_deleted_in_batches():
    log = federation(endpoints=5)
    view = ViewIndex("alpha")
    view.reset(log.catalog.tables)
    assert list(view.services()) == [ORDERS]
    assert log.send("alpha", removal()).code == OK
    changes = [change for _, changes in log.catalog.history(view.revision) for change in changes]
    assert len(changes) < 10
    assert ORDERS in view.update(log.catalog.tables, changes)
    assert list(view.services()) == []
    assert "beta.test" not in view.trust_domains()
    assert not tombstone(log).swept
    assert sweep_all(log) == (2 + 6) / 2
    assert of_beta(log) == []
    assert log.catalog.usage.count("endpoints", "beta") == 0


def test_a_batch_deletes_no_more_than_it_says_and_may_be_repeated():
    log = federation(endpoints=5)
    log.send("alpha", removal())
    before = len(of_beta(log))
    log.send("alpha", SweepRemoved(cluster="beta", rows_max=3))
    assert len(of_beta(log)) == before - 3
    sweep_all(log)
    revision = log.catalog.revision
    assert log.send("alpha", SweepRemoved(cluster="beta", rows_max=3)).code == OK
    assert log.catalog.revision == revision


@pytest.mark.parametrize("rows_max", [0, 1_001])
def test_a_batch_has_a_bound(rows_max):
    log = federation()
    log.send("alpha", removal())
    assert log.send("alpha", SweepRemoved(cluster="beta", rows_max=rows_max)).code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("proposer", "command", "code", "message"),
    [
        pytest.param("beta", removal(), Code.PERMISSION_DENIED, "does not remove itself", id="itself"),
        pytest.param("delta", removal(), Code.PERMISSION_DENIED, "is remote", id="by-a-remote"),
        pytest.param("alpha", removal("mars"), Code.NOT_FOUND, "has not joined", id="unknown"),
        pytest.param("alpha", removal("No Name"), Code.INVALID_ARGUMENT, "No Name", id="no-name"),
        pytest.param("beta", removal("alpha"), Code.FAILED_PRECONDITION, "home of cluster delta", id="a-home"),
        pytest.param("beta", removal("alpha", forced=True), Code.FAILED_PRECONDITION, "home of cluster delta", id="a-home-by-force"),
    ],
)  # fmt: skip
def test_who_is_not_removed(proposer, command, code, message):
    log = federation()
    revision = log.catalog.revision
    outcome = log.send(proposer, command)
    assert (outcome.code, message in outcome.message) == (code, True), outcome
    assert log.catalog.revision == revision


def undrain(log: Log) -> None:
    log.accept("alpha", Delete(key=key("Drain", "beta")))


def rolled_back(log: Log) -> None:
    log.accept("alpha", put_drain("beta", 100, rolledBack="nobody else"))


def half_way(log: Log) -> None:
    log.accept("alpha", put_drain("beta", 25))


def vote_again(log: Log) -> None:
    log.accept("alpha", put(key("Member", "beta"), {"standing": "voter"}))


@pytest.mark.parametrize(
    ("happened", "message", "forced"),
    [
        pytest.param(undrain, "is not drained", OK, id="not-drained"),
        pytest.param(half_way, "is not drained", OK, id="half-way"),
        pytest.param(rolled_back, "is not drained", OK, id="rolled-back"),
        pytest.param(vote_again, "isthmus member remove beta first", Code.FAILED_PRECONDITION, id="it-votes"),
    ],
)
def test_it_is_drained_and_has_no_vote_first(happened, message, forced):
    log = federation()
    happened(log)
    refused = log.send("alpha", removal())
    assert (refused.code, message in refused.message) == (Code.FAILED_PRECONDITION, True), refused
    assert log.send("alpha", removal(forced=True)).code == forced


def test_what_has_no_endpoints_needs_no_drain():
    log = founded()
    assert log.send("alpha", removal("delta")).code == OK


def test_a_mirror_has_no_vote_that_could_be_taken():
    log = founded()
    identity = "spiffe://alpha.test/isthmus/delta/controller/m1"
    log.accept(
        "alpha",
        put(
            key("Controller", "delta-m1"),
            {"cluster": "delta", "role": "mirror", "identity": identity, "protocol": PROTOCOL_VERSION},
        ),
    )
    assert log.send("alpha", removal("delta")).code == OK
    assert log.catalog.tables.resource(key("Controller", "delta-m1")) is None


# Impostors: the same name, an old epoch, the state of before.


def test_what_the_old_cluster_writes_is_refused():
    log = federation()
    held = log.lease("publish/beta", "beta-1", proposer="beta").lease
    assert held is not None
    log.send("alpha", removal())
    stale = PublishEndpoints(cluster="beta", fence=held.fence, put=(endpoint("beta", version=(9, 9)),))
    assert log.send("beta", stale).code == Code.FAILED_PRECONDITION
    assert log.write("beta", put_export("beta", "shop", "x", name="n")).code == Code.FAILED_PRECONDITION
    assert log.write("beta", put_controller("beta-1", "beta")).code == Code.FAILED_PRECONDITION
    assert log.write("beta", put_token("t", "beta", "c" * 64)).code == Code.FAILED_PRECONDITION
    lease = AcquireLease(name="publish/beta", holder="beta-1", ttl_ms=1_000)
    assert log.send("beta", lease).code == Code.FAILED_PRECONDITION
    assert log.tick(10**9, "beta").code == Code.PERMISSION_DENIED


def test_the_name_is_taken_again_by_the_next_epoch_alone_once_nothing_is_left():
    log = federation()
    log.send("alpha", removal())
    early = log.write("alpha", put_cluster("beta", epoch=2))
    assert (early.code, "still being deleted" in early.message) == (Code.FAILED_PRECONDITION, True)
    sweep_all(log)
    for epoch in (1, 3):
        assert log.write("alpha", put_cluster("beta", epoch=epoch)).code == Code.FAILED_PRECONDITION
    log.accept("alpha", put_cluster("beta", epoch=2), put_trust_domain("beta.test"))
    assert log.write("beta", put_cluster("beta", epoch=1)).code == Code.ALREADY_EXISTS
    log.send("alpha", removal(forced=True))
    assert tombstone(log).epoch == 2


def gamma_as(trust_domain: str) -> list[Put]:
    spec = {"role": "primary", "trustDomain": trust_domain}
    return [put(key("Cluster", "gamma"), spec), put_trust_domain(trust_domain)]


def test_nobody_else_takes_the_trust_domain_of_a_removed_cluster_and_with_it_what_was_granted():
    log = federation()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    log.accept("alpha", put_grant("alpha", "shop", "*", trustDomains=["beta.test"]))
    log.send("alpha", removal())
    sweep_all(log)
    refused = log.write("alpha", *gamma_as("beta.test"))
    assert refused.code == Code.ALREADY_EXISTS
    assert "was that of cluster beta, which was removed" in refused.message
    log.accept("alpha", *gamma_as("gamma.test"))
    # Who had it may come back with it, and an operator may give it free.
    log.accept("alpha", put_cluster("beta", epoch=2), put_trust_domain("beta.test"))


def rejoin_and_remove(log: Log, epoch: int, **spec: object) -> None:
    """Beta is removed, comes back as that, and is removed again."""
    log.send("alpha", removal(forced=True))
    sweep_all(log)
    made = [put(key("Cluster", "beta"), {"role": "primary", "epoch": epoch, **spec})]
    if "home" not in spec:
        made.append(put_trust_domain(str(spec["trustDomain"])))
    log.accept("alpha", *made)
    log.send("alpha", removal(forced=True))
    sweep_all(log)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param({"trustDomain": "other.test"}, id="with another trust domain"),
        pytest.param(
            {"role": "remote", "home": "alpha", "trustDomain": "alpha.test"}, id="as a remote cluster"
        ),
    ],
)
def test_the_trust_domains_of_all_that_had_a_name_are_remembered(later):
    log = federation()
    rejoin_and_remove(log, 2, **later)
    assert log.write("alpha", *gamma_as("beta.test")).code == Code.ALREADY_EXISTS
    assert tombstone(log).former_trust_domains == ("beta.test",)


def test_a_name_is_taken_by_so_many_trust_domains_at_most_as_are_remembered():
    log = federation()
    for epoch in range(2, FORMER_TRUST_DOMAINS_MAX + 2):
        rejoin_and_remove(log, epoch, trustDomain=f"t{epoch}.test")
    again = {"role": "primary", "epoch": FORMER_TRUST_DOMAINS_MAX + 2}
    refused = log.write("alpha", put(key("Cluster", "beta"), again | {"trustDomain": "t0.test"}))
    assert refused.code == Code.RESOURCE_EXHAUSTED
    known = [put(key("Cluster", "beta"), again | {"trustDomain": "t2.test"}), put_trust_domain("t2.test")]
    log.accept("alpha", *known)


def test_an_operator_gives_the_trust_domain_of_a_removed_cluster_free():
    log = federation()
    log.send("alpha", removal())
    sweep_all(log)
    log.accept("alpha", Delete(key=key("RemovedCluster", "beta")))
    log.accept("alpha", *gamma_as("beta.test"))


def test_a_join_of_before_the_rule_is_applied_as_it_was():
    log = federation()
    log.send("alpha", removal())
    sweep_all(log)
    body = Write(operations=tuple(gamma_as("beta.test")))
    old = Command(request_id="old", proposer="alpha", body=body, schema=STRICT_SCHEMA - 1)
    assert log.entry(encode_command(old)).code == OK


def test_a_new_name_begins_at_epoch_one():
    assert founded().write("alpha", put_cluster("gamma", epoch=2)).code == Code.FAILED_PRECONDITION


def test_what_is_remembered_is_not_written_and_only_forgotten_when_nothing_is_left():
    log = federation()
    log.send("alpha", removal())
    spec = {"epoch": 9, "role": "primary", "trustDomain": "x", "removedMs": 0, "removedBy": "x"}
    assert log.write("alpha", put(key("RemovedCluster", "beta"), spec)).code == Code.FAILED_PRECONDITION
    assert log.write("alpha", put(key("RemovedCluster", "gamma"), spec)).code == Code.PERMISSION_DENIED
    forget = Delete(key=key("RemovedCluster", "beta"))
    assert log.write("alpha", forget).code == Code.FAILED_PRECONDITION
    sweep_all(log)
    assert log.write("delta", forget).code == Code.PERMISSION_DENIED
    assert log.write("alpha", forget).code == OK
