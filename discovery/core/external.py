"""External services: addresses without an agent, checked by several clusters, their state decided like liveness.

An `ExternalObservation` is a row of the cluster that checks: the addresses of one service that it misses. What is
held of each address is computed from these rows alone, in the state machine, into the service's status:

    ok         nobody misses it
    degraded   somebody misses it: called when no other address answers
    unhealthy  at least two checkers miss it, and more than half of those that count: as an endpoint not ready

One checker may err, or be the one that is cut off, so with one possible checker the worst is `degraded`. The rows of
checkers do not count that are silent, or miss most other clusters (`discovery.core.liveness`). An address that was
unhealthy before has to look so for a while first (`discovery.core.verdicts`); a state lifts at once.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from discovery.core.condition import Condition, listed, merge
from discovery.core.draft import Draft
from discovery.core.liveness import OBSERVERS_MIN, Electorate
from discovery.core.model import Change, Resource, ResourceKey, unpack_resource
from discovery.core.ownership import cluster_spec, clusters
from discovery.core.poison import address_refusal, is_a_place
from discovery.core.range_owners import RangeOwners
from discovery.core.specs import (
    ClusterSpec,
    ExternalAddressStatus,
    ExternalObservationSpec,
    ExternalServiceSpec,
    ExternalServiceStatus,
    ExternalState,
)
from discovery.core.tables import Tables
from discovery.core.verdicts import electorate_of, hold_ms
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import LimitExceededError, NotAllowedError, PreconditionError

KIND = "ExternalService"
OBSERVATION = "ExternalObservation"
LOSSES_KEPT_MAX = 8
EVIDENCE_MAX = 4  # Checkers named for an address: the status of 64 addresses stays below 40 KB.
# Of one cluster. Every checker and every view goes through all of them when clusters come or go.
EXTERNAL_SERVICES_MAX = 1_000
# What they read was checked when it was written; to check all addresses again at each look costs four times as much.
_services = msgspec.json.Decoder(ExternalServiceSpec)
_clusters = msgspec.json.Decoder(ClusterSpec)
_observations = msgspec.json.Decoder(ExternalObservationSpec)
_SETTLED_KINDS = frozenset({KIND.encode(), OBSERVATION.encode()})
# What decides which checkers count.
_ELECTORATE_KINDS = frozenset({b"Observation", b"Cluster", b"Member"})


def observation_key(checker: str, service: ResourceKey) -> ResourceKey:
    """The key of what a checker misses of an ExternalService."""
    return ResourceKey(checker, OBSERVATION, service.namespace, f"{service.name}.{service.scope}")


def observed_service(observation: ResourceKey) -> ResourceKey:
    """The inverse: the ExternalService that a row is about."""
    service, _, owner = observation.name.partition(".")
    return ResourceKey(owner, KIND, observation.namespace, service)


def checkers(spec: ExternalServiceSpec, owner: str, joined: Mapping[str, ClusterSpec]) -> frozenset[str]:
    """The joined clusters that check a service of `owner`: only those with controllers of their own can."""
    home = joined[owner].home if owner in joined else ""
    named = spec.checked_from or (home or owner,)
    return frozenset(name for name in named if name in joined and joined[name].role != "remote")


def state_of(missed_by: frozenset[str], voters: frozenset[str]) -> ExternalState:
    """What is to be held of an address that these checkers miss, of those that count."""
    lost = len(missed_by & voters)
    if lost >= OBSERVERS_MIN and 2 * lost > len(voters):
        return "unhealthy"
    return "degraded" if lost else "ok"


# -- who may write what ------------------------------------------------------------------------------


def check_service(
    draft: Draft, key: ResourceKey, spec: ExternalServiceSpec, joined: Mapping[str, ClusterSpec]
) -> None:
    """Raise `NotAllowedError` for an address that would aim its callers and checkers at somebody else.

    `LimitExceededError` for one service too many.
    """
    # Counting costs a look at each; who has few rows in all has no more of these.
    may_be_full = draft.count("resources", key.scope) >= EXTERNAL_SERVICES_MAX
    if (
        may_be_full
        and draft.resource(key) is None
        and sum(1 for _ in draft.list_resources(key.scope, KIND)) >= EXTERNAL_SERVICES_MAX
    ):
        raise LimitExceededError(f"{key}: {key.scope} has {EXTERNAL_SERVICES_MAX} external services already")
    own, places = joined[key.scope].ranges, draft.places.of(key.scope)
    ranges, row = _owners(joined), draft.resource(key)
    before = frozenset() if row is None else frozenset(_spec(row).addresses)
    for position, address in enumerate(spec.addresses):
        where = f"{key}: spec.addresses[{position}]: {address}"
        if (reason := address_refusal(address, own)) is not None:
            raise NotAllowedError(f"{where} {reason}")
        for port in spec.ports:
            if is_a_place(address, port.target_port or port.port, places):
                raise NotAllowedError(f"{where}:{port.target_port or port.port} is a controller's own")
        # Who declared it before others had the range keeps it.
        if address not in before and (claim := ranges.claim(key.scope, address)) is not None:
            raise NotAllowedError(f"{where} {claim.refusal}")


def check_observation(draft: Draft, proposer: str, key: ResourceKey) -> None:
    """Raise unless the proposer is the checker that the row says, and is one of the service's."""
    if proposer != key.scope:
        raise NotAllowedError(f"{key}: cluster {proposer} may not observe in the name of {key.scope}")
    service = observed_service(key)
    row = draft.resource(service)
    if row is None:
        raise PreconditionError(f"{key}: there is no {service}")
    asked = {name: spec for name in (key.scope, service.scope) if (spec := cluster_spec(draft, name))}
    if key.scope not in checkers(_spec(row), service.scope, asked):
        raise NotAllowedError(f"{key}: {service} is not checked from cluster {key.scope}")


# -- what is held ------------------------------------------------------------------------------------


def settle_changed(draft: Draft, lease_ms: int) -> None:
    """Make the status of those services what the observations say now that a command may have concerned.

    Cost: the services that changed; where a cluster was missed or joined, those of which anything is missed; where
    ranges changed, a look at all.
    """
    found: set[ResourceKey] = set()
    is_electorate, changed = False, set()
    changes = draft.changes()
    ranges = _changed_ranges(changes, draft.before)
    if ranges:
        found.update(_declared_within(draft, ranges))
    for change in changes:
        kind = change.key.split(b"\0", 2)[1] if change.table == "resources" else b""
        if kind in _SETTLED_KINDS:
            key = ResourceKey.decode(change.key)
            found.add(key if key.kind == KIND else observed_service(key))
        is_electorate |= kind in _ELECTORATE_KINDS
        if kind == b"Cluster":
            changed.add(ResourceKey.decode(change.key).name)  # What a removed one had said is swept later.
    if is_electorate:
        for name in clusters(draft).keys() | changed:
            found |= {observed_service(row.key) for row in draft.list_resources(name, OBSERVATION)}
    settle(draft, found, lease_ms)


def _changed_ranges(changes: Iterable[Change], before: Iterable[bytes | None]) -> dict[str, tuple[str, ...]]:
    """The clusters whose ranges a command changed, each with the ranges that it got or lost."""
    found = {}
    for change, old in zip(changes, before, strict=True):
        if change.table != "resources" or change.key.split(b"\0", 2)[1] != b"Cluster":
            continue
        spec, spec_before = (
            None if row is None else _clusters.decode(unpack_resource(row).spec)
            for row in (change.value, old)
        )
        ranges = {*(spec.ranges if spec else ())} ^ {*(spec_before.ranges if spec_before else ())}
        if ranges:
            found[ResourceKey.decode(change.key).name] = tuple(sorted(ranges))
    return found


def _declared_within(draft: Draft, ranges: Mapping[str, tuple[str, ...]]) -> Iterator[ResourceKey]:
    """Yield the services with an address in one of these ranges, whoever has them."""
    owners = RangeOwners(ranges)
    for name in clusters(draft):
        for row in draft.list_resources(name, KIND):
            if any(owners.claim("", address) for address in _spec(row).addresses):
                yield row.key


def settle(draft: Draft, services: Iterable[ResourceKey], lease_ms: int) -> None:
    """Make the status of these services what the observations say at this moment."""
    rows = [row for key in sorted(services) if (row := draft.resource(key)) is not None]
    if not rows:
        return
    joined = clusters(draft)
    electorate = electorate_of(draft, joined)
    ranges = _owners(joined)
    for row in rows:
        if row.key.scope in joined:
            _settle_one(draft, row, joined, electorate, ranges, lease_ms)


class Dues:
    """When addresses that damping holds become due: what a tick has to look at. Follows from the rows alone."""

    def __init__(self, tables: Tables) -> None:
        self._due_ms: dict[bytes, int] = {}
        for key, value in tables.resources.items():
            self._note(key, value)

    def take(self, changes: Iterable[Change]) -> None:
        """Follow what a command changed."""
        for change in changes:
            if change.table == "resources":
                self._note(change.key, change.value)

    def due(self, lease_ms: int) -> Iterator[ResourceKey]:
        """Yield the services of which an address is due. Cost: the services of which one is held."""
        return (ResourceKey.decode(key) for key, due_ms in self._due_ms.items() if due_ms <= lease_ms)

    def _note(self, key: bytes, value: bytes | None) -> None:
        if key.split(b"\0", 2)[1] != KIND.encode():
            return
        self._due_ms.pop(key, None)
        held = [] if value is None else [
            one.held_lease_ms + hold_ms(one.losses_lease_ms, one.held_lease_ms)
            for one in read_status(unpack_resource(value)).addresses
            if one.held_lease_ms is not None
        ]  # fmt: skip
        if held:
            self._due_ms[key] = min(held)


def read_status(row: Resource) -> ExternalServiceStatus:
    """What is held of a service; nothing where it cannot be read, as of a newer build."""
    try:
        return msgspec.json.decode(row.status, type=ExternalServiceStatus)
    except MALFORMED:
        return ExternalServiceStatus()


def _settle_one(
    draft: Draft,
    row: Resource,
    joined: Mapping[str, ClusterSpec],
    electorate: Electorate,
    ranges: RangeOwners,
    lease_ms: int,
) -> None:
    spec, status = _spec(row), read_status(row)
    voters = frozenset(name for name in checkers(spec, row.key.scope, joined) if electorate.counts(name))
    missed = {name: _missed(draft, name, row.key) for name in sorted(voters)}
    before = {one.address: one for one in status.addresses}
    addresses: list[ExternalAddressStatus] = []
    flips = status.flips
    for address in spec.addresses:
        missed_by = frozenset(name for name in voters if address in missed[name])
        known = before.get(address)
        now = _after(known, address, missed_by, voters, now_ms=draft.now_ms, lease_ms=lease_ms)
        flips += known is not None and known.state != now.state
        addresses.append(now)
    told = merge(
        status.conditions, _overlaps(row, spec, ranges), generation=row.generation, now_ms=draft.now_ms
    )
    now_held = ExternalServiceStatus(addresses=tuple(addresses), flips=flips, conditions=told)
    raw = msgspec.json.encode(now_held)
    if raw != row.status:
        draft.put(msgspec.structs.replace(row, status=raw, revision=draft.index))


def _owners(joined: Mapping[str, ClusterSpec]) -> RangeOwners:
    return RangeOwners({name: spec.ranges for name, spec in joined.items()})


def _overlaps(row: Resource, spec: ExternalServiceSpec, ranges: RangeOwners) -> Iterator[Condition]:
    """Say which addresses lie in ranges that other clusters got later: they stay where they were declared."""
    problems = [
        f"address {address} {claim.where}"
        for address in spec.addresses
        if (claim := ranges.claim(row.key.scope, address)) is not None
    ]
    if problems:
        message = f"{listed(problems)}: served until the service gives it up"
        yield Condition(type="Conflict", status="True", reason="RangeOverlap", message=message)


def _after(
    known: ExternalAddressStatus | None,
    address: str,
    missed_by: frozenset[str],
    voters: frozenset[str],
    *,
    now_ms: int,
    lease_ms: int,
) -> ExternalAddressStatus:
    """What is held of one address now."""
    state, held = state_of(missed_by, voters), None
    losses = () if known is None else known.losses_lease_ms
    if state == "unhealthy" and (known is None or known.state != "unhealthy"):
        held = lease_ms if known is None or known.held_lease_ms is None else known.held_lease_ms
        if lease_ms - held < hold_ms(losses, held):
            state = "degraded"
        else:
            held = None
            losses = (*losses, lease_ms)[-LOSSES_KEPT_MAX:]
    return ExternalAddressStatus(
        address=address,
        state=state,
        since_ms=known.since_ms if known is not None and known.state == state else now_ms,
        missed_by=tuple(sorted(missed_by))[:EVIDENCE_MAX],
        losses_lease_ms=losses,
        held_lease_ms=held,
    )


def _missed(draft: Draft, checker: str, service: ResourceKey) -> frozenset[str]:
    row = draft.resource(observation_key(checker, service))
    if row is None:
        return frozenset()
    return frozenset(_observations.decode(row.spec).missed)


def _spec(row: Resource) -> ExternalServiceSpec:
    return _services.decode(row.spec)
