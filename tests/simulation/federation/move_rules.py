"""What must hold of a cluster that moves between two homes, after every entry of the log and at every moment."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from discovery.core.commands import Command
from discovery.core.model import Change, EndpointKey, unpack_endpoint
from discovery.core.ownership import cluster_key
from discovery.core.rehoming import endpoints_of, is_under_way
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from tests.simulation.federation.movers import REMOTE
from tests.simulation.federation.moves import ANNOUNCE_MS_MAX

if TYPE_CHECKING:
    from tests.simulation.federation.agents import SimAgent
    from tests.simulation.federation.rules import Rules

ACCEPTED = "callers accept what endpoints show"
KNOWN = "callers know of a move before any process changes"
ONE_MOVE = "a cluster has one move at a time, and its home changes at its end"
SETTLED = "a move ends"

_ROW = cluster_key(REMOTE).encode()


class MoveRules:
    """The judge of moves; `Rules` tells it of every entry."""

    def __init__(self, rules: "Rules") -> None:
        self.moved = 0
        self.returned = 0
        # Controllers that do not have this revision yet, and ran all the time since it was written.
        self.unaware: Callable[[int, float], Iterator[str]] = lambda _revision, _since_s: iter(())
        self._rules = rules
        self._announced_s = 0.0
        self._announced_revision = 0

    def judge(self, _command: Command, before: Tables, changes: tuple[Change, ...], now_s: float) -> None:
        """An entry changed these rows."""
        tables = self._rules.truth.tables
        new = tables.cluster(REMOTE)
        if new is None:
            return
        for change in changes:
            if change.table == "endpoints":
                if change.value is not None and EndpointKey.decode(change.key).cluster == REMOTE:
                    self._check_accepted(unpack_endpoint(change.value).identity, new, "a row")
            elif change.key == _ROW and (old := before.cluster(REMOTE)) is not None:
                self._judge_step(old, new, tables, now_s)

    def _judge_step(self, old: ClusterSpec, new: ClusterSpec, tables: Tables, now_s: float) -> None:
        self._rules.checked += 1
        for row in endpoints_of(tables, REMOTE):
            self._check_accepted(row.identity, new, f"{row.key} when {old.rehoming} became {new.rehoming}")
        was, now = old.rehoming, new.rehoming
        if now is None or was == now:
            return
        if is_under_way(old):
            assert was is not None
            ended_at_new = was.state == "moving" and now.state == "done" and new.home == was.home
            if new.home != old.home and not ended_at_new:
                self._rules.fail(ONE_MOVE, f"{old} became {new}")
            if is_under_way(new) and new.homes != old.homes:
                self._rules.fail(ONE_MOVE, f"{old} became {new}")
        if new.shown_trust_domain not in old.trust_domains:
            self._rules.fail(
                ACCEPTED, f"processes change to {new.shown_trust_domain}, known are {old.trust_domains}"
            )
        if now.state == "announced":
            self._announced_s, self._announced_revision = now_s, self._rules.truth.revision
        elif was is not None and was.state == "announced" and now.state == "moving":
            waited_ms = now.changed_ms - was.changed_ms
            unaware = list(self.unaware(self._announced_revision, self._announced_s))
            if unaware and waited_ms < ANNOUNCE_MS_MAX:
                self._rules.fail(KNOWN, f"{unaware} do not, {waited_ms} ms after it was announced")
        elif now.state == "done":
            self.moved += new.home != old.home
            self.returned += new.home == old.home

    def look(self, agents: "dict[str, SimAgent]") -> None:
        """Look at what the processes show whose endpoints are called now."""
        tables = self._rules.truth.tables
        spec = tables.cluster(REMOTE)
        if spec is None:
            return
        for row in endpoints_of(tables, REMOTE):
            agent = agents.get(row.agent)
            if agent is not None and agent.process.alive and row.incarnation == agent.incarnation:
                shown = f"spiffe://{agent.shown}/"
                self._check_accepted(shown, spec, f"{agent.name} (its row says {row.identity})")

    def difference(self, agents: "dict[str, SimAgent]") -> str:
        """What of a move has not ended yet; "" when nothing."""
        spec = self._rules.truth.tables.cluster(REMOTE)
        if spec is None:
            return ""
        if is_under_way(spec):
            return f"{REMOTE} is {spec.rehoming} still"
        for agent in agents.values():
            if agent.cluster == REMOTE and agent.process.alive:
                for domain in (agent.shown, agent.identity.trust_domain):
                    if domain != spec.trust_domain:
                        return f"{agent.name} shows {domain}, its cluster is of {spec.trust_domain}"
        return ""

    def _check_accepted(self, identity: str, spec: ClusterSpec, who: str) -> None:
        self._rules.checked += 1
        if not identity.startswith(tuple(f"spiffe://{domain}/" for domain in spec.trust_domains)):
            self._rules.fail(ACCEPTED, f"{who} shows {identity}, accepted are {spec.trust_domains}")
