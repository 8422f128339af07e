"""`isthmus controller`: one member or witness, all its parts wired together.

Raft thread: engine -> Catalog.apply -> on_change ---+
| call_soon_threadsafe
event loop:  agents -> ClusterRegistry -> Feed <-----+--> watches, directory
|              |
Publisher      LiveViews -> xDS -> proxies
and isthmus dns, mirrors
"""

import asyncio
import time
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import (
    peer_identity,
)
from consensus.runtime.embedded import EmbeddedEngine
from discovery.core.model import Change, ResourceKey
from federation.agent.directory import DirectoryStore
from federation.agent.folder_lock import hold_folder
from federation.api.directory import DIRECTORY_KINDS
from federation.api.forwarding import ForwardService
from federation.api.gateway_eyes import GatewayEyes
from federation.api.heard_service import HeardService
from federation.api.proposer import Proposer
from federation.api.watch import WatchHub
from federation.app.announcing import announce
from federation.app.audit_file import AuditFile, audited_catalog
from federation.app.backup import BackupDesk, StateTaker
from federation.app.conditions import ConditionsKeeper
from federation.app.config import ControllerConfig
from federation.app.context import write_context
from federation.app.credentials import Credentials
from federation.app.drain_watch import DrainWatch
from federation.app.draining import DrainDesk
from federation.app.duties import LeaderDuties
from federation.app.edges import api_routes, control_service, rehome_desk
from federation.app.external_checker import ExternalChecker
from federation.app.founding import controller_of
from federation.app.health import HealthDesk
from federation.app.learning import learn_directory
from federation.app.live_views import LiveViews
from federation.app.liveness_metrics import LivenessCollector
from federation.app.members import MemberDesk
from federation.app.metrics import ControllerCollector
from federation.app.observer import Observer
from federation.app.ports import serve_api, serve_control
from federation.app.process import run_until_signal, spare_what_lives
from federation.app.proxies import proxy_peer
from federation.app.raft import make_engine, members_of, run_engine, snapshot_unix_ms
from federation.app.removed import RemovalWatch, check_not_removed
from federation.app.served_clusters import Me, ServedClusters
from federation.app.telemetry import Facts, MetricsEndpoint, set_up_logging
from federation.app.tracing import TraceDesk
from federation.kernel.errors import IsthmusError
from federation.kernel.units import duration_ms
from federation.kernel.versions import command_schema
from federation.replication.feed import Feed
from federation.replication.local_journal import LocalJournal
from federation.replication.service import ReplicationService
from gateways.runtime.compiled import CompiledSource
from gateways.runtime.xds_service import XdsService

CONTEXT_CHECK_S = 600.0

_log = structlog.get_logger("controller")


async def run_controller(config: ControllerConfig) -> None:
    """Run a controller until SIGTERM or SIGINT.

    Raises an IsthmusError for what makes running impossible: not founded or joined, a damaged journal,
    a port that is taken, a data directory in use.
    """
    set_up_logging(config.log)
    with hold_folder(Path(config.data_dir)):
        check_not_removed(Path(config.data_dir), config.cluster.name)
        credentials = Credentials.open(config)
        try:
            await run_until_signal(_run_process(Controller(config, credentials)))
        finally:
            credentials.close()


async def _run_process(controller: "Controller") -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(controller.run(), name="controller")
        await controller.engine.ready.wait()
        spare_what_lives()


class Controller:
    """The parts of one controller; `run` ends by cancellation or the first error."""

    def __init__(self, config: ControllerConfig, credentials: Credentials) -> None:
        self.config = config
        self.name = f"{config.cluster.name}-{config.id}"
        self.cluster = config.cluster.name
        self.credentials = credentials
        self.directory = DirectoryStore.open(Path(config.data_dir))
        self.verifier = Verifier(self.directory.bundles, clock=utc_now)
        self.catalog, self.audit = audited_catalog()
        self.engine: EmbeddedEngine = make_engine(
            config,
            machine=self.catalog,
            directory=self.directory,
            leaf=credentials.leaf,
            verifier=self.verifier,
        )
        self.proposer = Proposer(self.engine, cluster=self.cluster, schema=self._command_schema)
        self.feed = Feed(
            self.catalog,
            unix_ms=lambda: int(time.time() * 1000),
            leader_contact_age_ms=lambda: self.engine.status().last_leader_contact_ms_ago or 0,
        )
        self.traces = TraceDesk(self.name, self.catalog, credentials.leaf, self.directory)
        self.served = self._clusters()
        self.registries = self.served.registries
        self.source = CompiledSource()
        self.xds = XdsService(self.source, peer_of=lambda _context: self._proxy_peer())
        self.views = LiveViews(self.feed, self.source, self.traces.tracer)
        self.watches = WatchHub(self.catalog.history)
        self.conditions = ConditionsKeeper(self.cluster, catalog=self.catalog, proposer=self.proposer)
        self.health = HealthDesk(
            config,
            engine=self.engine,
            catalog=self.catalog,
            credentials=credentials,
            directory=self.directory,
            feed=self.feed,
            registries=self.registries,
        )
        self.backups = BackupDesk(
            self.name,
            taker=StateTaker(engine=self.engine, proposer=self.proposer, catalog=self.catalog),
            status=self.engine.status,
            directory=self.directory,
        )
        self.members = MemberDesk(
            engine=self.engine,
            proposer=self.proposer,
            catalog=self.catalog,
            directory=self.directory,
            facts=self.health.gather,
        )
        self.eyes = GatewayEyes(self.cluster, clock=time.monotonic)
        self.drains, self.drain_watch = self._drain_parts()
        self.rehomings = rehome_desk(self)
        self.control = control_service(self)
        self.observer, self.checker = self._observer(), self._checker()
        self._waiting_for = {"control", "api"}  # Until they listen, or there is nothing to listen for.
        self._joined = asyncio.Event()

    @property
    def witness(self) -> bool:
        """True for a member with everything but Raft switched off."""
        return self.config.cluster.role == "witness"

    async def run(self) -> None:
        """Serve until cancelled."""
        metrics = CollectorRegistry()
        metrics.register(ControllerCollector(self))
        metrics.register(LivenessCollector(self.catalog, self.observer, self.checker))
        loop = asyncio.get_running_loop()
        # In the Raft thread: hand over and return.
        self.catalog.on_change(lambda *news: _hand_over(loop, self._changed, *news))
        self.catalog.on_reset(lambda _revision: _hand_over(loop, self._reset))
        async with asyncio.TaskGroup() as tasks:
            endpoint = MetricsEndpoint(self.config.listen.metrics, metrics, self.readiness)
            tasks.create_task(endpoint.run(), name="controller/metrics")
            tasks.create_task(self.credentials.run(), name="controller/credentials")
            file = AuditFile(Path(self.config.data_dir) / "audit", self.audit)
            file.resume()
            tasks.create_task(file.run(), name="controller/audit")
            self.engine.allow(members_of(self.directory.current))
            tasks.create_task(run_engine(self.engine), name="controller/consensus")
            await self.engine.ready.wait()
            _log.info("log_replayed", revision=self.catalog.revision, cluster=self.cluster)
            duties = LeaderDuties(
                self.engine,
                self.proposer,
                catalog=self.catalog,
                members=lambda: members_of(self.directory.current),
                standings=lambda: self.directory.current.standings,
            )
            tasks.create_task(duties.run(), name="controller/duties")
            tasks.create_task(self._removal_watch().run(), name="controller/removal")
            if self.witness:
                self._learn()
                self._waiting_for.clear()
                tasks.create_task(self.observer.run(), name="controller/observer")
                tasks.create_task(self.checker.run(), name="controller/external")
                return
            await self._serve(tasks)

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self.views.run(), name="controller/views")
        tasks.create_task(self._keep_context(), name="controller/operator-context")
        self._learn()
        tasks.create_task(self.served.run(), name="controller/served")
        await self._joined.wait()  # One that joins has nothing to serve before it has caught up.
        tasks.create_task(self._announce(), name="controller/announce")
        tasks.create_task(self.drains.run(), name="controller/drains")
        tasks.create_task(self.drain_watch.run(), name="controller/drain-watch")
        tasks.create_task(self.rehomings.run(), name="controller/rehomings")
        tasks.create_task(self.conditions.run(), name="controller/conditions")
        tasks.create_task(self.observer.run(), name="controller/observer")
        tasks.create_task(self.checker.run(), name="controller/external")
        tasks.create_task(self._serve_control(), name="controller/control")
        tasks.create_task(self._serve_api(), name="controller/api")

    # -- following the catalog ---------------------------------------------------------------------

    def _changed(self, revision: int, changes: tuple[Change, ...]) -> None:
        self.traces.tracer.committed(revision, changes)
        self.feed.changed(revision, changes)
        self.conditions.changed(changes)
        self.checker.changed(changes)
        self.watches.notify()
        if any(_is_directory(change) for change in changes):
            self._learn()
        for change in changes:
            if change.table == "resources" and change.value is None:
                self.control.evict(change.key)
        self.served.changed(changes)

    def _reset(self) -> None:
        """A snapshot of the leader replaced everything."""
        self.feed.reset()
        self.conditions.reset()
        self.checker.reset()
        self.watches.notify()
        self.served.reset()
        self.control.evict_missing()
        self._learn()

    async def _announce(self) -> None:
        """Tell the federation where this controller is now, and which protocol it speaks."""
        wanted = controller_of(self.config, self.credentials).spec
        await announce(self.name, wanted, catalog=self.catalog, proposer=self.proposer)

    def _learn(self) -> None:
        """Take over who belongs to the federation: for the transport, agents, views and on disk."""
        tables = self.catalog.tables
        if tables.resource(ResourceKey("", "Cluster", "", self.cluster)) is None:
            return
        self._joined.set()
        learn_directory(self.directory, tables)
        self.engine.allow(members_of(self.directory.current))
        if self.witness:
            return
        self.views.want(self.served.learn())

    async def _keep_context(self) -> None:
        """The operator's certificate lives no longer than any other leaf: renew it while we run."""
        while True:
            try:
                await asyncio.to_thread(write_context, self.config, self.credentials)
            except (IsthmusError, OSError) as error:
                _log.error("operator_context_not_renewed", reason=str(error))
            await asyncio.sleep(CONTEXT_CHECK_S)

    # -- ports -------------------------------------------------------------------------------------

    def _clusters(self) -> ServedClusters:
        me = Me(
            self.name,
            self.cluster,
            duration_ms(self.config.agents.lease),
            LocalJournal(
                Path(self.config.data_dir),
                controller=self.name,
                federation=self.directory.current.federation,
            ),
            self.credentials.leaf,
            self.directory,
        )
        return ServedClusters(
            me, catalog=self.catalog, proposer=self.proposer, feed=self.feed, tracer=self.traces.tracer
        )

    def _observer(self) -> Observer:
        return Observer(
            self.cluster,
            catalog=self.catalog,
            engine=self.engine,
            proposer=self.proposer,
            registries=self.registries,
            identity=self.credentials.leaf,
            directory=self.directory,
            verifier=self.verifier,
            round_trip_ms=duration_ms(self.config.raft.round_trip),
            clock=time.monotonic,
            eyes=self.eyes,
        )

    def _checker(self) -> ExternalChecker:
        return ExternalChecker(
            self.cluster,
            catalog=self.catalog,
            engine=self.engine,
            proposer=self.proposer,
            is_cut_off=lambda: any(self.observer.suspended),
            clock=time.monotonic,
        )

    async def _serve_control(self) -> None:
        replication = ReplicationService(
            self.feed, tables=lambda: self.catalog.tables, tracer=self.traces.tracer
        )
        heard = HeardService(tables=lambda: self.catalog.tables, registry=self.registries.get)
        forwarded = ForwardService(
            self.engine,
            tables=lambda: self.catalog.tables,
            schema=self._command_schema,
            audit=self.audit,
        )
        await serve_control(
            self.config.listen.control,
            (
                self.control.handler(),
                replication.handler(),
                heard.handler(),
                forwarded.handler(),
                self.xds.handler(),
            ),
            verifier=self.verifier,
            leaf=self.credentials.leaf,
            bundles=self.directory.bundles,
            listening=lambda: self._listens("control"),
        )

    async def _serve_api(self) -> None:
        await serve_api(
            self.config.listen.api,
            api_routes(self),
            audit=self.audit,
            verifier=self.verifier,
            leaf=self.credentials.leaf,
            bundles=self.directory.bundles,
            listening=lambda: self._listens("api"),
        )

    def _listens(self, port: str) -> None:
        self._waiting_for.discard(port)
        _log.info("listening", controller=self.name, port=port, address=getattr(self.config.listen, port))

    def _removal_watch(self) -> RemovalWatch:
        return RemovalWatch(
            self.cluster,
            Path(self.config.data_dir),
            catalog=self.catalog,
            directory=self.directory,
            status=self.engine.status,
        )

    def _drain_parts(self) -> tuple[DrainDesk, DrainWatch]:
        desk = DrainDesk(
            holder=self.name,
            proposer=self.proposer,
            catalog=self.catalog,
            views=self.views,
            facts=self.health.gather,
        )
        watch = DrainWatch(
            catalog=self.catalog, proposer=self.proposer, registries=self.registries, clock=time.monotonic
        )
        return desk, watch

    # -- what others ask ---------------------------------------------------------------------------

    def snapshot_unix_ms(self) -> int | None:
        """When the newest snapshot of the log was written, None while there is none."""
        return snapshot_unix_ms(self.config)

    def readiness(self) -> tuple[bool, Facts]:
        """Ready means: serves what it has. A leader is not needed for that (invariant F1)."""
        status = self.engine.status()
        return not self._waiting_for, {
            "role": status.role,
            "leader": status.leader,
            "revision": self.catalog.revision,
            "members": status.members,
            "missing": [
                f"{port} is not served yet: the log is being replayed or fetched"
                for port in sorted(self._waiting_for)
            ],
        }

    def _proxy_peer(self) -> str:
        return proxy_peer(peer_identity(), self.catalog.tables)

    def _command_schema(self) -> int:
        return command_schema(one.spec.protocol for one in self.directory.current.controllers)


def _hand_over(loop: asyncio.AbstractEventLoop, callback: object, *arguments: object) -> None:
    """Call `callback` on the loop, from the Raft thread; when the loop is gone the process is ending."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)  # type: ignore[arg-type]
    except RuntimeError:
        _log.debug("loop_closed")


def _is_directory(change: Change) -> bool:
    return change.table == "resources" and ResourceKey.decode(change.key).kind in DIRECTORY_KINDS
