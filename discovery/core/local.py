"""What the agents of one cluster declare, merged: believed at once, published later (invariants F2, F4).

    (rows from the catalog or the journal)
        unheard --list complete--> live --stream ends--> lost --list complete--> live
           |                                               |
           +----------------- expire ----------------------+--> ended: its rows are removed

A row goes only because its agent withdrew it, declared a complete list without it, or was expired by the runtime, which
alone knows the time. An agent that another controller of the cluster hears is not expired here, and what it told that
controller counts as if it had been said here (`hear`). An agent's list counts as a whole, when it is complete: until then its
earlier rows stay, and so do those whose new versions are refused. Between two versions of a row the larger (incarnation, sequence)
wins, whichever path it took. Pure: no clock, no I/O. One thread writes; what `endpoints()` returned may be read from any.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from discovery.core.agents import Agent
from discovery.core.agents import Phase as Phase  # what `agents()` answers with
from discovery.core.canary import Doubt, weigh, without
from discovery.core.declarations import Declaration, Declared, Difference, Withdrawn, Word, possible_keys
from discovery.core.model import Change, Endpoint, EndpointKey, Origin, pack, unpack_endpoint, unpack_origin
from discovery.core.poison import Places
from discovery.core.quotas import BUILT_IN
from discovery.core.room import Takes, usage_of_other
from discovery.core.rules import check_endpoint_key
from discovery.core.silence import GONE, SilencedRows
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Table, Tables
from discovery.core.usage import Usage
from discovery.core.vetting import refusal, vet
from federation.kernel.errors import IsthmusError, LimitExceededError, NotFoundError, PreconditionError
from federation.kernel.limits import COMMAND_BYTES_MAX, ENDPOINTS_PER_CLUSTER_MAX

AGENTS_MAX = 2 * ENDPOINTS_PER_CLUSTER_MAX  # Known at once, those included that ended or have no rows.
ENDPOINTS_PER_AGENT_MAX = 10_000
PUBLISH_ROWS_MAX = 256  # One batch: what applies in a few milliseconds.
PUBLISH_BYTES_MAX = COMMAND_BYTES_MAX - 8 * 1024  # Leaves room for the rest of the command.

_REMOVAL_BYTES = 32  # A removed key's version and framing.

_Edits: TypeAlias = dict[bytes, bytes | None]  # Rows set or removed by one call, not yet in the table.
_Refused: TypeAlias = list[tuple[EndpointKey, str]]


class LocalTable:
    """The merged endpoint table of one cluster, as one of its controllers knows it."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._agents: dict[str, Agent] = {}
        self._rows = Table()
        # Rows that may differ from the catalog's: the only ones that `difference` looks at. In order.
        self._unpublished: dict[bytes, None] = {}
        self.places: Places = frozenset()  # Where controllers listen: no endpoint may.
        self.quota = BUILT_IN
        self._usage = Usage()
        self._silenced = SilencedRows()

    def endpoints(self) -> Table:
        """The merged rows, packed; this version never changes."""
        return self._rows

    def agents(self) -> Mapping[str, Phase]:
        """Every agent that has rows, or had. The runtime runs a lease for each that is unheard or lost."""
        return {name: agent.phase for name, agent in self._agents.items()}

    def seed(self, rows: Iterable[Endpoint]) -> tuple[Change, ...]:
        """Take rows of this cluster from the catalog, at start; their agents are `UNHEARD`."""
        edits: _Edits = {}
        for row in rows:
            if row.key.cluster == self._cluster:
                self._adopt(row, edits)
        return self._commit(edits)

    def recall(self, rows: Iterable[Endpoint], withdrawn: Iterable[Withdrawn], spec: ClusterSpec) -> None:
        """After `seed`, take what a journal holds beyond the catalog: believed, until its agents are heard or expire.

        What the catalog has not is published no sooner than its agent is heard: it may have left since.
        """
        self.seed(row for row in rows if not refusal(row, self._cluster, spec, self.places))
        edits: _Edits = {}
        for one in withdrawn:
            known, key = self._known(one.agent), one.key.encode()
            self._silenced.add(key, one.agent, known.known_until, one.until, taken_back=True)
            row = self._row(key, edits)
            if row is not None and row.agent == one.agent and row.version <= one.until:
                edits[key] = None
        self._commit(edits)

    def unsettled(self, key: bytes, theirs: bytes | None) -> bytes | Withdrawn | None:
        """Return what a journal has to hold of a row that the catalog has as `theirs`; None when that says it all."""
        ours = self._rows.get(key)
        if ours is not None or theirs is None:
            return None if ours == theirs else ours
        there = unpack_origin(theirs)
        name, agent = there.agent, self._agents.get(there.agent)
        if agent is None or key in agent.refused:
            return None
        until = self._silenced.taken_back_until(key, name, agent.known_until)
        if there.version > until:
            return None
        return Withdrawn(key=EndpointKey.decode(key), agent=name, until=until)

    def hello(self, agent: str, incarnation: int) -> None:
        """Begin an agent's list; one that it began before and did not complete is forgotten.

        Raises `StaleRevisionError` when a newer start of the same agent has been heard of, and
        `LimitExceededError` when there are too many agents.
        """
        if (known := self._agents.get(agent)) is None:
            self._make_room_for_agent()
            known = self._agents[agent] = Agent(Phase.ENDED)
        known.check_incarnation(agent, incarnation)
        known.listing, known.listing_refused, known.listing_incarnation = {}, set(), incarnation

    def declare(self, declaration: Declaration, spec: ClusterSpec) -> Declared:
        """Merge one message of an agent; `spec` is its cluster's, as the catalog has it now.

        Bad rows, and rows of another live agent, are refused one by one; the others count. Raises `PreconditionError`
        without a `hello`, `StaleRevisionError` for an earlier start, `LimitExceededError` when a list is too long; then nothing has changed.
        """
        if (agent := self._agents.get(declaration.agent)) is None or (
            agent.listing is None and agent.phase is not Phase.LIVE
        ):
            raise PreconditionError(f"agent {declaration.agent} declares endpoints before it said hello")
        agent.check_incarnation(declaration.agent, declaration.incarnation)
        refused: _Refused = []
        rows = {
            key: row
            for row in declaration.put
            if (key := self._accepted(row, declaration, spec, refused)) is not None
        }
        gone = {key.encode() for key in declaration.remove if self._accepts_key(key, refused)}
        named = possible_keys((*declaration.refused, *(key for key, _ in refused)), self._cluster)
        edits: _Edits = {}
        if agent.listing is None:
            named = (agent.refused | named) - rows.keys() - gone
            self._check_room(agent, len(agent.rows) + len((rows.keys() | named) - agent.rows))
            rows, excess = self.quota.admit(self._rows, self._usage, rows, gone)
            refused += excess
            agent.refused = named | {key.encode() for key, _ in excess}
            agent.doubt = without(agent.doubt, rows.keys() | gone)
            self._update(agent, declaration, rows, gone, edits)
            return Declared(changes=self._commit(edits), refused=tuple(refused))
        listed = {key: row for key, row in agent.listing.items() if key not in gone} | rows
        unlisted = (agent.listing_refused | named) - listed.keys() - gone
        self._check_room(agent, len(listed) + len(unlisted))
        agent.listing, agent.listing_refused = listed, unlisted
        if declaration.complete:
            kept = self._still_free(listed, declaration.agent, refused)
            missing = agent.rows - kept.keys() - unlisted
            agent.doubt = weigh(agent.doubt, missing, agent.rows)
            gone = set() if agent.doubt is not None else missing
            kept, excess = self.quota.admit(self._rows, self._usage, kept, gone)
            refused += excess
            agent.phase = Phase.LIVE
            agent.listing, agent.refused = None, unlisted | {key.encode() for key, _ in excess}
            self._update(agent, declaration, kept, gone, edits)
        return Declared(changes=self._commit(edits), refused=tuple(refused))

    def hear(self, controller: str, agent: str, word: Word, spec: ClusterSpec) -> tuple[Change, ...]:
        """Take the whole list of an agent as another controller of the cluster heard it.

        The newest list wins, whichever way it came; rows that this table would refuse are left out, and what either
        controller refuses stays as it is. Raises `LimitExceededError` when there are too many; then nothing has changed.
        """
        known, position = self._known(agent), word.position
        if position < known.known_until or position[0] < known.newest_incarnation:
            known.heard_by.add(controller)
            return ()
        is_newer = position > known.known_until
        named = {row.key.encode(): row for row in word.rows if row.agent == agent and row.version <= position}
        listed = {
            key: row
            for key, row in named.items()
            if not refusal(row, self._cluster, spec, self.places) and not self._taken(key, agent)
        }
        before = set[bytes]() if is_newer else known.refused
        unlisted = (named.keys() | possible_keys(word.refused, self._cluster) | before) - listed.keys()
        self._check_room(known, len(known.rows | listed.keys() | unlisted))
        known.heard_by.add(controller)
        if known.phase is Phase.ENDED:
            known.phase = Phase.UNHEARD
        gone = known.rows - listed.keys() - unlisted if is_newer else set[bytes]()
        known.refused = unlisted
        edits: _Edits = {}
        said = Declaration(agent=agent, incarnation=position[0], sequence=position[1])
        known.doubt = without(known.doubt, gone)
        self._update(known, said, listed, gone, edits)
        return self._commit(edits)

    def unhear(self, controller: str, agent: str) -> None:
        """Another controller no longer hears the agent: its rows stay, and its lease here begins to run out."""
        if (known := self._agents.get(agent)) is not None:
            known.heard_by.discard(controller)

    def forget(self, controller: str) -> None:
        """Another controller cannot be heard itself: what it hears is unknown."""
        for known in self._agents.values():
            known.heard_by.discard(controller)

    def heard_here(self, agent: str) -> Word | None:
        """Return the list of an agent that is live here, and up to where it reaches: what `hear` takes elsewhere."""
        if (known := self._agents.get(agent)) is None or known.phase is not Phase.LIVE:
            return None
        rows = (self._rows.get(key) for key in sorted(known.rows))
        here = tuple(unpack_endpoint(value) for value in rows if value is not None)
        return Word(
            known.known_until, here, tuple(map(EndpointKey.decode, sorted(known.refused - known.rows)))
        )

    def has_ended(self, agent: str) -> bool:
        """True for an agent whose lease ended, and of which nothing has come since."""
        return (known := self._agents.get(agent)) is not None and known.phase is Phase.ENDED

    def is_live(self, agent: str) -> bool:
        """True while the agent's stream is here and its list is complete."""
        return (known := self._agents.get(agent)) is not None and known.phase is Phase.LIVE

    def is_heard(self, agent: str) -> bool:
        """True while this or another controller of the cluster hears the agent."""
        return (known := self._agents.get(agent)) is not None and known.heard

    def doubted(self) -> Mapping[str, Doubt]:
        """The agents whose newest lists left out too much at once, and what of it still stands."""
        return {name: agent.doubt for name, agent in self._agents.items() if agent.doubt is not None}

    def ripen(self, agent: str) -> None:
        """The pause is over: the same list again is believed."""
        if (known := self._agents.get(agent)) is not None and known.doubt is not None:
            known.doubt = msgspec.structs.replace(known.doubt, ripe=True)

    def confirm(self, agent: str) -> tuple[Change, ...]:
        """An operator believes the agent's newest list: remove what it left out. Raises `NotFoundError`."""
        if (known := self._agents.get(agent)) is None or known.doubt is None:
            raise NotFoundError(
                f"agent {agent} of cluster {self._cluster} left nothing out that still stands"
            )
        missing, known.doubt = known.doubt.missing, None
        edits: _Edits = {}
        for key in sorted(missing & known.rows):
            row = self._row(key, edits)
            if row is not None and row.version <= known.known_until:
                edits[key] = None
        return self._commit(edits)

    def rows_of(self, agent: str) -> int:
        """How many rows an agent has."""
        return len(known.rows) if (known := self._agents.get(agent)) is not None else 0

    def agent_lost(self, agent: str) -> None:
        """The agent's stream ended: its rows stay, and its lease begins to run out."""
        if (known := self._agents.get(agent)) is None:
            return
        known.listing = None
        if known.phase is not Phase.ENDED:
            known.phase = Phase.LOST

    def expire(self, agent: str) -> tuple[Change, ...]:
        """The agent's lease has ended: remove its rows. Nothing happens to one that anybody hears."""
        if (known := self._agents.get(agent)) is None or known.heard:
            return ()
        known.phase = Phase.ENDED
        known.doubt, known.refused = None, set()
        edits: _Edits = {}
        for key in sorted(known.rows):
            row = self._row(key, edits)
            if row is not None:
                self._silenced.add(key, row.agent, known.known_until, row.version)
            edits[key] = None
        return self._commit(edits)

    def absorb(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Follow what the catalog says of this cluster; return what that changed here.

        Rows newer than ours are taken. A row that the catalog lost goes here too, because another controller has heard
        of its end; unless its agent is live here or has changed it since: then it is published again.
        """
        edits: _Edits = {}
        theirs = {
            change.key: change.value
            for change in changes
            if change.table == "endpoints" and EndpointKey.decode(change.key).cluster == self._cluster
        }
        for key, value in theirs.items():
            if value is None:
                self._silenced.catalog_lost(key)
                if (agent := self._follows_removal(key)) is not None:
                    self._silenced.add(key, agent, self._agents[agent].known_until, GONE)
                    edits[key] = None
            elif value != self._rows.get(key):  # Else it is what was published.
                self._adopt(unpack_endpoint(value), edits)
        ours = self._commit(edits)
        for key, value in theirs.items():
            if self._rows.get(key) == value:
                self._unpublished.pop(key, None)
            else:
                self._unpublished[key] = None
        return ours

    def published(self, catalog: Table) -> Usage:
        """Return what the catalog has of this cluster's endpoints. Cost: that of its services, and of the rows that differ."""
        return usage_of_other(self._usage, self._rows, catalog, self._unpublished)

    def difference(self, tables: Tables, room: Takes | None = None) -> Difference:
        """Return the next batch that brings the catalog to this table; empty when there is nothing to do.

        With `room` it holds what that takes: for when a limit stands against the whole.
        Idempotent: a row stays in it until the catalog has it. Cost: proportional to the rows that differ.
        """
        put, remove = list[Endpoint](), list[tuple[EndpointKey, int, int]]()
        refused: _Refused = []
        spec = tables.cluster(self._cluster)
        held, size, whole = set[str](), 0, True
        for key in tuple(self._unpublished):
            ours, theirs = self._rows.get(key), tables.endpoints.get(key)
            if ours == theirs:
                del self._unpublished[key]
                self._silenced.catalog_lost(key)
                continue
            row = None if ours is None else unpack_endpoint(ours)
            if theirs is None and not (row and self._agents[row.agent].told):
                continue
            there = None if theirs is None else unpack_origin(theirs)
            if there is not None and not self._may_replace(key, there, row):
                continue
            if row is not None and (reason := refusal(row, self._cluster, spec, self.places)):
                refused.append((row.key, reason))
                continue
            if room is not None and not room.takes(key, ours, theirs):
                held.update(one.agent for one in (row, there) if one)
                continue
            size += len(ours or b"") + len(key) + _REMOVAL_BYTES
            if len(put) + len(remove) >= PUBLISH_ROWS_MAX or size > PUBLISH_BYTES_MAX:
                whole = False
                break
            if there is not None and (row is None or row.version <= there.version):
                remove.append((EndpointKey.decode(key), *there.version))
            if row is not None:
                put.append(row)
        news = Difference(put=tuple(put), remove=tuple(remove), refused=tuple(refused))
        return msgspec.structs.replace(news, held=frozenset(held), whole=whole)

    def _may_replace(self, key: bytes, there: Origin, row: Endpoint | None) -> bool:
        """True when we know better than the catalog's row; False when `absorb` has yet to see that row."""
        if row is None:
            return there.version <= self._gone_until(key, there.agent)
        if row.agent == there.agent:
            return row.version >= there.version
        return self.is_heard(row.agent)

    def _known(self, agent: str) -> Agent:
        """Return an agent, a new one as `UNHEARD`."""
        if agent not in self._agents:
            self._make_room_for_agent()
            self._agents[agent] = Agent(Phase.UNHEARD)
        return self._agents[agent]

    def _make_room_for_agent(self) -> None:
        if len(self._agents) < AGENTS_MAX:
            return
        for name, agent in self._agents.items():
            if agent.replaceable:
                del self._agents[name]
                return
        raise LimitExceededError(f"cluster {self._cluster} has {AGENTS_MAX} agents, no more are allowed")

    def _check_room(self, agent: Agent, rows: int) -> None:
        if rows > ENDPOINTS_PER_AGENT_MAX:
            raise LimitExceededError(
                f"{rows} endpoints of one agent, at most {ENDPOINTS_PER_AGENT_MAX} are allowed"
            )
        if (total := len(self._rows) - len(agent.rows) + rows) > ENDPOINTS_PER_CLUSTER_MAX:
            raise LimitExceededError(
                f"cluster {self._cluster}: {total} endpoints, at most {ENDPOINTS_PER_CLUSTER_MAX} are allowed"
            )

    def _accepted(
        self, row: Endpoint, said: Declaration, spec: ClusterSpec, refused: _Refused
    ) -> bytes | None:
        """Return the key of a row that its agent may declare; a refusal goes to `refused`."""
        try:
            key, _ = vet(row, self._cluster, spec, self.places)
            said.check_own(row)
        except IsthmusError as error:
            refused.append((row.key, error.message))
            return None
        if reason := self._taken(key, said.agent):
            refused.append((row.key, reason))
            return None
        return key

    def _accepts_key(self, key: EndpointKey, refused: _Refused) -> bool:
        try:
            check_endpoint_key(key, self._cluster)
        except IsthmusError as error:
            refused.append((key, error.message))
            return False
        return True

    def _taken(self, key: bytes, agent: str) -> str:
        """Return why `agent` may not have a row, "" when it may."""
        value = self._rows.get(key)
        holder = agent if value is None else unpack_origin(value).agent
        if holder == agent or not self.is_heard(holder):
            return ""
        return f"endpoint {EndpointKey.decode(key).name} belongs to agent {holder}, which is live"

    def _still_free(
        self, listed: Mapping[bytes, Endpoint], agent: str, refused: _Refused
    ) -> dict[bytes, Endpoint]:
        """The rows that no other agent has taken since they were listed."""
        taken = {key: reason for key in listed if (reason := self._taken(key, agent))}
        refused += [(listed[key].key, reason) for key, reason in taken.items()]
        return {key: row for key, row in listed.items() if key not in taken}

    def _update(
        self,
        agent: Agent,
        said: Declaration,
        rows: Mapping[bytes, Endpoint],
        gone: Iterable[bytes],
        edits: _Edits,
    ) -> None:
        """Merge rows and removals of an agent whose list is complete."""
        position = (said.incarnation, said.sequence)
        for key in (*gone, *rows):
            self._silenced.forget(key)
        for key in sorted(gone):
            there = self._row(key, edits)
            # A newer row than the message came another way: the agent has more to say.
            if there and there.agent == said.agent and there.version <= position and key not in rows:
                edits[key] = None
        for key, row in rows.items():
            there = self._row(key, edits)
            if there is None or there.agent != row.agent or there.version < row.version:
                edits[key] = pack(row)
        agent.known_until = max(agent.known_until, position)

    def _follows_removal(self, key: bytes) -> str | None:
        """Return whose row it is that the catalog lost and nobody says that it still exists; None for any other."""
        if (value := self._rows.get(key)) is None or key in self._unpublished:
            return None  # What was removed was an older row than ours.
        agent = unpack_origin(value).agent
        return None if self.is_heard(agent) else agent

    def _gone_until(self, key: bytes, name: str) -> tuple[int, int]:
        """Return the newest version of a row of the catalog that is known to be over, for one that is not here."""
        agent = self._agents.get(name)
        if agent is None or key in agent.refused:
            return GONE
        return self._silenced.gone_until(key, name, agent.known_until)

    def _adopt(self, row: Endpoint, edits: _Edits) -> None:
        """Take a row that came another way than from its agent, unless we know better."""
        key = row.key.encode()
        there = self._row(key, edits)
        if there is not None and there.agent == row.agent:
            if row.version > there.version:
                edits[key] = pack(row)
            return
        if there is not None and self.is_heard(there.agent):
            return  # Its agent is here and says so.
        if row.agent in self._agents and row.version <= self._gone_until(key, row.agent):
            return  # An echo of what its agent has withdrawn since, or silence ended.
        agent = self._known(row.agent)
        if agent.phase is Phase.ENDED:
            agent.phase = Phase.UNHEARD
        self._silenced.forget(key)
        edits[key] = pack(row)

    def _row(self, key: bytes, edits: _Edits) -> Origin | None:
        value = edits[key] if key in edits else self._rows.get(key)
        return None if value is None else unpack_origin(value)

    def _commit(self, edits: _Edits) -> tuple[Change, ...]:
        changes: list[Change] = []
        for key, value in edits.items():
            before = self._rows.get(key)
            if before == value:
                continue
            rows = (value is not None) - (before is not None)
            size = len(value or b"") - len(before or b"") + rows * len(key)
            self._usage.note("endpoints", key, rows, size)
            if before is not None:
                self._agents[unpack_origin(before).agent].rows.discard(key)
            if value is not None:
                row = unpack_origin(value)
                agent = self._agents.get(row.agent) or self._agents.setdefault(
                    row.agent, Agent(Phase.UNHEARD)
                )
                agent.rows.add(key)
                agent.newest_incarnation = max(agent.newest_incarnation, row.incarnation)
            self._unpublished[key] = None
            changes.append(Change("endpoints", key, value))
        self._rows = self._rows.set((change.key, change.value) for change in changes)
        return tuple(changes)
