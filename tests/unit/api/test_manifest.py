"""Objects as people write them: what is accepted, and how the rest is refused."""

from typing import Any

import msgspec
import pytest

from discovery.core.kinds import KINDS
from discovery.core.model import ResourceKey
from federation.api.manifest import (
    API_VERSION,
    decode_manifest,
    kind_of_plural,
    parse_revision,
    to_object,
    to_put,
)
from federation.kernel.errors import InvalidInputError, IsthmusError, NotAllowedError, NotFoundError
from tests.unit.discovery.builders import put_export, resource

GOOD: dict[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "Grant",
    "metadata": {"name": "g", "namespace": "shop"},
    "spec": {"services": ["*"], "sources": [{"trustDomains": ["beta.example"]}]},
}


def with_metadata(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "metadata": {**GOOD["metadata"], **changes}}


def read(value: object) -> Any:
    return to_put(decode_manifest(msgspec.json.encode(value)), cluster="alpha")


def test_an_object_becomes_a_write_in_the_scope_of_its_cluster() -> None:
    assert read(GOOD).key == ResourceKey("alpha", "Grant", "shop", "g")
    assert read(with_metadata(cluster="delta")).key.scope == "delta"
    assert read(GOOD).expected_revision is None
    assert read(with_metadata(resourceVersion="7")).expected_revision == 7


def test_creating_expects_that_nothing_is_there_whatever_revision_is_given() -> None:
    manifest = decode_manifest(msgspec.json.encode(with_metadata(resourceVersion="7")))
    assert to_put(manifest, cluster="alpha", create=True).expected_revision == 0


def test_what_the_server_filled_in_may_come_back() -> None:
    shown = to_object(resource(put_export("alpha", "shop", "orders"), revision=3))
    put = to_put(decode_manifest(msgspec.json.encode(shown)), cluster="other")
    assert put.key == ResourceKey("alpha", "ExportPolicy", "shop", "export")
    assert put.expected_revision == 3


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({**GOOD, "kind": "Deployment"}, InvalidInputError, "kind: 'Deployment' is not known, expected one of"),
        ({**GOOD, "kind": "grant"}, InvalidInputError, "kind: 'grant' is not known"),
        ({**GOOD, "apiVersion": "v1"}, InvalidInputError, "apiVersion: 'v1' is not known here, expected 'federation"),
        ({**GOOD, "metadata": {}}, InvalidInputError, "missing required field `name` - at `$.metadata`"),
        ({**GOOD, "spec": None}, InvalidInputError, "Grant 'g': spec: expected `object`, got `null`"),
        ({**GOOD, "spec": {}}, InvalidInputError, "Grant 'g': spec: object missing required field `services`"),
        ({**GOOD, "spec": {**GOOD["spec"], "extra": 1}}, InvalidInputError, "unknown field `extra`"),
        ({**GOOD, "spec": {"services": [], "sources": [{}]}}, InvalidInputError, "spec.services is empty"),
        ({**GOOD, "spec": {"services": ["*"], "sources": []}}, InvalidInputError, "spec.sources is empty"),
        ({**GOOD, "spec": {"services": ["A b"], "sources": [{}]}}, InvalidInputError, "spec.services[0]: 'A b' is not a name"),
        ({**GOOD, "spec": {"services": "*", "sources": [{}]}}, InvalidInputError, "expected `array`, got `str` - at `$.services`"),
        ({**GOOD, "data": {}}, InvalidInputError, "unknown field `data`"),
        (with_metadata(annotations={}), InvalidInputError, "unknown field `annotations`"),
        (with_metadata(name="A b"), InvalidInputError, "metadata.name: 'A b' is not a name"),
        (with_metadata(name="x" * 254), InvalidInputError, "has 254 characters, at most 253"),
        (with_metadata(namespace=""), InvalidInputError, "metadata.namespace is missing"),
        (with_metadata(namespace="a.b"), InvalidInputError, "metadata.namespace: 'a.b' is not a name"),
        (with_metadata(labels={"k": "v" * 64}), InvalidInputError, "metadata.labels['k']"),
        (with_metadata(labels={"": "v"}), InvalidInputError, "metadata.labels['']: expected a key of 1 to 253"),
        (with_metadata(labels={"k" * 254: "v"}), InvalidInputError, "expected a key of 1 to 253"),
        (with_metadata(labels={f"k{n}": "v" for n in range(65)}), InvalidInputError, "metadata.labels has 65 entries, at most 64"),
        (with_metadata(labels={"k": 1}), InvalidInputError, "Expected `str`, got `int`"),
        (with_metadata(resourceVersion="1.5"), InvalidInputError, "resourceVersion '1.5' is not one"),
        (with_metadata(labels={"k": "v" * 40_000}), InvalidInputError, "bytes, at most 32768 are allowed"),
        ([GOOD], InvalidInputError, "not a resource: Expected `object`, got `array`"),
        ("text", InvalidInputError, "not a resource"),
    ],
)  # fmt: skip
def test_a_bad_object_is_refused_naming_the_field(
    value: object, error: type[IsthmusError], message: str
) -> None:
    with pytest.raises(error) as caught:
        read(value)
    assert message in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if not kind.writable], ids=lambda kind: kind.name
)
def test_what_only_the_system_writes_is_not_written_by_people(kind: Any) -> None:
    with pytest.raises(NotAllowedError, match="are written by joining and enrolling, not by apply"):
        read({"apiVersion": API_VERSION, "kind": kind.name, "metadata": {"name": "x"}, "spec": {}})


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"spec":' + b"[" * 30_000, b"null", b"1"])
def test_garbage_is_no_object(body: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^not a resource: "):
        decode_manifest(body)


def test_kinds_are_found_by_their_plural_only() -> None:
    assert kind_of_plural("grants").name == "Grant"
    for wrong in ("grant", "Grants", "", "pods"):
        with pytest.raises(NotFoundError, match="expected one of agents, cluster"):
            kind_of_plural(wrong)


@pytest.mark.parametrize(("text", "expected"), [("", None), ("0", 0), ("12", 12), ("9" * 19, 10**19 - 1)])
def test_a_revision_is_a_number_or_nothing(text: str, expected: int | None) -> None:
    assert parse_revision(text, "here") == expected


@pytest.mark.parametrize("text", ["-1", "1.0", "x", " 1", "²", "٣", "9" * 20])
def test_what_is_no_revision_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^here: resourceVersion"):
        parse_revision(text, "here")
