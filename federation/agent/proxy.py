"""The Envoy of this process and where its configuration comes from.

    controller --ADS, mutual TLS--> RelayStore --ADS, Unix socket--> Envoy
                                      |    ^
                             disk copy     own certificate

Envoy is configured by its agent alone, so it starts and goes on while no controller can be reached
(invariant F1). The socket is opened only once the store is complete: an Envoy that outlived an earlier
agent must not be told that everything is gone (invariant F2).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import structlog

from certs.runtime.identity import LeafIdentity
from federation.agent.controller_choice import ControllerChoice
from federation.agent.directory import DirectoryStore
from federation.agent.status import ProxyStatus
from federation.kernel.errors import IsthmusError, PreconditionError
from gateways.core.proxy import Proxy
from gateways.core.traffic import STATS_TARGET
from gateways.core.trust import own_certificate_secret
from gateways.core.wire import SHORT_NAMES
from gateways.runtime.bootstrap import EnvoySettings
from gateways.runtime.envoy import EnvoySupervisor
from gateways.runtime.relay_cache import RelayCache
from gateways.runtime.relay_store import RelayStore
from gateways.runtime.together import run_together
from gateways.runtime.xds_client import XdsClient
from gateways.runtime.xds_service import XdsService

XDS_SOCKET = "xds.sock"
CACHE_FILE = "xds.cache"

CACHE_RETRY_S = 5.0
FOLLOW_PAUSE_S = 0.1
# While a controller is connected, the disk copy is marked as fresh this often.
CONFIRM_S = 3.0
# A listener that Envoy cannot bind within this time of the first start ends the process.
FIRST_START_WATCH_S = 10.0
FIRST_START_ATTEMPTS_MAX = 3
WATCH_S = 0.1
_CANNOT_BIND = "cannot bind"

_log = structlog.get_logger("proxy")


class LocalProxy:
    """Runs one Envoy on relayed configuration; `run` blocks until cancelled and then stops it.

    The Envoy starts once there is a certificate (`set_certificate`) and a complete configuration, from a
    controller or from disk.
    """

    def __init__(
        self,
        proxy: Proxy,
        *,
        data_dir: Path,
        identity: LeafIdentity,
        directory: DirectoryStore,
        region: str,
        zone: str,
        drain_s: int,
    ) -> None:
        self._store = RelayStore(proxy.id)
        self._cache_path = data_dir / CACHE_FILE
        self._cache = RelayCache(self._store, self._cache_path)
        self._choice = ControllerChoice(proxy.cluster, identity, directory)
        self._client = XdsClient(proxy, self._store, next_channel=self._choice.next_channel)
        self._settings = EnvoySettings(
            proxy=proxy,
            folder=data_dir,
            xds_socket=data_dir / XDS_SOCKET,
            region=region,
            zone=zone,
            drain_s=drain_s,
        )
        self._envoy = EnvoySupervisor(self._settings)
        self._certified = asyncio.Event()
        self._confirmed_unix_s: float | None = None

    @property
    def ready(self) -> bool:
        """True while Envoy serves."""
        return self._envoy.ready.is_set()

    async def wait_ready(self) -> None:
        """Return once Envoy serves."""
        await self._envoy.ready.wait()

    def set_certificate(self, leaf: LeafIdentity) -> None:
        """Give Envoy this certificate; connections that live keep the one they began with."""
        pem = leaf.pem()
        self._store.set_local(
            own_certificate_secret(chain_pem=pem.chain.decode("ascii"), key_pem=pem.key.decode("ascii"))
        )
        self._certified.set()

    async def run(self) -> None:
        """Follow a controller, keep the disk copy, run Envoy.

        Raises `PreconditionError` when Envoy cannot start or bind its ports at its first start; later
        failures are retried and shown in the status.
        """
        self._load_cache()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="xds-follow")
            tasks.create_task(self._keep_cache(), name="xds-cache")
            tasks.create_task(self._confirm(), name="xds-confirm")
            await self._certified.wait()
            await self._store.ready.wait()
            async with self._socket():
                tasks.create_task(self._envoy.run(), name="envoy")
                await self._watch_first_start()
                await asyncio.Event().wait()  # Until cancelled: the socket stays open that long.

    async def traffic(self) -> dict[str, int]:
        """Return what Envoy counted of calls to services; raises UnavailableError while it does not answer."""
        return await self._envoy.admin.counters_at(STATS_TARGET)

    async def drain(self) -> None:
        """Let requests in flight end; takes the configured drain time."""
        try:
            await self._envoy.drain()
        except IsthmusError as error:
            _log.warning("envoy_not_drained", error=error.message)

    def status(self) -> ProxyStatus:
        """How Envoy and its configuration do."""
        envoy = self._envoy.status
        connected = self._client.connected.is_set()
        return ProxyStatus(
            state=envoy.state,
            ready=self.ready,
            restarts=envoy.restarts,
            error=envoy.last_error,
            controller=self._choice.current if connected else "",
            controller_error="" if connected else self._client.last_error,
            age_s=0.0 if connected else self._age_s(),
            resources=len(self._store.remote_resources()),
            rejected=tuple(
                f"{SHORT_NAMES.get(type_url, type_url)}: {text}"
                for type_url, text in sorted(self._store.rejections.items())
            ),
        )

    def _load_cache(self) -> None:
        """Begin with the disk copy; its file's time says when a controller last confirmed it."""
        if self._cache.load():
            self._confirmed_unix_s = self._cache_path.stat().st_mtime
            _log.info("proxy_starts_from_disk", age_s=round(self._age_s() or 0))

    def _age_s(self) -> float | None:
        if self._confirmed_unix_s is None:
            return None
        return max(0.0, time.time() - self._confirmed_unix_s)

    async def _follow(self) -> None:
        """Follow a controller for ever; begin again when a better one is back, or the client ends by itself."""
        while True:
            await run_together(self._client.run(), self._choice.better_is_back())
            await asyncio.sleep(FOLLOW_PAUSE_S)

    async def _keep_cache(self) -> None:
        """A disk that is full must not end the proxy: it goes on and tries again."""
        while True:
            try:
                await self._cache.run()
            except OSError as error:
                _log.error("configuration_not_on_disk", path=str(self._cache_path), error=str(error))
                self._store.changed.set()
                await asyncio.sleep(CACHE_RETRY_S)

    async def _confirm(self) -> None:
        """While a controller is connected, note that what we hold is its newest, also on disk."""
        while True:
            await self._client.connected.wait()
            self._confirmed_unix_s = time.time()
            if self._cache_path.exists():
                os.utime(self._cache_path)
            await asyncio.sleep(CONFIRM_S)

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[None]:
        path = self._settings.xds_socket
        server = grpc.aio.server()
        service = XdsService(self._store, peer_of=lambda _context: "")
        server.add_generic_rpc_handlers((service.handler(),))
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise PreconditionError(f"{path}: cannot be listened on: {error}") from error
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)
            path.unlink(missing_ok=True)

    async def _watch_first_start(self) -> None:
        """Return once Envoy has started well; a port that is taken is an error of this start, not a state."""
        loop = asyncio.get_running_loop()
        ready_s: float | None = None
        while ready_s is None or loop.time() - ready_s < FIRST_START_WATCH_S:
            if ready_s is None and self.ready:
                ready_s = loop.time()
            taken = [text for text in self._store.rejections.values() if _CANNOT_BIND in text]
            if taken:
                raise PreconditionError(f"envoy: {taken[0]}")
            envoy = self._envoy.status
            if ready_s is None and envoy.restarts >= FIRST_START_ATTEMPTS_MAX:
                raise PreconditionError(
                    f"envoy: ended {envoy.restarts} times at its start: {envoy.last_error}"
                )
            await asyncio.sleep(WATCH_S)
