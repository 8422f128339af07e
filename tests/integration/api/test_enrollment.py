"""Enrolling over HTTPS: a token lets in one key, for what it was made, in time."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from certs.core.token import token_hash
from certs.core.verifier import verify_chain
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from federation.api.messages import EnrollReply
from tests.integration.api.joining import csr_of, enroll, make_token
from tests.integration.controller.installation import BASE, Caller, Controller
from tests.support.wait import eventually

AGENT = {"purpose": "agent", "namespace": "shop", "serviceAccount": "shop"}


def test_an_agent_gets_its_identity_and_the_directory(controller: Controller, tmp_path: Path) -> None:
    leaf = LeafIdentity.load(tmp_path / "leaf")
    status, answer = enroll(controller, make_token(controller, cluster="alpha", **AGENT), leaf.create_csr())
    assert status == 200, answer
    reply = msgspec.convert(answer, EnrollReply, str_keys=True)
    assert reply.identity == "spiffe://alpha.example/isthmus/alpha/agent/a1"
    assert reply.workload_identity == "spiffe://alpha.example/ns/shop/sa/shop"
    assert [one.name for one in reply.directory.controllers if one.spec.cluster == "alpha"] == ["alpha-c1"]
    leaf.install(reply.chain)
    proven = verify_chain(leaf.chain_der, controller.domain.bundles, utc_now(), purpose="client")
    assert str(proven) == reply.identity


def test_a_token_admits_one_key_and_the_same_key_may_repeat_a_lost_call(
    controller: Controller, tmp_path: Path
) -> None:
    token = make_token(controller, cluster="alpha", **AGENT)
    first = csr_of(tmp_path / "first")
    assert enroll(controller, token, first, id="once")[0] == 200
    status, body = enroll(controller, token, csr_of(tmp_path / "second"), id="once")
    assert (status, body["reason"]) == (422, "Invalid")
    assert "was already used" in body["message"]
    assert enroll(controller, token, first, id="once")[0] == 200


def test_an_expired_token_lets_nobody_in(controller: Controller, tmp_path: Path) -> None:
    token = make_token(controller, cluster="alpha", ttlMs=1_000, **AGENT)
    name = token_hash(token.secret)[:32]
    operator = controller.installation.operator()
    expires_ms = operator.ok("GET", f"{BASE}/jointokens/{name}")["spec"]["expiresMs"]
    csr = csr_of(tmp_path / "leaf")

    def refused() -> bool:
        # Expiry is judged by federation time: every other answer would be one made in time.
        now_ms = utc_now().timestamp() * 1000
        return now_ms > expires_ms + 1_000 and enroll(controller, token, csr, id="late")[0] != 200

    eventually(refused, timeout_s=60, message="the token has expired")
    status, body = enroll(controller, token, csr, id="late")
    assert status == 422
    assert "has expired: make a new one" in body["message"]
    assert operator.call("GET", f"/clusters/alpha{BASE}/agents/agent.late")[0] == 404


def test_a_second_process_takes_no_name_of_another_namespace(controller: Controller, tmp_path: Path) -> None:
    mine = make_token(controller, cluster="alpha", **AGENT)
    assert enroll(controller, mine, csr_of(tmp_path / "mine"), id="taken")[0] == 200
    theirs = make_token(controller, cluster="alpha", **{**AGENT, "namespace": "other"})
    status, body = enroll(controller, theirs, csr_of(tmp_path / "theirs"), id="taken")
    assert (status, body["reason"]) == (409, "AlreadyExists")
    again = make_token(controller, cluster="alpha", **AGENT)  # A host that lost its disk comes back.
    assert enroll(controller, again, csr_of(tmp_path / "again"), id="taken")[0] == 200


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        pytest.param({"secret": b"x" * 32}, 403, "is not known here", id="forged-secret"),
        pytest.param({"secret": b""}, 403, "is not known here", id="no-secret"),
        pytest.param({"purpose": "gateway"}, 403, "has purpose 'agent', not 'gateway'", id="other-purpose"),
        pytest.param({"purpose": "cluster"}, 403, "not 'cluster'", id="cluster-purpose"),
        pytest.param({"purpose": "\0"}, 403, "not '\\x00'", id="nonsense-purpose"),
        pytest.param({"id": "A 1"}, 400, "id: 'A 1' is not a name", id="bad-id"),
        pytest.param({"id": "x" * 64}, 400, "has 64 characters, at most 63", id="long-id"),
        pytest.param({"id": ""}, 400, "id: '' is not a name", id="no-id"),
        pytest.param({"csr": b"garbage"}, 400, "certificate request cannot be read", id="bad-csr"),
        pytest.param({"csr": b"\x30" * 20_000}, 400, "certificate request has 20000 bytes", id="long-csr"),
        pytest.param({"protocol": 0}, 422, "protocol version 0 is too old", id="old-protocol"),
        pytest.param({"protocol": -5}, 422, "protocol version -5 is too old", id="negative-protocol"),
    ],
)
def test_a_wrong_enrollment_is_refused_and_leaves_the_token_unused(
    controller: Controller, tmp_path: Path, changes: dict[str, Any], status: int, message: str
) -> None:
    token = make_token(controller, cluster="alpha", **AGENT)
    csr = csr_of(tmp_path / "leaf")
    found, body = enroll(controller, token, **{"csr": csr, "id": "wrong", **changes})
    assert found == status, body
    assert message in body["message"]
    assert enroll(controller, token, csr, id="right")[0] == 200


def test_a_cluster_token_enrolls_no_process(controller: Controller, tmp_path: Path) -> None:
    token = make_token(controller, cluster="gamma")
    status, body = enroll(controller, token, csr_of(tmp_path / "leaf"))
    assert status == 403
    assert "use isthmus cluster join" in body["message"]


@pytest.mark.parametrize("path", ["/v1/enroll", "/v1/join"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(b"\x00\xff", "malformed", id="no-json"),
        pytest.param(b"[]", "expected `object`", id="no-object"),
        pytest.param(b'{"secret":"***"}', "base64", id="no-base64"),
        pytest.param(b'{"secret":5}', "expected", id="wrong-type"),
        pytest.param(b'{"x":' + b"[" * 60_000, "recursion", id="deep-nesting"),
        pytest.param(b"x" * 70_000, "more than 65536 bytes", id="too-large"),
    ],
)
def test_strangers_cannot_send_garbage(controller: Controller, path: str, body: bytes, message: str) -> None:
    status, answer = controller.installation.caller(None).call("POST", path, raw=body)
    assert status == 400
    assert message in answer["message"].lower()
    assert answer["message"].startswith(path)


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        pytest.param({"purpose": "agent", "cluster": "alpha"}, 400, "namespace, or service account and workload group, are missing", id="agent-without-namespace"),
        pytest.param({"purpose": "dns", "cluster": "alpha", "namespace": "x"}, 400, "belong to agent tokens", id="dns-with-namespace"),
        pytest.param({"purpose": "dns", "cluster": "nowhere"}, 404, "Cluster/nowhere does not exist", id="unknown-cluster"),
        pytest.param({"purpose": "dns", "cluster": "beta"}, 422, "enroll at a controller of beta", id="cluster-served-elsewhere"),
        pytest.param({"purpose": "king", "cluster": "alpha"}, 400, "purpose", id="unknown-purpose"),
        pytest.param({"purpose": "dns", "cluster": "Alpha"}, 400, "cluster: 'Alpha' is not a name", id="bad-name"),
        pytest.param({"purpose": "dns", "cluster": "alpha", "ttlMs": 999}, 400, "ttl: 999 ms", id="short"),
        pytest.param({"purpose": "dns", "cluster": "alpha", "ttlMs": 604_800_001}, 400, "outside 1s to 7d", id="long"),
        pytest.param({"purpose": "dns", "cluster": "alpha", "ttl": "10m"}, 400, "unknown field `ttl`", id="unknown-field"),
    ],
)  # fmt: skip
def test_tokens_that_make_no_sense_are_not_made(
    operator: Caller, beta: object, wanted: dict[str, Any], status: int, message: str
) -> None:
    found, body = operator.call("POST", "/v1/tokens", wanted)
    assert found == status, body
    assert message in body["message"]


def test_the_secret_of_a_token_is_nowhere_in_the_catalog(controller: Controller, operator: Caller) -> None:
    token = make_token(controller, cluster="alpha", purpose="dns")
    listed = msgspec.json.encode(operator.ok("GET", f"{BASE}/jointokens")).decode()
    assert token_hash(token.secret) in listed
    assert token.secret.hex() not in listed
    assert msgspec.json.encode(token.secret).decode().strip('"') not in listed
