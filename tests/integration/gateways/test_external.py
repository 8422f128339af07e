"""Applications outside of the mesh, called by name through a real sidecar while clusters check them."""

import asyncio
import socket
from collections.abc import Sequence

from discovery.core.commands import Delete
from discovery.core.external import observation_key
from discovery.core.model import Change
from discovery.core.views import ViewIndex
from gateways.core.names import owner_cluster
from tests.integration.gateways.federation import HOST, Federation
from tests.integration.gateways.mesh import Application, Caller, Controller, Member, Mesh, caller
from tests.integration.liveness.test_external_checker import SERVICE, World, checked
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import put_cluster, put_export, put_external, put_grant
from tests.unit.discovery.test_external import miss
from tests.unit.gateways.builders import ORDERS

CALLS = 20


class AlphasView(ViewIndex):
    """What alpha sees of a catalog, where other tests here have a dictionary."""

    cluster = "alpha"


class Outside:
    """Two applications that beta declared; alpha, beta and gamma check them, gamma by the test's own hand."""

    def __init__(self, federation: Federation) -> None:
        block = federation.block
        self.port = block.port(block.host(40))
        self.hosts = (block.host(40), block.host(41))
        self.applications = [Application(name) for name in ("one", "two")]
        self.world = World()
        check = {"kind": "http", "path": "/healthz", "interval": "1s", "failures": 2, "successes": 1}
        self.world.log.accept("beta", put_cluster("beta", ranges=[f"{block.prefix}.0/24"]))
        self.world.log.accept("beta", put_export("beta", "shop", "*"), put_grant("beta", "shop", "*"))
        declared = put_external(
            "beta",
            "shop",
            "orders",
            *self.hosts,
            ports=[{"name": "http", "port": 8080, "targetPort": self.port}],
            checkedFrom=["alpha", "beta", "gamma"],
            check=check,
        )
        self.world.log.accept("beta", declared)
        self.view = AlphasView("alpha")
        self.view.reset(self.world.log.catalog.tables)

    async def start(self, number: int) -> None:
        listener = socket.create_server((self.hosts[number], self.port))
        await self.applications[number].start(listener)

    def follow(self, controller: Controller) -> None:
        """Let alpha's controller send what the catalog changes."""

        def changed(_revision: int, changes: tuple[Change, ...]) -> None:
            controller.source.update("alpha", self.view.update(self.world.log.catalog.tables, changes))

        self.world.log.catalog.on_change(changed)


async def addresses(member: Member) -> set[str]:
    """Those that Envoy has behind the external part, each with its health."""
    part = owner_cluster(ORDERS, 8080, "beta.external")
    found = (await member.envoy.admin.get("/clusters")).body.splitlines()
    return {
        line.removeprefix(f"{part}::") for line in found if line.startswith(part) and "health_flags" in line
    }


async def answers_of(web: Caller, names: Sequence[str]) -> None:
    """Wait until Envoy has taken the change, then insist: these answer, all calls, and nobody else."""

    async def only_they() -> bool:
        found = [await web.call(HOST) for _ in range(CALLS)]
        return {status for status, _ in found} == {200} and {body["from"] for _, body in found} == set(names)

    await eventually_async(only_they, timeout_s=90, interval_s=0.1, message=f"{names} answer")


def test_an_application_outside_is_called_by_name_and_left_out_while_two_clusters_miss_it(federation):
    async def scenario() -> None:
        outside = Outside(federation)
        log = outside.world.log
        async with Mesh(federation.folder) as mesh:
            host = federation.block.host(10)
            controller = await mesh.controller(outside.view, host, federation.block.port(host))  # type: ignore[arg-type]  # a real view
            outside.follow(controller)
            for number in (0, 1):
                await outside.start(number)
            member = federation.caller(1, [controller])
            mesh.start(member)
            await mesh.ready(member)
            async with caller(member.proxy) as web, checked(outside.world):
                await answers_of(web, ("one", "two"))
                # One checker's word: it goes behind, and is still there.
                log.accept("gamma", miss("gamma", outside.hosts[0], service=SERVICE))
                await answers_of(web, ("two",))
                assert len(await addresses(member)) == 2
                log.accept("gamma", Delete(key=observation_key("gamma", SERVICE)))
                await answers_of(web, ("one", "two"))
                # It dies, and two checkers find out by themselves.
                await outside.applications[0].stop()
                await outside.world.until("unhealthy", "ok")
                await answers_of(web, ("two",))
                assert len(await addresses(member)) == 1
                await outside.start(0)
                await outside.world.until("ok", "ok")
                await answers_of(web, ("one", "two"))
        for application in outside.applications:
            await application.stop()

    asyncio.run(scenario())
