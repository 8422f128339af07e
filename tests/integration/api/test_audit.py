"""The audit trail of a running controller: who asked for what, and what became of it."""

from typing import Any

import msgspec

from certs.runtime.authority import RootAuthority
from tests.integration.api.joining import make_token, post_join, primary_request
from tests.integration.controller.installation import BASE, Caller, Controller, export_policy
from tests.support.wait import eventually

PATH = f"{BASE}/namespaces/audited/exportpolicies"
FOREIGN = f"/clusters/beta{PATH}/x"
WAIT_S = 60.0


def find(controller: Controller, result: str, subject: str) -> dict[str, Any]:
    """Return the newest record about an object, once it is written."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        path = controller.installation.data_dir / "audit" / "audit.jsonl"
        written = path.read_bytes() if path.exists() else b""  # The first line comes within a second.
        records = [msgspec.json.decode(line) for line in written.split(b"\n")[:-1]]
        found[:] = [one for one in records if one["result"] == result and subject in one.get("objects", ())]
        return bool(found)

    eventually(is_there, timeout_s=WAIT_S, message=f"a record of {subject}")
    return found[-1]


def test_a_write_is_recorded_with_the_operator_who_asked_for_it(
    controller: Controller, operator: Caller
) -> None:
    made = operator.ok("POST", PATH, export_policy("mine", "orders", namespace="audited"))
    record = find(controller, "done", "put clusters/alpha/ExportPolicy/audited/mine")
    assert record["actor"].startswith("spiffe://alpha.example/isthmus/alpha/operator/")
    assert (record["layer"], record["proposer"]) == ("log", "alpha")
    assert record["index"] == int(made["metadata"]["resourceVersion"])


def test_a_foreign_write_is_refused_recorded_at_both_layers_and_counted(
    controller: Controller, operator: Caller, beta: RootAuthority
) -> None:
    policy = export_policy("x", "orders", namespace="audited")
    status, answer = operator.call("PUT", FOREIGN, policy)
    assert (status, "belongs to cluster beta" in answer["message"]) == (403, True)
    for layer, subject in (("log", "put clusters/beta/ExportPolicy/audited/x"), ("api", FOREIGN)):
        record = find(controller, "refused", subject)
        assert (record["layer"], record["reason"]) == (layer, "not-allowed")
        assert record["actor"].startswith("spiffe://alpha.example/isthmus/alpha/operator/")
    metrics = controller.installation.plain("/metrics")[1].decode()
    for layer in ("log", "api"):
        assert f'isthmus_refused_writes_total{{layer="{layer}",reason="not-allowed"}}' in metrics


def test_somebody_without_a_certificate_writes_nothing_and_is_recorded_as_nobody(
    controller: Controller,
) -> None:
    path = f"{PATH}/nobodys"
    status, _ = controller.installation.caller(None).call("DELETE", path)
    assert status == 401
    record = find(controller, "refused", path)
    assert (record["layer"], record["action"], record.get("actor", "")) == ("api", "DELETE", "")


def test_whoever_joins_under_anothers_name_is_recorded(controller: Controller, beta: RootAuthority) -> None:
    stranger = RootAuthority.create("beta.example")
    token = make_token(controller, cluster="beta")
    request = msgspec.structs.replace(primary_request(stranger, token, "beta"), again=True)
    assert post_join(controller, request)[0] == 422
    record = find(controller, "refused", "/v1/join of beta")
    assert (record["layer"], record["reason"]) == ("api", "precondition")


def test_history_tells_an_operator_what_changed_and_who_did_it(operator: Caller) -> None:
    path = f"{PATH}/told"
    operator.ok("PUT", path, export_policy("told", "orders", namespace="audited"))
    operator.ok("PUT", path, export_policy("told", "payments", namespace="audited"))
    found = operator.ok("GET", "/v1/history?name=ExportPolicy/audited/told")
    changed, created = found["events"]
    assert (changed["what"], created["what"]) == ("changed", "created")
    assert changed["fields"] == [{"field": "spec.services", "before": '["orders"]', "after": '["payments"]'}]
    assert changed["actor"].startswith("spiffe://alpha.example/isthmus/alpha/operator/")
    assert found["beginsAfter"] < created["revision"] < changed["revision"] <= found["revision"]
    assert operator.call("GET", "/v1/history?name=No")[0] == 400
    assert operator.call("GET", "/v1/history?name=alpha&sinceMs=-1")[0] == 400


def test_nothing_is_withheld_where_no_agent_came_back_with_less(operator: Caller) -> None:
    assert operator.ok("GET", "/v1/withheld") == []
    status, answer = operator.call("POST", "/v1/withheld/alpha/nobody/confirm", {})
    assert (status, "agent nobody of cluster alpha left nothing out" in answer["message"]) == (404, True)
    assert operator.call("POST", "/v1/withheld/beta/nobody/confirm", {})[0] == 422
