"""What a write changes, what it answers, and that a refused one changes nothing."""

import pytest

from discovery.core.commands import Command, Delete, Put, Write, encode_command
from discovery.core.model import unpack_resource
from federation.kernel.errors import Code
from federation.kernel.limits import COMMAND_BYTES_MAX, RESOURCE_BYTES_MAX
from tests.unit.discovery.builders import founded, key, put, put_cluster, put_export, put_trust_domain

EXPORT = key("ExportPolicy", "export", scope="alpha", namespace="shop")


def test_a_put_creates_at_the_index_of_its_entry_and_a_change_of_spec_is_a_new_generation():
    log = founded()
    created = log.accept("alpha", put_export("alpha", "shop", "orders"))
    row = log.catalog.tables.resource(EXPORT)
    assert row is not None
    assert (row.revision, row.generation, row.owner, row.created_ms) == (created.revision, 1, "alpha", 100)
    assert created.revision == log.index == log.catalog.revision
    log.accept("alpha", put(EXPORT, status=b'{"seen":true}', labels=(("b", "2"), ("a", "1"))))
    status = log.catalog.tables.resource(EXPORT)
    assert status is not None
    assert (status.generation, status.labels, status.uid) == (1, (("a", "1"), ("b", "2")), row.uid)
    log.accept("alpha", put_export("alpha", "shop", "*"))
    changed = log.catalog.tables.resource(EXPORT)
    assert changed is not None
    assert (changed.generation, changed.revision, changed.status) == (2, log.index, b'{"seen":true}')


def test_writing_what_is_there_changes_no_revision():
    log = founded()
    first = log.accept("alpha", put_export("alpha", "shop", "orders"))
    again = log.accept("alpha", put_export("alpha", "shop", "orders"))
    assert again.revision == first.revision < log.index


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        pytest.param(put_export("alpha", "shop", "*"), 0, id="whatever-is-there"),
        pytest.param(put(EXPORT, {"services": ["*"]}, expected_revision=0), Code.ALREADY_EXISTS, id="must-not-exist"),
        pytest.param(put(EXPORT, {"services": ["*"]}, expected_revision=1), Code.ABORTED, id="another-revision"),
        pytest.param(put(EXPORT, {"services": ["*"]}, expected_revision=5), 0, id="its-revision"),
        pytest.param(Delete(key=EXPORT, expected_revision=1), Code.ABORTED, id="delete-another-revision"),
        pytest.param(Delete(key=EXPORT, expected_revision=5), 0, id="delete-its-revision"),
        pytest.param(Delete(key=EXPORT), 0, id="delete"),
        pytest.param(Delete(key=EXPORT._replace(name="other")), Code.NOT_FOUND, id="delete-nothing"),
        pytest.param(put(EXPORT._replace(name="x"), {"services": ["*"]}, expected_revision=5), Code.NOT_FOUND, id="update-nothing"),
        pytest.param(put(EXPORT._replace(name="x"), status=b"{}"), Code.NOT_FOUND, id="status-of-nothing"),
    ],
)  # fmt: skip
def test_a_write_may_expect_a_revision(operation, expected):
    log = founded()
    assert log.accept("alpha", put_export("alpha", "shop", "orders")).revision == 5
    outcome = log.write("alpha", operation)
    assert outcome.code == expected, outcome.message


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        pytest.param(put(key("Pod", "x"), {}), "unknown kind 'Pod', expected one of Federation", id="kind"),
        pytest.param(put(key("Cluster", "Alpha"), {}), "Cluster: name: 'Alpha' is not a name", id="upper-case"),
        pytest.param(put(key("Cluster", "a" * 64), {}), "has 64 characters, at most 63 are allowed", id="long-label"),
        pytest.param(put(key("Cluster", "a.b"), {}), "Cluster: name: 'a.b' is not a name", id="dotted-cluster"),
        pytest.param(put(key("Cluster", "x", scope="alpha"), {}), "Cluster: scope is 'alpha', expected none", id="scope-not-allowed"),
        pytest.param(put(key("Cluster", "x", namespace="n"), {}), "Cluster: namespace is 'n', expected none", id="namespace-not-allowed"),
        pytest.param(put(key("Grant", "x", namespace="n"), {}), "Grant: scope: '' is not a name", id="scope-missing"),
        pytest.param(put(EXPORT._replace(namespace=""), {}), "ExportPolicy: namespace: '' is not a name", id="namespace-missing"),
        pytest.param(put(EXPORT._replace(name="a\0b"), {}), "is not a name", id="separator-in-a-name"),
        pytest.param(put(EXPORT, {"services": []}), "clusters/alpha/ExportPolicy/shop/export: spec.services is empty", id="empty-list"),
        pytest.param(put(EXPORT, {"service": ["x"]}), "Object contains unknown field `service`".lower(), id="unknown-field"),
        pytest.param(put(EXPORT, {"services": [1]}), "$.services[0]", id="wrong-type"),
        pytest.param(put_cluster("gamma", ranges=["10.0.0.0/99"]), "Cluster/gamma: spec.ranges[0]: '10.0.0.0/99' is not a network", id="bad-range"),
        pytest.param(put_cluster("gamma", role="remote"), "spec.home is '': a remote cluster names its home", id="remote-without-home"),
        pytest.param(put(EXPORT, {"services": ["*"]}, status=b"[]"), "status is not a JSON object", id="status-is-a-list"),
        pytest.param(put(EXPORT, {"services": ["*"]}, status=b'{"a":' * 40 + b"1" + b"}" * 40), "status nests deeper than 32", id="status-nests"),
        pytest.param(put(EXPORT, {"services": ["*"]}, status=b'{"]":' * 40 + b"1" + b"}" * 40), "status nests deeper than 32", id="status-nests-behind-strings"),
        pytest.param(put(EXPORT, {"services": ["*"]}, status=b'{"a":"\xff"}'), "status is not a JSON object: 'utf-8' codec", id="status-not-utf-8"),
        pytest.param(Put(key=EXPORT, spec=b'{"services":["\xff"]}'), "export: spec: 'utf-8' codec", id="spec-not-utf-8"),
        pytest.param(put(EXPORT, {"services": ["*"]}, labels=(("a", "1"), ("a", "2"))), "a label is given twice", id="label-twice"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_names_the_place(operation, message):
    log = founded()
    before = log.catalog.tables
    outcome = log.write("alpha", operation)
    assert outcome.code == Code.INVALID_ARGUMENT
    assert message in outcome.message
    assert log.catalog.tables is before


def test_a_write_takes_effect_as_a_whole_or_not_at_all():
    log = founded()
    before = log.catalog.tables
    outcome = log.write(
        "alpha", put_export("alpha", "shop", "*"), put_cluster("gamma"), put_export("beta", "shop", "*")
    )
    assert outcome.code == Code.PERMISSION_DENIED
    assert log.catalog.tables is before
    assert log.catalog.history(log.catalog.revision) == []
    assert log.write("alpha").code == Code.INVALID_ARGUMENT


def test_later_operations_of_a_write_see_earlier_ones():
    log = founded()
    log.accept(
        "alpha", put_export("alpha", "shop", "*"), Delete(key=EXPORT), put_export("alpha", "shop", "orders")
    )
    row = log.catalog.tables.resource(EXPORT)
    assert row is not None
    assert b"orders" in row.spec
    log.accept("alpha", Delete(key=EXPORT), put_export("alpha", "shop", "x"), Delete(key=EXPORT))
    assert log.catalog.tables.resource(EXPORT) is None
    revision = log.catalog.revision
    nothing = log.accept("alpha", put_export("alpha", "shop", "x"), Delete(key=EXPORT))
    assert nothing.revision == log.catalog.revision == revision


def test_sizes_are_bounded():
    log = founded()
    large = put(EXPORT, {"services": ["*"]}, labels=(("a", "x" * RESOURCE_BYTES_MAX),))
    assert log.write("alpha", large).code == Code.RESOURCE_EXHAUSTED
    status = put(EXPORT, {"services": ["*"]}, status=b'{"a":"' + b"x" * RESOURCE_BYTES_MAX + b'"}')
    assert log.write("alpha", status).code == Code.RESOURCE_EXHAUSTED
    huge = put(EXPORT, {"services": ["x" * COMMAND_BYTES_MAX]})
    outcome = log.write("alpha", huge)
    assert outcome.code == Code.RESOURCE_EXHAUSTED
    assert outcome.message.startswith("command has ")


def test_a_refusal_never_carries_the_input_back_whole():
    outcome = founded().write("alpha", put(EXPORT, {"x" * 30_000: 1}))
    assert outcome.code == Code.INVALID_ARGUMENT
    assert len(outcome.message) <= 500


def test_roots_are_replaced_only_by_a_later_sequence():
    log = founded()
    changed = put_trust_domain("alpha.test", sequence=1, roots=["other"])
    outcome = log.write("alpha", changed)
    assert (outcome.code, outcome.message) == (
        Code.ABORTED,
        "TrustDomain/alpha.test: sequence is 1, expected more than 1, that of the roots in force",
    )
    log.accept("alpha", put_trust_domain("alpha.test", sequence=2, roots=["other"]))


def test_a_repeated_request_takes_effect_once_and_gets_the_same_answer():
    log = founded()
    command = Command(
        request_id="r", proposer="alpha", body=Write(operations=(put_export("alpha", "shop", "*", name="e"),))
    )
    first = log.entry(encode_command(command))
    log.accept("alpha", Delete(key=EXPORT._replace(name="e")))
    again = log.entry(encode_command(command))
    assert again == first
    assert log.catalog.tables.resource(EXPORT._replace(name="e")) is None


def test_a_request_id_is_its_proposers_own():
    log = founded()
    log.send("alpha", Write(operations=(put_export("alpha", "shop", "*"),)), request="same")
    log.send("beta", Write(operations=(put_export("beta", "shop", "*"),)), request="same")
    kinds = [
        unpack_resource(value).key.scope
        for _, value in log.catalog.tables.resources.items()
        if b"Export" in value
    ]
    assert kinds == ["alpha", "beta"]
