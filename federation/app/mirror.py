"""`isthmus controller run` with `role = "mirror"`: a controller without a vote and without a key of its domain.

    members --> Follower --> MirrorCatalog --> Feed --> views, xDS, isthmus dns
                   |              |
               disk copy     ServedClusters <-- agents
                                  |
                     differences, writes: ForwardingLog --> a member

It starts from its disk copy while no member can be reached, and says how old that is (F1); its own cluster goes
on registering, resolving and calling meanwhile, and what changed is published when a member is back (F4).
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from certs.core import spiffe
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import peer_identity
from discovery.core.model import Change, ResourceKey
from discovery.core.specs import ControllerSpec
from federation.agent.control import open_channel
from federation.agent.directory import members_preferred
from federation.agent.identity import IdentityKeeper
from federation.api.audit import AuditTrail
from federation.api.control import ControlService
from federation.api.directory import DIRECTORY_KINDS
from federation.api.heard_service import HeardService
from federation.api.mirrors import MirrorHealth
from federation.api.proposer import Proposer
from federation.api.watch import WatchHub
from federation.app.announcing import announce
from federation.app.audit_file import AuditFile
from federation.app.config import MirrorConfig
from federation.app.drain_watch import DrainWatch
from federation.app.enrolled import Enrolled, enrolled
from federation.app.forwarding import ForwardingLog, ForwardingSigner
from federation.app.learning import learn_directory
from federation.app.live_views import LiveViews
from federation.app.mirror_api import MirrorApi
from federation.app.mirror_catalog import MirrorCatalog
from federation.app.mirror_health import MirrorCollector, own_health
from federation.app.ports import serve_api, serve_control
from federation.app.process import run_until_signal
from federation.app.proxies import proxy_peer
from federation.app.served_clusters import Me, ServedClusters
from federation.app.telemetry import Facts, MetricsEndpoint, set_up_logging
from federation.app.tracing import TraceDesk
from federation.kernel.units import duration_ms
from federation.kernel.versions import PROTOCOL_VERSION, command_schema
from federation.replication.feed import Feed
from federation.replication.follower import Follower
from federation.replication.local_journal import LocalJournal
from federation.replication.service import ReplicationService
from federation.replication.source import GrpcSource, Source
from federation.replication.state import FollowerState, Update
from gateways.runtime.compiled import CompiledSource
from gateways.runtime.xds_service import XdsService

_log = structlog.get_logger("mirror")


async def run_mirror(config: MirrorConfig, token: str | None) -> None:
    """Run a mirror until SIGTERM or SIGINT; it enrolls first, with `token`, if it never did.

    Raises an `IsthmusError` for what makes running impossible: no identity and no token, a port that is taken, a
    data directory in use.
    """
    set_up_logging(config.log)
    await run_until_signal(_run(config, token))


async def _run(config: MirrorConfig, token: str | None) -> None:
    async with enrolled(Path(config.data_dir), token=token, purpose="controller", id_=config.id) as parts:
        await Mirror(config, parts).run()


class Mirror:
    """The parts of one mirror, wired; `run` ends by cancellation or the first error."""

    def __init__(self, config: MirrorConfig, parts: Enrolled) -> None:
        enrollment, directory, leaf, copy = parts
        self.config = config
        self.cluster = enrollment.cluster
        self.name = f"{self.cluster}-{config.id}"
        self.directory = directory
        self.leaf = leaf
        self.verifier = Verifier(directory.bundles, clock=utc_now)
        state = FollowerState(self.cluster, history=enrollment.federation)
        self.follower = Follower(state, sources=self._sources, on_change=self._changed, copy=copy)
        self.catalog = MirrorCatalog(state)
        self.feed = Feed(
            self.catalog,
            unix_ms=lambda: int(time.time() * 1000),
            leader_contact_age_ms=lambda: self.follower.status.age_ms or 0,
        )
        self.log = ForwardingLog(self.cluster, leaf=leaf, directory=directory, reached=self.follower.reached)
        self.proposer = Proposer(self.log, cluster=self.cluster, schema=self._command_schema)
        self.audit = AuditTrail()
        self.traces = TraceDesk(self.name, self.catalog, leaf, directory)
        me = Me(
            self.name,
            self.cluster,
            duration_ms(config.agents.lease),
            LocalJournal(Path(config.data_dir), controller=self.name, federation=enrollment.federation),
            leaf,
            directory,
        )
        self.served = ServedClusters(
            me, catalog=self.catalog, proposer=self.proposer, feed=self.feed, tracer=self.traces.tracer
        )
        self.source = CompiledSource()
        self.xds = XdsService(self.source, peer_of=lambda _context: self._proxy_peer())
        self.views = LiveViews(self.feed, self.source, self.traces.tracer)
        self.watches = WatchHub(self.catalog.history)
        signer = ForwardingSigner(self.cluster, leaf=leaf, directory=directory)
        self._renewed = asyncio.Event()
        self.keeper = self._keeper(enrollment.identity, signer)
        self.drain_watch = DrainWatch(
            catalog=self.catalog,
            proposer=self.proposer,
            registries=self.served.registries,
            clock=time.monotonic,
        )
        self.control = ControlService(
            name=self.name,
            catalog=self.catalog,
            signer=signer,
            registry=self.served.registries.get,
            directories=self.directory.follow,
            health=self._health,
            trace=self.traces.answer,
            drains=self.drain_watch,
            audit=self.audit,
        )
        self._waiting_for = {"control", "api"}
        self.started_unix_ms = time.time_ns() // 1_000_000

    async def run(self) -> None:
        """Follow, serve, renew."""
        metrics = CollectorRegistry()
        metrics.register(MirrorCollector(self))
        async with asyncio.TaskGroup() as tasks:
            endpoint = MetricsEndpoint(self.config.listen.metrics, metrics, self.readiness)
            tasks.create_task(endpoint.run(), name="mirror/metrics")
            tasks.create_task(self.keeper.run(), name="mirror/identity")
            file = AuditFile(Path(self.config.data_dir) / "audit", self.audit)
            tasks.create_task(file.run(), name="mirror/audit")
            tasks.create_task(self.follower.run(), name="mirror/follower")
            await self.follower.ready.wait()
            tasks.create_task(self.views.run(), name="mirror/views")
            tasks.create_task(self.served.run(), name="mirror/served")
            tasks.create_task(self.drain_watch.run(), name="mirror/drain-watch")
            tasks.create_task(self._announce(), name="mirror/announce")
            tasks.create_task(self._serve_control(), name="mirror/control")
            tasks.create_task(self._serve_api(), name="mirror/api")

    @property
    def missing(self) -> list[str]:
        """What it does not serve yet."""
        waiting = sorted(self._waiting_for)
        return [f"{port} is not served yet: there is no copy of the catalog" for port in waiting]

    def readiness(self) -> tuple[bool, Facts]:
        """Ready means: serves what it has. A member is not needed for that (invariant F1)."""
        status, missing = self.follower.status, self.missing
        return not missing, {
            "role": "mirror",
            "member": status.source,
            "revision": status.revision,
            "ageMs": status.age_ms,
            "error": status.last_error if not status.source else "",
            "missing": missing,
        }

    # -- following the catalog ---------------------------------------------------------------------

    def _sources(self) -> Sequence[Source]:
        return [
            GrpcSource(one.name, partial(open_channel, one, self.leaf, self.directory))
            for one in members_preferred(self.directory.current, self.cluster)
        ]

    def _changed(self, update: Update) -> None:
        self.catalog.take(update)
        if update.listed:
            self.feed.reset()
            self.served.reset()
            self.control.evict_missing()
        else:
            changes = tuple(update.changes)
            if changes:
                self.traces.tracer.committed(update.revision, changes)
            self.feed.changed(update.revision, changes)
            self.served.changed(changes)
            for change in changes:
                if change.table == "resources" and change.value is None:
                    self.control.evict(change.key)
        self.watches.notify()
        if update.listed or any(_is_directory(change) for change in update.changes):
            learn_directory(self.directory, self.catalog.tables)
            self.views.want(self.served.learn())

    def _keeper(self, identity: str, signer: ForwardingSigner) -> IdentityKeeper:
        return IdentityKeeper(
            self.leaf,
            spiffe.parse(identity),
            cluster=self.cluster,
            directory=self.directory,
            sign=signer.sign,
            on_renewed=self._renewed.set,
        )

    async def _announce(self) -> None:
        """Tell the federation where and who this mirror is now, and which protocol it speaks; again after each renewal."""
        while True:
            self._renewed.clear()
            wanted = ControllerSpec(
                cluster=self.cluster,
                role="mirror",
                identity=str(self.keeper.spiffe_id),
                control=self.config.listen.control,
                api=self.config.listen.api,
                protocol=PROTOCOL_VERSION,
            )
            await announce(self.name, wanted, catalog=self.catalog, proposer=self.proposer)
            await self._renewed.wait()

    # -- ports -------------------------------------------------------------------------------------

    async def _serve_control(self) -> None:
        replication = ReplicationService(
            self.feed, tables=lambda: self.catalog.tables, tracer=self.traces.tracer
        )
        heard = HeardService(tables=lambda: self.catalog.tables, registry=self.served.registries.get)
        await serve_control(
            self.config.listen.control,
            (self.control.handler(), replication.handler(), heard.handler(), self.xds.handler()),
            verifier=self.verifier,
            leaf=self.leaf,
            bundles=self.directory.bundles,
            listening=lambda: self._listens("control"),
        )

    async def _serve_api(self) -> None:
        api = MirrorApi(
            name=self.name,
            cluster=self.cluster,
            catalog=self.catalog,
            proposer=self.proposer,
            watches=self.watches,
            verifier=self.verifier,
            views=self.views,
            xds=self.xds,
            status=lambda: self.follower.status,
        )
        await serve_api(
            self.config.listen.api,
            api.routes(),
            audit=self.audit,
            verifier=self.verifier,
            leaf=self.leaf,
            bundles=self.directory.bundles,
            listening=lambda: self._listens("api"),
            headers=api.age_headers,
        )

    def _listens(self, port: str) -> None:
        self._waiting_for.discard(port)
        _log.info("listening", controller=self.name, port=port, address=getattr(self.config.listen, port))

    async def _health(self) -> MirrorHealth:
        return own_health(self)

    def _proxy_peer(self) -> str:
        return proxy_peer(peer_identity(), self.catalog.tables)

    def _command_schema(self) -> int:
        return command_schema(one.spec.protocol for one in self.directory.current.controllers)


def _is_directory(change: Change) -> bool:
    return change.table == "resources" and ResourceKey.decode(change.key).kind in DIRECTORY_KINDS
