"""The metrics port of an agent or gateway: plain HTTP for Prometheus, health checks and people."""

from collections.abc import Callable

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from federation.agent.status import AgentStatus, StatusCollector
from federation.api.accepting import METRICS_CONNECTIONS_MAX, listen_on, serve_http
from federation.kernel.configfile import host_port
from federation.kernel.errors import PreconditionError


class StatusEndpoint:
    """Serves /livez, /readyz, /metrics and /status (JSON) on one address."""

    def __init__(self, address: str, status: Callable[[], AgentStatus]) -> None:
        self._address = address
        self._status = status
        self._registry = CollectorRegistry()
        self._registry.register(StatusCollector(status))

    async def run(self) -> None:
        """Serve until cancelled; raises `PreconditionError` when the address is taken."""
        host, port = host_port(self._address, "metrics")
        application = web.Application()
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/status", self._show)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            try:
                listener = listen_on(host, port)
            except OSError as error:
                raise PreconditionError(
                    f"metrics: {self._address} cannot be listened on: {error.strerror}"
                ) from error
            assert runner.server is not None, "it is set up"
            await serve_http(listener, runner.server, connections_max=METRICS_CONNECTIONS_MAX)
        finally:
            await runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        status = self._status()
        body = {"ready": status.ready, "missing": status.missing}
        return _json(body, status=200 if status.ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _show(self, _request: web.Request) -> web.Response:
        return _json(self._status(), status=200)


def _json(value: object, *, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", charset="utf-8"
    )
