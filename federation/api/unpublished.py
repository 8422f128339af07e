"""Endpoints that were accepted from their agents and that the rules of now refuse, because they changed meanwhile.

Nobody is sent there (`discovery.core.served`). Some were not published yet, and stay local; others are in the catalog
already. Their agents are told which these are and why, with each acknowledgement, and told anew when that changes: the ranges
of the cluster may be changed back.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from discovery.core.model import Change, EndpointKey, unpack_endpoint
from discovery.core.served import ServedAddresses

# Of one agent: they go with each acknowledgement. With more of them it is told of nothing that it is global.
UNPUBLISHED_TOLD_MAX = 1_000


class Unpublishable(NamedTuple):
    """One row that the catalog would refuse."""

    key: EndpointKey
    agent: str
    reason: str


@runtime_checkable
class Told(Protocol):
    """A session whose agent was told what is global."""

    def acknowledge_again(self) -> None:
        """Tell it anew: something became publishable, or is so no longer."""
        ...


class Unpublished:
    """What of a cluster's local table is not published, or published and not served; at most what the table holds."""

    def __init__(self) -> None:
        self._refused = _ByAgent()
        self._withheld = _ByAgent()

    def replace(self, rows: Iterable[Unpublishable]) -> frozenset[str]:
        """Take the whole list of those that cannot be published now; return the agents for which it is another one."""
        before, self._refused = self._refused, _ByAgent(rows)
        return self._refused.agents_unlike(before)

    def judge(self, rows: Iterable[tuple[bytes, bytes]], served: ServedAddresses) -> frozenset[str]:
        """Find those of all rows to which nobody is sent; return the agents for which they are others than before.

        Cost: a look at each row.
        """
        before, self._withheld = self._withheld, _ByAgent(_withheld(rows, served))
        return self._withheld.agents_unlike(before)

    def follow(self, changes: Iterable[Change], served: ServedAddresses) -> frozenset[str]:
        """The same of rows that changed."""
        agents: set[str] = set()
        for change in changes:
            agents |= self._withheld.remove(EndpointKey.decode(change.key))
            for row in () if change.value is None else _withheld([(change.key, change.value)], served):
                self._withheld.add(row)
                agents.add(row.agent)
        return frozenset(agents)

    @property
    def withholds(self) -> bool:
        """True while there is a row to which nobody is sent."""
        return len(self._withheld) > 0

    def of(self, agent: str) -> Mapping[EndpointKey, str]:
        """The endpoints of one agent, each with the reason."""
        return MappingProxyType({**self._withheld.of(agent), **self._refused.of(agent)})

    def __len__(self) -> int:
        """How many they are."""
        return len(self._refused.keys() | self._withheld.keys())


class _ByAgent:
    """Rows with a reason, by agent."""

    def __init__(self, rows: Iterable[Unpublishable] = ()) -> None:
        self._reasons: dict[str, dict[EndpointKey, str]] = {}
        self._agents: dict[EndpointKey, str] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Unpublishable) -> None:
        self._reasons.setdefault(row.agent, {})[row.key] = row.reason
        self._agents[row.key] = row.agent

    def remove(self, key: EndpointKey) -> set[str]:
        """Return whose it was, if it was there."""
        agent = self._agents.pop(key, None)
        if agent is None:
            return set()
        del self._reasons[agent][key]
        if not self._reasons[agent]:
            del self._reasons[agent]
        return {agent}

    def of(self, agent: str) -> Mapping[EndpointKey, str]:
        return self._reasons.get(agent, {})

    def keys(self) -> AbstractSet[EndpointKey]:
        return self._agents.keys()

    def agents(self) -> AbstractSet[str]:
        return self._reasons.keys()

    def agents_unlike(self, other: "_ByAgent") -> frozenset[str]:
        agents = self.agents() | other.agents()
        return frozenset(agent for agent in agents if self.of(agent) != other.of(agent))

    def __len__(self) -> int:
        return len(self._agents)


def _withheld(rows: Iterable[tuple[bytes, bytes]], served: ServedAddresses) -> Iterator[Unpublishable]:
    for _, value in rows:
        row = unpack_endpoint(value)
        if reason := served.refusal(row):
            yield Unpublishable(row.key, row.agent, f"callers are not sent there: {reason}")
