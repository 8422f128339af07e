"""`isthmus agent`: identity, registration, probes and one sidecar Envoy, beside the workloads of a host.

The gateway (`gateway.py`) is the same process with other parts: itself as the only workload.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from certs.core import spiffe
from certs.runtime.identity import LeafIdentity
from discovery.core.model import EndpointKey
from federation.agent.config import AgentConfig
from federation.agent.directory import DirectoryStore
from federation.agent.enrollment import IDENTITY_FOLDER, Enrollment, ensure_enrolled
from federation.agent.folder_lock import hold_folder
from federation.agent.gateway_watch import GatewayWatch
from federation.agent.identity import IdentityKeeper, signer
from federation.agent.metrics import StatusEndpoint
from federation.agent.probe import Prober
from federation.agent.proxy import LocalProxy
from federation.agent.registration import Registrar
from federation.agent.state_file import read_state, write_state
from federation.agent.status import AgentStatus, controllers_of, endpoints_of, leaves_of
from federation.agent.traffic import TrafficMeter
from federation.agent.workloads import RegisteredWorkload, agent_workloads, sidecar_proxy
from federation.kernel.errors import CorruptError, NotFoundError, cause_of
from federation.kernel.units import duration_ms
from gateways.core.proxy import Proxy

WORKLOAD_FOLDER = "workload"
INCARNATION_FILE = "incarnation.json"
# How long a leaving agent waits for its controllers to have heard of it, each of the two times.
LEAVE_ACK_S = 2.0
READINESS_POLL_S = 0.1
# After this the endpoints are declared, as not ready, although Envoy has not started yet.
PROXY_START_S = 10.0

_log = structlog.get_logger("agent")


class _Incarnation(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: int


class Agent:
    """One process beside workloads. `run` blocks until cancelled; call `leave` before that to drain.

    Needs no controller to serve: identity, directory and configuration are on disk (invariant F1).
    """

    def __init__(
        self,
        enrollment: Enrollment,
        *,
        data_dir: Path,
        proxy: Proxy,
        workloads: Sequence[RegisteredWorkload],
        metrics: str,
        drain_ms: int,
        region: str = "",
        zone: str = "",
    ) -> None:
        self.enrollment = enrollment
        self._metrics = metrics
        self._workloads = tuple(workloads)
        self._directory = DirectoryStore.open(data_dir)
        identity = LeafIdentity.load(data_dir / IDENTITY_FOLDER)
        self._proxy = LocalProxy(
            proxy,
            data_dir=data_dir,
            identity=identity,
            directory=self._directory,
            region=region or enrollment.cluster_spec.region,
            zone=zone or enrollment.cluster_spec.zone,
            drain_s=-(-drain_ms // 1000),
        )
        self._keepers = self._make_keepers(identity, data_dir)
        self._known_as = self._keepers[0].spiffe_id  # To the controllers.
        self._verdicts: dict[EndpointKey, bool] = {}
        self._probers = {
            workload.endpoint.key: Prober(workload.probe, on_verdict=self._verdict_of(workload.endpoint.key))
            for workload in self._workloads
            if workload.probe is not None
        }
        is_gateway = enrollment.purpose == "gateway"
        self._watch = GatewayWatch(self._directory, clock=time.monotonic) if is_gateway else None
        self._registrar = Registrar(
            [workload.endpoint for workload in self._workloads],
            incarnation=next_incarnation(data_dir),
            cluster=enrollment.cluster,
            identity=identity,
            directory=self._directory,
            watch=self._watch,
        )
        self._meter = TrafficMeter(self._proxy.traffic, self._registrar.report)
        self._registrar.on_watch = self._meter.watch

    async def run(self) -> None:
        """Run all parts. Raises what makes going on impossible: a port that is taken, a damaged file."""
        self._show_certificate()
        async with asyncio.TaskGroup() as tasks:
            for keeper in self._keepers:
                tasks.create_task(keeper.run(), name=f"keep/{keeper.spiffe_id}")
            for key, prober in self._probers.items():
                tasks.create_task(prober.run(), name=f"probe/{key.name}")
            tasks.create_task(self._registrar.run(), name="register")
            if self._watch is not None:
                tasks.create_task(self._watch.run(), name="watch")
            tasks.create_task(self._judge(), name="judge")
            tasks.create_task(self._proxy.run(), name="proxy")
            tasks.create_task(self._meter.run(), name="traffic")
            if self._metrics:
                tasks.create_task(StatusEndpoint(self._metrics, self.status).run(), name="metrics")

    async def leave(self) -> None:
        """Stop in order: nobody is sent here any more, requests in flight end, the endpoints are withdrawn."""
        _log.info("leaving", endpoints=len(self._workloads))
        await self._registrar.declare_unready(timeout_s=LEAVE_ACK_S)
        await self._proxy.drain()
        await self._registrar.remove_all(timeout_s=LEAVE_ACK_S)

    def status(self) -> AgentStatus:
        """Everything that this process knows about itself."""
        why = {key.name: prober.why for key, prober in self._probers.items()}
        proxy = self._proxy.status()
        missing = [
            f"no valid certificate for {keeper.spiffe_id}" for keeper in self._keepers if not keeper.valid
        ]
        if not proxy.ready:
            missing.append("envoy is not ready")
        return AgentStatus(
            purpose=self.enrollment.purpose,
            id=self.enrollment.id,
            cluster=self.enrollment.cluster,
            identity=str(self._keepers[0].spiffe_id),
            incarnation=self._registrar.incarnation,
            leaving=self._registrar.leaving,
            missing=tuple(missing),
            controllers=controllers_of(self._registrar),
            endpoints=endpoints_of(self._registrar, why),
            leaves=leaves_of(self._keepers),
            proxy=proxy,
            heard={} if self._watch is None else dict(self._watch.seen()),
        )

    def _make_keepers(self, identity: LeafIdentity, data_dir: Path) -> tuple[IdentityKeeper, ...]:
        """One keeper per certificate; the last one's is what Envoy shows."""
        sign = signer(self._directory, self.enrollment.cluster, identity)
        leaves = [(identity, self.enrollment.identity)]
        if self.enrollment.workload_identity:
            leaves.append((LeafIdentity.load(data_dir / WORKLOAD_FOLDER), self.enrollment.workload_identity))
        return tuple(
            IdentityKeeper(
                leaf,
                spiffe.parse(text),
                cluster=self.enrollment.cluster,
                directory=self._directory,
                sign=sign,
                on_renewed=self._renewed,
            )
            for leaf, text in leaves
        )

    def _renewed(self) -> None:
        """Show a new certificate; one of another trust domain to the controllers too, which wait for it."""
        self._show_certificate()
        known_as, self._known_as = self._known_as, self._keepers[0].spiffe_id
        if known_as != self._known_as:
            self._registrar.reopen()

    def _show_certificate(self) -> None:
        shown = self._keepers[-1]
        if shown.leaf.installed:
            self._proxy.set_certificate(shown.leaf)
            self._registrar.set_identity(str(shown.spiffe_id))

    def _verdict_of(self, key: EndpointKey) -> "_Verdict":
        return _Verdict(self._verdicts, key)

    async def _judge(self) -> None:
        """An endpoint is ready while its application and the Envoy in front of it are.

        Envoy gets a moment to start before anything is said: the rows of an earlier start of this agent
        must not flap.
        """
        try:
            async with asyncio.timeout(PROXY_START_S):
                await self._proxy.wait_ready()
        except TimeoutError:
            _log.warning("envoy_not_ready_yet", waited_s=PROXY_START_S)
        while True:
            proxy_ready = self._proxy.ready
            self._registrar.set_ready(
                {
                    workload.endpoint.key: proxy_ready and self._verdicts.get(workload.endpoint.key, True)
                    for workload in self._workloads
                    if workload.probe is None or workload.endpoint.key in self._verdicts
                }
            )
            await asyncio.sleep(READINESS_POLL_S)


class _Verdict:
    """Takes the verdicts of one prober."""

    def __init__(self, verdicts: dict[EndpointKey, bool], key: EndpointKey) -> None:
        self._verdicts = verdicts
        self._key = key

    def __call__(self, ready: bool) -> None:
        self._verdicts[self._key] = ready
        _log.info("application_ready" if ready else "application_not_ready", endpoint="/".join(self._key))


async def run_agent(config: AgentConfig, token: str | None) -> None:
    """Run an agent until SIGTERM or SIGINT; it enrolls first, with `token`, if it never did.

    Raises an `IsthmusError` for what makes running impossible.
    """
    data_dir = Path(config.data_dir).absolute()
    with hold_folder(data_dir):
        enrollment = await ensure_enrolled(token, "agent", config.id, data_dir)
        agent = Agent(
            enrollment,
            data_dir=data_dir,
            proxy=sidecar_proxy(config, enrollment),
            workloads=agent_workloads(config, enrollment),
            metrics=config.metrics,
            drain_ms=duration_ms(config.drain),
            region=config.region,
            zone=config.zone,
        )
        await run_until_told(agent)


async def run_until_told(agent: Agent) -> None:
    """Run until SIGTERM or SIGINT, then leave in order; a second signal ends the leaving."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(agent.run(), name="agent")
            await told.get()
            leaving = tasks.create_task(agent.leave(), name="leave")
            leaving.add_done_callback(lambda _task: running.cancel())
            hurry = tasks.create_task(told.get(), name="second-signal")
            hurry.add_done_callback(lambda _task: leaving.cancel())
            running.add_done_callback(lambda _task: hurry.cancel())
    except BaseExceptionGroup as group:
        raise cause_of(group) from group
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def next_incarnation(data_dir: Path) -> int:
    """Return the number of this start: Unix milliseconds, and larger than any before, whatever the clock did."""
    path = data_dir / INCARNATION_FILE
    try:
        last = read_state(path, "isthmus incarnation", _Incarnation).incarnation
    except (NotFoundError, CorruptError):
        last = 0  # Then the clock alone decides; a damaged file is no reason not to serve.
    incarnation = max(time.time_ns() // 1_000_000, last + 1)
    write_state(path, "isthmus incarnation", _Incarnation(incarnation=incarnation))
    return incarnation
