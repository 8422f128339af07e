"""What many watches and followers cost, in a process of its own.

python -m bench.catalog_watchers WATCHES     prints one line of JSON
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Coroutine, Iterator

import msgspec
from msgspec import Struct

from bench.catalog_growth import Filled
from federation.api.watch import WatchHub
from federation.replication.feed import SUBSCRIBERS_MAX, Feed
from federation.replication.messages import Delta, FollowRequest

ENDPOINTS = 10_000
CHANGES = 30
PAUSE_S = 0.05  # Between two changes.


class Watchers(Struct, frozen=True, kw_only=True):
    """By change: until the last watch had it, and the last follower; CPU of all of them together."""

    watches: int
    last_watch_ms: list[float]
    followers: int
    last_follower_ms: list[float]
    watch_cpu_ms: float  # For each change.
    follower_cpu_ms: float


class _Counter:
    """Says when everybody has got the newest change."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._left = 0
        self.all = asyncio.Event()

    def expect(self) -> None:
        self._left = self._count
        self.all.clear()

    def got(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.all.set()


async def measure(watches: int, *, endpoints: int = ENDPOINTS) -> Watchers:
    """Have everybody watch a catalog that changes now and then."""
    filled = Filled(10)
    filled.fill(endpoints)
    hub, feed = WatchHub(filled.catalog.history), Feed(filled.catalog, unix_ms=lambda: 0)
    filled.catalog.on_change(lambda _revision, _changes: hub.notify())
    watching = _Counter(watches)
    commands = (command for _cluster, command in filled.changes())

    async def watch() -> None:
        async for _revision, _changes in hub.changes(filled.catalog.revision):
            watching.got()

    by_watch = await _rounds(filled, commands, watching, [watch() for _ in range(watches)])
    followers = min(watches, SUBSCRIBERS_MAX)
    following = _Counter(followers)
    filled.catalog.on_change(feed.changed)

    async def follow() -> None:
        request = FollowRequest(history="bench", revision=filled.catalog.revision)
        async for answer in feed.subscribe(filled.names[0], request):
            if isinstance(answer, Delta):
                following.got()

    by_follower = await _rounds(filled, commands, following, [follow() for _ in range(followers)])
    return Watchers(
        watches=watches,
        last_watch_ms=by_watch[0],
        watch_cpu_ms=by_watch[1],
        followers=followers,
        last_follower_ms=by_follower[0],
        follower_cpu_ms=by_follower[1],
    )


async def _rounds(
    filled: Filled, commands: Iterator[bytes], counter: _Counter, watching: list[Coroutine[None, None, None]]
) -> tuple[list[float], float]:
    """Apply changes while these watch; return how long the last one waited for each, and the CPU of one."""
    took_ms: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one) for one in watching]
        await asyncio.sleep(PAUSE_S)  # Each has come to where it waits: they were begun before this one.
        cpu_s = 0.0
        for command in itertools.islice(commands, CHANGES):
            counter.expect()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            filled.send(command)
            await counter.all.wait()
            took_ms.append((time.perf_counter() - began_s) * 1000)
            cpu_s += time.process_time() - began_cpu_s
            await asyncio.sleep(PAUSE_S)
        for task in running:
            task.cancel()
    return took_ms, cpu_s / CHANGES * 1000


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(measure(int(sys.argv[1])))).decode())
