"""Mirrors as processes, and agents that register as real ones do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from certs.core.token import parse_token
from certs.runtime.identity import LeafIdentity
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from discovery.core.specs import ClusterSpec
from federation.agent.directory import DirectoryStore
from federation.agent.enrollment import IDENTITY_FOLDER, enroll
from federation.agent.registration import Registrar
from federation.api.messages import JoinRequest
from federation.app.mirror_api import AGE_HEADER
from tests.integration.controller.installation import (
    API_PORT,
    CONTROL_PORT,
    ISTHMUS,
    METRICS_PORT,
    WAIT_S,
    Caller,
    Installation,
)
from tests.support.loopback import LoopbackBlock
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually, eventually_async


class Mirror:
    """One mirror: its address, its data, its process."""

    def __init__(
        self,
        folder: Path,
        host: str,
        name: str,
        member: Installation,
        processes: ProcessSet,
        *,
        lease: str = "2s",
    ) -> None:
        self.name = name
        self.host = host
        self.data_dir = folder / "data"
        self.config_path = folder / "mirror.toml"
        self._member = member
        self._processes = processes
        folder.mkdir()
        self.config_path.write_text(
            f'role = "mirror"\nid = "{name}"\ndata_dir = "{self.data_dir}"\n[listen]\n'
            f'control = "{host}:{CONTROL_PORT}"\napi = "{host}:{API_PORT}"\nmetrics = "{host}:{METRICS_PORT}"\n'
            f'[agents]\nlease = "{lease}"\n'
        )

    def start(self, token: str = "") -> Process:
        """Start it, at the first time with its token, and wait until it serves."""
        process = self._launch(token)
        self._wait_ready(process)
        return process

    async def started(self) -> Process:
        """Start it again and wait until it serves, while agents of this process go on."""
        process = self._launch()
        await asyncio.to_thread(self._wait_ready, process)
        return process

    def _launch(self, token: str = "") -> Process:
        given = ("--token", token) if token else ()
        command = [*ISTHMUS, "controller", "run", "--config", self.config_path, *given]
        return self._processes.start(f"mirror-{self.name}", command)

    def _wait_ready(self, process: Process) -> None:
        eventually(
            lambda: process.check_running() or self.readiness()[0] == 200,  # type: ignore[func-returns-value]
            timeout_s=WAIT_S,
            message=lambda: f"the mirror is ready\n{process.log()}",
        )

    def journal(self) -> bytes:
        """What it keeps on disk of what agents told it alone."""
        path = self.data_dir / "declared" / "declared.journal"
        return path.read_bytes() if path.exists() else b""

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What /readyz says; status 0 when nobody listens."""
        status, body = Installation.plain(self, "/readyz")  # type: ignore[arg-type]  # asks only for the host
        return status, msgspec.json.decode(body) if body else {}

    def operator(self) -> Caller:
        """The member's operator at the mirror's HTTPS port."""
        return Caller(
            self.host,
            roots=self._member.context / "roots.pem",
            identity=LeafIdentity.load(self._member.context).path,
        )


class Agent:
    """One enrolled agent with one endpoint of shop/orders; `registered` runs its streams."""

    def __init__(self, folder: Path, name: str, cluster: str, address: str) -> None:
        self.name = name
        self.folder = folder
        self.identity = folder / IDENTITY_FOLDER
        self.address = address
        self._cluster = cluster
        self.endpoint = Endpoint(
            key=EndpointKey("shop", "orders", cluster, name),
            address=address,
            ports=(EndpointPort(name="http", service_port=8080, listen_port=15006),),
            identity="spiffe://alpha.example/ns/shop/sa/shop",
            ready=True,
            agent=name,
            incarnation=1,
            sequence=1,
        )

    async def enroll(self, token: str) -> None:
        await enroll(token, "agent", self.name, self.folder)

    @asynccontextmanager
    async def registered(self, *, incarnation: int = 1) -> AsyncIterator[Registrar]:
        """Register with every controller of the cluster for as long as the block takes."""
        registrar = Registrar(
            [self.endpoint],
            incarnation=incarnation,
            cluster=self._cluster,
            identity=LeafIdentity.load(self.identity),
            directory=DirectoryStore.open(self.folder),
        )
        registrar.set_ready({self.endpoint.key: True})
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(registrar.run())
            try:
                yield registrar
            finally:
                running.cancel()


class Federation:
    """Cluster alpha of one member, which runs, and what a test adds to it."""

    def __init__(
        self, folder: Path, block: LoopbackBlock, member: Installation, processes: ProcessSet
    ) -> None:
        self.member = member
        self._folder = folder
        self._block = block
        self._processes = processes
        self._hosts = iter(range(2, 100))
        self.member_process = self.start_member()

    def start_member(self) -> Process:
        self.member_process = self.member.start(self._processes)
        self.member.wait_ready(self.member_process)
        return self.member_process

    async def member_started(self) -> None:
        """Start the member again and wait until it serves, while agents of this process go on."""
        self.member_process = self.member.start(self._processes)
        await asyncio.to_thread(self.member.wait_ready, self.member_process)

    def operator(self) -> Caller:
        return self.member.operator()

    def token(self, purpose: str, cluster: str = "alpha", **more: str) -> str:
        wanted = {"purpose": purpose, "cluster": cluster, **more}
        return str(self.operator().ok("POST", "/v1/tokens", wanted)["token"])

    def host(self) -> str:
        return self._block.host(next(self._hosts))

    def mirror(
        self, name: str = "m1", *, cluster: str = "alpha", lease: str = "2s"
    ) -> tuple[Mirror, Process]:
        """Return a new mirror that runs and is known to the federation; it gives agents up after `lease`."""
        folder = self._folder / f"{cluster}-{name}"
        mirror = Mirror(folder, self.host(), name, self.member, self._processes, lease=lease)
        process = mirror.start(self.token("controller", cluster))
        eventually(
            lambda: f"{cluster}-{name}" in self.controllers(cluster),
            timeout_s=WAIT_S,
            message=lambda: f"the mirror announces itself\n{process.log()}",
        )
        return mirror, process

    def controllers(self, cluster: str = "alpha") -> list[str]:
        clusters = self.operator().ok("GET", "/v1/status")["clusters"]
        return next(list(one["controllers"]) for one in clusters if one["name"] == cluster)

    async def agent(self, name: str, *, cluster: str = "alpha") -> Agent:
        """Return an agent that has just enrolled."""
        agent = Agent(self._folder / f"agent-{name}", name, cluster, self.host())
        await agent.enroll(self.token("agent", cluster, namespace="shop", serviceAccount="shop"))
        return agent


def join_remote(federation: Federation, name: str) -> None:
    """Join a remote cluster without controllers whose home is alpha."""
    token = parse_token(federation.token("cluster", name))
    spec = ClusterSpec(
        role="remote", trust_domain="alpha.example", home="alpha", ranges=(federation.member.ranges,)
    )
    request = JoinRequest(secret=token.secret, cluster=name, spec=spec)
    status, answer = federation.member.caller(None).call("POST", "/v1/join", msgspec.to_builtins(request))
    assert status == 200, answer


def listed(caller: Caller, cluster: str = "alpha") -> set[str]:
    """The endpoints of shop/orders that are global, as one controller has them."""
    return {one["name"] for one in caller.ok("GET", f"/v1/endpoints?namespace=shop&cluster={cluster}")}


def ready(caller: Caller, cluster: str = "alpha") -> set[str]:
    """Those of them that are ready."""
    rows = caller.ok("GET", f"/v1/endpoints?namespace=shop&cluster={cluster}")
    return {one["name"] for one in rows if one["ready"]}


def seen(caller: Caller, cluster: str = "alpha") -> set[str]:
    """The addresses of shop/orders as proxies and DNS of `cluster` are told by one controller; ready ones only."""
    status, answer = caller.call("GET", f"/v1/resolve?name=orders.shop&from={cluster}")
    if status != 200:
        return set()
    targets = (target for owner in answer["owners"] for target in owner["targets"])
    return {target["address"] for target in targets if target["ready"]}


def age_ms(caller: Caller, path: str) -> int:
    """How old the copy is from which a mirror answers a read."""
    connection = caller.connect()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        return int(response.headers[AGE_HEADER])
    finally:
        connection.close()


async def happens(condition: Callable[[], bool]) -> None:
    """Wait for a condition that asks controllers, while agents of this process go on."""
    await eventually_async(lambda: asyncio.to_thread(condition), timeout_s=WAIT_S)


async def connected(registrar: Registrar, *controllers: str) -> None:
    """Wait until the agent has a stream to exactly these controllers, and each holds all that it said."""
    await eventually_async(
        lambda: {name for name, one in registrar.streams.items() if one.connected} == set(controllers),
        timeout_s=WAIT_S,
        message=lambda: str({name: one.error for name, one in registrar.streams.items()}),
    )
    for stream in tuple(registrar.streams.values()):
        if stream.connected:
            async with asyncio.timeout(WAIT_S):
                await stream.settled()
