"""What a join would change, and what stands in its way: computed before a token is used or a key is made.

The writes of the join are tried on a draft, which is then dropped: what the state machine would refuse is refused here with
the same words. What it would accept and an operator may regret is a warning.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from discovery.core.commands import Put
from discovery.core.draft import Draft
from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.poison import controller_places, controllers_of
from discovery.core.policies import Policies
from discovery.core.range_owners import RangeOwners
from discovery.core.specs import ClusterSpec, ControllerSpec
from discovery.core.tables import Tables
from discovery.core.tokens import TokenIndex
from discovery.core.usage import Usage
from discovery.core.visibility import is_visible
from discovery.core.writes import write
from federation.kernel.errors import IsthmusError
from federation.kernel.versions import SCHEMA_VERSION

EXTERNAL_NAMED_MAX = 20  # Addresses of external services in the newcomer's ranges.


class ExpectedService(msgspec.Struct, frozen=True, kw_only=True):
    """A service that the newcomer will have; port 0: none was named."""

    namespace: str
    service: str
    port: int = 0
    protocol: str = "http"

    @property
    def key(self) -> ServiceKey:
        """Its name."""
        return ServiceKey(self.namespace, self.service)


class Newcomer(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster as it would join; `controllers` has one for a primary or witness."""

    cluster: str
    spec: ClusterSpec
    controllers: tuple[tuple[str, ControllerSpec], ...] = ()  # Name and spec.
    services: tuple[ExpectedService, ...] = ()


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The join must not be tried while there are conflicts."""

    changes: tuple[str, ...]
    conflicts: tuple[str, ...]
    warnings: tuple[str, ...]


def foresee_join(
    tables: Tables, newcomer: Newcomer, puts: Sequence[Put], *, proposer: str, now_ms: int
) -> Forecast:
    """Return what `puts`, proposed by cluster `proposer`, would do. Changes nothing.

    Cost: a look at the federation's own rows, at all external services, and at the endpoints of the services that are named.
    """
    policies = Policies(tables)
    conflicts = [
        *_refusals(tables, puts, proposer, now_ms),
        *_taken_trust_domain(policies, newcomer),
        *_taken_addresses(tables, newcomer),
    ]
    return Forecast(
        changes=tuple(_changes(tables, puts)),
        conflicts=tuple(dict.fromkeys(conflicts)),
        warnings=(
            *_overlaps(policies, newcomer),
            *_overlaps_outside(policies, newcomer),
            *_merges(tables, policies, newcomer),
        ),
    )


def _changes(tables: Tables, puts: Iterable[Put]) -> Iterator[str]:
    for put in puts:
        if tables.resource(put.key) is None:
            yield f"create {put.key}"


def _refusals(tables: Tables, puts: Sequence[Put], proposer: str, now_ms: int) -> Iterator[str]:
    draft = Draft(
        tables,
        index=tables.revision + 1,
        now_ms=now_ms,
        usage=Usage(),
        schema=SCHEMA_VERSION,
        places=controller_places(tables),
        tokens=TokenIndex(tables),
    )
    try:
        write(draft, proposer, tuple(puts))
    except IsthmusError as error:
        yield error.message


def _taken_trust_domain(policies: Policies, newcomer: Newcomer) -> Iterator[str]:
    if newcomer.spec.role == "remote":
        return
    for name, spec in policies.clusters.items():
        if name != newcomer.cluster and spec.trust_domain == newcomer.spec.trust_domain:
            yield f"cluster {newcomer.cluster}: trust domain {spec.trust_domain} belongs to cluster {name}"
            return


def _taken_addresses(tables: Tables, newcomer: Newcomer) -> Iterator[str]:
    taken = {
        address: spec.cluster
        for spec in controllers_of(tables)
        if spec.cluster != newcomer.cluster
        for address in _addresses(spec)
    }
    for name, spec in newcomer.controllers:
        for address in _addresses(spec):
            if address in taken:
                yield f"controller {name}: {address} is where the controller of {taken[address]} listens"


def _addresses(spec: ControllerSpec) -> list[str]:
    return [address for address in (spec.raft, spec.control, spec.api) if address]


def _overlaps(policies: Policies, newcomer: Newcomer) -> Iterator[str]:
    """Ranges matter where clusters reach each other's endpoints directly."""
    for name, spec in policies.clusters.items():
        if name == newcomer.cluster or not spec.network or spec.network != newcomer.spec.network:
            continue
        for mine in newcomer.spec.ranges:
            for theirs in spec.ranges:
                if _overlap(mine, theirs):
                    yield (
                        f"range {mine} overlaps {theirs} of cluster {name} on the same network {spec.network}:"
                        " one address may mean two endpoints"
                    )


def _overlap(one: str, other: str) -> bool:
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)


def _overlaps_outside(policies: Policies, newcomer: Newcomer) -> Iterator[str]:
    """External services keep the addresses that lie in the newcomer's ranges: see `discovery.core.range_owners`."""
    ranges = {name: spec.ranges for name, spec in policies.clusters.items()}
    owners = RangeOwners(ranges | {newcomer.cluster: newcomer.spec.ranges})
    found = [
        f"range {claim.range} contains {one.address} of external service {key} of cluster {cluster}, which keeps it"
        for key in sorted(policies.external_services())
        for cluster, part in policies.external_parts(key).items()
        for one in part.endpoints
        if (claim := owners.claim(cluster, one.address)) is not None and claim.cluster == newcomer.cluster
    ]
    yield from found[:EXTERNAL_NAMED_MAX]
    if len(found) > EXTERNAL_NAMED_MAX:
        yield f"and {len(found) - EXTERNAL_NAMED_MAX} more addresses of external services"


def _merges(tables: Tables, policies: Policies, newcomer: Newcomer) -> Iterator[str]:
    """Services that others have under the same name: callers see one service."""
    for expected in newcomer.services:
        ports: dict[str, dict[int, EndpointPort]] = {}
        outside = [one for part in policies.external_parts(expected.key).values() for one in part.endpoints]
        for endpoint in (*tables.list_endpoints(expected.key), *outside):
            for port in endpoint.ports:
                ports.setdefault(endpoint.key.cluster, {}).setdefault(port.service_port, port)
        for owner, theirs in ports.items():
            if owner not in policies.clusters:
                continue
            if not _shows(policies, owner, newcomer, expected.key):
                yield (
                    f"service {expected.key}: cluster {owner} has it too, and does not show it to {newcomer.cluster}:"
                    " they are merged for whoever sees both"
                )
                continue
            yield (
                f"service {expected.key}: merged with that of cluster {owner}: callers in {newcomer.cluster} use their own"
                " first, then the other"
            )
            known = theirs.get(expected.port)
            if known is not None and known.protocol != expected.protocol:
                yield (
                    f"service {expected.key}: port {expected.port} is {known.protocol} in cluster {owner} and"
                    f" {expected.protocol} here: the oldest export decides for both"
                )


def _shows(policies: Policies, owner: str, newcomer: Newcomer, key: ServiceKey) -> bool:
    theirs = policies.clusters[owner].trust_domain
    return theirs in policies.trust_domains and is_visible(
        key.service,
        newcomer.cluster,
        newcomer.spec.trust_domain,
        theirs,
        policies.exports(owner, key.namespace),
        policies.grants(owner, key.namespace),
    )
