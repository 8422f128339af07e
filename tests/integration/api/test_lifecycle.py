"""Drain, removal and the dry run of a join through the real API: what makes no sense is refused and changes nothing."""

from typing import Any

import msgspec
import pytest

from certs.runtime.authority import RootAuthority
from discovery.core.specs import ClusterSpec
from federation.api.messages import ForecastRequest, JoinRequest
from tests.integration.api.joining import make_token, post_join, primary_request
from tests.integration.controller.installation import BASE, WAIT_S, Caller, Controller
from tests.support.wait import eventually


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param("mars/drain", {}, 404, "mars", id="drain-a-stranger"),
        pytest.param("mars/undrain", None, 404, "mars", id="undrain-a-stranger"),
        pytest.param("alpha/undrain", None, 404, "is not drained", id="undrain-what-is-not-drained"),
        pytest.param("A%20b/drain", {}, 400, "is not a name", id="no-name"),
        pytest.param("alpha/drain", {"stepPercent": 0}, 400, "stepPercent is 0", id="no-step"),
        pytest.param("alpha/drain", {"stepPercent": "x"}, 400, "stepPercent", id="no-number"),
        pytest.param("alpha/drain", {"everyMs": -1}, 400, "everyMs is -1", id="back-in-time"),
        pytest.param("alpha/drain", {"maxErrorRate": 100.5}, 400, "maxErrorRate is 100.5", id="more-than-all-may-fail"),
        pytest.param("alpha/drain", {"minCapacity": 101}, 400, "minCapacity is 101", id="more-than-all-must-be-left"),
        pytest.param("alpha/drain", {"surprise": 1}, 400, "surprise", id="unknown-field"),
        # Without it the log would stop; or first, what other tests registered would be left to nobody.
        pytest.param("alpha/drain", {}, 422, "cluster alpha", id="the-only-member"),
        pytest.param("alpha/remove", {}, 422, "ask one of another cluster", id="remove-the-own"),
        pytest.param("alpha/remove", {"force": True}, 422, "ask one of another cluster", id="nor-by-force"),
        pytest.param("mars/remove", {}, 404, "has not joined", id="remove-a-stranger"),
        pytest.param("mars/remove", {"force": "yes"}, 400, "force", id="no-flag"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    operator: Caller, path: str, body: Any, status: int, message: str
) -> None:
    code, answer = operator.call("POST", f"/v1/clusters/{path}", body)
    assert (code, message in answer["message"]) == (status, True), answer
    assert operator.ok("GET", f"{BASE}/drains")["items"] == []
    assert "alpha" in [one["name"] for one in operator.ok("GET", "/v1/status?newest=true")["clusters"]]


@pytest.mark.parametrize("action", ["drain", "undrain", "remove"])
def test_only_operators_decide_on_clusters(controller: Controller, action: str) -> None:
    assert controller.installation.caller(None).call("POST", f"/v1/clusters/alpha/{action}", {})[0] == 401


def test_a_remote_cluster_leaves_is_remembered_by_name_and_joins_anew_at_the_next_epoch(
    controller: Controller, operator: Caller
) -> None:
    stranger = controller.installation.caller(None)
    spec = ClusterSpec(role="remote", trust_domain="alpha.example", home="alpha")

    def join() -> tuple[int, Any]:
        token = make_token(controller, cluster="omicron")
        return post_join(controller, JoinRequest(secret=token.secret, cluster="omicron", spec=spec))

    assert stranger.call("GET", "/v1/removed/omicron")[0] == 404
    assert join()[0] == 200
    message = operator.ok("POST", "/v1/clusters/omicron/remove", {})["message"]
    assert "was removed" in message
    assert "omicron" not in [one["name"] for one in operator.ok("GET", "/v1/status")["clusters"]]
    status, remembered = stranger.call("GET", "/v1/removed/omicron")
    assert (status, remembered["epoch"]) == (200, 1)
    assert operator.call("POST", "/v1/clusters/omicron/remove", {})[0] == 404
    # Until its rows are swept, the name is refused.
    eventually(lambda: join()[0] == 200, timeout_s=WAIT_S, message="the name is free again")
    assert operator.ok("GET", f"{BASE}/clusters/omicron")["spec"]["epoch"] == 2


def test_a_dry_run_uses_nothing_up(controller: Controller, operator: Caller) -> None:
    token = make_token(controller, cluster="rho")
    root = RootAuthority.create("rho.example")
    request = primary_request(root, token, "rho")
    assert request.controller is not None
    # Where no controller of another test is said to listen.
    places = {
        name: f"127.108.0.77:{number}" for name, number in (("raft", 7443), ("control", 7444), ("api", 7445))
    }
    spec = msgspec.structs.replace(request.controller.spec, **places)
    request = msgspec.structs.replace(
        request, controller=msgspec.structs.replace(request.controller, spec=spec)
    )
    wanted = ForecastRequest(
        secret=request.secret, cluster="rho", spec=request.spec, controller=request.controller
    )
    for _ in range(2):
        status, found = controller.installation.caller(None).call("POST", "/v1/join/forecast", wanted)
        assert status == 200, found
        assert found["conflicts"] == []
        assert "create Cluster/rho" in found["changes"]
    assert operator.call("GET", f"{BASE}/clusters/rho")[0] == 404
    assert post_join(controller, request)[0] == 200
    again = controller.installation.caller(None).call("POST", "/v1/join/forecast", wanted)[1]
    assert any("was already used" in one for one in again["conflicts"])
    assert any("Cluster/rho exists" in one for one in again["conflicts"])
    guessed = msgspec.structs.replace(wanted, secret=b"guessed")
    assert controller.installation.caller(None).call("POST", "/v1/join/forecast", guessed)[0] == 403
