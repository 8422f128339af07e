"""The controller's xDS part: one live view for each cluster whose proxies it feeds.

It follows the feed of its own process through the same messages as any other follower, so that it
could run in a process of its own.
"""

import asyncio
import contextlib
from collections.abc import Iterable

import structlog

from discovery.core.model import ServiceKey
from discovery.core.view import Service
from federation.api.understanding import Served
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from federation.replication.followed_view import FollowedView
from federation.replication.state import FollowerState
from gateways.core.compile import ViewCompiler
from gateways.runtime.compiled import CompiledSource

# A millisecond of compiling for each; the event loop must not stand still for longer than a few.
SERVICES_PER_SLICE = 8

_log = structlog.get_logger("views")


class LiveViews:
    """Keeps the views of every joined cluster compiled, and answers what a cluster sees."""

    def __init__(self, feed: Feed, source: CompiledSource, tracer: Tracer) -> None:
        self._feed = feed
        self._tracer = tracer
        self._source = source
        self._served: dict[str, Served] = {}
        self._wanted: dict[str, None] = {}  # In the order in which they joined.
        self._news = asyncio.Event()

    def want(self, clusters: Iterable[str]) -> None:
        """Serve these clusters from now on, and those that were removed no longer: their proxies are sent away."""
        wanted = dict.fromkeys(clusters)
        if wanted.keys() != self._wanted.keys():
            self._wanted = wanted
            self._news.set()

    def service(self, cluster: str, key: ServiceKey) -> Service | None:
        """Return a service as `cluster` sees it."""
        served = self._served.get(cluster)
        return None if served is None else served.view.service(key)

    def served(self, cluster: str) -> Served | None:
        """Return a cluster's view and what is compiled from it; None while it is not ready."""
        return self._served.get(cluster)

    async def run(self) -> None:
        """Follow for every wanted cluster until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                self._news.clear()
                for cluster in running.keys() - self._wanted.keys():
                    running.pop(cluster).cancel()
                    self._served.pop(cluster, None)
                    self._source.remove(cluster)
                for cluster in [one for one in self._wanted if one not in running]:
                    running[cluster] = tasks.create_task(self._follow(cluster), name=f"view/{cluster}")
                await self._news.wait()

    async def _follow(self, cluster: str) -> None:
        state = FollowerState(cluster)
        followed = FollowedView(state)
        compiler: ViewCompiler | None = None
        async with contextlib.aclosing(self._feed.subscribe(cluster, state.request())) as answers:
            async for answer in answers:
                update = state.apply(answer)
                if update.empty or not state.complete:
                    continue
                changed = followed.take(update)
                if compiler is None:
                    compiler = ViewCompiler(cluster, followed.view)
                    await _compile_all(compiler, changed)
                    self._served[cluster] = Served(followed.view, compiler)
                    self._source.add(compiler)
                    _log.info("view_ready", cluster=cluster, services=len(changed), revision=state.revision)
                else:
                    self._source.update(cluster, changed, self._tracer.passage(answer) if changed else None)


async def _compile_all(compiler: ViewCompiler, keys: frozenset[ServiceKey]) -> None:
    ordered = sorted(keys)
    compiler.update(())  # The roots, which may be all there is.
    for start in range(0, len(ordered), SERVICES_PER_SLICE):
        compiler.update(ordered[start : start + SERVICES_PER_SLICE])
        await asyncio.sleep(0)
