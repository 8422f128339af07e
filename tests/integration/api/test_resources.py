"""The resource API over real TLS: what may be written, what is refused and in which words."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from certs.runtime.authority import RootAuthority
from tests.integration.controller.installation import API_VERSION, BASE, Caller, export_policy

POLICIES = f"{BASE}/namespaces/shop/exportpolicies"


def refusal(answer: tuple[int, Any]) -> tuple[int, str, str]:
    """Status, reason and message of a refusal, which must be Kubernetes' Status object."""
    status, body = answer
    assert body["kind"] == "Status", body
    assert (body["status"], body["code"]) == ("Failure", status)
    return status, body["reason"], body["message"]


def test_a_created_object_comes_back_by_get_and_list_with_what_the_server_fills_in(operator: Caller) -> None:
    created = operator.ok("POST", POLICIES, export_policy("made", "orders", labels={"team": "a"}))
    assert operator.call("GET", f"{POLICIES}/made") == (200, created)
    listed = operator.ok("GET", POLICIES)
    assert created in listed["items"]
    assert int(listed["metadata"]["resourceVersion"]) >= int(created["metadata"]["resourceVersion"])
    assert created["metadata"] | {"uid": "", "resourceVersion": "", "creationTimestamp": ""} == {
        "name": "made",
        "namespace": "shop",
        "cluster": "alpha",
        "labels": {"team": "a"},
        "generation": 1,
        "uid": "",
        "resourceVersion": "",
        "creationTimestamp": "",
    }


def test_creating_what_exists_is_a_conflict_that_says_so(operator: Caller) -> None:
    operator.ok("POST", POLICIES, export_policy("twice"))
    status, reason, message = refusal(operator.call("POST", POLICIES, export_policy("twice")))
    assert (status, reason) == (409, "AlreadyExists")
    assert "twice exists since revision" in message


def test_an_object_read_back_can_be_written_again_unchanged(operator: Caller) -> None:
    created = operator.ok("PUT", f"{POLICIES}/round", export_policy("round"))
    assert operator.ok("PUT", f"{POLICIES}/round", created) == created


def test_a_write_that_names_an_old_revision_is_refused_and_changes_nothing(operator: Caller) -> None:
    first = operator.ok("PUT", f"{POLICIES}/stale", export_policy("stale", "a"))
    second = operator.ok("PUT", f"{POLICIES}/stale", export_policy("stale", "b"))
    old = {**first, "spec": {"services": ["c"]}}
    status, reason, message = refusal(operator.call("PUT", f"{POLICIES}/stale", old))
    assert (status, reason) == (409, "Conflict")
    assert f"is at revision {second['metadata']['resourceVersion']}" in message
    assert operator.ok("GET", f"{POLICIES}/stale")["spec"] == {"services": ["b"]}
    newer = {**second, "spec": {"services": ["c"]}}
    assert operator.ok("PUT", f"{POLICIES}/stale", newer)["metadata"]["generation"] == 3


def test_a_repeated_request_id_takes_effect_once(operator: Caller) -> None:
    path = f"{POLICIES}?requestId=same-request"
    first = operator.ok("POST", path, export_policy("once"))
    assert operator.call("POST", path, export_policy("once")) == (201, first)


def test_delete_removes_once_and_only_at_the_named_revision(operator: Caller) -> None:
    made = operator.ok("PUT", f"{POLICIES}/gone", export_policy("gone"))
    revision = int(made["metadata"]["resourceVersion"])
    stale = operator.call("DELETE", f"{POLICIES}/gone?resourceVersion={revision + 1}")
    assert refusal(stale)[:2] == (409, "Conflict")
    operator.ok("DELETE", f"{POLICIES}/gone?resourceVersion={revision}")
    assert refusal(operator.call("DELETE", f"{POLICIES}/gone"))[:2] == (404, "NotFound")
    assert refusal(operator.call("GET", f"{POLICIES}/gone"))[:2] == (404, "NotFound")


def test_discovery_names_every_kind_with_what_may_be_done(operator: Caller) -> None:
    kinds = {one["name"]: one for one in operator.ok("GET", BASE)["resources"]}
    assert kinds["exportpolicies"]["verbs"] == ["get", "list", "watch", "create", "update", "delete"]
    assert kinds["clusters"]["verbs"] == ["get", "list", "watch"]
    assert operator.ok("GET", "/apis")["groups"][0]["preferredVersion"]["groupVersion"] == API_VERSION


def in_body(**changes: Any) -> bytes:
    return msgspec.json.encode({**export_policy("bad"), **changes})


CLUSTER = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "eve"}}
CLUSTER_SPEC = {"role": "primary", "trustDomain": "eve.example"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        pytest.param("POST", POLICIES, b"", 400, "not a resource", id="empty"),
        pytest.param("POST", POLICIES, b"\xff\xfe{", 400, "not a resource", id="not-utf8"),
        pytest.param("POST", POLICIES, b"[1, 2]", 400, "not a resource: Expected `object`", id="no-object"),
        pytest.param("POST", POLICIES, b'{"a":' + b"[" * 30_000, 400, "not a resource", id="deep-nesting"),
        pytest.param("POST", POLICIES, b"x" * 32_769, 400, "more than 32768 bytes", id="too-large"),
        pytest.param("POST", POLICIES, b"x" * 3_000_000, 400, "more than 32768 bytes", id="much-too-large"),
        pytest.param("POST", POLICIES, in_body(extra=1), 400, "unknown field `extra`", id="unknown-field"),
        pytest.param(
            "POST",
            POLICIES,
            in_body(spec={"services": ["a"], "consumer": ["b"]}),
            400,
            "ExportPolicy 'bad': spec: object contains unknown field `consumer`",
            id="unknown-spec-field",
        ),
        pytest.param("POST", POLICIES, in_body(kind="Grant"), 400, "kind: the object says 'Grant'", id="other-kind"),
        pytest.param("POST", POLICIES, in_body(kind="Pod"), 400, "kind: 'Pod' is not known", id="unknown-kind"),
        pytest.param("POST", POLICIES, in_body(apiVersion="v1"), 400, "apiVersion: 'v1'", id="other-version"),
        pytest.param(
            "PUT",
            f"{POLICIES}/bad",
            msgspec.json.encode(export_policy("other")),
            400,
            "metadata.name: the object says 'other', the path says 'bad'",
            id="other-name",
        ),
        pytest.param(
            "PUT",
            f"/clusters/beta{POLICIES}/bad",
            msgspec.json.encode(export_policy("bad", cluster="alpha")),
            400,
            "metadata.cluster: the object says 'alpha', the path says 'beta'",
            id="other-cluster",
        ),
        pytest.param(
            "POST", f"{BASE}/clusters", msgspec.json.encode({**CLUSTER, "spec": CLUSTER_SPEC}), 403, "written by joining", id="read-only-kind"
        ),
        pytest.param("DELETE", f"{BASE}/trustdomains/alpha.example", b"", 403, "cannot be deleted", id="undeletable"),
        pytest.param("DELETE", f"{BASE}/federations/federation", b"", 403, "cannot be deleted", id="federation"),
        pytest.param("GET", f"{BASE}/pods", b"", 404, "'pods' is not a resource", id="unknown-plural"),
        pytest.param("GET", f"{BASE}/exportpolicies/made", b"", 400, "expected /namespaces/NAME/", id="no-namespace"),
        pytest.param("GET", f"{BASE}/namespaces/x/clusters/alpha", b"", 400, "expected no /namespaces/", id="namespace"),
        pytest.param("GET", f"{POLICIES}/a%00b", b"", 400, "zero byte", id="zero-byte"),
        pytest.param("GET", f"{POLICIES}/never-made", b"", 404, "does not exist", id="absent"),
        pytest.param("GET", "/nowhere", b"", 404, "GET /nowhere: not found", id="no-such-path"),
        pytest.param("PATCH", f"{POLICIES}/bad", b"{}", 405, "method not allowed", id="no-such-method"),
        pytest.param("DELETE", f"{POLICIES}/x?resourceVersion=%C2%B2", b"", 400, "is not one that this API", id="revision-no-number"),
        pytest.param("PUT", f"{POLICIES}/bad", in_body(metadata={"name": "bad", "namespace": "shop", "resourceVersion": "-1"}), 400, "resourceVersion '-1'", id="revision-negative"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_words_that_help(
    operator: Caller, method: str, path: str, body: bytes, status: int, message: str
) -> None:
    found, _reason, text = refusal(operator.call(method, path, raw=body or None))
    assert found == status
    assert message in text
    assert operator.call("GET", f"{POLICIES}/bad")[0] == 404


def outside(*addresses: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": API_VERSION,
        "kind": "ExternalService",
        "metadata": {"name": "bad", "namespace": "shop"},
        "spec": {"addresses": addresses, "ports": [{"name": "http", "port": 80}], **spec},
    }


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(outside("db.example.com"), 400, "spec.addresses[0]: 'db.example.com' is not an IP address", id="a-name"),
        pytest.param(outside("2130706433"), 400, "spec.addresses[0]: '2130706433' is not an IP address", id="decimal"),
        pytest.param(outside("0177.0.0.1"), 400, "is not an IP address", id="octal"),
        pytest.param(outside("::ffff:169.254.169.254"), 400, "expected 169.254.169.254", id="mapped"),
        pytest.param(outside("fe80::1%eth0"), 400, "without a zone", id="zone"),
        pytest.param(outside("203.0.113.5", "203.0.113.5"), 400, "'203.0.113.5' is given twice", id="twice"),
        pytest.param(outside(*(f"10.0.{n // 256}.{n % 256}" for n in range(1_000))), 400, "has 1000 entries, expected 1 to 64", id="1000"),
        pytest.param(outside(*(f"10.0.{n // 256}.{n % 256}" for n in range(10_000))), 400, "more than 32768 bytes", id="10000"),
        pytest.param(outside("169.254.169.254"), 403, "169.254.169.254 is a cloud's metadata service", id="metadata"),
        pytest.param(outside("64:ff9b:1::a9fe:a9fe"), 403, "is a cloud's metadata service", id="metadata-behind-nat64"),
        pytest.param(outside("::1"), 403, "means another host for each caller", id="loopback"),
        pytest.param(outside("203.0.113.5", check={"interval": "1ms"}), 400, "spec.check.interval is '1ms'", id="interval"),
        pytest.param(outside("203.0.113.5", check={"statuses": [200]}), 400, "spec.check.statuses is given", id="statuses"),
        pytest.param(outside("203.0.113.5", tls={}), 400, "unknown field `tls`", id="tls"),
    ],
)  # fmt: skip
def test_a_service_outside_is_refused_by_field(
    operator: Caller, body: dict[str, object], status: int, message: str
) -> None:
    services = f"{BASE}/namespaces/shop/externalservices"
    found, _reason, text = refusal(operator.call("POST", services, raw=msgspec.json.encode(body)))
    assert (found, message in text) == (status, True), text
    assert operator.call("GET", f"{services}/bad")[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", f"/clusters/beta{POLICIES}/theirs"), ("PUT", f"{POLICIES}/theirs")],
    ids=["by-path", "by-metadata"],
)
def test_records_of_another_cluster_are_not_written_here(
    operator: Caller, beta: RootAuthority, method: str, path: str
) -> None:
    assert beta.trust_domain == "beta.example"  # It has joined.
    answer = operator.call(method, path, export_policy("theirs", cluster="beta"))
    assert refusal(answer)[:2] == (403, "Forbidden")
    assert "belongs to cluster beta" in refusal(answer)[2]


def test_a_cluster_that_never_joined_owns_nothing(operator: Caller) -> None:
    answer = operator.call("PUT", f"{POLICIES}/theirs", export_policy("theirs", cluster="nobody"))
    assert refusal(answer)[0] == 422
    assert "cluster nobody has not joined" in refusal(answer)[2]


# -- watching --------------------------------------------------------------------------------------


def watch(operator: Caller, query: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a watch of the export policies of namespace `watched`, without end."""
    connection = operator.connect()
    try:
        connection.request("GET", f"{BASE}/namespaces/watched/exportpolicies?watch=true{query}")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            yield msgspec.json.decode(line)
    finally:
        connection.close()


def put_watched(operator: Caller, name: str, *services: str) -> int:
    path = f"{BASE}/namespaces/watched/exportpolicies/{name}"
    made = operator.ok("PUT", path, export_policy(name, *services, namespace="watched"))
    return int(made["metadata"]["resourceVersion"])


def test_a_watch_from_a_revision_tells_each_later_change_once_and_in_order(operator: Caller) -> None:
    start = put_watched(operator, "w0")
    expected = [("ADDED", "w1", put_watched(operator, "w1"))]
    events = watch(operator, f"&resourceVersion={start}")
    found = [next(events)]
    operator.ok("PUT", f"{POLICIES}/unrelated", export_policy("unrelated"))
    expected.append(("MODIFIED", "w0", put_watched(operator, "w0", "orders")))
    expected.append(("ADDED", "w2", put_watched(operator, "w2")))
    gone = operator.ok("DELETE", f"{BASE}/namespaces/watched/exportpolicies/w1")
    expected.append(("DELETED", "w1", int(gone["metadata"]["resourceVersion"])))
    expected.append(("MODIFIED", "w0", put_watched(operator, "w0", "stock")))
    found += [next(events) for _ in expected[1:]]
    assert [
        (one["type"], one["object"]["metadata"]["name"], int(one["object"]["metadata"]["resourceVersion"]))
        for one in found
    ] == expected
    assert {one["object"]["metadata"]["cluster"] for one in found} == {"alpha"}
    # Whoever comes later hears the same story.
    again = watch(operator, f"&resourceVersion={start}")
    assert [next(again) for _ in expected] == found


@pytest.mark.parametrize(
    ("revision", "status", "message"),
    [
        pytest.param("999999999", 400, "is in the future", id="future"),
        pytest.param("abc", 400, "is not one that this API gave out", id="no-number"),
        pytest.param("9" * 30, 400, "is not one that this API gave out", id="huge"),
    ],
)
def test_a_watch_from_nowhere_is_refused(operator: Caller, revision: str, status: int, message: str) -> None:
    found = refusal(operator.call("GET", f"{POLICIES}?watch=true&resourceVersion={revision}"))
    assert found[0] == status
    assert message in found[2]
