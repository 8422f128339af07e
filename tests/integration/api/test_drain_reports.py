"""A drain that makes callers fail, through the real log: an agent is asked, counts, and the whole share comes back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from discovery.core.specs import ClusterSpec, ServiceTraffic
from federation.agent.control import send
from federation.api.messages import JoinRequest, TrafficReport, WatchDrains
from tests.integration.api.joining import enrolled, make_token, post_join
from tests.integration.api.test_audit import find
from tests.integration.api.test_control import answers, channel_of, hello
from tests.integration.controller.installation import WAIT_S, Caller, Controller
from tests.support.wait import eventually_async


@pytest.mark.parametrize(
    ("cluster", "drain", "share"),
    [
        pytest.param("psi", {"stepPercent": 1}, 99, id="step-by-step"),
        pytest.param("chi", {"stepPercent": 100, "everyMs": 0}, 0, id="at-once"),
    ],
)
async def test_a_drain_under_which_callers_fail_is_rolled_back_by_what_their_agent_counted(
    controller: Controller, operator: Caller, tmp_path: Path, cluster: str, drain: dict[str, int], share: int
) -> None:
    spec = ClusterSpec(role="remote", trust_domain="alpha.example", home="alpha")
    token = make_token(controller, cluster=cluster)
    assert post_join(controller, JoinRequest(secret=token.secret, cluster=cluster, spec=spec))[0] == 200

    async def state() -> dict[str, Any]:
        return await asyncio.to_thread(operator.ok, "GET", f"/v1/clusters/{cluster}/drain")

    async def stepped() -> bool:
        return bool((await state())["sharePercent"] <= share)

    async with channel_of(controller, enrolled(controller, tmp_path / "a", f"counter-{cluster}")) as channel:
        call = await hello(channel)
        wanted = {"maxErrorRate": 5.0, **drain}
        begun = await asyncio.to_thread(operator.ok, "POST", f"/v1/clusters/{cluster}/drain", wanted)
        assert begun["watchedLeftMs"] == 10_000
        (*_, asked) = await answers(call, lambda one: isinstance(one, WatchDrains))
        (watched,) = asked.drains
        await eventually_async(stepped, timeout_s=WAIT_S, message="a step is taken")
        report = TrafficReport(
            drained=cluster,
            started_ms=watched.started_ms,
            services=(
                ServiceTraffic(
                    service="shop/orders:80", requests=200, errors=30, requests_before=900, errors_before=9
                ),
            ),
        )
        absurd = replace(report, services=(ServiceTraffic(service="", requests=1, errors=2),))
        await send(call, absurd)  # It costs its sender a line in the audit trail, not its stream.
        await send(call, report)
        (*_, over) = await answers(call, lambda one: isinstance(one, WatchDrains))
    assert over.drains == ()
    found = await state()
    assert (found["state"], found["sharePercent"]) == ("rolled back", 100)
    assert found["watchedLeftMs"] == 0
    assert found["reason"] == (
        "for callers in cluster alpha too many requests fail: shop/orders:80 15.00% of 200 (before: 1.00%)"
    )
    refused = await asyncio.to_thread(find, controller, "refused", cluster)
    assert (refused["layer"], refused["action"]) == ("agent", "report")
    assert refused["actor"] == f"alpha/counter-{cluster}"
    await asyncio.to_thread(operator.ok, "POST", f"/v1/clusters/{cluster}/remove", {"force": True})
