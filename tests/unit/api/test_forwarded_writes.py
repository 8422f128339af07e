"""What a mirror forwards is judged by its certificate and by this member, never by its own word."""

from typing import Any, cast

import msgspec
import pytest

from certs.core.spiffe import SpiffeId, parse
from discovery.core.commands import (
    AcquireLease,
    Body,
    ClaimToken,
    Command,
    Delete,
    Operation,
    Outcome,
    PublishEndpoints,
    RemoveCluster,
    Tick,
    Write,
    decode_command,
    decode_outcome,
    encode_command,
)
from discovery.core.quotas import Quota
from discovery.core.specs import QuotaSpec
from federation.api.audit import AuditTrail
from federation.api.fairness import CALLS_MAX, CALLS_PER_CLUSTER_MAX, Fairness
from federation.api.forwarding import (
    ForwardReply,
    ForwardRequest,
    ForwardService,
    decode_forward_reply,
    encode_forward,
)
from federation.kernel.errors import Code, UnavailableError
from federation.kernel.versions import PROTOCOL_VERSION, SCHEMA_VERSION
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import (
    endpoint,
    founded,
    key,
    put,
    put_drain,
    put_export,
    put_grant,
    put_token,
)

MIRROR = parse("spiffe://alpha.test/isthmus/delta/controller/m1")
HOMES_MIRROR = parse("spiffe://alpha.test/isthmus/alpha/controller/m1")
NO_CONTEXT = cast("Any", None)


class Member:
    """A member of alpha, and a mirror of delta, alpha's remote, that is not to be trusted; or one of alpha."""

    def __init__(self, mirror: SpiffeId = MIRROR, **quota: object) -> None:
        self.log = founded()
        for scope in ("delta", "alpha"):
            self.log.accept("alpha", put(key("Agent", "controller.m1", scope=scope), {"role": "controller"}))
        self.trail = AuditTrail()
        if quota:
            self.log.accept("alpha", put(key("Quota", "delta"), dict(quota)))
        self.wire = CatalogLog(self.log)
        self.service = ForwardService(
            self.wire,
            tables=lambda: self.log.catalog.tables,
            schema=lambda: SCHEMA_VERSION,
            peer=lambda: mirror,
            audit=self.trail,
        )
        self.requests = 0

    async def forward(self, body: Body, **command: Any) -> ForwardReply:
        self.requests += 1
        made = Command(**{"request_id": f"r{self.requests}", "proposer": "delta", "body": body, **command})
        request = ForwardRequest(timeout_ms=1_000, command=encode_command(made))
        return decode_forward_reply(await self.service.propose(encode_forward(request), NO_CONTEXT))

    async def outcome(self, body: Body, **command: Any) -> Outcome:
        reply = await self.forward(body, **command)
        assert reply.code == 0, reply.message
        return decode_outcome(reply.result)


def write(cluster: str, namespace: str = "shop") -> Write:
    return Write(operations=(put_export(cluster, namespace, "*"),))


async def test_a_mirror_writes_for_its_own_cluster_whatever_proposer_it_names() -> None:
    member = Member()
    assert (await member.outcome(write("delta"), proposer="alpha")).code == 0
    assert (await member.outcome(write("alpha"), proposer="alpha")).code == Code.PERMISSION_DENIED
    assert {command.proposer for command in member.wire.proposed} == {"delta"}


async def test_a_mirror_cannot_choose_the_weaker_rules_of_an_older_schema() -> None:
    member = Member()
    row = msgspec.structs.replace(endpoint("delta"), address="168.63.129.16")
    fence = member.log.lease("publish/delta", "m1").lease
    assert fence is not None
    body = PublishEndpoints(cluster="delta", fence=fence.fence, put=(row,))
    refused = await member.outcome(body, schema=1)
    assert (refused.code, "metadata service" in refused.message) == (Code.PERMISSION_DENIED, True)


async def test_who_asked_by_the_word_of_a_mirror_is_told_as_its_word() -> None:
    member = Member()
    await member.outcome(write("delta"), actor="spiffe://alpha.test/isthmus/alpha/operator/ann")
    await member.outcome(write("delta", "bank"), actor="x" * 10_000)
    first, second = (command.actor for command in member.wire.proposed)
    assert first == f"spiffe://alpha.test/isthmus/alpha/operator/ann (said by {MIRROR})"
    assert len(second) == 200
    assert second.endswith(f"(said by {MIRROR})")
    cause = member.log.catalog.cause(member.log.catalog.revision)
    assert cause is not None
    assert cause.actor == second


async def test_federation_time_is_not_a_mirrors_to_tell() -> None:
    reply = await Member().forward(Tick(now_ms=2**60))
    assert reply.code == Code.PERMISSION_DENIED


async def test_a_mirror_that_ignores_its_clusters_rate_is_refused_before_anything_is_proposed() -> None:
    member = Member(writesPerSecond=1, writesBurst=2, changesPerSecond=1, changesBurst=3)
    for number in range(2):
        assert (await member.forward(write("delta", f"ns-{number}"))).code == 0
    proposed = len(member.wire.proposed)
    reply = await member.forward(write("delta", "more"))
    assert (
        reply.code,
        "cluster delta is faster than 1 by Quota/delta spec.writesPerSecond" in reply.message,
    ) == (
        Code.UNAVAILABLE,
        True,
    )
    fence = member.log.lease("publish/delta", "m1").lease
    assert fence is not None
    rows = tuple(endpoint("delta", f"e{number}") for number in range(3))
    assert (await member.outcome(PublishEndpoints(cluster="delta", fence=fence.fence, put=rows))).code == 0
    reply = await member.forward(PublishEndpoints(cluster="delta", fence=fence.fence, put=rows))
    assert "spec.changesPerSecond" in reply.message
    assert len(member.wire.proposed) == proposed + 1
    assert decode_command(encode_command(member.wire.proposed[-1])).proposer == "delta"


def test_one_clusters_mirrors_do_not_take_the_places_of_all_others() -> None:
    fairness = Fairness(lambda _: Quota(source="q", spec=QuotaSpec()), clock=lambda: 0.0)
    held = [fairness.call("delta") for _ in range(CALLS_PER_CLUSTER_MAX)]
    for one in held:
        one.__enter__()
    with pytest.raises(UnavailableError, match="of cluster delta are running"), fairness.call("delta"):
        pass
    with fairness.call("beta"):
        pass
    held[0].__exit__(None, None, None)
    with fairness.call("delta"):
        pass


def test_the_places_of_all_are_bounded() -> None:
    fairness = Fairness(lambda _: Quota(source="q", spec=QuotaSpec()), clock=lambda: 0.0)
    held = [fairness.call(f"c{number}") for number in range(CALLS_MAX)]
    for one in held:
        one.__enter__()
    with pytest.raises(UnavailableError, match="use another member"), fairness.call("one-more"):
        pass


def own_record(cluster: str, id_: str = "m1", role: str = "mirror", **more: object) -> Operation:
    identity = f"spiffe://alpha.test/isthmus/{cluster}/controller/{id_}"
    spec = {"cluster": cluster, "role": role, "identity": identity, "protocol": PROTOCOL_VERSION, **more}
    return put(key("Controller", f"{cluster}-{id_}"), spec)


@pytest.mark.parametrize(
    ("mirror", "operation"),
    [
        pytest.param(MIRROR, put(key("Agent", "agent.a1", scope="delta"), {"role": "agent", "namespace": "bank", "serviceAccount": "vault"}), id="name-itself-a-workload-of-the-trust-domain"),
        pytest.param(MIRROR, put_token("t", "delta", "a" * 64), id="let-an-agent-in"),
        pytest.param(MIRROR, ClaimToken(secret_sha256="a" * 64, purpose="agent", claimant="e" * 64), id="use-a-token-up"),
        pytest.param(MIRROR, own_record("delta", role="member"), id="be-a-member"),
        pytest.param(MIRROR, own_record("delta", raft="127.9.9.9:7000"), id="be-dialled-as-a-member"),
        pytest.param(HOMES_MIRROR, own_record("alpha", raft="127.9.9.9:7000"), id="stand-for-its-member"),
        pytest.param(HOMES_MIRROR, own_record("alpha", identity="spiffe://alpha.test/isthmus/alpha/controller/1"), id="be-somebody-else"),
        pytest.param(MIRROR, own_record("delta", "m2"), id="speak-for-another-mirror"),
        pytest.param(MIRROR, put(key("ExportPolicy", "x", scope="delta", namespace="shop"), status=b"{}"), id="say-what-follows"),
        pytest.param(MIRROR, put(key("Cluster", "delta"), {"role": "remote", "trustDomain": "alpha.test", "home": "alpha", "ranges": ["0.0.0.0/0"]}), id="widen-its-ranges"),
        pytest.param(MIRROR, Delete(key=key("Cluster", "delta")), id="leave"),
        pytest.param(HOMES_MIRROR, Delete(key=key("Cluster", "beta")), id="remove-another-cluster"),
        pytest.param(HOMES_MIRROR, Delete(key=key("RemovedCluster", "zeta")), id="forget-a-removed-cluster"),
        pytest.param(HOMES_MIRROR, Delete(key=key("Controller", "alpha-1")), id="remove-a-member"),
        pytest.param(HOMES_MIRROR, put(key("Member", "beta"), {"standing": "removed"}), id="take-anothers-vote"),
        pytest.param(HOMES_MIRROR, put(key("Observation", "beta", scope="alpha"), {"controlLost": True}), id="observe"),
        pytest.param(HOMES_MIRROR, put_drain("beta"), id="drain-another-cluster"),
        pytest.param(HOMES_MIRROR, put(key("TrustDomain", "alpha.test"), {"roots": ["PEM"], "sequence": 2}), id="change-the-roots"),
    ],
)  # fmt: skip
async def test_a_mirror_writes_nothing_that_members_sign_admit_or_remove_by(
    mirror: SpiffeId, operation: Operation
) -> None:
    member = Member(mirror)
    own = put_export("delta", "shop", "*")
    reply = await member.forward(Write(operations=(own, operation)))
    assert (reply.code, "a mirror may not" in reply.message) == (Code.PERMISSION_DENIED, True)
    assert member.wire.proposed == []
    record = member.trail.take()[-1]
    assert (record.layer, record.result, record.reason, record.proposer, record.actor) == (
        "mirror",
        "refused",
        "not-allowed",
        mirror.path.split("/")[2],
        str(mirror),
    )


async def test_what_is_refused_to_a_mirror_counts_for_its_rate_too() -> None:
    member = Member(writesPerSecond=1, writesBurst=2)
    codes = [
        (await member.forward(RemoveCluster(cluster=f"c{number}", removed_by="me"))).code
        for number in range(20)
    ]
    assert codes[0] == Code.PERMISSION_DENIED
    assert Code.UNAVAILABLE in codes
    assert len(member.trail.take()) == codes.count(Code.PERMISSION_DENIED)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(AcquireLease(name="drain", holder="m1", ttl_ms=1_000), id="a-duty-of-the-federation"),
        pytest.param(AcquireLease(name="observe/alpha", holder="m1", ttl_ms=1_000), id="another-duty-of-its-cluster"),
        pytest.param(RemoveCluster(cluster="beta", removed_by="me"), id="a-removal"),
    ],
)  # fmt: skip
async def test_a_mirror_holds_no_lease_but_that_to_publish_and_removes_nobody(body: Body) -> None:
    member = Member(HOMES_MIRROR)
    assert (await member.forward(body)).code == Code.PERMISSION_DENIED
    assert member.wire.proposed == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(Write(operations=(put_grant("delta", "shop", "*"),)), id="a-policy"),
        pytest.param(Write(operations=(Delete(key=key("Agent", "agent.a1", scope="delta")),)), id="an-eviction"),
        pytest.param(Write(operations=(own_record("delta"),)), id="where-it-is"),
        pytest.param(Write(operations=(Delete(key=key("Controller", "delta-m2")), Delete(key=key("Agent", "controller.m2", scope="delta")))), id="another-mirror-away"),
        pytest.param(Write(operations=(put(key("DrainReport", "beta", scope="delta"), {"startedMs": 0, "failing": [{"service": "shop/orders:8080", "requests": 9, "errors": 9}]}),)), id="what-fails-under-a-drain"),
        pytest.param(Write(operations=(Delete(key=key("DrainReport", "alpha", scope="delta")),)), id="and-that-it-is-over"),
        pytest.param(AcquireLease(name="publish/delta", holder="m1", ttl_ms=1_000), id="the-lease-to-publish"),
    ],
)  # fmt: skip
async def test_what_a_mirror_has_to_say_and_its_operators_write_is_proposed(body: Body) -> None:
    member = Member()
    for operation in (
        put(key("Agent", "agent.a1", scope="delta"), {"role": "agent"}),
        put(key("Agent", "controller.m2", scope="delta"), {"role": "controller"}),
        own_record("delta", "m2"),
        put_drain("beta", forced=True),
    ):
        member.log.accept("alpha", operation)
    failing = [{"service": "shop/orders:8080", "requests": 9, "errors": 9}]
    member.log.accept("alpha", put_drain("alpha", forced=True))
    member.log.accept(
        "alpha", put(key("DrainReport", "alpha", scope="delta"), {"startedMs": 0, "failing": failing})
    )
    outcome = await member.outcome(body)
    assert outcome.code == 0, outcome.message
