"""Three clusters whose Envoys die under load, and what a caller notices of it.

Seven real processes on our compiler's own output: a caller's sidecar and one endpoint in cluster alpha, and an
endpoint behind a gateway in each of beta and gamma, near or a long way off. An open-loop load of GETs (one in ten
is held for 200 ms by its application) with a deadline of 2 s and no retries of its own, and a few POSTs.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import aiohttp
import msgspec

from bench.records import Window, window
from chaos.load.records import RequestLine
from gateways.core.names import owner_cluster
from tests.integration.gateways.distance import relay
from tests.integration.gateways.federation import ALL_OF_ALPHA, HOST, Federation
from tests.integration.gateways.mesh import Controller, Member, Mesh
from tests.support.loopback import LoopbackBlock
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import ORDERS, DictView, endpoint, gateway, owner, service

DEADLINE_S = 2.0
RATE_PER_S = 100
HELD_S = 0.2
HELD_EVERY = 10
POST_EVERY = 10
# As far as clusters may be from each other.
ROUND_TRIP_S = 0.25
STEADY_S = 1.0
WATCHED_S = 7.0
READY_S = 60.0
ANSWERS = 20

Death: TypeAlias = Literal["kill", "freeze"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Which Envoys die, and how. `stall_s`: a frozen one goes on after so long."""

    name: str
    victims: tuple[str, ...]
    death: Death
    stall_s: float = 0.0
    far: bool = False  # The gateways are a long way off.

    @property
    def home(self) -> str:
        """The cluster that answers before the fault."""
        return self.victims[0].partition("/")[0]


ENDPOINT, GATEWAY, FAR_ENDPOINT = "alpha/orders", "beta/gateway", "beta/orders"
FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="endpoint-killed", victims=(ENDPOINT,), death="kill"),
        Fault(name="endpoint-frozen", victims=(ENDPOINT,), death="freeze"),
        Fault(name="gateway-killed", victims=(GATEWAY,), death="kill"),
        Fault(name="gateway-frozen", victims=(GATEWAY,), death="freeze"),
        # The gateway lives and answers health checks; what it passes connections on to does not.
        Fault(name="hidden-endpoint-frozen", victims=(FAR_ENDPOINT,), death="freeze"),
        Fault(name="cluster-killed", victims=(GATEWAY, FAR_ENDPOINT), death="kill"),
        Fault(name="far-gateway-killed", victims=(GATEWAY,), death="kill", far=True),
        Fault(name="far-gateway-frozen", victims=(GATEWAY,), death="freeze", far=True),
        Fault(name="far-endpoint-killed", victims=(ENDPOINT,), death="kill", far=True),
        Fault(name="endpoint-stalled", victims=(ENDPOINT,), death="freeze", stall_s=0.7),
        Fault(name="gateway-stalled", victims=(GATEWAY,), death="freeze", stall_s=0.7),
    )
}


class Rig(Federation):
    """Three clusters that own `orders`; alpha's caller knows all of them, or only those behind gateways."""

    def __init__(self, folder: Path, block: LoopbackBlock) -> None:
        super().__init__(folder, block)
        self.gamma = DictView("gamma")
        for view in (self.alpha, self.beta, self.gamma):
            view.trust(*self.roots.values())
        self.gamma_address, self.gamma_gateway_address = block.host(3), block.host(253)
        self.far_addresses = (block.host(154), block.host(153))
        self.gamma_port = block.port(self.gamma_address)
        self.gamma_app = (self.gamma_address, block.port(self.gamma_address))
        self.gamma_row = endpoint("gamma", address=self.gamma_address, listen_port=self.gamma_port)
        self.gamma.put(service(owner("gamma", [self.gamma_row], local=True)), exported_to=["alpha"])
        for view in (self.beta, self.gamma):
            view.sources[ORDERS] = (ALL_OF_ALPHA,)
        self._doors: dict[str, str] = {}  # The address at which alpha finds each other cluster.
        self.members: dict[str, Member] = {}
        self._controllers: dict[str, Controller] = {}

    def show(self, *, local: bool, far: bool = False) -> None:
        """Tell alpha's caller of its own cluster's endpoint or not; beta and gamma come behind it.

        `far`: their gateways are a long way off.
        """
        own = endpoint("alpha", address=self.alpha_address, listen_port=self.alpha_port)
        near = (self.gateway_address, self.gamma_gateway_address)
        self._doors = dict(zip(("beta", "gamma"), self.far_addresses if far else near, strict=True))
        rows = {"beta": self.row, "gamma": self.gamma_row}
        remote = [
            owner(name, [rows[name]], gateways=[gateway(name, address=address, port=self.gateway_port)])
            for name, address in self._doors.items()
        ]
        self.alpha.put(service(*([owner("alpha", [own], local=True)] if local else []), *remote))
        if "alpha" in self._controllers:
            self._controllers["alpha"].publish()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mesh]:
        """Start everything, and stop it in the end."""
        self.show(local=True)
        async with Mesh(self.folder) as mesh, AsyncExitStack() as relays:
            for near, far in zip(
                (self.gateway_address, self.gamma_gateway_address), self.far_addresses, strict=True
            ):
                await relays.enter_async_context(
                    relay((far, self.gateway_port), (near, self.gateway_port), round_trip_s=ROUND_TRIP_S)
                )
            for view in (self.alpha, self.beta, self.gamma):
                address = self.block.host(10)
                self._controllers[view.cluster] = await mesh.controller(
                    view, address, self.block.port(address)
                )
            for name, place in (("alpha", self.local_app), ("beta", self.app), ("gamma", self.gamma_app)):
                await mesh.application(name, *place)
            of = {name: [controller] for name, controller in self._controllers.items()}
            self.members = {
                "alpha/web": self.caller(1, of["alpha"]),
                ENDPOINT: self.local_callee(of["alpha"]),
                FAR_ENDPOINT: self.callee(of["beta"]),
                GATEWAY: self.gateway(of["beta"]),
                "gamma/orders": self._callee(
                    "gamma", self.gamma_address, self.gamma_port, self.gamma_app, of["gamma"]
                ),
                "gamma/gateway": self.gateway(of["gamma"], self.gamma_gateway_address, cluster="gamma"),
            }
            for member in self.members.values():
                mesh.start(member)
            await mesh.ready(*self.members.values())
            yield mesh

    async def gateways_healthy(self) -> None:
        """Wait until the caller has alpha's view and knows that every gateway lives."""
        web = self.members["alpha/web"]
        wanted = [
            f"{owner_cluster(ORDERS, 8080, name)}::{address}:{self.gateway_port}::health_flags::healthy\n"
            for name, address in self._doors.items()
        ]

        async def healthy() -> bool:
            known = (await web.envoy.admin.get("/clusters")).body
            return all(line in known for line in wanted)

        await eventually_async(healthy, timeout_s=READY_S, message=f"all of {wanted}")

    async def settled(self, load: "Load", home: str) -> None:
        """Wait until the caller has alpha's view, knows that every gateway lives, and `home` answers."""
        await self.gateways_healthy()

        async def answers() -> bool:
            async with asyncio.TaskGroup() as requests:
                sent = [requests.create_task(load.one()) for _ in range(ANSWERS)]
            found = [request.result() for request in sent]
            return all(sample.ok and sample.cluster == home and sample.attempts == 1 for sample in found)

        await eventually_async(answers, timeout_s=READY_S, message=f"{home} answers")


class Load:
    """GETs at a steady rate through one sidecar, whatever becomes of them; POSTs among them are counted apart."""

    def __init__(
        self, member: Member, session: aiohttp.ClientSession, *, deadline_s: float = DEADLINE_S
    ) -> None:
        assert member.proxy.outbound is not None
        self._base = f"http://{member.proxy.outbound[0]}:{member.proxy.outbound[1]}"
        self._session = session
        self._deadline_s = deadline_s
        self.samples: list[RequestLine] = []
        self.errors: list[str] = []
        self.posts_failed = 0

    async def run(self, stopped: asyncio.Event) -> None:
        """Send until stopped; returns when the last answer is in."""
        loop = asyncio.get_running_loop()
        start_s, number = loop.time(), 0
        async with asyncio.TaskGroup() as requests:
            while not stopped.is_set():
                due_s = start_s + number / RATE_PER_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                held, post = number % HELD_EVERY == 0, number % POST_EVERY == 5
                requests.create_task(self._logged(due_s, held=held, method="POST" if post else "GET"))
                number += 1

    async def one(
        self, due_s: float | None = None, *, held: bool = False, method: str = "GET"
    ) -> RequestLine:
        """Send one request and return what became of it; the time that the application held it is left out."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() if due_s is None else due_s
        status, attempts, cluster = 0, 0, ""
        try:
            async with (
                asyncio.timeout_at(due_s + self._deadline_s),
                self._session.request(
                    method, f"{self._base}/" + (f"?delay={HELD_S}" if held else ""), headers={"Host": HOST}
                ) as response,
            ):
                status = response.status
                if status == 200:
                    answer = await response.json()
                    attempts = int(answer["headers"]["x-envoy-attempt-count"])
                    cluster = answer["from"]
                else:
                    self.errors.append(f"{method} {status} {(await response.text())[:200]}")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.errors.append(f"{method} {error!r}")
        took_ms = (loop.time() - due_s - (HELD_S if held and status == 200 else 0.0)) * 1000
        return RequestLine(
            number=0,
            kind="single",
            caller="alpha",
            service=ORDERS.service,
            due_s=due_s,
            sent_late_ms=0,
            took_ms=took_ms,
            status=status,
            attempts=attempts,
            cluster=cluster,
        )

    async def _logged(self, due_s: float, *, held: bool, method: str) -> None:
        sample = await self.one(due_s, held=held, method=method)
        if method == "GET":
            self.samples.append(sample)
        else:
            self.posts_failed += not sample.ok


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What callers noticed of one fault. `moved_ms`: until the first answer from elsewhere that was sent after it."""

    window: Window
    moved_ms: float
    retries: int
    posts_failed: int
    errors: tuple[str, ...]


async def strike(rig: Rig, mesh: Mesh, fault: Fault, load: Load, *, watched_s: float = WATCHED_S) -> Round:
    """One fault under load, from steady to steady again."""
    if fault.far:
        # Near before, so that no connection to afar is left of an earlier round.
        rig.show(local=fault.home == "alpha")
        await rig.gateways_healthy()
    rig.show(local=fault.home == "alpha", far=fault.far)
    await rig.settled(load, fault.home)
    load.samples.clear()
    load.errors.clear()
    load.posts_failed = 0
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    pids: list[int] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(stopped))
        await asyncio.sleep(STEADY_S)  # Load before the fault.
        before = await _retries(rig)
        fault_s = loop.time()
        victims = [rig.members[name] for name in fault.victims]
        try:
            pids = [_strike(victim, fault.death) for victim in victims]
            for victim in victims if fault.death == "kill" else ():
                await mesh.stop(victim)
            await asyncio.sleep(fault.stall_s or watched_s)
            if fault.stall_s:
                _go_on(pids)
                await asyncio.sleep(watched_s)
            retries = await _retries(rig) - before
            stopped.set()
        finally:
            if fault.death == "freeze":
                _go_on(pids)
    if fault.death == "kill":
        for name in fault.victims:
            mesh.start(rig.members[name], load_cache=False)
        await mesh.ready(*victims)
    elsewhere = [s for s in load.samples if s.ok and s.cluster != fault.home and s.due_s >= fault_s]
    return Round(
        window=window(load.samples, fault_s, fault_s + watched_s),
        moved_ms=min(((s.done_s - fault_s) * 1000 for s in elsewhere), default=0.0),
        retries=retries,
        posts_failed=load.posts_failed,
        errors=tuple(load.errors),
    )


def _strike(member: Member, death: Death) -> int:
    pid = member.envoy.status.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL if death == "kill" else signal.SIGSTOP)
    return pid


def _go_on(pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def _retries(rig: Rig) -> int:
    return await rig.members["alpha/web"].counter("upstream_rq_retry$")
