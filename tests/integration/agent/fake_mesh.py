"""A controller's xDS part over the rows that agents declared to it, and an application to call.

The compiler and the service are the real ones; only the view is made here, of one cluster.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from certs.runtime.grpc_security import peer_identity
from discovery.core.model import SYSTEM_NAMESPACE, Endpoint, ServiceKey
from discovery.core.view import TrustDomainRoots
from gateways.core.compile import ViewCompiler
from gateways.runtime.compiled import CompiledSource
from gateways.runtime.xds_service import XdsService
from tests.integration.agent.fake_controller import FakeController
from tests.unit.gateways.builders import DictView, owner, service


def serve_xds(controller: FakeController) -> XdsService:
    """Add an xDS service that shows every declared service of the controller's cluster to its proxies."""
    view = DictView(controller.cluster)
    domain = controller.domain
    view.trust(
        TrustDomainRoots(
            trust_domain=domain.trust_domain, roots_pem=(domain.bundle.pem().decode(),), sequence=1
        )
    )
    compiler = ViewCompiler(controller.cluster, view)
    source = CompiledSource()
    compiler.update(view.services())
    source.add(compiler)

    def republish() -> None:
        changed = set(view.known)
        view.known.clear()
        for key, rows in _by_service(controller).items():
            ports = [(port.service_port, port.protocol) for port in rows[0].ports]
            view.put(service(owner(controller.cluster, rows, local=True), key=key, ports=ports))
        source.update(controller.cluster, changed | set(view.known))

    controller.on_rows = republish
    xds = XdsService(source, peer_of=lambda _context: str(peer_identity()))
    controller.handlers.append(xds.handler())
    return xds


def _by_service(controller: FakeController) -> dict[ServiceKey, list[Endpoint]]:
    found: dict[ServiceKey, list[Endpoint]] = {}
    for key, row in sorted(controller.rows.items()):
        if key.namespace != SYSTEM_NAMESPACE:
            found.setdefault(key.service_key, []).append(row)
    return found


class Application:
    """An HTTP server that tells who called it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.address = f"{host}:{port}"
        self.status = 200  # Of its answers.
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        text = f"{self.address} {request.headers.get('x-forwarded-client-cert', '')}"
        return web.Response(status=self.status, text=text)


@asynccontextmanager
async def application(host: str, port: int = 9000) -> AsyncIterator[Application]:
    app = Application(host, port)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def call(outbound: str, host: str) -> tuple[int, str]:
    """GET through a sidecar's outbound listener; status 0 when there was no connection."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(f"http://{outbound}/", headers={"Host": host}) as answer,
        ):
            return answer.status, await answer.text()
    except aiohttp.ClientConnectionError as error:
        return 0, str(error)
