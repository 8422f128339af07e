"""The ownership matrix (F3): every way into the catalog, every sort of record, every operation.

Alpha and beta are primaries, delta is a remote cluster with home alpha. What is not beta's own, or free to
take, beta neither creates nor changes nor deletes, whichever way it comes; and nothing else changes by it.
"""

import msgspec
import pytest

from certs.core.spiffe import parse, system_identity
from discovery.core.catalog import Catalog
from discovery.core.commands import (
    AcquireLease,
    Body,
    ClaimToken,
    Command,
    Delete,
    PublishEndpoints,
    Put,
    Write,
    encode_command,
)
from discovery.core.model import Change, pack, unpack_resource
from discovery.core.snapshots import decode_snapshot, encode_snapshot
from discovery.core.specs import AgentSpec
from discovery.core.tables import Table
from federation.api.agent_stream import AgentRules
from federation.api.manifest import decode_manifest, to_put
from federation.kernel.errors import Code, CorruptError, InvalidInputError, IsthmusError
from federation.kernel.versions import PROTOCOL_VERSION, STRICT_SCHEMA
from federation.replication.messages import Delta, LocalRows
from federation.replication.state import FollowerState
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

SECRET = "a" * 64
AGENT = {"role": "agent", "namespace": "shop", "serviceAccount": "orders"}


def settled() -> Log:
    """A federation in which everybody has something of each sort."""
    log = founded()
    for cluster, proposer in (("alpha", "alpha"), ("beta", "beta"), ("delta", "alpha")):
        log.accept(
            proposer,
            put_export(cluster, "shop", "*"),
            put_grant(cluster, "shop", "*"),
            put(key("Agent", "agent.a1", scope=cluster), AGENT),
            put_token(f"t-{cluster}", cluster, {"alpha": "a", "beta": "b", "delta": "d"}[cluster] * 64),
        )
        assert log.publish(cluster, endpoint(cluster), proposer=proposer).code == 0
    return log


def published(owner: str, **rest: object) -> PublishEndpoints:
    """A batch with the owner's own fence, as somebody would have seen it in the catalog."""
    return PublishEndpoints(cluster=owner, fence=FENCES[owner], **rest)  # type: ignore[arg-type]


def attempts(owner: str) -> dict[str, Body]:
    """What may be done to the records of a cluster; only the owner, or its home, may."""
    changed = endpoint(owner, version=(2, 1), ready=False)
    return {
        "create": write(put_export(owner, "bank", "*")),
        "change": write(put_export(owner, "shop", "orders")),
        "declare-outside": write(put_external(owner)),
        "relabel": write(put(key("ExportPolicy", "export", scope=owner, namespace="shop"), labels=(("a", "b"),))),
        "set-status": write(put(key("Grant", "grant", scope=owner, namespace="shop"), status=b'{"a":1}')),
        "delete": write(Delete(key=key("Grant", "grant", scope=owner, namespace="shop"))),
        "enroll-agent": write(put(key("Agent", "agent.a2", scope=owner), AGENT)),
        "evict-agent": write(Delete(key=key("Agent", "agent.a1", scope=owner))),
        "create-token": write(put_token("t2", owner, "c" * 64)),
        "delete-token": write(Delete(key=key("JoinToken", f"t-{owner}"))),
        "set-cluster-status": write(put(key("Cluster", owner), status=b'{"a":1}')),
        "relabel-cluster": write(put(key("Cluster", owner), labels=(("a", "b"),))),
        "publish": published(owner, put=(endpoint(owner, "orders-2"),)),
        "publish-gateway": published(owner, put=(gateway(owner),)),
        "republish": published(owner, put=(changed,)),
        "withdraw": published(owner, remove=((changed.key, 9, 9),)),
        "lease": AcquireLease(name=f"publish/{owner}", holder="publisher", ttl_ms=1_000),
    }  # fmt: skip


def write(*operations: object) -> Write:
    return Write(operations=operations)  # type: ignore[arg-type]


FENCES = {
    cluster: settled().catalog.lease(f"publish/{cluster}").fence for cluster in ("alpha", "beta", "delta")
}
OWN = [
    (proposer, owner, name)
    for proposer, owner in (("alpha", "alpha"), ("beta", "beta"), ("alpha", "delta"), ("delta", "delta"))
    for name in attempts(owner)
]
FOREIGN = [
    (proposer, owner, name)
    for proposer, owner in (("beta", "alpha"), ("alpha", "beta"), ("beta", "delta"), ("delta", "alpha"))
    for name in attempts(owner)
]


@pytest.mark.parametrize(("proposer", "owner", "name"), OWN)
def test_in_the_log_an_owner_does_everything_to_its_own(proposer, owner, name):
    outcome = settled().send(proposer, attempts(owner)[name])
    assert outcome.code == 0, outcome.message


@pytest.mark.parametrize(("proposer", "owner", "name"), FOREIGN)
def test_in_the_log_a_foreign_write_is_refused_and_changes_nothing(proposer, owner, name):
    log = settled()
    before = log.catalog.tables
    outcome = log.send(proposer, attempts(owner)[name])
    assert outcome.code == Code.PERMISSION_DENIED, outcome.message
    assert proposer in outcome.message
    assert log.catalog.tables is before


@pytest.mark.parametrize("name", ["create", "change", "delete", "create-token"])
def test_one_foreign_operation_undoes_the_own_ones_beside_it(name):
    log = settled()
    body = attempts("alpha")[name]
    assert isinstance(body, Write)
    before = log.catalog.tables
    own = put_export("beta", "bank", "*")
    assert log.write("beta", own, *body.operations, own).code == Code.PERMISSION_DENIED
    assert log.catalog.tables is before


def test_a_foreign_row_in_an_own_batch_undoes_the_batch():
    log = settled()
    before = log.catalog.tables
    for foreign in (published("beta", put=(endpoint("beta", "b2"), endpoint("alpha", "b3"))),
                    published("beta", remove=((endpoint("alpha").key, 9, 9),))):  # fmt: skip
        assert log.send("beta", foreign).code == Code.PERMISSION_DENIED
    assert log.catalog.tables is before


@pytest.mark.parametrize(
    ("proposer", "operation", "code"),
    [
        pytest.param("beta", put_cluster("alpha", region="x"), Code.PERMISSION_DENIED, id="anothers-cluster"),
        pytest.param("beta", put_trust_domain("alpha.test", sequence=2), Code.PERMISSION_DENIED, id="anothers-roots"),
        pytest.param("beta", put_controller("alpha-2", "alpha"), Code.PERMISSION_DENIED, id="anothers-controller"),
        pytest.param("beta", put_controller("alpha-2", "beta"), Code.PERMISSION_DENIED, id="own-controller-under-anothers-name"),
        pytest.param("beta", put_controller("beta-2", "beta"), 0, id="own-controller"),
        pytest.param("delta", put(key("Member", "alpha"), {"standing": "removed"}), Code.PERMISSION_DENIED, id="a-remote-on-members"),
        pytest.param("beta", put(key("Federation", "federation"), {"id": "mine"}), Code.FAILED_PRECONDITION, id="the-federation"),
        pytest.param("beta", Delete(key=key("Federation", "federation")), Code.FAILED_PRECONDITION, id="the-federation-away"),
        pytest.param("beta", put_export("beta", "isthmus-system", "eastwest"), Code.PERMISSION_DENIED, id="the-gateways-as-a-service"),
        pytest.param("beta", put(key("Agent", "agent.x", scope="beta"), {**AGENT, "namespace": "isthmus-system"}), Code.PERMISSION_DENIED, id="an-agent-in-the-systems-namespace"),
        pytest.param("beta", ClaimToken(secret_sha256="a" * 64, purpose="agent", claimant="e" * 64), Code.PERMISSION_DENIED, id="anothers-token"),
        pytest.param("delta", ClaimToken(secret_sha256="a" * 64, purpose="agent", claimant="e" * 64), Code.PERMISSION_DENIED, id="its-homes-token"),
        pytest.param("beta", ClaimToken(secret_sha256="b" * 64, purpose="agent", claimant="e" * 64), 0, id="own-token"),
    ],
)  # fmt: skip
def test_in_the_log_records_of_the_federation_and_reserved_names_have_their_writers(
    proposer, operation, code
):
    outcome = settled().write(proposer, operation)
    assert outcome.code == code, outcome.message


# -- states that come as a whole: a snapshot of the leader, a backup ----------------------------------------


def forged_states() -> dict[str, tuple[str, bytes, bytes]]:
    """Table, key and row of records that nobody could have written."""
    tables = settled().catalog.tables
    export = key("ExportPolicy", "export", scope="alpha", namespace="shop")
    row = unpack_resource(tables.resources.get(export.encode()))
    cluster = unpack_resource(tables.resources.get(key("Cluster", "alpha").encode()))
    there = endpoint("alpha").key.encode()
    return {
        "a resource of alpha that beta owns": ("resources", export.encode(), pack(msgspec.structs.replace(row, owner="beta"))),
        "a cluster that another owns": ("resources", cluster.key.encode(), pack(msgspec.structs.replace(cluster, owner="beta"))),
        "a resource at another's key": ("resources", export.encode(), pack(msgspec.structs.replace(row, key=export._replace(scope="beta")))),
        "an endpoint at another's key": ("endpoints", there, pack(endpoint("beta"))),
    }  # fmt: skip


@pytest.mark.parametrize("name", forged_states())
def test_a_whole_state_with_a_forged_row_is_refused_and_the_old_one_stays(name):
    log = settled()
    table, at, row = forged_states()[name]
    state = log.catalog.state()
    forged: Table = getattr(state.tables, table).set([(at, row)])
    state = msgspec.structs.replace(state, tables=msgspec.structs.replace(state.tables, **{table: forged}))
    before = log.catalog.digest()
    with pytest.raises(CorruptError, match="a row cannot be read"):
        log.catalog.restore(encode_snapshot(state))
    assert log.catalog.digest() == before
    with pytest.raises(CorruptError):  # What `isthmus backup restore` reads it by.
        decode_snapshot(encode_snapshot(state))


def test_a_whole_state_as_it_was_written_is_taken():
    log = settled()
    other = Catalog()
    other.restore(log.catalog.snapshot())
    assert other.digest() == log.catalog.digest()


# -- the agent's stream -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, "", id="own"),
        pytest.param({"key": endpoint("beta").key}, "is of cluster beta", id="foreign-cluster"),
        pytest.param({"key": endpoint("alpha", namespace="bank").key}, "enrolled for namespace shop", id="foreign-namespace"),
        pytest.param({"key": gateway("alpha").key}, "enrolled for namespace shop", id="reserved-name"),
        pytest.param({"identity": "spiffe://alpha.test/ns/shop/sa/payments"}, "has identity", id="foreign-identity"),
        pytest.param({"agent": "a2"}, "names agent a2", id="foreign-agent"),
    ],
)  # fmt: skip
def test_an_agent_declares_nothing_but_its_own(changes, words):
    peer = parse("spiffe://alpha.test/isthmus/alpha/agent/a1")
    system = system_identity(peer)
    assert system is not None
    rules = AgentRules(
        peer,
        system,
        AgentSpec(role="agent", namespace="shop", service_account="orders"),
        lambda: (peer.trust_domain,),
    )
    row = msgspec.structs.replace(endpoint("alpha", agent="a1"), **changes)
    message = rules.refusal(row)
    assert (words in message) if words else message == ""


# -- the replication stream ---------------------------------------------------------------------------------


def following() -> FollowerState:
    state = FollowerState("alpha")
    image = FollowerState("alpha").image(synced_unix_ms=0)
    state.restore(msgspec.structs.replace(image, history="f1", tables=settled().catalog.tables))
    return state


def test_a_follower_takes_as_local_rows_only_those_of_its_own_cluster():
    state = following()
    before = state.own
    foreign = Change("endpoints", endpoint("beta").key.encode(), pack(endpoint("beta")))
    with pytest.raises(InvalidInputError, match="expected only endpoints of cluster 'alpha'"):
        state.apply(LocalRows(changes=(foreign,), first=True, complete=True))
    assert state.own is before


@pytest.mark.parametrize("row", [endpoint("beta"), endpoint("alpha", "another")])
def test_a_follower_takes_no_row_at_the_key_of_another(row):
    state = following()
    before = state.tables
    forged = Change("endpoints", endpoint("alpha").key.encode(), pack(row))
    with pytest.raises(InvalidInputError, match="holds the row of another key"):
        state.apply(Delta(revision=state.revision + 1, changes=(forged,)))
    assert state.tables is before


# -- the REST API -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "metadata", "code"),
    [
        pytest.param("ExportPolicy", {"name": "x", "namespace": "shop"}, 0, id="own"),
        pytest.param("ExportPolicy", {"name": "x", "namespace": "shop", "cluster": "alpha"}, Code.PERMISSION_DENIED, id="foreign"),
        pytest.param("ExportPolicy", {"name": "x", "namespace": "isthmus-system"}, Code.PERMISSION_DENIED, id="reserved-namespace"),
        pytest.param("Federation", {"name": "x"}, Code.PERMISSION_DENIED, id="federation-record"),
        pytest.param("Cluster", {"name": "alpha"}, Code.PERMISSION_DENIED, id="cluster-record"),
        pytest.param("Controller", {"name": "alpha-1"}, Code.PERMISSION_DENIED, id="controller-record"),
        pytest.param("Agent", {"name": "agent.a1"}, Code.PERMISSION_DENIED, id="agent-record"),
    ],
)  # fmt: skip
def test_by_the_api_an_operator_of_beta_writes_only_what_is_betas(kind, metadata, code):
    body = {"apiVersion": "federation.isthmus.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": {"services": ["*"]}}  # fmt: skip
    log = settled()
    before = log.catalog.tables
    answer = written(log, body)
    assert answer == code
    assert (log.catalog.tables is before) == (code != 0)


def written(log: Log, body: dict[str, object]) -> int:
    """The code of what an operator of beta hears of an object."""
    try:
        put_ = to_put(decode_manifest(msgspec.json.encode(body)), cluster="beta")
    except IsthmusError as error:  # Kinds that people do not write are refused before they are proposed.
        return error.code
    return log.write("beta", put_).code


# -- what all share -----------------------------------------------------------------------------------------


def test_a_cluster_cannot_take_the_leases_of_all_others(monkeypatch):
    monkeypatch.setattr("discovery.core.catalog.LEASES_PER_CLUSTER_MAX", 3)
    log = founded()
    for duty in ("publish", "a", "b"):
        assert log.lease(f"{duty}/beta", "x", proposer="beta").code == 0
    refused = log.lease("c/beta", "x", proposer="beta")
    assert (refused.code, refused.message) == (
        Code.RESOURCE_EXHAUSTED,
        "lease c/beta: beta has 3 leases already",
    )
    assert log.lease("a/beta", "x", proposer="beta").code == 0  # Its own it may extend.
    assert log.lease("publish/alpha", "x").code == 0
    assert log.lease("duty", "x").code == 0


def test_a_cluster_cannot_take_the_places_of_all_others_tokens(monkeypatch):
    monkeypatch.setattr("discovery.core.writes.SHARED_PER_CLUSTER_MAX", 10)
    log = founded()
    for number in range(10):
        log.accept("beta", put_token(f"b{number}", "beta", f"{number:064}"))
    refused = log.write("beta", put_token("b10", "beta", "f" * 64))
    assert (refused.code, refused.message) == (
        Code.RESOURCE_EXHAUSTED,
        "JoinToken/b10: cluster beta has 10 resources of this kind, at most 10 are allowed",
    )
    log.accept("alpha", put_token("a0", "alpha", "e" * 64))
    log.accept("beta", Delete(key=key("JoinToken", "b0")), put_token("b10", "beta", "f" * 64))


def put_mirror(cluster: str, protocol: int, **rest: object) -> Put:
    identity = f"spiffe://alpha.test/isthmus/{cluster}/controller/m1"
    spec = {"cluster": cluster, "role": "mirror", "identity": identity, "protocol": protocol, **rest}
    return put(key("Controller", f"{cluster}-m1"), spec)


@pytest.mark.parametrize("before", [(), (PROTOCOL_VERSION,)], ids=["a-new-one", "one-that-says-so-later"])
def test_a_mirror_cannot_take_the_rules_of_all_back_to_those_of_an_older_version(before):
    log = settled()
    for protocol in before:
        log.accept("delta", put_mirror("delta", protocol))
    refused = log.write("delta", put_mirror("delta", STRICT_SCHEMA - 1))
    assert (refused.code, refused.message) == (
        Code.FAILED_PRECONDITION,
        f"Controller/delta-m1: protocol {STRICT_SCHEMA - 1} is older than what this federation runs by: upgrade the mirror",
    )
    # Had it been taken, no command of today would be applied, and those of then without the rules of today.
    poisoned = log.publish("alpha", endpoint("alpha", "x", address="168.63.129.16"))
    assert poisoned.code == Code.PERMISSION_DENIED


def test_a_mirror_has_no_address_among_the_members_of_the_log():
    log = settled()
    refused = log.write("delta", put_mirror("delta", PROTOCOL_VERSION, raft="127.9.9.9:7000"))
    assert (refused.code, refused.message) == (
        Code.INVALID_ARGUMENT,
        "Controller/delta-m1: spec.raft is '127.9.9.9:7000', expected none of a mirror: it has no vote",
    )


def test_a_mirror_of_a_federation_that_has_not_gone_on_yet_may_be_as_old_as_that():
    log = founded()
    log.accept("alpha", put_controller("alpha-1", "alpha", protocol=STRICT_SCHEMA - 1))
    data = encode_command(
        Command(
            request_id="m", proposer="delta", body=write(put_mirror("delta", 1)), schema=STRICT_SCHEMA - 1
        )
    )
    assert log.entry(data).code == 0
