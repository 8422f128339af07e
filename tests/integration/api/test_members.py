"""Changes of the members that make no sense are refused, with what to do instead, and change nothing."""

import pytest

from certs.runtime.authority import RootAuthority
from tests.integration.api.joining import make_token, post_join, primary_request
from tests.integration.controller.installation import BASE, Caller, Controller


def standing(operator: Caller, name: str) -> str | None:
    items = operator.ok("GET", f"{BASE}/members")["items"]
    return next((one["spec"]["standing"] for one in items if one["metadata"]["name"] == name), None)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        pytest.param("alpha/add", 409, "member alpha votes already", id="add-a-voter"),
        pytest.param("alpha/remove", 422, "alpha is the only member: add another one first", id="remove-the-last"),
        pytest.param("mars/remove", 404, "no member mars: expected one of alpha", id="remove-a-stranger"),
        pytest.param("mars/promote", 404, "mars has no controller in this federation", id="promote-a-stranger"),
        pytest.param("mars/transfer", 404, "mars", id="transfer-to-a-stranger"),
        pytest.param("alpha/crown", 400, "'crown' is no change of a member", id="unknown"),
        pytest.param("A%20b/add", 400, "member: 'A b' is not a name", id="no-name"),
    ],
)  # fmt: skip
def test_a_change_that_makes_no_sense_is_refused(
    operator: Caller, path: str, status: int, message: str
) -> None:
    code, answer = operator.call("POST", f"/v1/members/{path}")
    assert (code, message in answer["message"]) == (status, True), answer
    assert standing(operator, path.partition("/")[0]) is None


def test_a_cluster_can_be_a_learner_before_it_joins_and_be_taken_out_again(
    controller: Controller, operator: Caller
) -> None:
    assert "when it has joined" in operator.ok("POST", "/v1/members/gamma/add")["message"]
    assert standing(operator, "gamma") == "learner"
    root = RootAuthority.create("gamma.example")
    assert (
        post_join(controller, primary_request(root, make_token(controller, cluster="gamma"), "gamma"))[0]
        == 200
    )
    code, answer = operator.call("POST", "/v1/members/gamma/promote")
    assert (code, "gamma" in answer["message"]) == (422, True)
    assert "no vote" in operator.ok("POST", "/v1/members/gamma/remove")["message"]
    assert standing(operator, "gamma") == "removed"
    members = operator.ok("GET", "/v1/doctor")["members"]
    assert [one["standing"] for one in members if one["id"] == "gamma"] == ["removed"]


def test_only_operators_change_members(controller: Controller) -> None:
    assert controller.installation.caller(None).call("POST", "/v1/members/alpha/remove")[0] == 401
