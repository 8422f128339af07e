"""Applications outside of the mesh, checked by two clusters over real sockets: killed, found unhealthy, back, found well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from discovery.core.commands import Delete, Write
from discovery.core.external import observation_key, read_status
from discovery.core.model import Change
from federation.app.external_checker import ExternalChecker
from federation.kernel.errors import error_class
from tests.support.loopback import claim_block
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import Log, key, put_cluster, put_export, put_external, put_grant
from tests.unit.discovery.test_verdicts import three

WAIT_S = 60.0
PORT = 9_080
SERVICE = key("ExternalService", "orders", scope="beta", namespace="shop")


class Application:
    """What answers at one address, well or not."""

    def __init__(self, host: str) -> None:
        self.status = 200
        self._host = host
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, PORT, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.status)


class World:
    """A catalog that applies at once what the checkers of alpha and beta propose."""

    def __init__(self) -> None:
        self.log: Log = three()
        self.checkers = {name: self._checker(name) for name in ("alpha", "beta")}
        self.log.catalog.on_change(self._changed)

    def states(self) -> list[str]:
        row = self.log.catalog.tables.resource(SERVICE)
        return [] if row is None else [one.state for one in read_status(row).addresses]

    async def until(self, *states: str) -> None:
        await eventually_async(
            lambda: self.states() == list(states),
            timeout_s=WAIT_S,
            message=lambda: f"{states}, found {self.states()}",
        )

    def said(self, checker: str) -> bool:
        return self.log.catalog.tables.resource(observation_key(checker, SERVICE)) is not None

    def _changed(self, _revision: int, changes: tuple[Change, ...]) -> None:
        for checker in self.checkers.values():
            checker.changed(changes)

    def _checker(self, cluster: str) -> ExternalChecker:
        async def propose(body: Write, *, timeout_ms: int) -> None:
            assert timeout_ms > 0
            outcome = self.log.write(cluster, *body.operations)
            if outcome.code:  # As of a service that was deleted a moment ago.
                raise error_class(outcome.code)(outcome.message)

        status = SimpleNamespace(leader="alpha")
        absent: Any = SimpleNamespace(status=lambda: status, propose=propose)
        return ExternalChecker(
            cluster,
            catalog=self.log.catalog,
            engine=absent,
            proposer=absent,
            is_cut_off=lambda: False,
            clock=asyncio.get_running_loop().time,
        )


@asynccontextmanager
async def checked(world: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.run()) for one in world.checkers.values()]
        try:
            yield
        finally:
            for one in running:
                one.cancel()


async def test_an_application_that_dies_is_found_by_two_clusters_and_again_when_it_is_back() -> None:
    with claim_block() as block:
        one, two = Application(block.host(1)), Application(block.host(2))
        world = World()
        check = {"kind": "http", "path": "/healthz", "interval": "1s", "failures": 2, "successes": 1}
        ports = [{"name": "http", "port": 80, "targetPort": PORT}]
        hosts = [block.host(1), block.host(2)]
        spec = {"ports": ports, "check": check, "checkedFrom": ["alpha", "beta"]}
        world.log.accept("beta", put_cluster("beta", ranges=[f"{block.prefix}.0/24"]))
        world.log.accept("beta", put_export("beta", "shop", "*"), put_grant("beta", "shop", "*"))
        world.log.accept("beta", put_external("beta", "shop", "orders", *hosts, **spec))
        await one.start()
        await two.start()
        async with checked(world):
            await eventually_async(
                lambda: all(SERVICE in checker.opinions for checker in world.checkers.values()),
                timeout_s=WAIT_S,
                message="both look",
            )
            await world.until("ok", "ok")
            await one.stop()
            await world.until("unhealthy", "ok")
            two.status = 500
            await world.until("unhealthy", "unhealthy")
            await one.start()
            two.status = 204
            await world.until("ok", "ok")
            await eventually_async(
                lambda: not world.said("alpha") and not world.said("beta"),
                timeout_s=WAIT_S,
                message="nobody says anything of what is well",
            )
            # Nobody asks any more, and what was said goes.
            await one.stop()
            await eventually_async(lambda: world.said("alpha"), timeout_s=WAIT_S, message="alpha misses one")
            world.log.accept("beta", Delete(key=SERVICE))
            await eventually_async(
                lambda: not world.said("alpha") and not world.said("beta"),
                timeout_s=WAIT_S,
                message="rows about nothing are deleted",
            )
        await two.stop()
