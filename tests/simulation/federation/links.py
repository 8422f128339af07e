"""Processes, and the links between them: late, cut in one direction or both, or gone with a process.

A stream is what gRPC over TCP gives: in order, nothing lost while it lives. What is written into a cut waits
there; a cut that lasts breaks the stream, as keepalives do.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

from federation.kernel.errors import UnavailableError
from tests.simulation.virtual import VirtualLoop

CONNECT_S = 2.0  # How long nobody answers before a caller gives up.
KEEPALIVE_S = 6.0  # How long a stream survives a cut.
WINDOW = 32  # Messages under way in one direction; then the writer waits.


class Process:
    """One process. Everything that runs in it ends when it is killed, and what it still sends is lost."""

    def __init__(self, name: str, site: str, net: "Net") -> None:
        self.name = name
        self.site = site
        self.net = net
        self.alive = False
        self.life = 0  # Counts its starts.
        self.tasks: asyncio.TaskGroup
        self._task: asyncio.Task[None] | None = None

    def start(self, owner: asyncio.TaskGroup, main: Callable[[], Awaitable[None]]) -> None:
        """Run `main`, and whatever it adds to `tasks`, until `kill`."""
        assert not self.alive, self.name
        self.alive = True
        self.life += 1
        self._task = owner.create_task(self._run(main), name=self.name)

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        self.alive = False
        if self._task is not None:
            self._task.cancel()
        self.net.died(self)

    async def _run(self, main: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as self.tasks:
            await main()


class Wire:
    """One direction of a stream."""

    def __init__(self, source: Process, target: Process, delay_s: Callable[[], float]) -> None:
        self.source = source
        self.target = target
        self._delay_s = delay_s
        self._transit: deque[tuple[float, bytes | None]] = deque()  # None: the other side closed.
        self._arrived: deque[bytes | None] = deque()
        self._moved = asyncio.Event()
        self._last_s = 0.0
        self._life = target.life
        self.broken = ""

    async def write(self, data: bytes) -> None:
        """Send; waits while too much is under way, raises `UnavailableError` when the stream is broken."""
        while not self.broken and len(self._transit) + len(self._arrived) >= WINDOW:
            self._moved.clear()
            await self._moved.wait()
        if self.broken:
            raise UnavailableError(self.broken)
        self._send(data)

    def close(self) -> None:
        """End the stream behind what was sent."""
        if not self.broken:
            self._send(None)

    async def read(self) -> bytes | None:
        """Return the next message, None at the end; raises `UnavailableError` when the stream is broken."""
        while not self._arrived:
            if self.broken:
                raise UnavailableError(self.broken)
            self._moved.clear()
            await self._moved.wait()
        self._moved.set()
        if self._arrived[0] is None:
            return None
        return self._arrived.popleft()

    def pump(self) -> None:
        """Let arrive what is due and not cut off."""
        now_s = self.source.net.loop.now_s
        if self.source.net.cut(self.source, self.target):
            return
        if not self.target.alive or self.target.life != self._life:
            self.break_("reset")  # As TCP answers what comes for a process that is no more.
        while self._transit and self._transit[0][0] <= now_s + 1e-9:
            self._arrived.append(self._transit.popleft()[1])
            self._moved.set()

    def fail(self, why: str) -> None:
        """End it with an error, behind what was sent."""
        if not self._transit:
            self.break_(why)
            return
        self.source.net.loop.call_at(self._last_s + 1e-6, self.break_, why)

    def break_(self, why: str) -> None:
        """End it for both sides, with what was under way lost."""
        self.broken = self.broken or why
        self._transit.clear()
        self._moved.set()

    def _send(self, data: bytes | None) -> None:
        if not self.source.alive:
            return
        loop = self.source.net.loop
        self._last_s = max(self._last_s, loop.now_s + self._delay_s())
        self._transit.append((self._last_s, data))
        loop.call_at(self._last_s, self.pump)


class Stream:
    """Both directions between a caller and who answers it."""

    def __init__(self, caller: Process, answerer: Process, delay_s: Callable[[], float]) -> None:
        self.caller = caller
        self.answerer = answerer
        self.up = Wire(caller, answerer, delay_s)
        self.down = Wire(answerer, caller, delay_s)

    def break_(self, why: str) -> None:
        """End both directions."""
        self.up.break_(why)
        self.down.break_(why)


class Net:
    """Who reaches whom."""

    def __init__(self, loop: VirtualLoop, seed: int, *, delay_ms: float, jitter: float) -> None:
        self.loop = loop
        self.processes: dict[str, Process] = {}
        self._seed = seed
        self._delay_ms = delay_ms
        self._jitter = jitter
        self._cuts: dict[tuple[str, str], float] = {}  # From, to (sites or processes); since when.
        self._streams: dict[Stream, None] = {}
        self._rngs: dict[tuple[str, str], random.Random] = {}

    def add(self, name: str, site: str) -> Process:
        """Return a new process, not started."""
        process = self.processes[name] = Process(name, site, self)
        return process

    def cut(self, source: Process, target: Process) -> bool:
        """True while nothing gets from `source` to `target`."""
        if not self._cuts or source is target:
            return False
        sites = (source.site, target.site)
        return (source.name, target.name) in self._cuts or (sites[0] != sites[1] and sites in self._cuts)

    def both_ways(self, one: Process, other: Process) -> bool:
        """True when the two reach each other."""
        return not self.cut(one, other) and not self.cut(other, one)

    def delay_s(self, source: Process, target: Process) -> float:
        """Return how long one message takes; drawn for each pair apart, so that runs do not depend on order."""
        rng = self._rngs.get((source.name, target.name))
        if rng is None:
            rng = random.Random(f"{self._seed}/{source.name}/{target.name}")
            self._rngs[source.name, target.name] = rng
        base = self._delay_ms if source.site != target.site else 0.3
        return base * (1 + self._jitter * rng.random()) / 1000

    def begin_cut(self, pairs: list[tuple[str, str]]) -> None:
        """Cut from each first to each second, in that direction."""
        for pair in pairs:
            self._cuts.setdefault(pair, self.loop.now_s)
        self.loop.call_later(KEEPALIVE_S, self._break_silent)

    def heal(self, pairs: list[tuple[str, str]] | None = None) -> None:
        """End these cuts, or all."""
        for pair in list(self._cuts) if pairs is None else pairs:
            self._cuts.pop(pair, None)
        for stream in list(self._streams):
            stream.up.pump()
            stream.down.pump()

    async def dial(self, caller: Process, to: str) -> Stream:
        """Open a stream; raises `UnavailableError` when nobody answers."""
        answerer = self.processes[to]
        await asyncio.sleep(self.delay_s(caller, answerer) + self.delay_s(answerer, caller))
        if not self.both_ways(caller, answerer):
            await asyncio.sleep(CONNECT_S)
            raise UnavailableError(f"{to} does not answer")
        if not answerer.alive:
            raise UnavailableError(f"{to} refuses the connection")
        stream = Stream(caller, answerer, lambda: self.delay_s(caller, answerer))
        self._streams[stream] = None
        return stream

    def forget(self, stream: Stream) -> None:
        """Nobody uses the stream any more."""
        self._streams.pop(stream, None)

    def hang_up(self, stream: Stream) -> None:
        """The caller closes the stream; the other side hears of it when it can."""
        stream.down.break_("closed")
        wait_s = self.delay_s(stream.caller, stream.answerer)
        if self.cut(stream.caller, stream.answerer):
            wait_s = KEEPALIVE_S
        self.loop.call_later(wait_s, stream.break_, "closed by the caller")

    def died(self, process: Process) -> None:
        """Tell those who have a stream with a process that was killed: soon, or by keepalive behind a cut."""
        for stream in list(self._streams):
            if process not in (stream.caller, stream.answerer):
                continue
            other = stream.answerer if process is stream.caller else stream.caller
            wait_s = KEEPALIVE_S if self.cut(process, other) else self.delay_s(process, other)
            self.loop.call_later(wait_s, stream.break_, f"{process.name} is gone")

    def _break_silent(self) -> None:
        for stream in list(self._streams):
            since_s = min(
                self._since_s(stream.caller, stream.answerer), self._since_s(stream.answerer, stream.caller)
            )
            if since_s <= self.loop.now_s - KEEPALIVE_S + 1e-6:
                stream.break_("keepalive: no answer")

    def _since_s(self, source: Process, target: Process) -> float:
        pairs = [(source.name, target.name)]
        if source.site != target.site:
            pairs.append((source.site, target.site))
        return min(self._cuts.get(pair, float("inf")) for pair in pairs)
