"""Any log: every entry has an outcome, equal logs give equal states, a snapshot anywhere changes nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.catalog import Catalog
from discovery.core.commands import (
    AcquireLease,
    AdvanceRehoming,
    BeginRehoming,
    ClaimToken,
    Command,
    Delete,
    PublishEndpoints,
    ResumeRehoming,
    ReturnRehoming,
    Tick,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.model import EndpointKey, ResourceKey, unpack_endpoint, unpack_resource
from discovery.core.tables import EMPTY_TABLES
from discovery.core.tokens import TokenIndex
from discovery.core.usage import Usage
from tests.unit.discovery.builders import (
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

clusters = st.sampled_from(("alpha", "beta", "gamma", "delta"))
expected = st.sampled_from((None, None, None, 0, 3))
SECRETS = ("a" * 64, "b" * 64)

puts = st.one_of(
    st.builds(put_cluster, clusters, role=st.sampled_from(("primary", "witness"))),
    st.builds(lambda name, home: put_cluster(name, role="remote", home=home), clusters, clusters),
    st.builds(put_trust_domain, clusters.map("{}.test".format), sequence=st.integers(1, 3)),
    st.builds(lambda cluster, n: put_controller(f"{cluster}-{n}", cluster), clusters, st.integers(1, 2)),
    st.builds(put_export, clusters, st.sampled_from(("shop", "pay")), st.sampled_from(("*", "orders"))),
    st.builds(put_grant, clusters, st.just("shop"), st.just("*")),
    st.builds(
        put_token,
        st.sampled_from("tu"),
        clusters,
        st.sampled_from(SECRETS),
        purpose=st.sampled_from(("agent", "cluster")),
        expires_ms=st.integers(0, 500),
    ),
    st.builds(lambda name: put(key("Cluster", name), status=b'{"state":"ok"}'), clusters),
)
keys = puts.map(lambda one: one.key)
operations = st.one_of(
    puts,
    puts,
    st.builds(Delete, key=keys, expected_revision=expected),
    st.builds(
        ClaimToken,
        secret_sha256=st.sampled_from(SECRETS),
        purpose=st.sampled_from(("agent", "cluster")),
        claimant=st.sampled_from(("1" * 64, "2" * 64)),
    ),
)
versions = st.tuples(st.integers(0, 3), st.integers(0, 3))
rows = st.builds(
    lambda cluster, name, version, ready: endpoint(cluster, name, version=version, ready=ready),
    clusters,
    st.sampled_from(("e1", "e2")),
    versions,
    st.booleans(),
)
bodies = st.one_of(
    st.builds(lambda ops: Write(operations=tuple(ops)), st.lists(operations, max_size=3)),
    st.builds(lambda ops: Write(operations=tuple(ops)), st.lists(operations, max_size=3)),
    st.builds(
        lambda cluster, fence, rows, gone: PublishEndpoints(
            cluster=cluster,
            fence=fence,
            put=tuple(row for row in rows if row.key.cluster == cluster),
            remove=tuple((row.key, *row.version) for row in gone if row.key.cluster == cluster),
        ),
        clusters,
        st.integers(1, 3),
        st.lists(rows, max_size=3),
        st.lists(rows, max_size=2),
    ),
    st.builds(AcquireLease, name=clusters.map("publish/{}".format), holder=st.sampled_from("xy"), ttl_ms=st.integers(1, 200)),
    st.builds(
        BeginRehoming,
        cluster=st.just("delta"),
        to=clusters,
        secret_sha256=st.sampled_from(SECRETS),
        started_by=st.just("admin"),
        within_ms=st.sampled_from((0, 1_000)),
    ),
    st.builds(AdvanceRehoming, cluster=st.just("delta"), state=st.sampled_from(("announced", "moving", "returning"))),
    st.builds(ReturnRehoming, cluster=st.just("delta"), reason=st.just("test")),
    st.builds(ResumeRehoming, cluster=st.just("delta"), reason=st.just("test"), forced=st.booleans()),
    st.builds(Tick, now_ms=st.integers(0, 1_000)),
)  # fmt: skip
commands = st.builds(
    Command,
    request_id=st.integers(0, 40).map(str),
    proposer=clusters,
    body=bodies,
    schema=st.sampled_from((1, 2, 2, 3)),
).map(encode_command)


@st.composite
def damaged(draw):
    data = bytearray(draw(commands))
    for at in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=3)):
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


entries = st.lists(st.one_of(commands, commands, commands, damaged(), st.binary(max_size=40)), max_size=40)


@settings(max_examples=200)
@given(log=entries, cut=st.integers(0, 40))
def test_members_agree_on_any_log_even_when_one_starts_from_a_snapshot(log, cut):
    first = founded().catalog
    second = founded().catalog
    watched = EMPTY_TABLES.with_changes(
        (change for _, changes in founded_history() for change in changes), first.revision
    )
    told = []
    first.on_change(lambda revision, changes: told.append((revision, changes)))
    for index, data in enumerate(log, start=100):
        if index - 100 == cut:
            restored = Catalog()
            restored.restore(second.snapshot())
            second = restored
        before = first.tables
        answer = first.apply(index, data)
        assert second.apply(index, data) == answer
        outcome = decode_outcome(answer)
        assert (first.tables is before) or (outcome.code == 0 and outcome.revision == index == first.revision)
        check_counts(first)
    assert first.digest() == second.digest()
    for revision, changes in told:
        watched = watched.with_changes(changes, revision)
    assert (watched.resources, watched.endpoints) == (first.tables.resources, first.tables.endpoints)


def founded_history():
    log = founded()
    catalog = Catalog()
    told = []
    catalog.on_change(lambda revision, changes: told.append((revision, changes)))
    for index, data in log.entries:
        catalog.apply(index, data)
    return told


def check_counts(catalog: Catalog) -> None:
    """What the catalog counts, and that its rows hang together."""
    counted: dict[tuple[str, str], int] = {}
    joined = {row.key.name for row in catalog.tables.list_resources("", "Cluster")}
    for data, value in catalog.tables.resources.items():
        name = ResourceKey.decode(data)
        counted["resources", name.scope] = counted.get(("resources", name.scope), 0) + 1
        row = unpack_resource(value)
        assert row.key == name
        assert row.revision <= catalog.revision
        assert {name.scope, row.owner} <= joined | {""}
    for data, value in catalog.tables.endpoints.items():
        cluster = EndpointKey.decode(data).cluster
        assert unpack_endpoint(value).key.cluster == cluster
        counted["endpoints", cluster] = counted.get(("endpoints", cluster), 0) + 1
        assert cluster in joined
    for (table, cluster), count in counted.items():
        assert catalog.usage.count(table, cluster) == count
    anew = Usage.of(catalog.tables)
    assert (catalog.usage.counts, catalog.usage.of_service) == (anew.counts, anew.of_service)
    assert all(catalog._tokens.find(secret) == TokenIndex(catalog.tables).find(secret) for secret in SECRETS)


@given(data=st.binary(max_size=200))
def test_any_bytes_have_an_outcome(data):
    catalog = Catalog()
    outcome = decode_outcome(catalog.apply(1, data))
    assert outcome.code != 0
    assert catalog.revision == 0
