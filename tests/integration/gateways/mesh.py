"""Real Envoys with their agents' and controllers' xDS, in one event loop: the parts of gateways/, wired.

A `Controller` compiles one cluster's view and serves it over TCP; a `Member` is one Envoy with what its
agent would run: relay store, xDS client, xDS service on a Unix socket, supervisor. An `Application` is the
workload behind a sidecar. The peer's identity, which certificates prove in the product, is call metadata here.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from aiohttp import web

from certs.runtime.identity import IdentityPem
from gateways.core.compile import ViewCompiler
from gateways.core.proxy import Proxy
from gateways.core.trust import own_certificate_secret
from gateways.runtime.bootstrap import EnvoySettings
from gateways.runtime.compiled import CompiledSource
from gateways.runtime.envoy import EnvoySupervisor
from gateways.runtime.relay_cache import RelayCache
from gateways.runtime.relay_store import RelayStore
from gateways.runtime.xds_client import CHANNEL_OPTIONS, XdsClient
from gateways.runtime.xds_service import SERVER_OPTIONS, XdsService
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import DictView

READY_TIMEOUT_S = 40.0
REQUEST_TIMEOUT_S = 10.0


class Controller:
    """The xDS part of a controller, for one cluster's view."""

    def __init__(self, view: DictView, address: str, port: int) -> None:
        self.view = view
        self.target = f"{address}:{port}"
        self.source = CompiledSource()
        self.compiler = ViewCompiler(view.cluster, view)
        self.service = XdsService(self.source, peer_of=_claimed_peer)
        self._server: grpc.aio.Server | None = None

    def publish(self) -> None:
        """Compile the whole view again."""
        if self.compiler.cluster in self.source._compilers:
            self.source.update(self.compiler.cluster, self.view.services())
        else:
            self.compiler.update(self.view.services())
            self.source.add(self.compiler)

    async def start(self) -> None:
        self.publish()
        assert self._server is None
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *SERVER_OPTIONS])
        self._server.add_generic_rpc_handlers((self.service.handler(),))
        assert self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)


def _claimed_peer(context: Any) -> str:
    return dict(context.invocation_metadata())["peer"]


class _PeerInterceptor(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, peer: str) -> None:
        self._peer = peer

    async def intercept_stream_stream(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        metadata = grpc.aio.Metadata(("peer", self._peer))
        return await continuation(details._replace(metadata=metadata), requests)


class Member:
    """One Envoy and its agent's part."""

    def __init__(
        self,
        proxy: Proxy,
        trust_domain: str,
        folder: Path,
        controllers: list[Controller],
        *,
        binary: Path | None = None,
    ) -> None:
        role = "gateway" if proxy.kind == "gateway" else "agent"
        self.proxy = proxy
        self.peer = f"spiffe://{trust_domain}/isthmus/{proxy.cluster}/{role}/{proxy.agent}"
        self.folder = folder
        self.store = RelayStore(proxy.id)
        self.cache = RelayCache(self.store, folder / "xds.cache")
        self.client = XdsClient(proxy, self.store, next_channel=self._next_channel)
        self.service = XdsService(self.store, peer_of=lambda _context: "")
        self.envoy = EnvoySupervisor(
            EnvoySettings(
                proxy=proxy,
                folder=folder / "envoy",
                xds_socket=folder / "xds.sock",
                drain_s=2,
                binary=binary,
            )
        )
        self.controllers = controllers
        self._attempts = 0

    def set_certificate(self, pem: IdentityPem) -> None:
        self.store.set_local(own_certificate_secret(chain_pem=pem.chain.decode(), key_pem=pem.key.decode()))

    async def _next_channel(self) -> grpc.aio.Channel:
        controller = self.controllers[self._attempts % len(self.controllers)]
        self._attempts += 1
        return grpc.aio.insecure_channel(
            controller.target, options=CHANNEL_OPTIONS, interceptors=[_PeerInterceptor(self.peer)]
        )

    async def run(self, *, load_cache: bool = False) -> None:
        """What an agent does for one proxy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if load_cache:
            assert self.cache.load()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self.service.handler(),))
        server.add_insecure_port(f"unix:{self.folder}/xds.sock")
        await server.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.client.run())
                tasks.create_task(self.cache.run())
                await self.store.ready.wait()
                tasks.create_task(self.envoy.run())
        finally:
            await server.stop(0)

    async def counter(self, name: str) -> int:
        """A counter of the Envoy, by its whole name."""
        found = await self.envoy.admin.counters(name)
        return sum(found.values())

    def kill(self) -> None:
        """Kill the Envoy as `kill -9` does; its supervisor starts another."""
        pid = self.envoy.status.pid
        assert pid is not None
        os.kill(pid, 9)


class Mesh:
    """Everything that one test started; leaving the context stops it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = AsyncExitStack()
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for member in list(self._tasks):
                await self.stop(member)
            await self._stack.aclose()
        finally:
            await self._group.__aexit__(kind, error, trace)

    async def controller(self, view: DictView, address: str, port: int) -> Controller:
        controller = Controller(view, address, port)
        await controller.start()
        self._stack.push_async_callback(controller.stop)
        return controller

    def start(self, member: Member, *, load_cache: bool = False) -> None:
        self._tasks[member] = self._group.create_task(member.run(load_cache=load_cache))

    async def stop(self, member: Member) -> None:
        task = self._tasks.pop(member)
        task.cancel()
        await asyncio.wait({task})  # What went wrong in it is for the group to raise.

    async def ready(self, *members: Member) -> None:
        for member in members:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await member.envoy.ready.wait()

    async def application(self, name: str, address: str, port: int) -> "Application":
        return await self.application_on(name, socket.create_server((address, port)))

    async def application_on(self, name: str, listener: socket.socket) -> "Application":
        """The same on a socket that listens, perhaps in another network namespace."""
        application = Application(name)
        await application.start(listener)
        self._stack.push_async_callback(application.stop)
        return application

    async def byte_application(self, name: str, listener: socket.socket) -> "ByteApplication":
        application = ByteApplication(name)
        await application.start(listener)
        self._stack.push_async_callback(application.stop)
        return application


class Application:
    """An HTTP workload that answers what it was asked, as JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self._runner: web.AppRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        status = int(request.query.get("status", "200"))
        delay_s = float(request.query.get("delay", "0"))
        if delay_s:
            await asyncio.sleep(delay_s)  # How slow an application is, is what the caller asked for.
        return web.json_response(
            {"from": self.name, "headers": {k.lower(): v for k, v in request.headers.items()}}, status=status
        )


class ByteApplication:
    """A TCP workload that speaks first: its name, a line; then it sends back what it gets."""

    def __init__(self, name: str) -> None:
        self._banner = f"{name}\n".encode()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._banner)
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Caller:
    """An application that calls others through its sidecar."""

    def __init__(self, proxy: Proxy, session: aiohttp.ClientSession) -> None:
        assert proxy.outbound is not None
        self._base = f"http://{proxy.outbound[0]}:{proxy.outbound[1]}"
        self._session = session

    async def call(self, host: str, path: str = "/", method: str = "GET") -> tuple[int, Any]:
        """Return the status and the JSON, or the text, of the answer; status 0 when there was none."""
        try:
            async with self._session.request(
                method,
                self._base + path,
                headers={"Host": host},
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            ) as response:
                is_json = response.content_type == "application/json"
                return response.status, await (response.json() if is_json else response.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, repr(error)

    async def until(self, host: str, accept: Callable[[int, Any], bool], path: str = "/") -> tuple[int, Any]:
        """Call until the answer is accepted."""
        last: list[tuple[int, Any]] = []

        async def accepted() -> bool:
            last.append(await self.call(host, path))
            return accept(*last[-1])

        await eventually_async(
            accepted,
            timeout_s=READY_TIMEOUT_S,
            interval_s=0.1,
            message=lambda: f"{host}: last answer {last[-1:]}",
        )
        return last[-1]


@asynccontextmanager
async def caller(proxy: Proxy) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(proxy, session)
