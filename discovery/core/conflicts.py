"""What a service is when several clusters export it and do not agree: the rules of KEP-1645, in one place.

The oldest export decides the type, the session affinity and, port by port, name and protocol; ports are the
union. Age is the revision at which the oldest policy that exports the service was created, so it does not
matter in which order a process hears of things. Exports of equal age are ordered by cluster.

What a cluster keeps for itself comes before all exports in its own view: nobody else sees it, and nobody
else's export may change what its own callers have.

Unlike KEP-1645, a port whose name an older export uses for another number keeps its number and loses its name
only: nobody who calls it by number is cut off.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from discovery.core.model import EndpointPort, Protocol, ServiceAffinity, ServiceType

Reason: TypeAlias = Literal["TypeConflict", "SessionAffinityConflict", "PortConflict"]


class Age(NamedTuple):
    """When a resource was created; the smaller one is older.

    Federation time comes first for rows of a build that did not keep the revision; it never runs backwards
    along the log, so where both have a revision the two agree.
    """

    created_ms: int
    created_revision: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy says of the services that it exports."""

    policy: str  # Kind and name.
    type: ServiceType = "ClusterSetIP"
    affinity: ServiceAffinity = "None"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster's part in a service."""

    cluster: str
    age: Age | None  # Of its export; None: it keeps the service for itself.
    said: Statement
    overruled: tuple[Statement, ...] = ()  # Its own policies that name the service too, and are younger.
    ports: tuple[EndpointPort, ...] = ()  # Of its endpoints, each once, in their order; listen_port is 0.

    @property
    def rank(self) -> tuple[bool, Age, str]:
        """Sort key: who decides comes first."""
        return (self.age is not None, self.age or Age(0, 0), self.cluster)


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is."""

    type: ServiceType
    affinity: ServiceAffinity
    ports: tuple[EndpointPort, ...]  # By number; a name is "" where another port has it.


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a policy's services are not, because an older export says otherwise."""

    cluster: str
    policy: str
    reason: Reason
    field: str  # Such as "type" or "port 8080: protocol".
    value: str
    winner: str  # Cluster.
    winner_policy: str
    winner_value: str

    @property
    def message(self) -> str:
        """The conflict in words."""
        return (
            f"{self.field} is {self.value!r}, {self.winner} ({self.winner_policy}) says {self.winner_value!r}"
        )


def settle(claims: Iterable[Claim]) -> Settled:
    """Return what the service is; at least one claim is needed."""
    ranked = sorted(claims, key=_rank)
    return Settled(
        type=ranked[0].said.type,
        affinity=ranked[0].said.affinity,
        ports=tuple(port for _, (port, _) in sorted(_ports(ranked).items())),
    )


def conflicts(claims: Iterable[Claim]) -> Iterator[Conflict]:
    """Yield who says what the service is not, by rank."""
    ranked = sorted(claims, key=_rank)
    winner = ranked[0] if ranked else None
    ports = _ports(ranked)
    names = {port.name: (port, owner) for port, owner in ports.values() if port.name}
    for claim in ranked:
        for said in (claim.said, *claim.overruled):
            if winner is not None:
                yield from _statement_conflicts(claim.cluster, said, winner)
        for port in claim.ports:
            yield from _port_conflicts(claim, port, ports[port.service_port], names)


def _rank(claim: Claim) -> tuple[bool, Age, str]:
    return claim.rank


def _ports(ranked: Sequence[Claim]) -> dict[int, tuple[EndpointPort, Claim]]:
    """Each port by number, and by whom; the first claim that has the number, or the name, decides about it."""
    ports: dict[int, tuple[EndpointPort, Claim]] = {}
    names: set[str] = set()
    for claim in ranked:
        for port in claim.ports:
            if port.service_port not in ports:
                kept = msgspec.structs.replace(port, name="") if port.name in names else port
                ports[port.service_port] = (kept, claim)
                names.add(port.name)
    return ports


def _statement_conflicts(cluster: str, said: Statement, winner: Claim) -> Iterator[Conflict]:
    compared: tuple[tuple[Reason, str, str, str], ...] = (
        ("TypeConflict", "type", said.type, winner.said.type),
        ("SessionAffinityConflict", "sessionAffinity", said.affinity, winner.said.affinity),
    )
    for reason, field, value, winner_value in compared:
        if value != winner_value:
            yield Conflict(
                cluster=cluster,
                policy=said.policy,
                reason=reason,
                field=field,
                value=value,
                winner=winner.cluster,
                winner_policy=winner.said.policy,
                winner_value=winner_value,
            )


def _port_conflicts(
    claim: Claim,
    port: EndpointPort,
    decided: tuple[EndpointPort, Claim],
    names: dict[str, tuple[EndpointPort, Claim]],
) -> Iterator[Conflict]:
    kept, owner = decided
    compared: list[tuple[str, str, Claim, str]] = []
    if port.protocol != kept.protocol:
        compared.append((f"port {port.service_port}: protocol", port.protocol, owner, kept.protocol))
    if port.name != kept.name:
        holder, holding = names.get(port.name, (kept, owner))
        if holder.service_port != port.service_port:
            compared.append(
                (f"port {port.name}: number", str(port.service_port), holding, str(holder.service_port))
            )
        else:
            compared.append((f"port {port.service_port}: name", port.name, owner, kept.name))
    for field, value, winner, winner_value in compared:
        yield Conflict(
            cluster=claim.cluster,
            policy=claim.said.policy,
            reason="PortConflict",
            field=field,
            value=value,
            winner=winner.cluster,
            winner_policy=winner.said.policy,
            winner_value=winner_value,
        )


def distinct_ports(ports: Iterable[EndpointPort]) -> tuple[EndpointPort, ...]:
    """Return each (name, number, protocol) once, in order of appearance, without listen ports."""
    seen: dict[tuple[str, int, Protocol], EndpointPort] = {}
    for port in ports:
        place = (port.name, port.service_port, port.protocol)
        if place not in seen:
            seen[place] = msgspec.structs.replace(port, listen_port=0)
    return tuple(seen.values())
