"""Agents and gateways with real Envoys, against controllers in this process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.lab.tools import REPOSITORY
from discovery.core.model import EndpointKey
from federation.api.messages import WatchDrains, WatchedDrain
from gateways.runtime.relay_cache import read_cache
from tests.integration.agent.fake_api import FakeApi
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.integration.agent.fake_mesh import application, call, serve_xds
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually_async

WAIT_S = 60.0  # An Envoy on a busy machine takes its time; every wait ends as soon as it can.
ORDERS = EndpointKey("shop", "orders", "alpha", "orders-a1")

Loopback = Callable[[], LoopbackBlock]


class Site:
    """A cluster `alpha` with one controller and its API, and the means to run processes in it."""

    def __init__(
        self, domain: TestDomain, block: LoopbackBlock, tmp_path: Path, processes: ProcessSet
    ) -> None:
        self.block = block
        self.folder = tmp_path
        self._processes = processes
        self.domain = domain
        self.controller = FakeController(domain, "alpha", block.host(1))
        serve_xds(self.controller)
        self.api = FakeApi(domain, "alpha", block.host(1), directory_of(self.controller))
        self.outbound = f"{block.host(10)}:15001"
        self.metrics = f"{block.host(10)}:7446"

    def agent_config(self, *, outbound: str = "", app: str = "", interval: str = "200ms") -> str:
        return f"""
            id = "a1"
            data_dir = "{self.folder / "a1"}"
            address = "{self.block.host(10)}"
            outbound = "{outbound or self.outbound}"
            metrics = "{self.metrics}"
            drain = "1s"
            [[workload]]
            service = "orders"
            port = 8080
            app = "{app or self.block.host(11) + ":9000"}"
            [workload.probe]
            interval = "{interval}"
        """

    def gateway_config(self) -> str:
        return f"""
            id = "gw1"
            data_dir = "{self.folder / "gw1"}"
            listen = "{self.block.host(12)}:15443"
            metrics = "{self.block.host(12)}:7446"
            drain = "1s"
        """

    def start(self, kind: str, config: str, token: str = "", *, name: str = "") -> Process:
        path = self.folder / f"{name or kind}.toml"
        path.write_text(config)
        command = [sys.executable, "-m", "tests.integration.agent.run_process", kind, str(path)]
        if token:
            command.append(token)
        return self._processes.start(name or kind, command, cwd=REPOSITORY)

    async def status(self, address: str = "") -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address or self.metrics}/status") as answer,
        ):
            return json.loads(await answer.text())

    async def ready_status(self) -> dict[str, Any]:
        """The status once nothing is missing: Envoy may serve a moment before the agent knows."""

        async def complete() -> dict[str, Any] | None:
            shown = await self.status()
            return None if shown["missing"] else shown

        shown = await eventually_async(complete, timeout_s=WAIT_S, message="nothing is missing")
        assert shown is not None
        return shown

    async def metric(self, name: str) -> float:
        """One line of the metrics port."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.metrics}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    async def serving(self, process: Process) -> None:
        """Wait until a call through the sidecar reaches the application behind it."""

        async def answered() -> bool:
            process.check_running()
            status, text = await call(self.outbound, "orders.shop:8080")
            return status == 200 and "URI=spiffe://alpha.example/ns/shop/sa/orders" in text

        await eventually_async(answered, timeout_s=WAIT_S, interval_s=0.1, message=process.log)

    async def cached(self) -> None:
        """Wait until the disk copy holds the endpoint: it follows a change after a moment."""
        cache, address = self.folder / "a1" / "xds.cache", self.block.host(10).encode()

        def holds_endpoint() -> bool:
            return cache.exists() and any(
                resource.type_url.endswith("ClusterLoadAssignment") and address in resource.wire
                for resource in read_cache(cache, "a1.alpha").resources
            )

        await eventually_async(holds_endpoint, timeout_s=WAIT_S, message="the endpoint is on disk")


@pytest.fixture
def site(domain: TestDomain, loopback: Loopback, tmp_path: Path, processes: ProcessSet) -> Site:
    return Site(domain, loopback(), tmp_path, processes)


@asynccontextmanager
async def open_site(site: Site) -> AsyncIterator[Site]:
    async with site.controller, site.api:
        yield site


async def test_an_agent_enrolls_registers_and_serves_and_leaves_in_order(site: Site) -> None:
    async with open_site(site), application(site.block.host(11)) as app:
        agent = site.start("agent", site.agent_config(), site.api.token())
        await site.serving(agent)
        # The row was ready from its first declaration on: nobody is ever sent to a proxy that is not there.
        assert site.controller.history == [(ORDERS, True)]
        assert set(site.controller.signed) == {"spiffe://alpha.example/ns/shop/sa/orders"}
        shown = await site.ready_status()
        assert await site.metric("isthmus_agent_ready") == 1
        assert await site.metric("isthmus_agent_controllers_connected") == 1
        assert await site.metric('isthmus_agent_endpoints{level="global",ready="true"}') == 1
        assert [one["connected"] for one in shown["controllers"]] == [True]
        assert [(one["endpoint"], one["ready"], one["level"]) for one in shown["endpoints"]] == [
            ("shop/orders/orders-a1", True, "global")
        ]
        assert shown["proxy"]["controller"] == "alpha-c1"

        await app.stop()  # The application dies: its endpoint stays, not ready.
        await eventually_async(
            lambda: not site.controller.rows[ORDERS].ready, timeout_s=WAIT_S, message=agent.log
        )
        await app.start()
        await eventually_async(
            lambda: site.controller.rows[ORDERS].ready, timeout_s=WAIT_S, message=agent.log
        )

        terminated = asyncio.to_thread(agent.terminate, timeout_s=WAIT_S)
        assert await terminated == 0, agent.log()
        assert site.controller.rows == {}
        assert [ready for _, ready in site.controller.history] == [True, False, True, False]


async def test_an_agent_tells_what_fails_beside_it_while_a_cluster_is_drained(site: Site) -> None:
    async with open_site(site), application(site.block.host(11)) as app:
        agent = site.start("agent", site.agent_config(), site.api.token())
        await site.serving(agent)
        reports = site.controller.reports
        assert reports == []
        drains = tuple(WatchedDrain(cluster=cluster, started_ms=7) for cluster in ("alpha", "beta"))
        site.controller.say(WatchDrains(drains=drains))

        async def told(failing: bool) -> bool:
            await call(site.outbound, "orders.shop:8080")
            return any((report.services[0].errors > 0) is failing for report in reports)

        await eventually_async(lambda: told(False), timeout_s=WAIT_S, message=agent.log)
        app.status = 500
        await eventually_async(lambda: told(True), timeout_s=WAIT_S, message=agent.log)
        # Nobody here is served by beta.
        assert {(report.drained, report.started_ms) for report in reports} == {("alpha", 7)}
        assert {one.service for report in reports for one in report.services} == {"", "shop/orders:8080"}


async def test_an_agent_without_controllers_serves_from_disk_and_says_how_old_it_is(site: Site) -> None:
    async with application(site.block.host(11)):
        async with open_site(site):
            agent = site.start("agent", site.agent_config(), site.api.token())
            await site.serving(agent)
            await site.cached()
        # The whole host dies, agent and Envoy, and no controller lives when it comes back.
        agent.kill()  # The whole process group, so its Envoy as well.
        again = site.start("agent", site.agent_config())
        await site.serving(again)
        shown = await site.ready_status()
        assert shown["proxy"]["controller"] == ""
        assert shown["proxy"]["ageS"] > 0
        assert [one["connected"] for one in shown["controllers"]] == [False]
        await asyncio.to_thread(again.terminate, timeout_s=WAIT_S)


async def test_an_envoy_outlives_a_killed_agent_and_the_next_one_takes_it_over(site: Site) -> None:
    async with application(site.block.host(11)):
        async with open_site(site):
            agent = site.start("agent", site.agent_config(), site.api.token())
            await site.serving(agent)
            await site.cached()
        pid_file = site.folder / "a1" / "envoy.pid"
        pid = json.loads(pid_file.read_text())["pid"]
        agent.kill_alone()
        assert (await call(site.outbound, "orders.shop:8080"))[0] == 200
        again = site.start("agent", site.agent_config(), name="agent-again")
        await eventually_async(lambda: "taken over" in again.log(), timeout_s=WAIT_S, message=again.log)
        await site.serving(again)
        assert json.loads(pid_file.read_text())["pid"] == pid
        assert await asyncio.to_thread(again.terminate, timeout_s=WAIT_S) == 0
        assert not Path(f"/proc/{pid}/exe").exists()


async def test_a_port_that_is_taken_ends_the_agent_with_envoys_words(site: Site) -> None:
    async with open_site(site), application(site.block.host(10), 15001):
        agent = site.start("agent", site.agent_config(), site.api.token())
        code = await asyncio.to_thread(agent.wait, timeout_s=WAIT_S)
        assert code == 1
        assert "cannot bind" in agent.log()
        assert f"{site.block.host(10)}:15001" in agent.log()
        assert not (site.folder / "a1" / "envoy.pid").exists()


async def test_a_taken_metrics_port_ends_the_agent(site: Site) -> None:
    async with open_site(site), application(site.block.host(10), 7446):
        agent = site.start("agent", site.agent_config(), site.api.token())
        assert await asyncio.to_thread(agent.wait, timeout_s=WAIT_S) == 1
        assert f"error: metrics: {site.metrics} cannot be listened on" in agent.log()


async def test_a_second_agent_on_the_same_data_is_refused(site: Site) -> None:
    async with open_site(site):
        agent = site.start("agent", site.agent_config(), site.api.token())
        await eventually_async(lambda: site.controller.hellos, timeout_s=WAIT_S, message=agent.log)
        second = site.start("agent", site.agent_config(), name="second")
        assert await asyncio.to_thread(second.wait, timeout_s=WAIT_S) == 1
        assert f"is in use by process {agent.pid}" in second.log()
        await asyncio.to_thread(agent.terminate, timeout_s=WAIT_S)


async def test_a_damaged_cache_is_moved_aside_and_the_controller_asked_again(site: Site) -> None:
    async with application(site.block.host(11)), open_site(site):
        agent = site.start("agent", site.agent_config(), site.api.token())
        await site.serving(agent)
        await asyncio.to_thread(agent.terminate, timeout_s=WAIT_S)
        cache = site.folder / "a1" / "xds.cache"
        cache.write_bytes(cache.read_bytes()[:-1] + b"!")
        again = site.start("agent", site.agent_config(), name="again")
        await site.serving(again)
        assert "fails its checksum" in again.log()
        await asyncio.to_thread(again.terminate, timeout_s=WAIT_S)


async def test_a_gateway_registers_itself_once_its_envoy_serves_and_drains(site: Site) -> None:
    key = EndpointKey("isthmus-system", "eastwest", "alpha", "gw1")
    async with open_site(site):
        gateway = site.start("gateway", site.gateway_config(), site.api.token("gateway"))
        await eventually_async(lambda: key in site.controller.rows, timeout_s=WAIT_S, message=gateway.log)
        assert site.controller.history == [(key, True)]
        row = site.controller.rows[key]
        assert row.identity == "spiffe://alpha.example/isthmus/alpha/gateway/gw1"
        _, writer = await asyncio.open_connection(site.block.host(12), 15443)
        writer.close()
        assert await asyncio.to_thread(gateway.terminate, timeout_s=WAIT_S) == 0, gateway.log()
    assert site.controller.rows == {}
    assert site.controller.history == [(key, True), (key, False)]
    assert site.controller.signed == []  # It shows its system identity, and needs no other.
