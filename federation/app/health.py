"""How this controller is, and how the others are: facts for `isthmus status` and `isthmus doctor`."""

import asyncio
import shutil
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from certs.core.certificate import load_certificate
from certs.runtime.clock import utc_now
from consensus.core.contract import Status
from discovery.core.catalog import Catalog
from discovery.core.specs import AgentSpec, Standing
from discovery.core.tables import Tables
from federation.agent.directory import DirectoryStore
from federation.api.agent_stream import agent_name
from federation.api.directory import resources
from federation.api.health import NAMES_MAX, AgentsHealth, Facts, FollowerHealth, Health, MemberHealth
from federation.api.messages import NamedController
from federation.api.registry import ClusterRegistry
from federation.app.asking import CONTROLLERS_ASKED_MAX, ask
from federation.app.config import ControllerConfig
from federation.app.credentials import Credentials
from federation.app.raft import snapshot_unix_ms
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, IsthmusError
from federation.replication.feed import Feed

_decoder = msgspec.msgpack.Decoder(Health)


class Engine(Protocol):
    """What is asked of the engine."""

    def status(self) -> Status:
        """Its own view."""
        ...

    def clocks(self) -> Mapping[str, int]:
        """What members' clocks show."""
        ...


class HealthDesk:
    """Answers for this controller, and asks the others of the directory."""

    def __init__(
        self,
        config: ControllerConfig,
        *,
        engine: Engine,
        catalog: Catalog,
        credentials: Credentials,
        directory: DirectoryStore,
        feed: Feed,
        registries: dict[str, ClusterRegistry],
    ) -> None:
        self._config = config
        self._engine = engine
        self._catalog = catalog
        self._credentials = credentials
        self._directory = directory
        self._feed = feed
        self._registries = registries
        self._version = version("isthmus")
        self._started_unix_ms = _unix_ms()
        root = load_certificate(credentials.root.certificate_der, where="root")
        self._root_expires_ms = int(root.not_valid_after_utc.timestamp() * 1000)

    async def own(self) -> Health:
        """Return how this controller is now."""
        names = self._feed.names()
        heard = {cluster: registry.agents() for cluster, registry in sorted(self._registries.items())}
        # Every record of an agent is decoded: not on the event loop.
        agents = await asyncio.to_thread(
            lambda: tuple(
                compare_agents(
                    self._catalog.tables, cluster, phases, {name for of, name in names if of == cluster}
                )
                for cluster, phases in heard.items()
            )
        )
        agents = tuple(self._with_held(one) for one in agents)
        raft = self._engine.status()
        disk = shutil.disk_usage(Path(self._config.data_dir))
        slow = sorted(self._feed.behind(), key=lambda one: -one.behind_ms)[:NAMES_MAX]
        authority = self._credentials.authority
        return Health(
            controller=f"{self._config.cluster.name}-{self._config.id}",
            cluster=self._config.cluster.name,
            version=self._version,
            unix_ms=_unix_ms(),
            started_unix_ms=self._started_unix_ms,
            incarnation=self._directory.current.incarnation,
            revision=self._catalog.revision,
            role=raft.role,
            term=raft.term,
            leader=raft.leader,
            last_index=raft.last_index,
            commit_index=raft.commit_index,
            applied_index=raft.applied_index,
            journal_bytes=raft.journal_bytes,
            leader_contact_ms=raft.last_leader_contact_ms_ago,
            voters=raft.members,
            leaf_expires_ms=int(self._credentials.leaf.not_after.timestamp() * 1000),
            intermediate_expires_ms=int(authority.intermediate.not_after.timestamp() * 1000),
            root_expires_ms=self._root_expires_ms,
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            snapshot_unix_ms=snapshot_unix_ms(self._config),
            directory=raft.directory,
            raft_problem=raft.problem,
            connected=raft.connected,
            peers=raft.peers,
            agents=agents,
            clocks=tuple(self._engine.clocks().items()),
            followers=self._feed.subscribers,
            slow_followers=tuple(
                FollowerHealth(cluster=one.cluster, name=one.name, behind_ms=one.behind_ms) for one in slow
            ),
        )

    def _with_held(self, agents: AgentsHealth) -> AgentsHealth:
        """Add what the registry keeps back: removals that it doubts, new endpoints that a limit keeps out."""
        registry = self._registries[agents.cluster]
        withheld = sorted(registry.withheld().items())[:NAMES_MAX]
        return msgspec.structs.replace(agents, withheld=tuple(withheld), limited=registry.limited)

    async def gather(self) -> Facts:
        """Ask the controllers of the directory, those that vote first; takes at most ASK_TIMEOUT_S."""
        raft, me = self._engine.status(), self._config.cluster.name
        controllers = [one for one in self._directory.current.controllers if one.spec.raft]
        controllers.sort(key=lambda one: (one.spec.cluster not in raft.members, one.name))
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(self._ask(one), name=f"health/{one.name}")
                for one in controllers[:CONTROLLERS_ASKED_MAX]
            ]
        return Facts(
            asked=me,
            leader_id=raft.leader,
            voters=raft.members,
            members=tuple(task.result() for task in asked),
        )

    async def _ask(self, controller: NamedController) -> MemberHealth:
        base = MemberHealth(
            id=controller.spec.cluster,
            controller=controller.name,
            raft=controller.spec.raft,
            is_witness=controller.spec.role == "witness",
            standing=self._standing(controller.spec.cluster),
        )
        if controller.spec.cluster == self._config.cluster.name:
            return msgspec.structs.replace(base, health=await self.own())
        if not controller.spec.control:
            return msgspec.structs.replace(base, error="a witness answers no questions")
        began_ms = _unix_ms()
        try:
            health = await self._call(controller)
        except IsthmusError as error:
            return msgspec.structs.replace(base, error=error.message)
        ended_ms = _unix_ms()
        # Its clock was read at some moment between the two.
        return msgspec.structs.replace(
            base,
            health=health,
            clock_offset_ms=health.unix_ms - (began_ms + ended_ms) // 2,
            clock_error_ms=(ended_ms - began_ms) // 2 + 1,
        )

    def _standing(self, cluster: str) -> Standing | Literal["joining"]:
        raft = self._engine.status()
        if cluster in raft.members:
            return "voter"
        if cluster in raft.learners:
            return "learner"
        return "removed" if self._directory.current.standings.get(cluster) == "removed" else "joining"

    async def _call(self, controller: NamedController) -> Health:
        raw = await ask(controller, "Health", b"", leaf=self._credentials.leaf, directory=self._directory)
        try:
            return _decoder.decode(raw)
        except MALFORMED as error:
            raise InvalidInputError(
                f"health of {controller.name}: the answer cannot be read: {error}"
            ) from error


def compare_agents(
    tables: Tables, cluster: str, phases: Mapping[str, str], following: AbstractSet[str]
) -> AgentsHealth:
    """Compare who is enrolled in a cluster with who is heard and who follows: `ROLE.NAME`."""
    silent: list[str] = []
    absent: list[str] = []
    live = 0
    for row, spec in resources(tables, "Agent", scope=cluster):
        assert isinstance(spec, AgentSpec)
        if spec.role == "controller":
            continue  # A mirror registers nothing.
        name = row.key.name.partition(".")[2]
        if spec.role == "dns":
            absent += [] if row.key.name in following else [name]
        elif phases.get(agent_name(spec.role, name)) == "live":
            live += 1
        else:
            silent.append(row.key.name)
    return AgentsHealth(
        cluster=cluster,
        live=live,
        silent=len(silent),
        silent_names=tuple(silent[:NAMES_MAX]),
        dns_absent=tuple(absent[:NAMES_MAX]),
    )


def _unix_ms() -> int:
    return int(utc_now().timestamp() * 1000)
