"""Processes that follow the catalog from whichever controller they reach, as DNS processes do."""

import asyncio
import random
from collections.abc import AsyncGenerator

from certs.core.spiffe import SpiffeId, system_id
from federation.agent.directory import preferred_controllers
from federation.kernel.errors import UnavailableError
from federation.replication.follower import Follower
from federation.replication.messages import FollowAnswer, FollowRequest
from federation.replication.state import Image, Update
from federation.replication.wire import decode_answer, encode
from tests.simulation.federation.agents import Accept
from tests.simulation.federation.links import Process
from tests.simulation.federation.movers import MovingDirectory
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.rules import Rules, WatchedCopy


class SimFollower:
    """One follower; what is left when its process is killed are the images that it wrote to its disk."""

    def __init__(
        self,
        process: Process,
        cluster: str,
        trust_domain: str,
        *,
        directory: MovingDirectory,
        accept: Accept,
        rules: Rules,
        parts: Parts,
        rng: random.Random,
    ) -> None:
        self.process = process
        self.cluster = cluster
        self.images: list[Image] = []
        self.copy: WatchedCopy | None = None
        self.follower: Follower | None = None
        self._peer = system_id(trust_domain, cluster, "dns", process.name)
        self._directory = directory
        self._accept = accept
        self._rules = rules
        self._parts = parts
        self._rng = rng

    def start(self, owner: asyncio.TaskGroup, image: Image | None) -> None:
        """Start it from what its disk holds."""
        state = self._parts.follower(self.cluster)
        copy = self.copy = WatchedCopy(self.process.name, state, self._rules)
        if image is not None:
            copy.took(state.restore(image))
        follower = self.follower = self._parts.following(
            state,
            sources=self._sources,
            on_change=self._took,
            jitter=self._rng.random,
            unix_ms=lambda: int(self.process.net.loop.now_s * 1000),
            clock=lambda: self.process.net.loop.now_s,
        )
        self.process.start(owner, follower.run)

    def _sources(self) -> "list[_SimSource]":
        known = preferred_controllers(self._directory.current, self.cluster)
        return [_SimSource(self.process, one.name, self._peer, self._accept) for one in known]

    def _took(self, update: Update) -> None:
        assert self.copy is not None
        self.copy.took(update)
        self._directory.learn(self.copy.state.tables)

    @property
    def source(self) -> str:
        """The controller that it follows now, or ""."""
        return "" if self.follower is None else self.follower.status.source

    def save(self) -> None:
        """Write the copy to the disk, beside earlier ones."""
        if self.process.alive and self.copy is not None and self.copy.state.complete:
            self.images.append(self.copy.state.image(synced_unix_ms=0))


class _SimSource:
    """One controller, reached over the simulation's links."""

    def __init__(self, process: Process, controller: str, peer: SpiffeId, accept: Accept) -> None:
        self.name = controller
        self._process = process
        self._peer = peer
        self._accept = accept

    async def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream."""
        net = self._process.net
        stream = await net.dial(self._process, self.name)
        try:
            self._accept(self.name, "follow", stream, self._peer)
            await stream.up.write(encode(request))
            while (data := await stream.down.read()) is not None:
                yield decode_answer(data)
            if stream.down.broken:
                raise UnavailableError(stream.down.broken)
        finally:
            net.hang_up(stream)

    async def hold(self, revision: int) -> None:
        """What is told so is for people: nothing depends on it."""
