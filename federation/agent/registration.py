"""Tells every controller of the cluster what this agent's endpoints are, and keeps their lease.

One stream per controller, each with its own cursor: one that is down costs the others nothing. What
is said is decided in `declarations`; here is the wire, the clock and the trying again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from certs.runtime.identity import LeafIdentity
from discovery.core.model import Endpoint, EndpointKey
from federation.agent import declarations as said
from federation.agent.backoff import Backoff
from federation.agent.control import RegisterCall, open_channel, receive, register, send
from federation.agent.directory import DirectoryStore, members_preferred, own_controllers
from federation.agent.gateway_watch import GatewayWatch, sightings
from federation.api.messages import (
    AgentHeartbeat,
    AgentHello,
    ControllerMessage,
    DeclareAck,
    DeclareRefused,
    DirectoryUpdate,
    NamedController,
    ProbeTargets,
    TrafficReport,
    WatchDrains,
    WatchedDrain,
    Welcome,
)
from federation.kernel.errors import InvalidInputError, IsthmusError, PreconditionError, UnavailableError
from federation.kernel.versions import PROTOCOL_VERSION, speaks
from gateways.runtime.together import run_together

WELCOME_TIMEOUT_S = 5.0
# A lease that a controller names is believed within these bounds.
LEASE_MS_MIN, LEASE_MS_MAX = 500, 3_600_000
HEARTBEATS_PER_LEASE = 3
# What a gateway sees is believed while it was heard of late (`federation.api.gateway_eyes.FRESH_S`).
SIGHTED_PAUSE_S = 2.0
REFUSED_AGAIN_S = 30.0
# When none of its controllers has answered for so long, an agent asks others; there may be thousands of agents.
ELSEWHERE_FIRST_S, ELSEWHERE_CAP_S = 15.0, 120.0
# More clusters than this are not drained at one time.
DRAINS_WATCHED_MAX = 64

_log = structlog.get_logger("registration")


class Registrar:
    """Declares endpoints to every controller of a cluster until cancelled.

    Nothing is declared before the readiness of every endpoint is known, so that an application that
    is dead is never announced as ready.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        incarnation: int,
        cluster: str,
        identity: LeafIdentity,
        directory: DirectoryStore,
        watch: GatewayWatch | None = None,
    ) -> None:
        self.watch = watch  # Of a gateway: what it sees of other clusters' gateways.
        if watch is not None:
            watch.on_turn = self._say_news
        self.endpoints = tuple(endpoints)
        self._incarnation = incarnation
        self._cluster = cluster
        self._identity = identity
        self._directory = directory
        self._verdicts: dict[EndpointKey, bool] = {}
        self.leaving = False
        self.on_watch: Callable[[frozenset[WatchedDrain]], None] = lambda _drains: None
        self.declared: said.Declarations | None = None
        self.streams: dict[str, ControllerStream] = {}

    async def run(self) -> None:
        """Hold one stream to each controller of the cluster, as the directory names them."""
        self._consider()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_elsewhere(), name="register/elsewhere")
            running: dict[NamedController, asyncio.Task[None]] = {}
            while True:
                directory = self._directory.current
                wanted = set(own_controllers(directory, self._cluster))
                for controller in running.keys() - wanted if wanted else ():
                    running.pop(controller).cancel()
                    self.streams.pop(controller.name, None)
                    if self.watch is not None and not _observes(controller, wanted):
                        self.watch.forget(controller.name)
                for controller in sorted(wanted - running.keys(), key=lambda one: one.name):
                    stream = ControllerStream(
                        controller, self, identity=self._identity, directory=self._directory
                    )
                    self.streams[controller.name] = stream
                    running[controller] = tasks.create_task(stream.run(), name=f"register/{controller.name}")
                await self._directory.newer_than(directory.revision)

    async def _ask_elsewhere(self) -> None:
        """While none of its controllers answers, ask members of other clusters where they are now, one after the other.

        What is known of them is what they said last: they may have another address, or the cluster another home.
        """
        backoff = Backoff(first_s=ELSEWHERE_FIRST_S, cap_s=ELSEWHERE_CAP_S)
        asked = 0
        while True:
            await asyncio.sleep(backoff.delay_s())
            if any(stream.connected for stream in self.streams.values()):
                backoff.reset()
                continue
            directory = self._directory.current
            own = own_controllers(directory, self._cluster)
            # Not mirrors: they are in other hands, and whom they name would sign for this agent.
            others = [one for one in members_preferred(directory, self._cluster) if one not in own]
            if others:
                try:
                    await self._ask(others[asked % len(others)])
                except IsthmusError as error:
                    _log.info("nobody_elsewhere", error=error.message)
                asked += 1

    async def _ask(self, controller: NamedController) -> None:
        """Take the directory of a controller that does not serve this cluster: it tells an agent that, and no more."""
        async with open_channel(controller, self._identity, self._directory) as channel:
            call = register(channel)
            try:
                async with asyncio.timeout(WELCOME_TIMEOUT_S):
                    message = await receive(call)
            except TimeoutError as error:
                raise UnavailableError(
                    f"{controller.name} said nothing within {WELCOME_TIMEOUT_S:g} s"
                ) from error
        if isinstance(message, DirectoryUpdate) and self._directory.offer(message.directory):
            _log.info("directory_taken", controller=controller.name, revision=message.directory.revision)

    @property
    def incarnation(self) -> int:
        """Of this start of the agent."""
        return self._incarnation

    def set_ready(self, verdicts: Mapping[EndpointKey, bool]) -> None:
        """Take what the probes say; ignored once the agent is leaving."""
        if self.leaving:
            return
        self._verdicts.update(verdicts)
        self._consider()

    def report(self, reports: tuple[TrafficReport, ...]) -> None:
        """Tell each controller what it asked for; what one cannot be told now it is not told at all."""
        for stream in self.streams.values():
            wanted = {(drain.cluster, drain.started_ms) for drain in stream.watched}
            stream.reports = tuple(one for one in reports if (one.drained, one.started_ms) in wanted)
            if stream.reports:
                stream.news.set()

    def consider_watched(self) -> None:
        """Some controller asks for other drains than before."""
        self.on_watch(frozenset(drain for stream in self.streams.values() for drain in stream.watched))

    def set_identity(self, identity: str) -> None:
        """Take what Envoy shows from now on as the identity of every endpoint."""
        self.endpoints = tuple(msgspec.structs.replace(one, identity=identity) for one in self.endpoints)
        if self.declared is not None:
            self._say(said.with_identity(self.declared, identity))

    def reopen(self) -> None:
        """Open every stream again: by the identity of now."""
        for stream in self.streams.values():
            stream.reopen.set()

    async def declare_unready(self, *, timeout_s: float) -> bool:
        """Begin to leave: no endpoint is ready from now on. Return whether a controller holds that in time."""
        self.leaving = True
        if self.declared is None:
            return True  # Nobody was told of us.
        self._say(said.with_ready(self.declared, dict.fromkeys(self.declared.rows, False)))
        return await self._held(timeout_s)

    async def remove_all(self, *, timeout_s: float) -> bool:
        """Withdraw every endpoint. Return whether a controller holds that in time."""
        self.leaving = True
        if self.declared is None:
            return True
        self._say(said.without_rows(self.declared))
        return await self._held(timeout_s)

    def level(self, key: EndpointKey) -> str:
        """How safe the newest declaration of an endpoint is: "global", "local", "declared" or "waiting"."""
        if self.declared is None:
            return "waiting"
        return said.level_of(key, self.declared, [stream.cursor for stream in self.streams.values()])

    def _consider(self) -> None:
        if any(endpoint.key not in self._verdicts for endpoint in self.endpoints):
            return
        before = self.declared
        after = said.with_ready(before or said.begin(self._incarnation, self.endpoints), self._verdicts)
        if before is None or after.sequence != before.sequence:
            self._say(after)

    def _say(self, declared: said.Declarations) -> None:
        self.declared = declared
        self._say_news()

    def _say_news(self) -> None:
        for stream in self.streams.values():
            stream.news.set()

    async def _held(self, timeout_s: float) -> bool:
        """Wait until every connected controller holds what was said; False when one does not in time.

        Where no controller is connected there is nobody to wait for.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for stream in tuple(self.streams.values()):
                    await stream.settled()
        except TimeoutError:
            return False
        return any(stream.connected for stream in self.streams.values())


def _observes(controller: NamedController, wanted: Iterable[NamedController]) -> bool:
    """True while one of its name goes on to say whom gateways are to look at: a mirror, which it may have become, does not."""
    return any(one.name == controller.name and one.spec.role == "member" for one in wanted)


class ControllerStream:
    """The stream to one controller, opened again whenever it ends."""

    def __init__(
        self,
        controller: NamedController,
        registrar: Registrar,
        *,
        identity: LeafIdentity,
        directory: DirectoryStore,
    ) -> None:
        self.controller = controller
        self.cursor = said.Cursor()
        self.connected = False
        self.error = ""  # Why it is not connected.
        self.refusals: dict[EndpointKey, str] = {}  # Bounded by our own endpoints.
        self.news = asyncio.Event()  # There may be something to say.
        self.watched: tuple[WatchedDrain, ...] = ()  # What fails under these the controller wants to know.
        self.reports: tuple[TrafficReport, ...] = ()
        self.reopen = asyncio.Event()  # The identity that it was opened by is another one now.
        self._registrar = registrar
        self._identity = identity
        self._directory = directory
        self._progress = asyncio.Event()  # An answer came, or the stream ended.
        # Of which clusters' gateways the controller has asked on this stream; None: of none ever.
        self._asked: frozenset[str] | None = None
        self._sighted: dict[str, bool] = {}  # What was said of them on this stream.

    async def run(self) -> None:
        """Connect, declare, keep the lease; try again with a growing, spread delay."""
        backoff = Backoff()
        while True:
            try:
                await self._connection(backoff)
            except IsthmusError as error:
                if self.error != error.message:  # Said once, not at every attempt.
                    _log.warning("registration_lost", controller=self.controller.name, error=error.message)
                self.error = error.message
            finally:
                self.connected = False
                self._watch(())
                self._progress.set()
            await asyncio.sleep(backoff.delay_s())

    async def settled(self) -> None:
        """Wait until this controller holds all that was said, or is not connected."""
        while self.connected:
            declared = self._registrar.declared
            if declared is None or said.all_held(declared, self.cursor):
                return
            self._progress.clear()
            await self._progress.wait()

    async def _connection(self, backoff: Backoff) -> None:
        self.reopen.clear()
        async with open_channel(self.controller, self._identity, self._directory) as channel:
            call = register(channel)
            try:
                async with asyncio.timeout(WELCOME_TIMEOUT_S):
                    await send(call, AgentHello(incarnation=self._registrar.incarnation))
                    lease_ms = await self._welcome(call)
            except TimeoutError as error:
                raise UnavailableError(
                    f"register: {self.controller.spec.control} said nothing within {WELCOME_TIMEOUT_S:g} s"
                ) from error
            backoff.reset()
            self.cursor, self.refusals = said.Cursor(), {}
            self._asked, self._sighted = None, {}
            self.connected, self.error = True, ""
            _log.info("registration_open", controller=self.controller.name, lease_ms=lease_ms)
            await run_together(
                self._hear(call), self._tell(call, lease_ms), self._retry_refused(), self._reopened()
            )

    async def _welcome(self, call: RegisterCall) -> int:
        """Return the lease in milliseconds."""
        message = await receive(call)
        if isinstance(message, DirectoryUpdate):  # Our cluster has moved: its controllers are others now.
            self._take(message)
            message = await receive(call)
        if not isinstance(message, Welcome):
            raise InvalidInputError(
                f"register: expected a welcome, the controller sent {type(message).__name__}"
            )
        if not speaks(message.protocol):
            raise PreconditionError(
                f"register: {message.controller} speaks protocol {message.protocol}, this agent {PROTOCOL_VERSION}"
            )
        return min(max(message.lease_ms, LEASE_MS_MIN), LEASE_MS_MAX)

    async def _hear(self, call: RegisterCall) -> None:
        while True:
            self._take(await receive(call))
            self._progress.set()

    def _take(self, message: ControllerMessage) -> None:
        match message:
            case DeclareAck():
                before = self.cursor.unpublished
                self.cursor = said.acknowledged(
                    self.cursor, message.number, message.level, message.revision, message.unpublished
                )
                for key in self.cursor.unpublished.keys() - before.keys():
                    _log.error(
                        "endpoint_not_published",
                        controller=self.controller.name,
                        endpoint="/".join(key),
                        error=self.cursor.unpublished[key],
                    )
            case DeclareRefused():
                self.cursor = said.refused(self.cursor, message.key, message.number)
                if message.key in self.cursor.refused:
                    self.refusals[message.key] = message.message
                    _log.error(
                        "endpoint_refused",
                        controller=self.controller.name,
                        endpoint="/".join(message.key),
                        error=message.message,
                    )
            case DirectoryUpdate():
                try:
                    self._directory.offer(message.directory)
                except IsthmusError as error:
                    _log.error("directory_refused", controller=self.controller.name, error=error.message)
            case ProbeTargets():
                if (watch := self._registrar.watch) is not None:
                    watch.aim(self.controller.name, message)
                    self._asked = watch.named_by(self.controller.name)
                    self.news.set()
            case WatchDrains():
                self._watch(message.drains[:DRAINS_WATCHED_MAX])
            case Welcome():
                pass  # A second one says nothing new.

    def _watch(self, drains: tuple[WatchedDrain, ...]) -> None:
        if drains != self.watched:
            self.watched, self.reports = drains, ()
            self._registrar.consider_watched()

    async def _tell(self, call: RegisterCall, lease_ms: int) -> None:
        pause_s = lease_ms / HEARTBEATS_PER_LEASE / 1000
        while True:
            self.news.clear()
            declared = self._registrar.declared
            while declared is not None and (step := said.next_message(declared, self.cursor)) is not None:
                message, self.cursor = step
                for row in message.put:
                    self.refusals.pop(row.key, None)
                await send(call, message)
            is_asked = await self._tell_sightings(call)
            reports, self.reports = self.reports, ()
            for report in reports:
                await send(call, report)
            try:
                async with asyncio.timeout(min(pause_s, SIGHTED_PAUSE_S) if is_asked else pause_s):
                    await self.news.wait()
            except TimeoutError:
                await send(call, AgentHeartbeat())

    async def _tell_sightings(self, call: RegisterCall) -> bool:
        """Say what has turned in what a gateway sees; return whether this controller wants to know that.

        Of nobody else than it named since it was connected: of others it takes no word, and nothing is said twice.
        """
        watch = self._registrar.watch
        if watch is None or self._asked is None:
            return False  # A controller of an older build would not know what that is.
        seen = {cluster: heard for cluster, heard in watch.seen().items() if cluster in self._asked}
        news, self._sighted = sightings(self._sighted, seen)
        if news is not None:
            await send(call, news)
        return True

    async def _reopened(self) -> None:
        await self.reopen.wait()

    async def _retry_refused(self) -> None:
        while True:
            await asyncio.sleep(REFUSED_AGAIN_S)
            if self.cursor.refused:
                self.cursor = said.retry_refused(self.cursor)
                self.news.set()
