"""One controller on virtual time: the parts that `federation.app.controller` wires, wired alike, without ports."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

import msgspec

from certs.core.spiffe import SpiffeId, system_id
from discovery.core.catalog import Catalog
from discovery.core.commands import Delete, Put
from discovery.core.declarations import Withdrawn
from discovery.core.liveness import is_suspended
from discovery.core.local import LocalTable
from discovery.core.model import Change, EndpointKey, ResourceKey, unpack_endpoint
from discovery.core.specs import MemberSpec, ObservationSpec
from discovery.core.tables import Tables
from discovery.core.views import ViewIndex
from federation.api.audit import AuditTrail
from federation.api.control import ControlService
from federation.api.health import Facts
from federation.api.heard_service import HeardService
from federation.api.messages import Directory
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.api.tracing import ControllerTrace
from federation.api.understanding import Served
from federation.api.watch import WatchHub
from federation.app.controller import _is_directory
from federation.app.drain_watch import DrainWatch
from federation.app.fellows import FellowListener
from federation.app.publisher import Publisher
from federation.app.removing import RemovalDesk
from federation.app.served_clusters import _all_changed, _is_endpoint_of
from federation.app.traces import Tracer
from federation.kernel.errors import CompactedError, IsthmusError, OutcomeUnknownError
from federation.replication.feed import Feed
from federation.replication.service import ReplicationService
from tests.simulation.federation.agents import Accept, FixedDirectory
from tests.simulation.federation.agreed_log import AgreedLog, MemberLog
from tests.simulation.federation.links import Process, Stream
from tests.simulation.federation.movers import REMOTE, MovingDirectory
from tests.simulation.federation.outside import SimChecker
from tests.simulation.federation.parts import Parts
from tests.simulation.federation.plan import CLUSTERS
from tests.simulation.federation.rules import Rules, WatchedCopy, WatchedRegistry
from tests.simulation.virtual import DriftingClock

LEASE_MS = 3_000
SWEEP_S = 0.5
OBSERVE_S = 1.0
NOTHING_MISSED = msgspec.json.encode(ObservationSpec())
SNAPSHOT_LAG = 40  # Entries behind which a snapshot is installed instead, half of the time.


class SimController:
    """What is left when its process is killed is its disk: how far it knew the log, and what agents told it alone."""

    def __init__(
        self,
        process: Process,
        agreed: AgreedLog,
        rules: Rules,
        parts: Parts,
        *,
        trust_domain: str,
        moves: bool,
        directory: FixedDirectory,
        accept: Accept,
        missed: Callable[[Process, str], ObservationSpec] | None,
        checker: Callable[["SimController"], SimChecker] | None,
        rng: random.Random,
        drift: float,
    ) -> None:
        self.process = process
        self.cluster = process.site
        self.identity = system_id(
            trust_domain, self.cluster, "controller", process.name.removeprefix(f"{self.cluster}-")
        )
        self.accept = accept  # What answers streams that this controller opens.
        self._moves = moves  # A remote cluster is in this federation, and may move.
        self.registries: dict[str, ClusterRegistry] = {}
        self.copies: dict[str, WatchedCopy] = {}
        self.applied_index = 0
        self.clock_jump_s = 0.0
        self._directory = directory
        self._missed = missed  # What it misses of a cluster now; None: it observes nobody.
        self._make_checker = checker  # Of what is outside of all clusters; None: it checks nothing.
        self._agreed = agreed
        self._rules = rules
        self._parts = parts
        self._rng = rng
        self._clock = DriftingClock(process.net.loop, rng, drift=drift)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._ready = False
        self._journal: dict[str, list[bytes | Withdrawn]] = {}  # On its disk, as old as the last sweep.

    # -- life --------------------------------------------------------------------------------------

    def start(self, owner: asyncio.TaskGroup, *, known_index: int) -> None:
        """Start the process, whose disk holds the log up to `known_index`."""
        self._load(known_index)
        self.process.start(owner, self._main)

    def _load(self, known_index: int) -> None:
        self._ready = False
        self._recalled = dict(self._journal)
        self._waiting = {}
        self._began_s: dict[str, float] = {}
        self._viewing: dict[str, asyncio.Task[None]] = {}
        self.registries = {}
        self._epochs: dict[str, int] = {}
        self.copies = {}
        self.catalog: Catalog = self._parts.catalog()
        for index in range(1, known_index + 1):
            self.catalog.apply(index, self._agreed.entries[index - 1])
        self.applied_index = known_index
        self._learn_moves()
        self.audit = AuditTrail(unix_ms=self._unix_ms)
        self.tracer = Tracer(clock=self.now_s, unix_ms=self._unix_ms)
        self.feed = Feed(self.catalog, unix_ms=self._unix_ms)
        self._fellows = FellowListener(
            self.process.name,
            leaf=self,  # type: ignore[arg-type] # what the simulation's channels need of an identity
            directory=self._directory,  # type: ignore[arg-type]
        )
        self.watches = WatchHub(self.catalog.history)
        self.proposer = Proposer(MemberLog(self._agreed, self), cluster=self.cluster)
        self.drain_watch = DrainWatch(
            catalog=self.catalog, proposer=self.proposer, registries=self.registries, clock=self.now_s
        )
        self.drains = self._parts.desk(
            holder=self.process.name,
            proposer=self.proposer,
            catalog=self.catalog,
            views=_ViewsNow(self.catalog),
            facts=_nobody_votes,
        )
        self.checker = None if self._make_checker is None else self._make_checker(self)
        self.removals = RemovalDesk(
            cluster=self.cluster,
            proposer=self.proposer,
            catalog=self.catalog,
            status=self._agreed.status,  # type: ignore[arg-type] # what a removal asks of it
            change_member=self.change_member,
        )
        self.moves = self._parts.moves(
            cluster=self.cluster,
            proposer=self.proposer,
            catalog=self.catalog,
            registries=self.registries,
            trace=self._trace,
            clock=self.now_s,
        )
        self.control = ControlService(
            name=self.process.name,
            catalog=self.catalog,
            signer=None,  # type: ignore[arg-type] # nobody asks for certificates
            registry=self.registries.get,
            directories=self._directories if self._moves else _no_directories,
            health=None,  # type: ignore[arg-type] # nobody asks for it
            trace=lambda _request: b"",
            audit=self.audit,
            drains=self.drain_watch,
        )

    def _unix_ms(self) -> int:
        return int(self.process.net.loop.now_s * 1000)

    async def _main(self) -> None:
        loop = self.process.net.loop
        # As in the product: what the log's thread applied is handed over to the loop.
        self.catalog.on_judged(self.audit.judged)
        self.catalog.on_change(lambda *news: loop.call_soon(self._changed, *news))
        self.catalog.on_reset(lambda _revision: loop.call_soon(self._reset))
        self._ready = True
        self.process.tasks.create_task(self._watch(), name="watch")
        self.process.tasks.create_task(self._sweep(), name="leases")
        self.process.tasks.create_task(self._fellows.run(), name="fellows")
        self.process.tasks.create_task(self.drains.run(), name="drains")
        self.process.tasks.create_task(self.drain_watch.run(), name="drain-watch")
        if self._moves:
            self.process.tasks.create_task(self.moves.run(), name="moves")
        if self._missed is not None:
            self.process.tasks.create_task(self._observe(self._missed), name="observe")
        if self.checker is not None:
            self.process.tasks.create_task(self.checker.run(), name="external")
        self._learn()

    def is_cut_off(self) -> bool:
        """True while it misses so many other clusters that the fault must be its own."""
        assert self._missed is not None
        seen = [self._missed(self.process, name) for name in CLUSTERS if name != self.cluster]
        planes = ([one.control_lost for one in seen], [one.data_lost for one in seen])
        return any(is_suspended(sum(lost), len(lost)) for lost in planes)

    async def change_member(self, action: str, cluster: str) -> str:
        """Take the vote of a cluster, as an operator wants."""
        spec = MemberSpec(standing="removed")
        key = ResourceKey("", "Member", "", cluster)
        await self.proposer.write(Put(key=key, spec=msgspec.json.encode(spec)))
        self._agreed.retire(cluster)
        return action

    def restarted(self, cluster: str) -> bool:
        """True while not every agent had the time to come back since the last start."""
        return self.process.net.loop.now_s < self._began_s.get(cluster, 0.0) + 2 * LEASE_MS / 1000

    # -- the log -----------------------------------------------------------------------------------

    def catch_up(self, index: int) -> None:
        """Apply entries up to `index`, if they get here."""
        if not self._ready or not self.process.alive or not self._agreed.reaches(self.process):
            return
        behind = index - self.applied_index
        if behind > SNAPSHOT_LAG and self._rng.random() < 0.5:
            self.catalog.restore(list(self._rules.truth.snapshot()))
            self.applied_index = len(self._agreed.entries)
            self._rules.restored(self.process.name, self.catalog)
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
        while self.applied_index < index:
            self.applied_index += 1
            result = self.catalog.apply(self.applied_index, self._agreed.entries[self.applied_index - 1])
            if (future := self._waiting.pop(self.applied_index, None)) is not None and not future.done():
                future.set_result(result)

    async def result_of(self, index: int) -> bytes:
        """Return what this controller's catalog answers to an entry."""
        if index <= self.applied_index:
            raise OutcomeUnknownError("the answer came with a snapshot")
        future = self._waiting[index] = self.process.net.loop.create_future()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled() and index not in self._waiting:
                raise OutcomeUnknownError("the answer came with a snapshot") from None
            raise

    # -- following the catalog, as the product's controller does ------------------------------------------

    def _changed(self, revision: int, changes: tuple[Change, ...]) -> None:
        if not self.process.alive:
            return
        self.tracer.committed(revision, changes)
        self.feed.changed(revision, changes)
        self.watches.notify()
        if self.checker is not None:
            self.checker.changed(changes)
        if any(_is_directory(change) for change in changes):
            self._learn()
        for change in changes:
            if change.table == "resources" and change.value is None:
                self.control.evict(change.key)
        for cluster, registry in self.registries.items():
            if mine := tuple(change for change in changes if _is_endpoint_of(change, cluster)):
                registry.absorb(mine)

    def _reset(self) -> None:
        if not self.process.alive:
            return
        self.feed.reset()
        self.watches.notify()
        if self.checker is not None:
            self.checker.reset()
        for registry in self.registries.values():
            registry.absorb(_all_changed(self.catalog.tables, registry))
        self.control.evict_missing()
        self._learn()

    def _learn(self) -> None:
        self._learn_moves()
        for gone in [name for name in self.registries if not self._is_ours(name)]:
            registry = self.registries.pop(gone)
            del self._epochs[gone]
            registry.retire()
            self._fellows.leave(registry)
            self.feed.leave_local(gone)
            self._journal.pop(gone, None)
            self._recalled.pop(gone, None)
            self.copies.pop(gone, None)
            self._viewing.pop(gone).cancel()
        for cluster in (self.cluster, REMOTE):
            if cluster not in self.registries and self._is_ours(cluster):
                self._serve(cluster)

    def _is_ours(self, cluster: str) -> bool:
        spec = self.catalog.tables.cluster(cluster)
        if spec is None or self.cluster not in (cluster, *spec.homes):
            return False
        return spec.epoch == self._epochs.setdefault(cluster, spec.epoch)

    def _learn_moves(self) -> None:
        if isinstance(self._directory, MovingDirectory):
            self._directory.learn(self.catalog.tables)

    async def _directories(self) -> AsyncIterator[Directory]:
        known = await self._directory.newer_than(-1)
        while True:
            yield known
            known = await self._directory.newer_than(known.revision)

    async def _trace(self, revision: int) -> tuple[ControllerTrace, ...]:
        """Ask every controller how far a write has come: whoever has applied it, compiles it in the same moment."""
        await asyncio.sleep(
            max(self.process.net.delay_s(self.process, one.process) for one in self._agreed.controllers)
        )
        return tuple(
            ControllerTrace(controller=one.process.name, state=one.state_of(revision, self.process))
            for one in self._agreed.controllers
        )

    def state_of(self, revision: int, asked_by: Process) -> str:
        """How far a write is here, as its tracer would say who has to know."""
        if not self.process.alive or not self.process.net.both_ways(asked_by, self.process):
            return "silent"
        return "forgotten" if self.catalog.revision >= revision else "behind"

    def _serve(self, cluster: str) -> None:
        process, life = self.process, self.process.life
        watched = WatchedRegistry(
            process.name, cluster, self._rules, lives=lambda: process.alive and process.life == life
        )

        def changed(name: str, changes: tuple[Change, ...]) -> None:
            watched.told(changes)
            self.feed.local_changed(name, changes)

        registry = self._parts.registry(
            cluster, catalog=self.catalog, lease_ms=LEASE_MS, clock=self.now_s, changed=changed
        )
        if self._parts.local is not LocalTable:
            registry._table.__class__ = self._parts.local
        self._rules.hears(self.process.name, cluster, registry, self.now_s)
        self._began_s[cluster] = self.process.net.loop.now_s
        self.registries[cluster] = registry
        self._recall(registry)
        watched.began(registry)
        self.feed.serve_local(cluster, registry.rows())
        self._fellows.serve(registry)
        publisher = Publisher(
            registry, holder=self.process.name, catalog=self.catalog, proposer=self.proposer
        )
        self.process.tasks.create_task(publisher.run(), name=f"publish/{cluster}")
        self._viewing[cluster] = self.process.tasks.create_task(self._view(cluster), name=f"view/{cluster}")

    def _recall(self, registry: ClusterRegistry) -> None:
        entries = self._recalled.pop(registry.cluster, [])
        rows = [unpack_endpoint(entry) for entry in entries if isinstance(entry, bytes)]
        registry.recall(rows, [entry for entry in entries if isinstance(entry, Withdrawn)])

    def _write_journal(self) -> None:
        theirs = self.catalog.tables.endpoints
        for cluster, registry in self.registries.items():
            mine = (key for key, _ in theirs.items() if EndpointKey.decode(key).cluster == cluster)
            keys = sorted({*mine, *(key for key, _ in registry.rows())})
            entries = (registry.unsettled(key, theirs.get(key)) for key in keys)
            held = self._journal[cluster] = [entry for entry in entries if entry is not None]
            self._rules.journalled(unpack_endpoint(entry) for entry in held if isinstance(entry, bytes))

    def now_s(self) -> float:
        """Return what this process's clock shows: it drifts, and jumps as a clock should not."""
        return self._clock.now_s() + self.clock_jump_s

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for cluster, registry in self.registries.items():
                with self._rules.expiring(self.process.name, cluster, registry, self.now_s()):
                    registry.sweep()
            self._write_journal()

    async def _observe(self, missed: Callable[[Process, str], ObservationSpec]) -> None:
        """Tell the log what is missed of the other clusters, whenever that changes."""
        while True:
            await asyncio.sleep(OBSERVE_S)
            for subject in CLUSTERS:
                key = ResourceKey(self.cluster, "Observation", "", subject)
                row, seen = self.catalog.tables.resource(key), missed(self.process, subject)
                spec = msgspec.json.encode(seen)
                if (
                    self.catalog.tables.cluster(subject) is None
                    or self.catalog.tables.cluster(self.cluster) is None
                ):
                    continue
                if subject == self.cluster or spec == (NOTHING_MISSED if row is None else row.spec):
                    continue
                with contextlib.suppress(IsthmusError):  # Tried again, by what is seen then.
                    await self.proposer.write(
                        Delete(key=key) if spec == NOTHING_MISSED else Put(key=key, spec=spec)
                    )

    async def _view(self, cluster: str) -> None:
        state = self._parts.follower(cluster)
        copy = self.copies[cluster] = WatchedCopy(f"{self.process.name}/view", state, self._rules)
        async with contextlib.aclosing(self.feed.subscribe(cluster, state.request())) as answers:
            async for answer in answers:
                copy.took(state.apply(answer))

    async def _watch(self) -> None:
        position = self.catalog.revision
        while True:
            try:
                async with contextlib.aclosing(self.watches.changes(position)) as news:
                    async for revision, changes in news:
                        self._rules.watched(self.process.name, position, revision, changes)
                        position = revision
            except CompactedError:
                position = self.catalog.revision

    # -- ports -------------------------------------------------------------------------------------

    def answer(self, kind: str, stream: Stream, peer: SpiffeId) -> None:
        """Answer a caller whose certificate names `peer`."""
        answer = {"register": self._register, "follow": self._follow, "hear": self._hear}[kind]
        self.process.tasks.create_task(_answered(stream, lambda: answer(stream, peer)), name=kind)

    async def _register(self, stream: Stream, peer: SpiffeId) -> None:
        await self.control._serve(peer, _requests(stream), _Context(stream))  # type: ignore[arg-type]

    async def _follow(self, stream: Stream, peer: SpiffeId) -> None:
        service = ReplicationService(
            self.feed, tables=lambda: self.catalog.tables, tracer=self.tracer, peer=lambda: peer
        )
        request = await stream.up.read()
        if request is not None:
            await service._answer(request, _Context(stream))  # type: ignore[arg-type]

    async def _hear(self, stream: Stream, peer: SpiffeId) -> None:
        service = HeardService(
            tables=lambda: self.catalog.tables, registry=self.registries.get, peer=lambda: peer
        )
        request = await stream.up.read()
        if request is not None:
            await service._answer(request, _Context(stream))  # type: ignore[arg-type]


class _ViewsNow:
    """What every cluster sees of a catalog now: views of other clusters are asked for during drains only."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, tuple[Tables, Served]] = {}

    def served(self, cluster: str) -> Served:
        """Return the view of one cluster; nothing is compiled here."""
        tables = self._catalog.tables
        known = self._known.get(cluster)
        if known is None or known[0] is not tables:
            view = ViewIndex(cluster)
            view.reset(tables)
            known = self._known[cluster] = (tables, Served(view, None))  # type: ignore[arg-type]
        return known[1]


async def _nobody_votes() -> Facts:
    """Whether the log would stop is not asked here."""
    return Facts(asked="", leader_id=None, voters=(), members=())


class _Context:
    """What the services need of a gRPC call."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        await self._stream.down.write(data)


async def _answered(stream: Stream, answer: Callable[[], object]) -> None:
    try:
        await answer()  # type: ignore[misc]
        stream.down.close()
    except IsthmusError as error:
        stream.down.fail(error.message)
    finally:
        stream.answerer.net.forget(stream)


async def _requests(stream: Stream) -> AsyncIterator[bytes]:
    while (data := await stream.up.read()) is not None:
        yield data


async def _no_directories() -> AsyncIterator[object]:
    await asyncio.Event().wait()
    yield None
