"""`isthmus doctor` and the members in `isthmus status`, on a controller that runs."""

from pathlib import Path

from tests.integration.api.joining import enrolled
from tests.integration.controller.installation import Caller, Controller
from tests.support.wait import eventually


def test_a_single_member_is_well_and_told_that_it_is_alone(operator: Caller) -> None:
    answer = operator.ok("GET", "/v1/doctor")
    (me,) = [one for one in answer["members"] if one["id"] == "alpha"]
    assert (me["leader"], me["votes"], me["answers"], me["lagEntries"], me["incarnation"]) == (
        True,
        True,
        True,
        0,
        1,
    )
    (quorum,) = [one for one in answer["findings"] if one["check"] == "quorum"]
    assert (quorum["level"], quorum["subject"]) == ("warning", "alpha")
    assert "isthmus backup create" in quorum["next"]


def test_an_agent_that_enrolled_and_never_came_is_a_problem_with_its_name(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    enrolled(controller, tmp_path / "leaf", "quiet")

    def found() -> bool:
        answer = operator.ok("GET", "/v1/doctor")
        messages = [one["message"] for one in answer["findings"] if one["level"] == "problem"]
        return not answer["healthy"] and any("agent.quiet" in message for message in messages)

    eventually(found, timeout_s=60, message="the doctor names agent.quiet")
    path = "/clusters/alpha/apis/federation.isthmus.dev/v1alpha1/agents/agent.quiet"
    operator.ok("DELETE", path)
    findings = operator.ok("GET", "/v1/doctor")["findings"]
    assert not [one for one in findings if "agent.quiet" in one["message"]]


def test_only_operators_ask_the_doctor(controller: Controller) -> None:
    status, _ = controller.installation.caller(None).call("GET", "/v1/doctor")
    assert status == 401
