"""This cluster's eyes on the others: probes both planes of each, and says in the catalog what it misses.

One task for each other cluster asks its controllers and its gateways about once a second; the own gateways do the same,
and what they say of a data path goes before what this process sees. One task compares
what is seen with what this cluster has said (`Observation`) and writes the difference. What follows from it
is decided by the state machine (`discovery.core.verdicts`).
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec
import structlog

from certs.core.verifier import Verifier
from certs.runtime.identity import LeafIdentity
from consensus.core.contract import Status
from discovery.core.catalog import Catalog
from discovery.core.commands import Delete, Put, Write
from discovery.core.kinds import decode_spec
from discovery.core.model import (
    FEDERATION_SCOPE,
    GATEWAY_SERVICE,
    SYSTEM_NAMESPACE,
    ResourceKey,
    ServiceKey,
)
from discovery.core.opinion import (
    FAILURES_MIN,
    Mind,
    Opinion,
    data_opinion,
    suspended_planes,
    wanted_observation,
)
from discovery.core.ownership import cluster_key
from discovery.core.poison import ControllerPlaces, controller_places
from discovery.core.served import ServedAddresses
from discovery.core.specs import ClusterSpec, ObservationSpec
from discovery.core.tables import Table
from discovery.core.view import Gateway
from federation.agent.directory import DirectoryStore
from federation.agent.gateway_probe import GatewaysProbe
from federation.agent.strain import Strain
from federation.api.gateway_eyes import GatewayEyes
from federation.api.messages import Directory, NamedController, ProbeTarget
from federation.api.proposer import Proposer
from federation.api.registry import ClusterRegistry
from federation.app.controller_probe import ControllersProbe
from federation.kernel.errors import InvalidInputError, IsthmusError, NotFoundError

INTERVAL_S = 1.0
# A plane that has just failed is asked again sooner: what is lost should be known within seconds.
SUSPECT_INTERVAL_S = 0.5
JITTER = 0.1
TIMEOUT_S = 1.0
# A first question takes three round trips: connection, handshake, answer.
ROUND_TRIPS_PER_PROBE = 4
PROBES_AT_ONCE_MAX = 64
# What could not be said is tried again so soon; what takes longer is compared anew.
SAY_RETRY_S = 0.5
SAY_TIMEOUT_MS = 3_000
SAID_AT_ONCE_MAX = 100

_GATEWAYS = ServiceKey(SYSTEM_NAMESPACE, GATEWAY_SERVICE)

_log = structlog.get_logger("observer")


class _Probes(NamedTuple):
    """With which one cluster is looked at."""

    members: ControllersProbe
    mirrors: ControllersProbe
    gateways: GatewaysProbe

    async def close(self) -> None:
        self.gateways.close()
        await self.members.close()
        await self.mirrors.close()


class Engine(Protocol):
    """What is asked of the engine."""

    def status(self) -> Status:
        """Its own view."""
        ...


class Observer:
    """Watches every other joined cluster for one controller."""

    def __init__(
        self,
        cluster: str,
        *,
        catalog: Catalog,
        engine: Engine,
        proposer: Proposer,
        registries: Mapping[str, ClusterRegistry],
        identity: LeafIdentity,
        directory: DirectoryStore,
        verifier: Verifier,
        round_trip_ms: int,
        clock: Callable[[], float],
        eyes: GatewayEyes,
    ) -> None:
        self.minds: dict[str, Mind] = {}  # What is seen of each other cluster.
        self._cluster = cluster
        self._catalog = catalog
        self._engine = engine
        self._proposer = proposer
        self._registries = registries
        self._identity = identity
        self._directory = directory
        self._verifier = verifier
        self._timeout_s = TIMEOUT_S + ROUND_TRIPS_PER_PROBE * round_trip_ms / 1000
        self._clock = clock
        self._strain = Strain(clock)
        self._known: tuple[Directory, dict[str, tuple[NamedController, ...]]] | None = None
        self._places: tuple[Table, ControllerPlaces] | None = None  # Of that version of the resources.
        self._at_once = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._news = asyncio.Event()
        self._own_data: dict[str, Opinion] = {}  # What this process itself sees of the gateways of each.
        self._eyes = eyes
        eyes.on_turn = self._gateways_told

    @property
    def suspended(self) -> tuple[bool, bool]:
        """Whether control plane and data path look lost of so many that nothing is said."""
        return suspended_planes(self.minds)

    def told_of(self, subject: str) -> tuple[bool, ...]:
        """Whether the gateways of a cluster are heard, as each own gateway says that has an opinion."""
        return self._eyes.told_of(subject)

    async def run(self) -> None:
        """Observe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._say(), name="observer/say")
            while True:
                for row in self._catalog.tables.list_resources(FEDERATION_SCOPE, "Cluster"):
                    subject = row.key.name
                    if subject != self._cluster and subject not in self.minds:
                        self.minds[subject] = Mind()
                        tasks.create_task(self._watch(subject), name=f"observer/{subject}")
                await asyncio.sleep(INTERVAL_S)

    # -- seeing ------------------------------------------------------------------------------------

    async def _watch(self, subject: str) -> None:
        probes = _Probes(
            members=ControllersProbe(identity=self._identity, directory=self._directory),
            mirrors=ControllersProbe(identity=self._identity, directory=self._directory),
            gateways=GatewaysProbe(subject, verifier=self._verifier),
        )
        await asyncio.sleep(INTERVAL_S * random.random())  # noqa: S311 - not all clusters at one moment
        try:
            while cluster_key(subject).encode() in self._catalog.tables.resources:
                due_s = self._clock()
                try:
                    await self._look(subject, probes)
                except InvalidInputError as error:  # Its record is of a newer build.
                    _log.warning("not_observed", cluster=subject, reason=error.message)
                pause_s = self._interval_s(subject) * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
                await self._strain.sleep(max(0.0, due_s + pause_s - self._clock()))
        finally:
            del self.minds[subject]
            self._own_data.pop(subject, None)
            self._eyes.aim(ProbeTarget(cluster=subject))
            await probes.close()

    def _interval_s(self, subject: str) -> float:
        mind = self.minds[subject]
        own = self._own_data.get(subject, mind.data)
        suspect = any(opinion.contradictions for opinion in (mind.control, mind.member, own))
        return SUSPECT_INTERVAL_S if suspect else INTERVAL_S

    async def _look(self, subject: str, probes: _Probes) -> None:
        """Take one look at both planes; raises `InvalidInputError` for a Cluster that cannot be read."""
        spec = self._catalog.tables.cluster(subject)
        if spec is None:
            return
        async with self._at_once:
            began_s = self._clock()
            async with asyncio.TaskGroup() as tasks:
                hears = tasks.create_task(self._hears(subject, spec, probes), name="observer/control")
                reaches = tasks.create_task(
                    self._reaches(subject, spec, probes.gateways), name="observer/data"
                )
        took_s = self._clock() - began_s
        self._strain.note(took_s - self._timeout_s)
        own = self._own_data.get(subject, Opinion())
        self._own_data[subject] = self._after(own, reaches.result(), FAILURES_MIN)
        hears_any, hears_member = hears.result()
        before = self.minds[subject]
        control = self._after(before.control, hears_any, self._patience(subject))
        self._think(subject, control, self._after(before.member, hears_member, FAILURES_MIN))

    def _gateways_told(self) -> None:
        """A gateway of this cluster has an opinion, or another one, or is gone."""
        for subject, mind in self.minds.items():
            self._think(subject, mind.control, mind.member)

    def _think(self, subject: str, control: Opinion, member: Opinion) -> None:
        """Make up the mind about a cluster: its own gateways' word on the data path goes before ours."""
        before = self.minds[subject]
        own = self._own_data.get(subject, Opinion())
        mind = Mind(control=control, data=data_opinion(own, self.told_of(subject)), member=member)
        self.minds[subject] = mind
        if _sights(mind) != _sights(before):
            _log.info("sight_changed", cluster=subject, **_sights(mind))
            self._news.set()

    def _after(self, opinion: Opinion, answered: bool | None, failures_min: int) -> Opinion:
        if answered is None:
            return Opinion(sight="nothing")
        return opinion.after(
            answered, now_ms=int(self._clock() * 1000), strain=self._strain.value, failures_min=failures_min
        )

    def _patience(self, subject: str) -> int:
        """How many silent looks at a control plane are needed: agents are given the time of their lease."""
        registry = None if self._controllers(subject) else self._registries.get(subject)
        lease_ms = 0 if registry is None else registry.lease_ms
        return max(FAILURES_MIN, int(lease_ms / 1000 / SUSPECT_INTERVAL_S))

    async def _hears(
        self, subject: str, spec: ClusterSpec, probes: _Probes
    ) -> tuple[bool | None, bool | None]:
        """Whether the control plane of a cluster gives a sign of life, and its member where it has mirrors too.

        None: it is not ours to see.
        """
        if spec.role == "witness":
            status = self._engine.status()
            return subject in status.connected if subject in status.members else None, None
        controllers = self._controllers(subject)
        mirrors = tuple(one for one in controllers if one.spec.role == "mirror")
        members = tuple(one for one in controllers if one.spec.role != "mirror")
        if members and mirrors:
            async with asyncio.TaskGroup() as tasks:
                member = tasks.create_task(
                    probes.members.ask(members, timeout_s=self._timeout_s), name="observer/member"
                )
                mirror = tasks.create_task(
                    probes.mirrors.ask(mirrors, timeout_s=self._timeout_s), name="observer/mirrors"
                )
            return member.result() or mirror.result(), member.result()
        if controllers:
            return await probes.members.ask(controllers, timeout_s=self._timeout_s), None
        registry = self._registries.get(subject) if spec.home == self._cluster else None
        phases = {} if registry is None else registry.agents()
        return "live" in phases.values() if phases else None, None

    async def _reaches(self, subject: str, spec: ClusterSpec, probe: GatewaysProbe) -> bool | None:
        """Whether a gateway of a cluster answers; None: it has none."""
        gateways = self._gateways(subject, spec)
        self._eyes.aim(
            ProbeTarget(
                cluster=subject,
                trust_domain=spec.trust_domain,
                other_trust_domain="".join(spec.trust_domains[1:]),
                gateways=tuple((one.name, one.address, one.port) for one in gateways),
                timeout_ms=int(self._timeout_s * 1000),
            )
        )
        known = self._directory.bundles()
        bundles = {name: known[name] for name in spec.trust_domains if name in known}
        if not gateways or not bundles:
            return None
        return await probe.ask(gateways, bundles, timeout_s=self._timeout_s)

    def _controllers(self, subject: str) -> tuple[NamedController, ...]:
        """The controllers of a cluster that have a control port."""
        directory = self._directory.current
        if self._known is None or self._known[0] is not directory:
            by_cluster: dict[str, tuple[NamedController, ...]] = {}
            for one in directory.controllers:
                if one.spec.control:
                    by_cluster[one.spec.cluster] = (*by_cluster.get(one.spec.cluster, ()), one)
            self._known = (directory, by_cluster)
        return self._known[1].get(subject, ())

    def _gateways(self, subject: str, spec: ClusterSpec) -> tuple[Gateway, ...]:
        """Those of a cluster by which callers go: see `discovery.core.served`."""
        served = ServedAddresses({subject: spec}, self._controller_places())
        return tuple(
            Gateway(
                name=endpoint.key.name,
                address=endpoint.address,
                port=endpoint.ports[0].listen_port,
                identity=endpoint.identity,
                ready=endpoint.ready,
            )
            for endpoint in self._catalog.tables.list_endpoints(_GATEWAYS, subject)
            if endpoint.ports and served.serves(endpoint)
        )

    def _controller_places(self) -> ControllerPlaces:
        """Where controllers listen: found out for each version of the resources, not for each look at each cluster."""
        tables = self._catalog.tables
        if self._places is None or self._places[0] is not tables.resources:
            self._places = (tables.resources, controller_places(tables))
        return self._places[1]

    # -- saying ------------------------------------------------------------------------------------

    async def _say(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAY_RETRY_S):
                    await self._news.wait()
            self._news.clear()
            differences = self.differences()[:SAID_AT_ONCE_MAX]
            if not differences or self._engine.status().leader is None:
                continue  # Without a leader nothing would be heard: by the time it is, it may be wrong.
            try:
                await self._write(differences)
            except IsthmusError as error:
                _log.info("observation_postponed", reason=error.message)
                await asyncio.sleep(SAY_RETRY_S)

    async def _write(self, operations: list[Put | Delete]) -> None:
        try:
            await self._proposer.propose(Write(operations=tuple(operations)), timeout_ms=SAY_TIMEOUT_MS)
        except NotFoundError:
            return  # Another start of ours took it back already.
        _log.info("observation_said", subjects=[operation.key.name for operation in operations])

    def differences(self) -> list[Put | Delete]:
        """Return what has to be written so that the catalog says what is seen."""
        said: dict[str, ObservationSpec] = {}
        for row in self._catalog.tables.list_resources(self._cluster, "Observation"):
            spec = decode_spec("Observation", row.spec, where=str(row.key))
            assert isinstance(spec, ObservationSpec)
            said[row.key.name] = spec
        suspended = self.suspended
        found: list[Put | Delete] = []
        for subject, mind in sorted(self.minds.items()):
            before = said.get(subject)
            wanted = wanted_observation(mind, before, suspended)
            key = ResourceKey(self._cluster, "Observation", "", subject)
            if wanted is None and before is not None:
                found.append(Delete(key=key))
            elif wanted is not None and wanted != before:
                found.append(Put(key=key, spec=msgspec.json.encode(wanted)))
        return found


def _sights(mind: Mind) -> dict[str, str]:
    return {"control": mind.control.sight, "data": mind.data.sight, "member": mind.member.sight}
