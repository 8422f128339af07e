"""What the owners of policies are told in `status.conditions`: conflicts that they lost, names that nobody has.

Pure. It follows the catalog, remembers which services and policies have to be looked at again, and says what
to write; a policy without anything to tell is left alone. Who writes: `federation.app.conditions`.

Conditions have Kubernetes' shape. `Conflict` is KEP-1645's, `ResolvedRefs` and `Accepted` are the Gateway API's.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from discovery.core.commands import Put
from discovery.core.condition import PROBLEMS_NAMED_MAX, Condition, listed, merge
from discovery.core.conflicts import Claim, Conflict, conflicts, distinct_ports
from discovery.core.external_part import ExternalPart
from discovery.core.kinds import decode_spec
from discovery.core.model import Change, EndpointKey, EndpointPort, Resource, ResourceKey, ServiceKey
from discovery.core.policies import ALIAS_HOPS_MAX, ALIASES_MAX, Policies
from discovery.core.specs import (
    AnySpec,
    ClusterExportPolicySpec,
    ExportPolicySpec,
    GrantSpec,
    ImportPolicySpec,
)
from discovery.core.tables import EMPTY_TABLES, Tables, endpoint_prefix
from discovery.core.visibility import ANY
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

KINDS_TOLD = ("ExportPolicy", "ClusterExportPolicy", "Grant", "ImportPolicy", "ServiceAlias")
# Services with conflicts that are remembered; further ones are told when those have healed.
CONFLICTING_SERVICES_MAX = 10_000


class _Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    conditions: tuple[Condition, ...] = ()


class Conditions:
    """The conditions of the policies for which the controllers of `cluster` speak: its own and its remotes'."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._tables = EMPTY_TABLES
        self._policies = Policies(EMPTY_TABLES)
        self._services: dict[ServiceKey, None] = {}  # To be looked at, in order.
        self._due: dict[ResourceKey, None] = {}  # Policies whose conditions may have changed, in order.
        self._conflicts: dict[ServiceKey, tuple[Conflict, ...]] = {}
        self._lost: dict[ResourceKey, set[ServiceKey]] = {}  # The inverse, by policy.

    @property
    def services_due(self) -> int:
        """How many services have to be looked at."""
        return len(self._services)

    def reset(self, tables: Tables) -> None:
        """Begin anew from a whole catalog. Cost: one search for each service, and each policy."""
        self._tables, self._policies = tables, Policies(tables)
        self._conflicts, self._lost = {}, {}
        self._services = dict.fromkeys((*tables.list_services(), *self._policies.external_services()))
        self._due = dict.fromkeys(self._own_policies())

    def follow(self, tables: Tables, changes: Iterable[Change]) -> None:
        """Go on to `tables`, which differ by `changes`, and note what they concern."""
        self._tables = tables
        resources: set[ResourceKey] = set()
        for change in changes:
            if change.table == "endpoints":
                self._services[EndpointKey.decode(change.key).service_key] = None
            else:
                resources.add(ResourceKey.decode(change.key))
        may_rejudge = any(key.kind in ("Cluster", "Controller") for key in resources)
        before = self._judged_by() if may_rejudge else ()
        self._policies.move(tables, resources)
        if may_rejudge and self._judged_by() != before:
            self._services |= dict.fromkeys((*tables.list_services(), *self._policies.external_services()))
        for key in sorted(resources):
            match key.kind:
                case "Cluster" | "TrustDomain":  # Names that somebody wrote down may be somebody's now.
                    self._due |= dict.fromkeys(self._own_policies())
                case "ExportPolicy":
                    self._services |= dict.fromkeys(tables.list_services(key.namespace))
                    self._services |= dict.fromkeys(
                        self._policies.external_services(key.scope, key.namespace)
                    )
                case "ServiceAlias" if self._speaks_for(
                    key.scope
                ):  # Others may have been in a cycle with it.
                    rows = tables.list_resources(key.scope, "ServiceAlias")
                    self._due |= dict.fromkeys(row.key for row in rows)
                case "ClusterExportPolicy":
                    self._services |= dict.fromkeys(tables.list_services())
                    self._services |= dict.fromkeys(self._policies.external_services(key.scope))
                case "ExternalService":
                    self._services[ServiceKey(key.namespace, key.name)] = None
                case _:
                    pass
            if key.kind in KINDS_TOLD and self._speaks_for(key.scope):
                self._due[key] = None

    def look(self, services_max: int) -> None:
        """Look at that many of the services that are due."""
        for key in tuple(self._services)[:services_max]:
            del self._services[key]
            self._remember(key, tuple(self._lost_by_us(key)))

    def writes(self, now_ms: int, puts_max: int) -> list[Put]:
        """Return what is to be written now, at most so much; each policy once, until something concerns it again."""
        puts: list[Put] = []
        for key in tuple(self._due):
            if len(puts) >= puts_max:
                break
            del self._due[key]
            put = self._put(key, now_ms)
            if put is not None and self._speaks_for(key.scope):  # Or the new home of its cluster says it.
                puts.append(put)
        return puts

    def again(self, keys: Iterable[ResourceKey]) -> None:
        """Note that these could not be written."""
        self._due |= dict.fromkeys(keys)

    def _speaks_for(self, cluster: str) -> bool:
        spec = self._policies.clusters.get(cluster)
        return spec is not None and self._cluster in (cluster, spec.home)

    def _judged_by(self) -> tuple[object, ...]:
        """Of whom conflicts are told, and which rows are served: by what a service is judged beside what is its own."""
        clusters = self._policies.clusters
        spoken_for = [name for name in sorted(clusters) if self._speaks_for(name)]
        ranges = {name: spec.ranges for name, spec in clusters.items() if spec.ranges}
        return spoken_for, ranges, self._policies.served.places

    def _own_policies(self) -> Iterator[ResourceKey]:
        for cluster in sorted(self._policies.clusters):
            if self._speaks_for(cluster):
                for kind in KINDS_TOLD:
                    yield from (row.key for row in self._tables.list_resources(cluster, kind))

    def _lost_by_us(self, key: ServiceKey) -> Iterator[Conflict]:
        if len(self._conflicts) >= CONFLICTING_SERVICES_MAX and key not in self._conflicts:
            return
        for conflict in conflicts(claims(self._policies, self._tables, key)):
            if self._speaks_for(conflict.cluster):
                yield conflict

    def _remember(self, key: ServiceKey, found: tuple[Conflict, ...]) -> None:
        if self._conflicts.get(key, ()) == found:
            return
        for conflict in self._conflicts.pop(key, ()):
            policy = _policy_of(conflict, key)
            self._lost.get(policy, set()).discard(key)
            self._due[policy] = None
        for conflict in found:
            self._conflicts[key] = found
            policy = _policy_of(conflict, key)
            self._lost.setdefault(policy, set()).add(key)
            self._due[policy] = None

    def _put(self, key: ResourceKey, now_ms: int) -> Put | None:
        row = self._tables.resource(key)
        if row is None:
            self._lost.pop(key, None)
            return None
        try:
            spec = decode_spec(key.kind, row.spec, where=str(key))
        except InvalidInputError:
            return None  # A newer build's: it says what there is to say.
        wanted = (
            self._conflict_condition(key),
            *_reference_conditions(spec, self._policies),
            *_alias_conditions(key, self._policies),
        )
        status = _merged(row, [one for one in wanted if one is not None], now_ms)
        return None if status is None else Put(key=key, status=status)

    def _conflict_condition(self, key: ResourceKey) -> Condition | None:
        found = [
            (service, conflict)
            for service in sorted(self._lost.get(key, ()))
            for conflict in self._conflicts[service]
            if _policy_of(conflict, service) == key
        ]
        if not found:
            return None
        message = listed([f"{service}: {conflict.message}" for service, conflict in found])
        return Condition(type="Conflict", status="True", reason=found[0][1].reason, message=message)


def claims(policies: Policies, tables: Tables, key: ServiceKey) -> list[Claim]:
    """What each cluster that exports a service, and has endpoints of it to which callers may be sent, says of it."""
    found: list[Claim] = []
    parts = policies.external_parts(key)
    outside = (cluster for cluster, part in parts.items() if part.endpoints)
    for cluster in dict.fromkeys((*_clusters_with(policies, tables, key), *outside)):
        if cluster in policies.clusters:
            claim = policies.claim(cluster, key, ())
            if claim.age is not None:
                found.append(claim)
    if len(found) < 2:
        return found  # Of ports nobody else has an opinion.
    return [
        msgspec.structs.replace(
            claim, ports=_ports(policies, tables, key, claim.cluster, parts.get(claim.cluster))
        )
        for claim in found
    ]


def _clusters_with(policies: Policies, tables: Tables, key: ServiceKey) -> Iterator[str]:
    """The clusters that have served endpoints of a service. Cost: one search for each, and a look at those that are not."""
    after = b""
    prefix = endpoint_prefix(key)
    while (row := next(tables.endpoints.keys(prefix, after), None)) is not None:
        cluster = EndpointKey.decode(row).cluster
        if any(map(policies.served.serves, tables.list_endpoints(key, cluster))):
            yield cluster
        after = endpoint_prefix(key, cluster) + b"\xff"


def _ports(
    policies: Policies, tables: Tables, key: ServiceKey, cluster: str, part: ExternalPart | None
) -> tuple[EndpointPort, ...]:
    outside = () if part is None else part.endpoints
    rows = (*filter(policies.served.serves, tables.list_endpoints(key, cluster)), *outside)
    return distinct_ports(port for endpoint in rows for port in endpoint.ports)


def _policy_of(conflict: Conflict, key: ServiceKey) -> ResourceKey:
    kind, _, name = conflict.policy.partition(" ")
    return ResourceKey(conflict.cluster, kind, key.namespace if kind == "ExportPolicy" else "", name)


def _reference_conditions(spec: AnySpec, policies: Policies) -> Iterator[Condition]:
    """Say which trust domains or clusters a policy names that are not of the federation; they may yet join."""
    match spec:
        case GrantSpec():
            domains = {name for source in spec.sources for name in source.trust_domains}
            domains |= {
                principal.split("/")[2]
                for source in spec.sources
                for principal in source.principals
                if principal.startswith("spiffe://")
            }
            yield from _unknown("UnknownTrustDomain", "trust domain", domains, policies.trust_domains)
        case ExportPolicySpec() | ClusterExportPolicySpec():
            yield from _unknown("UnknownCluster", "cluster", set(spec.consumers) - {ANY}, policies.clusters)
        case ImportPolicySpec():
            yield from _unknown("UnknownCluster", "cluster", set(spec.clusters) - {ANY}, policies.clusters)
        case _:
            return


def _alias_conditions(key: ResourceKey, policies: Policies) -> Iterator[Condition]:
    """Say where an alias leads to no service, whoever has endpoints: to itself, or over too many others."""
    if key.kind != "ServiceAlias":
        return
    name = ServiceKey(key.namespace, key.name)
    if name not in policies.aliases(key.scope):
        message = (
            f"cluster {key.scope} has more than {ALIASES_MAX} aliases: those behind the first are left out"
        )
        yield Condition(type="Accepted", status="False", reason="TooManyAliases", message=message)
    chain = list(policies.alias_chain(key.scope, name))
    if chain and chain[-1] in policies.aliases(key.scope):
        way = " -> ".join(str(name) for name in chain[:PROBLEMS_NAMED_MAX])
        yield Condition(
            type="ResolvedRefs",
            status="False",
            reason="AliasCycle",
            message=f"it stands for {way} ..., which is a cycle or more than {ALIAS_HOPS_MAX} aliases",
        )


def _unknown(reason: str, what: str, named: set[str], known: Mapping[str, object]) -> Iterator[Condition]:
    missing = sorted(named - known.keys())
    if missing:
        message = f"no {what} of the federation is called {listed(missing)}"
        yield Condition(type="ResolvedRefs", status="False", reason=reason, message=message)


def _merged(row: Resource, wanted: list[Condition], now_ms: int) -> bytes | None:
    """The new status; None where it stays."""
    try:
        before = msgspec.json.decode(row.status, type=_Status).conditions
    except MALFORMED:
        before = ()
    after = merge(before, wanted, generation=row.generation, now_ms=now_ms)
    return None if after == before else msgspec.json.encode(_Status(conditions=after))
