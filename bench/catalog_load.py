"""One controller's catalog in a process of its own, asked over pipes: a member of the log, a feed, a follower.

python -m bench.catalog_load DIRECTORY NAME     one JSON object a line in, one out
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.catalogs import endpoints
from bench.log_member import FEDERATION, TIMING
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from consensus.runtime.embedded import EmbeddedEngine
from discovery.core.catalog import Catalog
from discovery.core.commands import Put
from discovery.core.declarations import Declaration
from discovery.core.model import Change, Endpoint, EndpointKey, ResourceKey, unpack_endpoint
from discovery.core.specs import AnySpec, ClusterSpec, FederationSpec, TrustDomainSpec
from federation.agent.directory import DirectoryStore
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.app.process import spare_what_lives
from federation.app.publisher import Publisher
from federation.app.raft import RaftSecurity, members_of
from federation.app.telemetry import set_up_logging
from federation.replication.feed import Feed, federation_id
from federation.replication.followed_view import FollowedView
from federation.replication.state import FollowerState
from federation.replication.wire import decode_answer, encode

CLUSTERS = tuple(f"c{number}" for number in range(10))
ENDPOINTS_PER_CLUSTER = 100
AGENT = "bench"
ADDRESS = "10.0.0.1"
PHASES = {name: number / len(CLUSTERS) for number, name in enumerate(CLUSTERS)}  # They do not change in step.
PACE_S = 0.002  # Declarations that are due come together each so often.
SENT = "sent"  # The label with the moment of the declaration, by the machine's monotonic clock.
SETTLE_S = 30.0


class Ask(Struct, frozen=True, kw_only=True):
    """One question."""

    what: str  # leads, found, follow, host, load, lags
    clusters: tuple[str, ...] = ()  # For host: whose controller this is.
    per_s: dict[str, float] = {}  # For load: changes a second, by cluster of those.
    seconds: float = 0.0


class Loaded(Struct, frozen=True, kw_only=True):
    """What a load came to: by cluster, from each declaration until it was global."""

    took_ms: dict[str, list[float]]
    elapsed_s: float
    failure: str = ""


class LoadedCluster:
    """One cluster's agent, registry and publisher at this controller."""

    def __init__(self, name: str, catalog: Catalog, engine: EmbeddedEngine, feed: Feed) -> None:
        self.name = name
        self.took_ms: list[float] = []
        self.registry = ClusterRegistry(
            name, catalog=catalog, lease_ms=60_000, clock=time.monotonic, changed=feed.local_changed
        )
        feed.serve_local(name, self.registry.rows())
        self.publisher = Publisher(
            self.registry, holder="bench", catalog=catalog, proposer=Proposer(engine, cluster=name)
        )
        self._rows = endpoints(name, ENDPOINTS_PER_CLUSTER, address=ADDRESS)
        self._sequence = 0
        self._pending: deque[tuple[int, float]] = deque()
        self._some = asyncio.Event()
        self.idle = asyncio.Event()  # Everything declared is global.
        self.registry.open(AGENT, 1, self)
        self._declare(self._rows, complete=True)

    def change(self, count: int) -> None:
        """Declare that so many endpoints changed."""
        for _ in range(count):
            row = self._rows[self._sequence % len(self._rows)]
            self._declare([row], complete=False)

    async def take(self) -> None:
        """Note when declarations became global, until cancelled."""
        while True:
            while not self._pending:
                self.idle.set()
                self._some.clear()
                await self._some.wait()
            await self.registry.wait_published(self._pending[0][0], AGENT)
            now_s = time.monotonic()
            while self._pending and self._pending[0][0] <= self.registry.published_version:
                self.took_ms.append((now_s - self._pending.popleft()[1]) * 1000)

    def _declare(self, rows: Iterable[Endpoint], *, complete: bool) -> None:
        now_s = time.monotonic()
        self._sequence += 1
        put = tuple(
            msgspec.structs.replace(
                row,
                agent=AGENT,
                incarnation=1,
                sequence=self._sequence,
                ready=self._sequence % 2 == 0,
                labels=((SENT, repr(now_s)),),
            )
            for row in rows
        )
        declaration = Declaration(
            agent=AGENT, incarnation=1, sequence=self._sequence, put=put, complete=complete
        )
        refused = self.registry.declare(declaration, self).refused
        assert not refused, refused
        self._pending.append((self.registry.version, now_s))
        self._some.set()
        self.idle.clear()


class CatalogMember:
    """What the process consists of."""

    def __init__(self, directory: Path, name: str) -> None:
        store = DirectoryStore.open(directory / name)
        members = members_of(store.current)
        self.name = name
        self.catalog = Catalog()
        self.engine = EmbeddedEngine(
            next(member for member in members if member.id == name),
            directory=directory / name / "raft",
            machine=self.catalog,
            bootstrap=members,
            security=RaftSecurity(
                LeafIdentity.load(directory / name / "identity"),
                store,
                Verifier(store.bundles, clock=utc_now),
            ),
            federation=FEDERATION,
            timing=TIMING,
        )
        self.feed = Feed(self.catalog, unix_ms=lambda: 0)
        self.lags_ms: list[float] = []
        self._founded = asyncio.Event()  # Here the log has a federation.
        self.clusters: dict[str, LoadedCluster] = {}

    async def run(self) -> None:
        """Serve the pipes until they close."""
        loop = asyncio.get_running_loop()

        def hand_over(revision: int, changes: tuple[Change, ...]) -> None:
            loop.call_soon_threadsafe(self._changed, revision, changes)

        self.catalog.on_change(hand_over)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            running = [tasks.create_task(self.engine.run(), name="engine")]
            await self.engine.ready.wait()
            spare_what_lives()
            while line := await asyncio.to_thread(sys.stdin.readline):
                answer = await self._answer(msgspec.json.decode(line, type=Ask), running)
                print(msgspec.json.encode(answer).decode(), flush=True)
            for task in running:
                task.cancel()

    async def _answer(self, ask: Ask, running: list["asyncio.Task[None]"]) -> object:
        match ask.what:
            case "leads":
                return self.engine.status().role == "leader"
            case "found":
                await self._found()
                return True
            case "follow":
                followed = asyncio.Event()
                running.append(self._tasks.create_task(self._follow(followed), name="follow"))
                await followed.wait()
                return True
            case "host":
                running += self._host(ask.clusters)
                return await self._settled()
            case "load":
                return await self._load(ask)
            case _:
                lags, self.lags_ms = self.lags_ms, []
                return lags

    async def _load(self, ask: Ask) -> Loaded:
        for cluster in self.clusters.values():
            cluster.took_ms.clear()
        began_s = time.monotonic()
        done = dict.fromkeys(ask.per_s, 0)
        while (passed_s := time.monotonic() - began_s) < ask.seconds:
            for name, per_s in ask.per_s.items():
                due = int(passed_s * per_s + PHASES[name])
                self.clusters[name].change(due - done[name])
                done[name] = due
            await asyncio.sleep(PACE_S)
        settled = await self._settled()
        return Loaded(
            took_ms={name: list(cluster.took_ms) for name, cluster in self.clusters.items()},
            elapsed_s=time.monotonic() - began_s,
            failure="" if settled else f"not everything was global {SETTLE_S:g} s after the load",
        )

    async def _settled(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                for cluster in self.clusters.values():
                    await cluster.idle.wait()
            return True
        return False

    async def _found(self) -> None:
        proposer = Proposer(self.engine, cluster=CLUSTERS[0])
        first: list[Put] = [_put("Federation", "federation", FederationSpec(id=FEDERATION))]
        for name in CLUSTERS:
            domain = f"{name}.example"
            first.append(_put("Cluster", name, ClusterSpec(role="primary", trust_domain=domain)))
            first.append(_put("TrustDomain", domain, TrustDomainSpec(roots=("PEM",))))
        await proposer.write(*first)

    def _host(self, names: Iterable[str]) -> list["asyncio.Task[None]"]:
        hosted = [LoadedCluster(name, self.catalog, self.engine, self.feed) for name in names]
        self.clusters = {cluster.name: cluster for cluster in hosted}
        parts = [part for cluster in hosted for part in (cluster.publisher.run(), cluster.take())]
        return [self._tasks.create_task(part) for part in parts]

    async def _follow(self, followed: asyncio.Event) -> None:
        await self._founded.wait()
        state = FollowerState(CLUSTERS[0])
        view = FollowedView(state)
        async for answer in self.feed.subscribe(state.cluster, state.request()):
            update = state.apply(decode_answer(encode(answer)))
            if state.up_to_date and state.newest_revision:
                followed.set()
            if update.empty:
                continue
            view.take(update)
            now_s = time.monotonic()
            for change in update.changes:
                if change.table == "endpoints" and change.value is not None:
                    sent = dict(unpack_endpoint(change.value).labels).get(SENT, "")
                    self.lags_ms.append((now_s - float(sent)) * 1000)

    def _changed(self, revision: int, changes: tuple[Change, ...]) -> None:
        if federation_id(self.catalog.tables):
            self._founded.set()
        self.feed.changed(revision, changes)
        for name, cluster in self.clusters.items():
            mine = tuple(
                change
                for change in changes
                if change.table == "endpoints" and EndpointKey.decode(change.key).cluster == name
            )
            if mine:
                cluster.registry.absorb(mine)


def _put(kind: str, name: str, spec: AnySpec) -> Put:
    return Put(key=ResourceKey("", kind, "", name), spec=msgspec.json.encode(spec))


if __name__ == "__main__":
    set_up_logging("error")
    asyncio.run(CatalogMember(Path(sys.argv[1]), sys.argv[2]).run())
