"""`isthmus explain` and `isthmus whatif` through the real API, and the page of the documentation about them."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from certs.runtime.authority import RootAuthority
from certs.runtime.identity import LeafIdentity
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from federation.agent.control import send
from federation.api.messages import AgentHeartbeat, Declare, EnrollReply
from tests.integration.api.joining import enroll, enrolled, make_token
from tests.integration.api.test_control import answers, channel_of, hello, is_global
from tests.integration.controller.installation import API_VERSION, BASE, ISTHMUS, Caller, Controller
from tests.support.wait import eventually_async

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "understand-a-service.md"
WAIT_S = 60.0
BEAT_S = 0.3
STOCK = f"{BASE}/namespaces/depot"
KEY = EndpointKey("depot", "stock", "alpha", "stock-1")


def policy(kind: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "stock", "namespace": "depot"}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


@asynccontextmanager
async def declared(controller: Controller, identity: LeafIdentity, row: Endpoint) -> AsyncIterator[Any]:
    """An agent that lives, and has declared one endpoint; it is withdrawn by the `Declare` that follows."""

    async def beat(call: Any) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await send(call, AgentHeartbeat())

    async with channel_of(controller, identity) as channel:
        call = await hello(channel)
        await send(call, Declare(number=1, put=(row,), complete=True))
        await answers(call, is_global(1))
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(beat(call))
            yield call
            beating.cancel()


def endpoint(controller: Controller, identity: str, agent: str, key: EndpointKey, port: int) -> Endpoint:
    return Endpoint(
        key=key,
        address=f"{controller.installation.host.rpartition('.')[0]}.9",
        ports=(EndpointPort(name="http", service_port=port, listen_port=port),),
        identity=identity,
        ready=True,
        agent=agent,
        incarnation=1000,
        sequence=1,
    )


def depot_agent(controller: Controller, folder: Path) -> LeafIdentity:
    workloads = {"namespace": "depot", "serviceAccount": "depot"}
    token = make_token(controller, cluster="alpha", purpose="agent", **workloads)
    leaf = LeafIdentity.load(folder)
    status, answer = enroll(controller, token, leaf.create_csr(), id="depot")
    assert status == 200, answer
    leaf.install(msgspec.convert(answer, EnrollReply, str_keys=True).chain)
    return leaf


async def test_an_endpoint_is_explained_from_its_registration_to_its_withdrawal(
    controller: Controller, operator: Caller, beta: RootAuthority, tmp_path: Path
) -> None:
    async def told(caller: str) -> dict[str, Any]:
        path = f"/v1/explain?name=stock.depot&from={caller}"
        return await asyncio.to_thread(operator.ok, "GET", path)

    async def becomes(caller: str, why: str) -> dict[str, Any]:
        async def so() -> dict[str, Any] | None:
            found = await told(caller)
            return found if found["owners"] and found["owners"][0]["why"].startswith(why) else None

        return await eventually_async(so, timeout_s=WAIT_S, message=f"seen from {caller}: {why}")

    workload = depot_agent(controller, tmp_path / "depot")
    edge = enrolled(controller, tmp_path / "edge", "edge", purpose="gateway")
    rows = (
        endpoint(controller, "spiffe://alpha.example/ns/depot/sa/depot", "depot", KEY, 8080),
        endpoint(
            controller,
            str(edge.spiffe_id),
            "gateway.edge",
            EndpointKey("isthmus-system", "eastwest", "alpha", "edge"),
            15443,
        ),
    )
    async with (
        declared(controller, workload, rows[0]) as agent,
        declared(controller, edge, rows[1]),
    ):
        here = await becomes("alpha", "own cluster")
        assert [one["called"] for one in here["owners"][0]["endpoints"]] == ["yes"]
        assert [one["type"] for one in here["dns"]] == ["A", "SRV", "SRV"]
        assert [one["name"] for one in here["envoy"][0]["members"]] == [
            "outbound|8080||stock.depot.svc.clusterset.local|alpha"
        ]
        there = await becomes("beta", "not exported: no ExportPolicy of alpha/depot shows stock to beta")
        assert (there["visible"], there["dns"], there["envoy"]) == (False, [], [])
        export = policy("ExportPolicy", services=["stock"], consumers=["beta"])
        await asyncio.to_thread(operator.ok, "PUT", f"{STOCK}/exportpolicies/stock", export)
        await becomes("beta", "not granted: no Grant of alpha/depot lets beta.example call stock")
        grant = policy("Grant", services=["*"], sources=[{"namespaces": ["shop"]}])
        await asyncio.to_thread(operator.ok, "PUT", f"{STOCK}/grants/stock", grant)
        seen = await becomes("beta/shop/web", "exported by ExportPolicy stock, granted by Grant stock")
        assert (seen["identity"], seen["owners"][0]["admitsCaller"]) == (
            "spiffe://beta.example/ns/shop/sa/web",
            True,
        )
        assert (await told("beta/bank/web"))["owners"][0]["admitsCaller"] is False
        (stock,) = seen["owners"][0]["endpoints"]
        assert stock["called"] == "yes"
        assert "behind gateway" in stock["why"]
        lost = await asyncio.to_thread(operator.ok, "GET", "/v1/whatif?lose=alpha")
        (loss,) = (one for one in lost["services"] if one["service"] == "depot/stock")
        assert (loss["caller"], loss["outcome"], loss["servedBy"]) == ("beta", "dies", "alpha")
        assert (loss["readyNow"], loss["readyThen"]) == (1, 0)
        assert (lost["quorum"]["lost"], lost["quorum"]["survives"]) == (["alpha"], False)
        traced = await asyncio.to_thread(operator.ok, "GET", "/v1/trace?write=stock.depot")
        (way,) = (one for one in traced["controllers"] if one["state"] != "silent")
        assert (way["controller"], way["state"], way["trace"]["changed"]) == (
            "alpha-c1",
            "applied",
            ["endpoint alpha/depot/stock/stock-1"],
        )
        assert way["trace"]["declaredMsBefore"] > 0
        assert [one["cluster"] for one in way["trace"]["local"]] == ["alpha"]
        await asyncio.to_thread(follow_page, controller)
        await send(agent, Declare(number=2, remove=((KEY, 1000, 2),)))

        async def gone() -> bool:
            found = await told("beta")
            return [(one["cluster"], one["name"]) for one in found["withdrawn"]] == [("alpha", "stock-1")]

        await eventually_async(gone, timeout_s=WAIT_S, message="the withdrawal is remembered")


def follow_page(controller: Controller) -> None:
    """Run every command of the page as it stands, with `stock.depot` for the reader's `orders.shop`."""
    wrapper = controller.installation.folder / "bin"
    wrapper.mkdir()
    words = " ".join(f"'{word}'" for word in ISTHMUS)
    (wrapper / "isthmus").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (wrapper / "isthmus").chmod(0o755)
    commands = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) == 6
    environment = {
        **os.environ,
        "ISTHMUS_CONTEXT": str(controller.installation.context),
        "PATH": f"{wrapper}:{os.environ['PATH']}",
    }
    for line in commands:
        done = subprocess.run(
            ["bash", "-c", line.replace("orders.shop", "stock.depot")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert "alpha" in done.stdout + done.stderr or "survives" in done.stdout, line
    shutil.rmtree(wrapper)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("explain?name=orders.shop&from=mars", 404, "Cluster/mars does not exist"),
        ("explain?name=orders.shop&from=alpha/shop", 400, "expected CLUSTER or CLUSTER/NAMESPACE/SERVICE-ACCOUNT"),
        ("explain?name=orders.shop", 400, "from: cluster: '' is not a name"),
        ("explain?name=orders&from=alpha", 400, "expected SERVICE.NAMESPACE"),
        ("explain?name=" + "x" * 4_000 + "&from=alpha", 400, "names no service"),
        ("whatif", 400, "names 0 clusters, expected 1 to 100"),
        ("trace", 400, "names no service"),
        ("trace?write=999999999", 400, "the newest revision of this controller is"),
        ("trace?write=" + "9" * 40, 400, "the newest revision of this controller is"),
        ("trace?write=nothing.depot", 404, "no remembered write changed an endpoint"),
        ("whatif?lose=" + ",".join(["a"] * 101), 400, "names 101 clusters"),
        ("whatif?lose=alpha,mars", 404, "Cluster/mars does not exist"),
    ],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused_in_words(
    operator: Caller, path: str, status: int, message: str
) -> None:
    found, body = operator.call("GET", f"/v1/{path}")
    assert (found, message in body["message"]) == (status, True), body
