"""Endpoints that were accepted from their agents and may no longer be published, because the rules changed meanwhile.

They stay local, and nobody is sent there (`discovery.core.served`). Their agents are told which these are and why, with
each acknowledgement, and told anew when that changes: the ranges of the cluster may be changed back.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from discovery.core.model import EndpointKey

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
    """What of a cluster's local table is not published, by agent; at most what the table holds."""

    def __init__(self) -> None:
        self._by_agent: dict[str, dict[EndpointKey, str]] = {}

    def replace(self, rows: Iterable[Unpublishable]) -> frozenset[str]:
        """Take the whole list of now; return the agents for which it is another one."""
        before, self._by_agent = self._by_agent, {}
        for row in rows:
            self._by_agent.setdefault(row.agent, {})[row.key] = row.reason
        agents = before.keys() | self._by_agent.keys()
        return frozenset(agent for agent in agents if before.get(agent) != self._by_agent.get(agent))

    def of(self, agent: str) -> Mapping[EndpointKey, str]:
        """The endpoints of one agent, each with the reason."""
        return MappingProxyType(self._by_agent.get(agent, {}))

    def __len__(self) -> int:
        """How many they are."""
        return sum(len(rows) for rows in self._by_agent.values())
