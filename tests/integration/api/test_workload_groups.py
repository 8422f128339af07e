"""Workload groups over HTTPS: written as any resource, and what a machine's enrollment brings back."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.api.messages import EnrollReply
from tests.integration.api.joining import csr_of, enroll, make_token
from tests.integration.controller.installation import API_VERSION, BASE, Caller, Controller

GROUPS = f"/clusters/alpha{BASE}/namespaces/shop/workloadgroups"
SPEC: dict[str, Any] = {
    "serviceAccount": "stock",
    "service": "stock",
    "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
    "probe": {"kind": "http", "interval": "500ms"},
}


def group(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkloadGroup",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {**SPEC, **changes},
    }


def test_a_machine_enrolls_into_a_group_and_is_listed_with_it(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    operator.ok("POST", GROUPS, group("machines"))
    assert operator.ok("GET", f"{GROUPS}/machines")["spec"] == SPEC
    token = make_token(
        controller, cluster="alpha", purpose="agent", namespace="shop", workloadGroup="machines"
    )
    status, answer = enroll(controller, token, csr_of(tmp_path / "leaf"), id="machine-1")
    assert status == 200, answer.get("message", answer)
    reply = msgspec.convert(answer, EnrollReply, str_keys=True)
    assert reply.workload_identity == "spiffe://alpha.example/ns/shop/sa/stock"
    assert reply.template is not None
    assert [port.name for port in reply.template.ports] == ["http", "admin"]
    agent = operator.ok("GET", f"/clusters/alpha{BASE}/agents/agent.machine-1")
    assert agent["spec"]["workloadGroup"] == "machines"


def test_a_group_that_was_deleted_lets_nobody_in_until_it_is_back(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    operator.ok("POST", GROUPS, group("fleeting"))
    token = make_token(
        controller, cluster="alpha", purpose="agent", namespace="shop", workloadGroup="fleeting"
    )
    operator.ok("DELETE", f"{GROUPS}/fleeting")
    csr = csr_of(tmp_path / "leaf")
    status, body = enroll(controller, token, csr, id="machine-2")
    assert status == 422, body["message"]
    assert "workload group shop/fleeting of the join token no longer exists" in body["message"]
    operator.ok("POST", GROUPS, group("fleeting"))
    assert enroll(controller, token, csr, id="machine-2")[0] == 200


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({"workloadGroup": "nowhere"}, 404, "workload group shop/nowhere does not exist in cluster alpha"),
        ({"workloadGroup": "x", "serviceAccount": "y"}, 400, "serviceAccount: 'y' is given with workload"),
        ({"workloadGroup": "x", "purpose": "gateway"}, 400, "belong to agent tokens, not to gateway tokens"),
    ],
)
def test_a_token_of_no_group_is_not_made(
    operator: Caller, wanted: dict[str, str], status: int, message: str
) -> None:
    request = {"purpose": "agent", "cluster": "alpha", "namespace": "shop", **wanted}
    found, body = operator.call("POST", "/v1/tokens", request)
    assert found == status, body
    assert message in body["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ports": []}, "WorkloadGroup 'bad': spec.ports has 0 entries"),
        ({"ports": [{"name": "http", "port": 0}]}, "spec.ports[0].port is 0"),
        ({"probe": {"timeout": "soon"}}, "spec.probe.timeout: 'soon' is not a duration"),
        ({"template": {"serviceAccount": "stock"}}, "unknown field `template`"),
    ],
)
def test_a_bad_group_is_refused_naming_the_field(
    operator: Caller, changes: dict[str, Any], message: str
) -> None:
    status, body = operator.call("POST", GROUPS, group("bad", **changes))
    assert status == 400
    assert message in body["message"]
