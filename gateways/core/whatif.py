"""What the loss of whole clusters would do: the answer to `isthmus whatif`.

A lost cluster is taken out of the owners of each service that a surviving cluster will see, once those that can be found
dead have been; what is left goes through the function that makes load assignments (`gateways.core.endpoints`). Lost
means gone: endpoints, gateways, controller. External addresses stay, unless a LossPolicy takes them away: they stand
outside of all clusters, and CLUSTER.external is who declared them. What a loss does before callers have noticed it, the
laboratory shows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from discovery.core.model import EndpointPort
from discovery.core.specs import ClusterSpec
from discovery.core.view import Gateway, Owner, Service
from gateways.core.endpoints import endpoint_targets, owner_targets

Outcome = Literal["dies", "last resort", "moves", "thinner"]
_WORST_FIRST = ("dies", "last resort", "moves", "thinner")


class Foreseen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the parts of the answer."""


class ServiceLoss(Foreseen, frozen=True, kw_only=True):
    """One port of a service as callers of one surviving cluster would see it."""

    caller: str
    service: str
    service_port: int
    # dies: no instance is left. last resort: none that is ready. moves: another cluster serves. thinner: the same
    # cluster serves, with less behind it.
    outcome: Outcome
    served_by: str  # Now: the first owner in order that has something ready, else anything; empty: none.
    served_then: str
    owners_then: tuple[str, ...]  # That are left, in the order in which they are tried.
    ready_now: int  # Endpoints that callers reach, of all owners.
    ready_then: int


class ClusterLoss(Foreseen, frozen=True, kw_only=True):
    """One cluster of the federation."""

    cluster: str
    role: str
    lost: bool
    home: str
    home_lost: bool  # Nobody registers, enrolls or renews for it; what is registered and known goes on.
    found_dead: bool  # By those that are left: its LossPolicies take effect.
    gateways: int  # Its own: they are lost with it, and with nobody else.
    ready_gateways: int


class QuorumLoss(Foreseen, frozen=True, kw_only=True):
    """The log's members. Without a majority nothing can be written; traffic, DNS and identities go on."""

    voters: tuple[str, ...]
    lost: tuple[str, ...]
    silent: tuple[str, ...]  # Of those that are left, who does not answer already.
    answering: int  # Of those that are left.
    needed: int
    survives: bool
    survives_now: bool


def lose_service(
    service: Service, then: Service | None, caller: str, lost: Collection[str]
) -> Iterator[ServiceLoss]:
    """Yield what callers of `caller` would notice of a loss, port by port; nothing where they would not.

    `then` is the service as they will see it by the LossPolicies of those that are found dead.
    """
    ports_then = {port.service_port: port for port in (then.ports if then else ())}
    owners_then = [
        owner for owner in (then.owners if then else ()) if owner.external or owner.cluster not in lost
    ]
    for port in service.ports:
        port_then = ports_then.get(port.service_port, port)
        called = {owner.part: _is_called(owner, port) for owner in service.owners}
        will_be = {owner.part: _is_called(owner, port_then) for owner in owners_then}
        before, after = (
            [part for part, is_ready in found.items() if is_ready is not None] for found in (called, will_be)
        )
        serves, will_serve = _first(before, called), _first(after, will_be)
        if set(before) == set(after) and serves == will_serve:
            continue  # What is lost did not serve this port.
        reached_then = {owner.part: ready_endpoints(owner, port_then) for owner in owners_then}
        yield ServiceLoss(
            caller=caller,
            service=str(service.key),
            service_port=port.service_port,
            outcome=_outcome(serves, will_serve, reached_then),
            served_by=serves,
            served_then=will_serve,
            owners_then=tuple(after),
            ready_now=sum(ready_endpoints(owner, port) for owner in service.owners),
            ready_then=sum(reached_then.values()),
        )


def ready_endpoints(owner: Owner, port: EndpointPort) -> int:
    """How many ready endpoints of an owner callers reach at a service's port."""
    if not _is_called(owner, port):
        return 0
    return sum(target.ready for target in endpoint_targets(owner.endpoints, port.service_port, port.protocol))


def lose_clusters(
    clusters: Mapping[str, ClusterSpec],
    gateways: Mapping[str, tuple[Gateway, ...]],
    lost: Collection[str],
    dead: Collection[str],
) -> tuple[ClusterLoss, ...]:
    """Return what a loss does to each cluster, by name; `dead` are those of `lost` that will be found dead."""
    found = []
    for name, spec in sorted(clusters.items()):
        own = gateways.get(name, ())
        ready = sum(gateway.ready for gateway in own)
        found.append(
            ClusterLoss(
                cluster=name,
                role=spec.role,
                lost=name in lost,
                home=spec.home,
                home_lost=name not in lost and spec.home in lost,
                found_dead=name in dead,
                gateways=len(own),
                ready_gateways=ready,
            )
        )
    return tuple(found)


def lose_quorum(voters: Iterable[str], answering: Collection[str], lost: Collection[str]) -> QuorumLoss:
    """Return whether the voters that are left, and answer, could still decide; voters are called after clusters."""
    everyone = tuple(sorted(voters))
    needed = len(everyone) // 2 + 1
    left = [voter for voter in everyone if voter not in lost]
    silent = tuple(voter for voter in left if voter not in answering)
    return QuorumLoss(
        voters=everyone,
        lost=tuple(voter for voter in everyone if voter in lost),
        silent=silent,
        answering=len(left) - len(silent),
        needed=needed,
        survives=len(left) - len(silent) >= needed,
        survives_now=sum(voter in answering for voter in everyone) >= needed,
    )


def worst_first(loss: ServiceLoss) -> tuple[int, str, str, int]:
    """Sort key: what dies before what moves, then by caller and service."""
    return (_WORST_FIRST.index(loss.outcome), loss.caller, loss.service, loss.service_port)


def _is_called(owner: Owner, port: EndpointPort) -> bool | None:
    """Whether an aggregate sends to an owner: True, False as the last resort, None where it has no address."""
    targets = owner_targets(owner, port)
    return any(target.ready for target in targets) if targets else None


def _first(owners: Sequence[str], called: Mapping[str, bool | None]) -> str:
    """Where an aggregate sends: the first of its owners with something ready, else the first with anything."""
    return next((owner for owner in owners if called[owner]), owners[0] if owners else "")


def _outcome(serves: str, will_serve: str, reached: Mapping[str, int]) -> Outcome:
    if not will_serve:
        return "dies"
    if not reached[will_serve]:
        return "last resort"
    return "thinner" if serves == will_serve else "moves"
