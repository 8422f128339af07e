"""What the agents of one cluster have declared to this controller, and how long it believes the silent ones."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from discovery.core.catalog import Catalog
from discovery.core.declarations import Declaration, Declared, Difference
from discovery.core.local import LocalTable, Phase
from discovery.core.model import Change, EndpointKey, unpack_endpoint
from discovery.core.poison import controller_places
from discovery.core.quotas import BUILT_IN, quota_of
from discovery.core.tables import Table, Tables
from federation.api.directory import cluster_spec

_log = structlog.get_logger("registry")

# The share of a lease within which a healthy agent is heard: it speaks three times in one. What falls silent at one moment
# was last heard within a third of a lease, so the first lease ends when nobody has been heard for two thirds.
HEARD_LEASE_SHARE = 1 / 2

LocalChanged = Callable[[str, tuple[Change, ...]], None]


class ClusterRegistry:
    """The local table of one cluster, with the leases of its agents. Lives on the event loop.

    A lease runs on this process's monotonic clock and is kept by hearing the agent; only its outcome,
    the removal of endpoints, enters the log.
    """

    def __init__(
        self,
        cluster: str,
        *,
        catalog: Catalog,
        lease_ms: int,
        clock: Callable[[], float],
        changed: LocalChanged,
    ) -> None:
        self.cluster = cluster
        self.lease_ms = lease_ms
        self.version = 0  # Counts declarations and changes.
        self.published_version = 0  # The log's quorum holds everything up to this version...
        self.published_revision = 0  # ... and this is the newest revision that said so.
        self.dirty = asyncio.Event()  # There may be something to publish.
        self._published = asyncio.Event()
        self._catalog = catalog
        self._clock = clock
        self._changed = changed
        self._table = LocalTable(cluster)
        self._learnt: Table | None = None
        self.quota = BUILT_IN  # In force for this cluster.
        self.delayed_s = 0.0  # In all, by the rate of its quota.
        self.limited = ""  # Why new endpoints are not published, "" while they are.
        self._ends_s: dict[str, float] = {}
        self._heard_s = float("-inf")  # When the last of them gave a sign of life.
        self._sessions: dict[str, object] = {}
        self._seed()

    def rows(self) -> Iterable[tuple[bytes, bytes]]:
        """The merged rows of now."""
        return self._table.endpoints().items()

    def agents(self) -> dict[str, str]:
        """Every known agent and its phase."""
        return {name: phase.value for name, phase in self._table.agents().items()}

    def open(self, agent: str, incarnation: int, session: object) -> None:
        """A stream of `agent` begins; an older one of the same agent no longer speaks for it.

        Raises StaleRevisionError for an earlier start of the agent, LimitExceededError for too many.
        """
        self._table.hello(agent, incarnation)
        self._sessions[agent] = session
        self.heard(agent)

    def heard(self, agent: str) -> None:
        """The agent gave a sign of life."""
        self._heard_s = self._clock()
        self._ends_s[agent] = self._heard_s + self.lease_ms / 1000

    def declare(self, declaration: Declaration, session: object) -> Declared:
        """Merge one message of an agent; a stream that was replaced changes nothing."""
        if self._sessions.get(declaration.agent) is not session:
            return Declared()
        self.heard(declaration.agent)
        tables = self._catalog.tables
        spec = cluster_spec(tables, self.cluster)
        self._learn(tables)
        declared = self._table.declare(declaration, spec)
        self._took(declared.changes)
        return declared

    def close(self, agent: str, session: object) -> None:
        """A stream of `agent` ended: its endpoints stay until its lease does."""
        if self._sessions.get(agent) is session:
            del self._sessions[agent]
            self._table.agent_lost(agent)

    def sweep(self) -> None:
        """End the leases that ran out; called every second or so."""
        now = self._clock()
        if self._all_silent(now):
            # Whoever returns first must not be the end of those who need a moment longer.
            for agent in self._table.agents():
                self._ends_s[agent] = now + self.lease_ms / 1000
            return
        for agent, phase in self._table.agents().items():
            if phase in (Phase.ENDED, Phase.LIVE):
                continue  # A live one has a stream, whose reader notices silence.
            if now >= self._ends_s.setdefault(agent, now + self.lease_ms / 1000):
                changes = self._table.expire(agent)
                # Its rows may come back through the catalog, from a controller that hears it: a new lease then.
                del self._ends_s[agent]
                _log.warning("agent_lease_ended", cluster=self.cluster, agent=agent, endpoints=len(changes))
                self._took(changes)

    def _all_silent(self, now_s: float) -> bool:
        """True when several agents are known and none was heard of late: then it is this controller that is cut off.

        Self-preservation: what one observer lost all at once, it does not withdraw. An open stream is no sign of life: behind
        a broken link it stays open until its reader notices, for some later than for others.
        """
        phases = [phase for phase in self._table.agents().values() if phase is not Phase.ENDED]
        heard_of_late = now_s - self._heard_s <= HEARD_LEASE_SHARE * self.lease_ms / 1000
        return len(phases) > 1 and not (Phase.LIVE in phases and heard_of_late)

    def absorb(self, changes: tuple[Change, ...]) -> None:
        """Follow what the catalog says of this cluster, from whichever controller it came."""
        ours = self._table.absorb(changes)
        if ours:
            self._changed(self.cluster, ours)
        self.dirty.set()

    def difference(self) -> Difference:
        """The next batch to publish: without new endpoints while a limit stands against them."""
        tables = self._catalog.tables
        self._learn(tables)
        return self._table.difference(tables, creating=not self.limited)

    def published(self, version: int, revision: int) -> None:
        """The log holds everything up to `version`."""
        self.published_version = max(self.published_version, version)
        self.published_revision = max(self.published_revision, revision)
        self._published.set()
        self._published = asyncio.Event()

    async def wait_published(self, version: int) -> int:
        """Return the revision at which the log held everything up to `version`."""
        while self.published_version < version:
            await self._published.wait()
        return self.published_revision

    def _learn(self, tables: Tables) -> None:
        """Take over from the catalog what rows are judged by, if any of it may have changed."""
        if tables.resources is not self._learnt:
            self._learnt = tables.resources
            self._table.places = controller_places(tables)
            self._table.quota = self.quota = quota_of(tables, self.cluster)

    def _seed(self) -> None:
        """Begin with what the catalog holds of this cluster: its agents have one lease to come back."""
        tables = self._catalog.tables
        mine = (
            unpack_endpoint(value)
            for key, value in tables.endpoints.items()
            if EndpointKey.decode(key).cluster == self.cluster
        )
        self._table.seed(mine)

    def _took(self, changes: tuple[Change, ...]) -> None:
        self.version += 1
        if changes:
            self._changed(self.cluster, changes)
        self.dirty.set()
