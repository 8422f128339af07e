"""Agents on virtual time: the product's `Registrar`, whose channels are the simulation's streams."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from msgspec.structs import replace

from certs.core.spiffe import SpiffeId, system_id, workload_id
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from discovery.core.specs import ServiceTraffic
from federation.agent import registration
from federation.agent.declarations import Declarations, Version, all_held
from federation.agent.registration import Registrar
from federation.api.messages import Directory, NamedController, TrafficReport, WatchedDrain
from federation.app import fellows
from tests.simulation.federation.links import Process, Stream

NAMESPACE, ACCOUNT = "shop", "shop"
SERVICES = ("orders", "cart", "stock")
COUNT_S = 1.0
REQUESTS = 40  # That callers beside one agent make in that time.


class FixedDirectory:
    """The controllers, as every agent knows them from its enrollment on."""

    def __init__(self, directory: Directory) -> None:
        self.current = directory

    async def newer_than(self, revision: int) -> Directory:
        """Return it to who has none; nothing newer ever comes."""
        if revision >= self.current.revision:
            await asyncio.Event().wait()
        return self.current

    def offer(self, _directory: Directory) -> bool:
        """Nobody offers one."""
        return False


class SimAgent:
    """One agent: what it has now is the truth about its endpoints."""

    def __init__(
        self, process: Process, cluster: str, trust_domain: str, directory: FixedDirectory, accept: "Accept"
    ) -> None:
        self.process = process
        self.cluster = cluster
        self.name = process.name
        self.keeper: Keeper | None = None  # Of its identities, where they may change.
        self.identity = system_id(trust_domain, cluster, "agent", process.name)
        self.accept = accept
        self.withdrawn: dict[EndpointKey, Version] = {}
        self.registrar: _Registrar | None = None
        self.failing: Callable[[], bool] = lambda: False  # Requests of callers beside it fail now.
        self.shown = trust_domain  # By its workloads.
        self.directory = directory
        self._incarnation = 0
        self._ever: set[EndpointKey] = set()

    @property
    def incarnation(self) -> int:
        """Of its last start."""
        return self._incarnation

    @property
    def declared(self) -> Declarations | None:
        """What it says now; None while it has nothing to say yet, or does not run."""
        return None if self.registrar is None or not self.process.alive else self.registrar.declared

    def start(self, owner: asyncio.TaskGroup, numbers: Iterable[int], *, probed: bool = True) -> None:
        """Start it with these endpoints; one that is not probed yet declares nothing."""
        self._incarnation += 1
        self.registrar = _Registrar(
            [self._endpoint(number) for number in numbers],
            incarnation=self._incarnation,
            cluster=self.cluster,
            identity=self,  # type: ignore[arg-type] # what `_open_channel` needs of an identity
            directory=self.directory,  # type: ignore[arg-type]
        )
        if probed:
            self.probe()
        self.process.start(owner, self._main)

    async def _main(self) -> None:
        assert self.registrar is not None
        self.process.tasks.create_task(self._count(self.registrar), name="count")
        if self.keeper is not None:
            self.process.tasks.create_task(self.keeper.run(), name="identities")
        await self.registrar.run()

    async def _count(self, registrar: "_Registrar") -> None:
        """Count as `federation.agent.traffic` does, for the drains that controllers ask about."""
        watched: frozenset[WatchedDrain] = frozenset()
        asked = asyncio.Event()

        def watch(drains: frozenset[WatchedDrain]) -> None:
            nonlocal watched
            watched = drains
            asked.set()

        registrar.on_watch = watch
        while True:
            await asked.wait()
            if not watched:
                asked.clear()
                continue
            await asyncio.sleep(COUNT_S)
            counted = ServiceTraffic(service="", requests=REQUESTS, errors=self.failing() * REQUESTS // 2)
            registrar.report(
                tuple(
                    TrafficReport(drained=one.cluster, started_ms=one.started_ms, services=(counted,))
                    for one in sorted(watched, key=lambda one: one.cluster)
                )
            )

    def show(self, trust_domain: str, *, is_own: bool) -> None:
        """Show a new identity: its own to controllers, or its workload's to callers."""
        if is_own:
            self.identity = replace(self.identity, trust_domain=trust_domain)
        else:
            self.shown = trust_domain
        if self.registrar is not None and self.process.alive:
            if is_own:
                self.registrar.reopen()
            else:
                self.registrar.set_identity(self._workload)

    @property
    def _workload(self) -> str:
        return str(workload_id(self.shown, NAMESPACE, ACCOUNT))

    def probe(self, ready: bool = True, *, only: int | None = None) -> None:
        """Its probes say that all endpoints, or one of them, are ready or not."""
        assert self.registrar is not None
        keys = [endpoint.key for endpoint in self.registrar.endpoints]
        if only is not None and self.registrar.declared is not None and keys:
            keys = [keys[only % len(keys)]]
        self.registrar.set_ready(dict.fromkeys(keys, ready))

    def says(self, declared: Declarations) -> None:
        """Remember what is declared no more, and since when."""
        for key in self._ever - declared.rows.keys():
            position = declared.ended.get(key, (declared.incarnation, 0))
            self.withdrawn[key] = max(position, self.withdrawn.get(key, (-1, -1)))
        self._ever |= declared.rows.keys()

    def settled_at(self) -> list[str]:
        """Return the controllers that acknowledged all that it says now."""
        declared = self.declared
        if declared is None or self.registrar is None:
            return []
        return [
            name
            for name, stream in self.registrar.streams.items()
            if stream.connected and not stream.cursor.refused and all_held(declared, stream.cursor)
        ]

    def _endpoint(self, number: int) -> Endpoint:
        service = SERVICES[number % len(SERVICES)]
        return Endpoint(
            key=EndpointKey(NAMESPACE, service, self.cluster, f"{self.name}-{number}"),
            address=f"10.0.0.{1 + number}",
            ports=(EndpointPort(name="http", service_port=8080, listen_port=15_006),),
            identity=self._workload,
            ready=True,
            agent=self.name,
        )


class Keeper(Protocol):
    """What changes an agent's identities while its cluster moves."""

    async def run(self) -> None:
        """Change them until cancelled."""
        ...


class Accept:
    """Who answers streams, by the name of the process."""

    def __call__(self, to: str, kind: str, stream: Stream, peer: SpiffeId) -> None:
        raise NotImplementedError


class _Registrar(Registrar):
    @property
    def agent(self) -> SimAgent:
        assert isinstance(self._identity, SimAgent)
        return self._identity

    def _say(self, declared: Declarations) -> None:
        self.agent.says(declared)
        super()._say(declared)


class Caller(Protocol):
    """Who opens a stream."""

    @property
    def process(self) -> Process: ...

    @property
    def identity(self) -> SpiffeId: ...

    @property
    def accept(self) -> Accept: ...


class _Channel:
    """A stream to one controller, while it is open."""

    kind = "register"

    def __init__(self, caller: Caller, controller: str) -> None:
        self._caller = caller
        self._controller = controller
        self._stream: Stream | None = None

    async def __aenter__(self) -> Self:
        caller = self._caller
        self._stream = await caller.process.net.dial(caller.process, self._controller)
        caller.accept(self._controller, self.kind, self._stream, caller.identity)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._caller.process.net.hang_up(self._stream)

    async def write(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.up.write(data)

    async def read(self) -> bytes | None:
        assert self._stream is not None
        return await self._stream.down.read()


class _HearingChannel(_Channel):
    """The stream by which one controller of a cluster hears another."""

    kind = "hear"

    def unary_stream(self, _method: str, _encode: None, _decode: None) -> "Callable[[bytes], _Hearing]":
        return lambda request: _Hearing(self, request)


class _Hearing:
    """The call on it."""

    def __init__(self, channel: _HearingChannel, request: bytes) -> None:
        self._channel = channel
        self._request: bytes | None = request

    async def read(self) -> bytes | None:
        if self._request is not None:
            request, self._request = self._request, None
            await self._channel.write(request)
        return await self._channel.read()


def _open_channel(controller: NamedController, agent: Caller, _directory: FixedDirectory) -> _Channel:
    return _Channel(agent, controller.name)


def _open_hearing(controller: NamedController, caller: Caller, _directory: FixedDirectory) -> _HearingChannel:
    return _HearingChannel(caller, controller.name)


@contextmanager
def simulated_channels() -> Iterator[None]:
    """Put the simulation's streams in place of gRPC's, which the product opens by functions of these modules."""
    real = registration.open_channel, registration.register, fellows.open_channel
    registration.open_channel = _open_channel  # type: ignore[assignment]
    registration.register = lambda channel: channel  # type: ignore[assignment, return-value]
    fellows.open_channel = _open_hearing  # type: ignore[assignment]
    try:
        yield
    finally:
        registration.open_channel, registration.register, fellows.open_channel = real
