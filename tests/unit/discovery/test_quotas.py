"""Quotas: what one cluster may have of what all share. A limit refuses growth, and takes nothing away."""

import pytest

from discovery.core.commands import Command, Delete, PublishEndpoints, Put, encode_command
from discovery.core.declarations import Declaration
from discovery.core.local import LocalTable
from discovery.core.quotas import BUILT_IN, BYTES_SLACK, Quota, quota_of, shares
from discovery.core.rates import Bucket
from discovery.core.specs import QUOTA_BYTES, ClusterSpec, QuotaSpec
from discovery.core.usage import Usage
from discovery.core.verdicts import HOLD_MS_MIN
from federation.kernel.errors import Code
from tests.unit.discovery.builders import Log, endpoint, founded, key, put, put_drain, put_export
from tests.unit.discovery.test_external import miss, see, states, watched


def limited(name: str = "alpha", **spec: object) -> Log:
    log = founded()
    log.accept("beta", put(key("Quota", name), dict(spec)))
    return log


def rows(count: int, **fields: object):
    return [endpoint(name=f"e{number}", **fields) for number in range(count)]


def services(count: int):
    return [endpoint(name="e", service=f"s{number}") for number in range(count)]


@pytest.mark.parametrize(
    ("spec", "fits", "exceeds", "message"),
    [
        pytest.param({"endpoints": 3}, rows(3), rows(4), "cluster alpha: 4 endpoints, at most 3 are allowed by Quota/alpha spec.endpoints", id="endpoints"),
        pytest.param({"services": 2}, [*services(2), *rows(2, service="s1")], services(3), "cluster alpha: 3 services, at most 2 are allowed by Quota/alpha spec.services", id="services"),
        pytest.param({"bytes": 800}, rows(1), rows(9), "bytes, at most 800 are allowed by Quota/alpha spec.bytes", id="bytes"),
        pytest.param({"namespace": {"endpoints": 1}}, [*rows(1), *rows(1, namespace="bank")], rows(2), "2 endpoints in namespace shop, at most 1 are allowed by Quota/alpha spec.namespace.endpoints", id="each-namespace"),
        pytest.param({"namespaces": {"shop": {"services": 1}}}, [*services(1), endpoint(namespace="bank", service="a"), endpoint(namespace="bank", service="b")], services(2), "2 services in namespace shop, at most 1 are allowed by Quota/alpha spec.namespaces.shop.services", id="one-namespace"),
    ],
)  # fmt: skip
def test_a_batch_that_would_exceed_a_limit_is_refused_as_a_whole_and_names_it(spec, fits, exceeds, message):
    log = limited(**spec)
    assert log.publish("alpha", *fits).code == 0
    before = log.catalog.tables.endpoints
    more = [row for row in exceeds if log.catalog.tables.endpoints.get(row.key.encode()) is None]
    outcome = log.publish("alpha", *more)
    assert outcome.code == Code.RESOURCE_EXHAUSTED
    assert message in outcome.message
    assert log.catalog.tables.endpoints is before
    assert log.publish("beta", *[endpoint("beta", f"b{number}") for number in range(9)]).code == 0


def test_resources_of_a_cluster_are_limited_in_the_same_way():
    log = limited(resources=2, namespace={"resources": 1})
    log.accept("alpha", put_export("alpha", "shop", "*"))
    outcome = log.write("alpha", put_export("alpha", "shop", "*", name="second"))
    assert (
        "2 resources in namespace shop, at most 1 are allowed by Quota/alpha spec.namespace.resources"
        in outcome.message
    )
    log.accept("alpha", put_export("alpha", "bank", "*"))
    outcome = log.write("alpha", put_export("alpha", "post", "*"))
    assert (
        "cluster alpha: 3 resources, at most 2 are allowed by Quota/alpha spec.resources" in outcome.message
    )
    log.accept("alpha", Delete(key=key("ExportPolicy", "export", scope="alpha", namespace="bank")))
    log.accept("alpha", put_export("alpha", "post", "*"))
    log.accept("beta", put_export("beta", "shop", "*"), put_export("beta", "shop", "*", name="second"))


def test_a_limit_below_what_is_there_takes_nothing_away_and_hinders_no_change():
    log = founded()
    assert log.publish("alpha", *rows(5)).code == 0
    log.accept("alpha", put(key("Quota", "alpha"), {"endpoints": 2, "services": 0}))
    assert len(log.catalog.tables.endpoints) == 5
    changed = endpoint(name="e0", version=(2, 1), ready=False)
    assert log.publish("alpha", changed).code == 0
    assert log.publish("alpha", remove=((endpoint(name="e1").key, 9, 9),)).code == 0
    swapped = log.publish("alpha", endpoint(name="new"), remove=((endpoint(name="e2").key, 9, 9),))
    assert swapped.code == 0, swapped.message  # One goes, one comes: no growth.
    assert log.publish("alpha", endpoint(name="e9")).code == Code.RESOURCE_EXHAUSTED


def policy(name: str, services: int) -> Put:
    """A policy that takes up some 9 bytes for each service."""
    spec = {"services": [f"s{number:04}" for number in range(services)]}
    return put(key("ExportPolicy", name, scope="alpha", namespace="shop"), spec)


def test_resources_do_not_creep_past_the_limit_of_bytes_in_small_steps():
    log = limited(bytes=2_000)
    log.accept("alpha", policy("a", 10), policy("b", 10))
    for services in range(20, 1_000, 10):
        outcome = log.write("alpha", policy("a", services))
        if outcome.code:
            break
    assert outcome.code == Code.RESOURCE_EXHAUSTED
    assert "bytes, at most 2000 are allowed by Quota/alpha spec.bytes" in outcome.message
    assert log.catalog.usage.count("bytes", "alpha") <= 2_000
    status = b'{"conditions": "%s"}' % (b"x" * 2 * BYTES_SLACK)
    log.accept("alpha", put(policy("b", 10).key, status=status))  # Members write it, not who is limited.
    log.accept("alpha", policy("a", 5))  # Less is always allowed.


def test_what_follows_from_others_observations_is_charged_to_nobody():
    """Neither the checkers' word nor the federation's time may depend on how full the owner's quota is."""
    log = watched(addresses=[f"203.0.113.{number}" for number in range(64)])
    log.accept("beta", put_export("beta", "shop", "*"))
    log.accept("alpha", put(key("Quota", "beta"), {"bytes": log.catalog.usage.count("bytes", "beta")}))
    addresses = [f"203.0.113.{number}" for number in range(64)]
    for checker in ("alpha", "gamma"):
        outcome = log.write(checker, miss(checker, *addresses))
        assert outcome.code == 0, outcome.message
    assert set(states(log).values()) == {"unhealthy"}
    for checker in ("alpha", "gamma"):
        log.accept(checker, see(checker))
        log.accept(checker, miss(checker, *addresses))
    assert set(states(log).values()) == {"degraded"}  # Held: a later tick finds them unhealthy again.
    log.wait(HOLD_MS_MIN)
    assert set(states(log).values()) == {"unhealthy"}


def test_a_full_quota_makes_nobody_blind():
    """What controllers see of others is the federation's concern, and bounded by what there is to see."""
    log = watched()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    log.accept("beta", put(key("Quota", "alpha"), {"resources": 1, "bytes": 1}))
    log.accept("beta", put_drain("beta", forced=True))
    failing = [{"service": "shop/orders:8080", "requests": 9, "errors": 9}]
    for seen in (
        put(key("Observation", "beta", scope="alpha"), {"controlLost": True}),
        miss("alpha", "203.0.113.5"),
        put(key("DrainReport", "beta", scope="alpha"), {"startedMs": 0, "failing": failing}),
    ):
        log.accept("alpha", seen)
        refused = log.write("alpha", seen, put_export("alpha", "bank", "*"))
        assert refused.code == Code.RESOURCE_EXHAUSTED  # Nothing else slips in beside it.


def test_a_clusters_own_quota_comes_before_the_default_and_that_before_what_is_built_in():
    log = founded()
    tables = log.catalog.tables
    assert quota_of(tables, "alpha") is BUILT_IN
    log.accept("alpha", put(key("Quota", "default"), {"endpoints": 7}))
    log.accept("alpha", put(key("Quota", "beta"), {"services": 9}))
    found = {name: quota_of(log.catalog.tables, name) for name in ("alpha", "beta")}
    assert (found["alpha"].source, found["alpha"].spec) == ("Quota/default", QuotaSpec(endpoints=7))
    assert (found["beta"].source, found["beta"].spec) == ("Quota/beta", QuotaSpec(services=9))
    assert shares(log.catalog.usage, "alpha", found["alpha"])["endpoints"] == (0, 7)


def test_the_built_in_limits_bound_names_and_bytes():
    assert BUILT_IN.spec.services < 1_000_000
    assert BUILT_IN.spec.bytes == QUOTA_BYTES


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"endpoints": -1}, "spec.endpoints is -1, expected 0 to 100000", id="negative"),
        pytest.param({"endpoints": 100_001}, "expected 0 to 100000", id="above-the-hard-limit"),
        pytest.param({"changesPerSecond": 0}, "spec.changesPerSecond is 0, expected 1 to", id="no-rate"),
        pytest.param({"namespace": {"changesPerSecond": 0}}, "spec.namespace.changesPerSecond is 0, expected 1 to", id="no-rate-of-a-namespace"),
        pytest.param({"namespaces": {"a.b": {}}}, "spec.namespaces: 'a.b' is not a name", id="namespace"),
        pytest.param({"namespaces": {"shop": {"bytes": -1}}}, "spec.namespaces.shop.bytes is -1", id="inside"),
        pytest.param({"endpoint": 1}, "unknown field `endpoint`", id="unknown-field"),
    ],
)  # fmt: skip
def test_a_quota_that_makes_no_sense_is_refused(spec, message):
    outcome = founded().write("alpha", put(key("Quota", "alpha"), spec))
    assert outcome.code == Code.INVALID_ARGUMENT
    assert message in outcome.message


def test_a_remote_cluster_sets_no_quotas():
    outcome = founded().write("delta", put(key("Quota", "delta"), {}))
    assert outcome.code == Code.PERMISSION_DENIED


def test_commands_of_the_older_schema_know_no_quota():
    log = limited(endpoints=0)
    fence = log.lease("publish/alpha", "p").lease.fence
    batch = PublishEndpoints(cluster="alpha", fence=fence, put=(endpoint(),))
    old = Command(request_id="old", proposer="alpha", body=batch, schema=1)
    assert log.entry(encode_command(old)).code == 0


def test_what_is_counted_is_what_a_fresh_count_finds():
    log = founded()
    log.accept("alpha", put_export("alpha", "shop", "*"))
    assert log.publish("alpha", *services(4), *rows(3)).code == 0
    assert log.publish("alpha", endpoint(name="e", service="s1", version=(2, 1), zone="z"),
                       remove=((endpoint(name="e", service="s0").key, 9, 9),)).code == 0  # fmt: skip
    anew = Usage.of(log.catalog.tables)
    assert log.catalog.usage.counts == anew.counts
    assert log.catalog.usage.count("services", "alpha") == 4
    assert log.catalog.usage.count("services", "alpha", "shop") == 4
    log.accept("beta", Delete(key=key("Cluster", "delta")))
    log.accept("beta", Delete(key=key("Cluster", "alpha")))
    assert log.catalog.usage.counts == Usage.of(log.catalog.tables).counts


# -- rates --------------------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_go_and_then_so_many_a_second():
    bucket = Bucket(per_second=10, burst=5, now_s=0.0)
    assert bucket.wait_s(5, 0.0) == 0
    bucket.take(5, 0.0)
    assert bucket.wait_s(2, 0.0) == pytest.approx(0.2)
    assert bucket.wait_s(2, 0.2) == pytest.approx(0.0)
    assert bucket.wait_s(100, 10.0) == 0  # More than ever fits: a full bucket is enough,
    bucket.take(100, 10.0)
    assert bucket.wait_s(1, 10.0) == pytest.approx(9.6)  # and the rest is paid for afterwards.


def test_a_bucket_with_other_limits_keeps_what_it_had():
    bucket = Bucket(per_second=10, burst=10, now_s=0.0)
    bucket.take(10, 0.0)
    bucket.limit(per_second=100, burst=50, now_s=0.0)
    assert bucket.wait_s(50, 0.0) == pytest.approx(0.5)
    bucket.limit(per_second=100, burst=5, now_s=10.0)
    assert bucket.wait_s(5, 10.0) == 0


# -- at the edge --------------------------------------------------------------------------------------------


def test_an_agent_hears_which_of_its_endpoints_exceed_the_quota_and_the_others_stand():
    table = LocalTable("alpha")
    table.quota = Quota(source="Quota/alpha", spec=QuotaSpec(endpoints=3, services=2))
    spec = ClusterSpec(role="primary", trust_domain="alpha.test")
    table.hello("agent-1", 1)
    listed = table.declare(
        Declaration(agent="agent-1", incarnation=1, sequence=1, put=tuple(rows(2)), complete=True), spec
    )
    assert listed.refused == ()
    more = [endpoint(name="e", service=f"s{number}", version=(1, 2)) for number in range(3)]
    again = endpoint(name="e0", version=(1, 2), ready=False)
    said = table.declare(Declaration(agent="agent-1", incarnation=1, sequence=2, put=(*more, again)), spec)
    assert [(key.service, reason) for key, reason in said.refused] == [
        ("s1", "cluster alpha: 4 endpoints, at most 3 are allowed by Quota/alpha spec.endpoints"),
        ("s2", "cluster alpha: 4 endpoints, at most 3 are allowed by Quota/alpha spec.endpoints"),
    ]
    assert len(table.endpoints()) == 3
    table.declare(Declaration(agent="agent-1", incarnation=1, sequence=3, remove=(again.key,)), spec)
    more = [endpoint(name="e", service="s2", version=(1, 4))]
    said = table.declare(Declaration(agent="agent-1", incarnation=1, sequence=4, put=tuple(more)), spec)
    assert "3 services, at most 2 are allowed" in said.refused[0][1]
