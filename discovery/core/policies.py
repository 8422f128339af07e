"""The configuration that views depend on, decoded once and again only when it changes."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

from discovery.core.conflicts import Age, Claim, Statement
from discovery.core.external import KIND as EXTERNAL
from discovery.core.external_part import ExternalPart, external_part
from discovery.core.kinds import decode_spec
from discovery.core.model import (
    FEDERATION_SCOPE,
    SYSTEM_NAMESPACES,
    Endpoint,
    EndpointPort,
    Resource,
    ResourceKey,
    ServiceKey,
)
from discovery.core.poison import controller_places
from discovery.core.served import ServedAddresses
from discovery.core.specs import (
    AnySpec,
    ClusterExportPolicySpec,
    ClusterSpec,
    DrainSpec,
    ExportPolicySpec,
    ExternalServiceSpec,
    GrantSpec,
    ImportPolicySpec,
    LossPolicySpec,
    OnLoss,
    ServiceAliasSpec,
    TrustDomainSpec,
    VerdictSpec,
)
from discovery.core.tables import Tables, resource_prefix
from discovery.core.view import Admission, TrustDomainRoots
from discovery.core.visibility import ANY, admitted_sources, covers, is_visible, on_loss, takes
from federation.kernel.errors import InvalidInputError

# Of all clusters together; those beyond are decoded each time.
NAMESPACES_CACHED_MAX = 10_000
# An alias of an alias of ... A longer chain, or a cycle, stands for nothing.
ALIAS_HOPS_MAX = 8
# Of one cluster, the first by name: a change of a service costs all names that stand for it.
ALIASES_MAX = 1_000
# Of a cluster's own policies that say of a service what an older one overrules, so many are told.
OVERRULED_MAX = 20

_AnySpec = TypeVar("_AnySpec", bound=AnySpec)
_Specs = TypeVar("_Specs")


class Distance(IntEnum):
    """How far an owner of a service is from who looks at it."""

    OWN = 0
    ZONE = 1
    REGION = 2
    ELSEWHERE = 3


class Export(NamedTuple):
    """One policy that exports services of a namespace."""

    kind: Literal["ExportPolicy", "ClusterExportPolicy"]
    name: str
    age: Age
    spec: ExportPolicySpec

    @property
    def policy(self) -> str:
        """Kind and name."""
        return f"{self.kind} {self.name}"

    def breadth(self, service: str) -> int:
        """0: it names the service. 1: all of the namespace. 2: all of the cluster."""
        if service in self.spec.services:
            return 0
        return 1 if self.kind == "ExportPolicy" else 2

    @property
    def statement(self) -> Statement:
        """What it says of the services."""
        return Statement(policy=self.policy, type=self.spec.type, affinity=self.spec.session_affinity)


class Policies:
    """Clusters, trust domains, verdicts, and the policies of namespaces, of one version of the tables.

    A resource that this build cannot read is left out, as if it were not there, and named in
    `quarantined`: one bad record must not take the rest away.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._exports: dict[tuple[str, str], tuple[Export, ...]] = {}
        self._grants: dict[tuple[str, str], tuple[GrantSpec, ...]] = {}
        self._imports: dict[str, tuple[ImportPolicySpec, ...]] = {}
        self._aliases: dict[str, Mapping[ServiceKey, ServiceKey]] = {}
        self._losses: dict[tuple[str, str], tuple[LossPolicySpec, ...]] = {}
        self.quarantined: dict[str, str] = {}
        self.clusters: Mapping[str, ClusterSpec] = self._read_clusters()
        self.drains: Mapping[str, DrainSpec] = self._read_drains()
        self.trust_domains: Mapping[str, TrustDomainRoots] = self._read_trust_domains()
        self.dead: frozenset[str] = self._read_dead()  # By the federation's verdict.
        self._externals = self._find_externals()
        self.served = ServedAddresses(self.clusters, controller_places(tables))

    def move(self, tables: Tables, changed: set[ResourceKey]) -> None:
        """Go on to a later version that differs in these resources."""
        self._tables = tables
        for key in changed:
            self.quarantined.pop(str(key), None)
            self._exports.pop((key.scope, key.namespace), None)
            self._grants.pop((key.scope, key.namespace), None)
            self._imports.pop(key.scope, None)
            self._aliases.pop(key.scope, None)
            self._losses.pop((key.scope, key.namespace), None)
        exporting_all = {key.scope for key in changed if key.kind == "ClusterExportPolicy"}
        if exporting_all:
            self._exports = {
                place: known for place, known in self._exports.items() if place[0] not in exporting_all
            }
        kinds = {key.kind for key in changed}
        if "Cluster" in kinds:
            self.clusters = self._read_clusters()
        if "Drain" in kinds:
            self.drains = self._read_drains()
        if "TrustDomain" in kinds:
            self.trust_domains = self._read_trust_domains()
        if "Verdict" in kinds:
            self.dead = self._read_dead()
        if "Cluster" in kinds:
            self._externals = self._find_externals()
        if not kinds.isdisjoint(("Cluster", "Controller")):
            self.served = ServedAddresses(self.clusters, controller_places(tables))
        for key in changed:
            if key.kind == EXTERNAL:
                self._find_external(key)

    def exports(self, cluster: str, namespace: str) -> tuple[ExportPolicySpec, ...]:
        """The export policies of a cluster's namespace, those of the whole cluster included."""
        return tuple([export.spec for export in self.exports_with_age(cluster, namespace)])

    def exports_with_age(self, cluster: str, namespace: str) -> "tuple[Export, ...]":
        """The same, each with its name and age."""
        known = self._exports.get((cluster, namespace))
        if known is None:
            known = tuple(self._read_exports(cluster, namespace))
            _remember(self._exports, (cluster, namespace), known)
        return known

    def claim(self, cluster: str, key: ServiceKey, ports: tuple[EndpointPort, ...]) -> Claim:
        """What a cluster says of a service of which its endpoints have these ports.

        Its policy that names the service speaks, else one for the namespace, else one for the whole cluster; among
        equals the oldest.
        """
        covering = [
            export
            for export in self.exports_with_age(cluster, key.namespace)
            if covers(export.spec, key.service)
        ]
        ages = [export.age for export in covering if set(export.spec.consumers) - {cluster}]
        covering.sort(key=lambda export: (export.breadth(key.service), export.age, export.name))
        said = [
            export.statement
            for export in covering
            if export.breadth(key.service) == covering[0].breadth(key.service)
        ]
        return Claim(
            cluster=cluster,
            age=min(ages, default=None),
            said=said[0] if said else Statement(policy="not exported"),
            overruled=tuple(said[1 : 1 + OVERRULED_MAX]),
            ports=ports,
        )

    def imports(self, cluster: str) -> tuple[ImportPolicySpec, ...]:
        """The import policies of a cluster."""
        known = self._imports.get(cluster)
        if known is None:
            known = self._imports[cluster] = tuple(self.named_imports(cluster).values())
        return known

    def named_imports(self, cluster: str) -> Mapping[str, ImportPolicySpec]:
        """The same by name, read anew."""
        return self._read_all(cluster, "ImportPolicy", "", ImportPolicySpec)

    def aliases(self, cluster: str) -> Mapping[ServiceKey, ServiceKey]:
        """The aliases of a cluster, and what each stands for, which may be an alias too."""
        known = self._aliases.get(cluster)
        if known is None:
            rows = self._read_rows(cluster, "ServiceAlias", None, ServiceAliasSpec)
            known = self._aliases[cluster] = dict(islice(map(_alias, rows), ALIASES_MAX))
        return known

    def alias_chain(self, cluster: str, key: ServiceKey) -> Iterator[ServiceKey]:
        """Yield what a name stands for, one alias after another; never more than ALIAS_HOPS_MAX."""
        aliases = self.aliases(cluster)
        for _ in range(ALIAS_HOPS_MAX):
            if key not in aliases:
                return
            key = aliases[key]
            yield key

    def grants(self, cluster: str, namespace: str) -> tuple[GrantSpec, ...]:
        """The grants of a cluster's namespace."""
        known = self._grants.get((cluster, namespace))
        if known is None:
            known = tuple(self.named_grants(cluster, namespace).values())
            _remember(self._grants, (cluster, namespace), known)
        return known

    def named_grants(self, cluster: str, namespace: str) -> Mapping[str, GrantSpec]:
        """The grants of a cluster's namespace by name, read anew."""
        return self._read_all(cluster, "Grant", namespace, GrantSpec)

    def shows(self, owner: str, viewer: str, key: ServiceKey) -> bool:
        """True when cluster `viewer` may see what `owner` has of a service; both have joined."""
        if owner == viewer:
            return True
        theirs = self.clusters[owner].trust_domain
        if theirs not in self.trust_domains:
            return False  # Nobody could check who answers.
        if not takes(owner, key, self.imports(viewer)):
            return False
        return is_visible(
            key.service,
            viewer,
            self.clusters[viewer].trust_domain,
            theirs,
            self.exports(owner, key.namespace),
            self.grants(owner, key.namespace),
        )

    def on_loss(
        self, owner: str, viewer: str, key: ServiceKey, supposed: Collection[str] = frozenset()
    ) -> OnLoss:
        """What cluster `viewer` makes of `owner`'s part of a service now: "keep" unless that is dead, or supposed to be.

        A cluster is never dead to itself.
        """
        if owner == viewer or (owner not in self.dead and owner not in supposed):
            return "keep"
        known = self._losses.get((owner, key.namespace))
        if known is None:
            known = tuple(self.named_losses(owner, key.namespace).values())
            _remember(self._losses, (owner, key.namespace), known)
        return on_loss(key.service, known)

    def named_losses(self, cluster: str, namespace: str) -> Mapping[str, LossPolicySpec]:
        """The loss policies of a cluster's namespace by name, read anew."""
        return self._read_all(cluster, "LossPolicy", namespace, LossPolicySpec)

    def external_parts(self, key: ServiceKey) -> dict[str, ExternalPart]:
        """What clusters declared of a service outside of all clusters, by cluster; read anew."""
        found = {}
        for cluster in sorted(self._externals.get(key, ())):
            row = self._tables.resource(ResourceKey(cluster, EXTERNAL, key.namespace, key.service))
            if row is None:
                continue
            try:
                spec = decode_spec(EXTERNAL, row.spec, where=str(row.key))
            except InvalidInputError as error:
                self.quarantined[str(row.key)] = error.message
                continue
            assert isinstance(spec, ExternalServiceSpec)
            found[cluster] = external_part(row, spec, self.served)
        return found

    def external_services(self, cluster: str = "", namespace: str | None = None) -> Iterator[ServiceKey]:
        """Yield the services that have such a part, of one cluster and namespace if given."""
        for key, owners in self._externals.items():
            if (not cluster or cluster in owners) and namespace in (None, key.namespace):
                yield key

    def distance(self, owner: str, viewer: str) -> Distance:
        """How far a cluster is from another: what owners are ordered by, before their names; both have joined."""
        theirs, own = self.clusters[owner], self.clusters[viewer]
        if owner == viewer:
            return Distance.OWN
        if theirs.region == "" or theirs.region != own.region:
            return Distance.ELSEWHERE  # An unknown place is far away.
        same_zone = theirs.zone != "" and theirs.zone == own.zone
        return Distance.ZONE if same_zone else Distance.REGION

    def admission(self, owner: str, key: ServiceKey) -> Admission | None:
        """Who may call a service at cluster `owner`; None while that has not joined."""
        spec = self.clusters.get(owner)
        if spec is None:
            return None
        return Admission(
            own_trust_domain=spec.trust_domain,
            sources=admitted_sources(
                key.service,
                owner,
                self.clusters,
                self.trust_domains,
                self.exports(owner, key.namespace),
                self.grants(owner, key.namespace),
            ),
            other_own_trust_domain=self.other_trust_domain(owner),
        )

    def other_trust_domain(self, cluster: str) -> str:
        """The second trust domain of a cluster that moves to another home, if its roots are known, else ""."""
        other = self.clusters[cluster].trust_domains[1:]
        return other[0] if other and other[0] in self.trust_domains else ""

    def identities(self, cluster: str, endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
        """Which identities a cluster's endpoints may show, sorted: of each, the one that it changes to as well."""
        identities = {endpoint.identity for endpoint in endpoints}
        other = self.other_trust_domain(cluster)
        if other:
            paths = {identity.removeprefix("spiffe://").partition("/")[2] for identity in identities}
            domains = (self.clusters[cluster].trust_domain, other)
            identities = {f"spiffe://{domain}/{path}" for domain in domains for path in paths}
        return tuple(sorted(identities))

    def share_percent(self, cluster: str) -> int:
        """How much a cluster gets of the traffic that it would have; less than 100 while it is drained."""
        drain = self.drains.get(cluster)
        return 100 if drain is None else drain.share_percent

    def _find_externals(self) -> dict[ServiceKey, frozenset[str]]:
        """Who declared external services, by keys alone: what they say is read when it is asked for."""
        found: dict[ServiceKey, set[str]] = {}
        for cluster in self.clusters:
            for row in self._tables.resources.keys(resource_prefix(cluster, EXTERNAL)):
                key = ResourceKey.decode(row)
                found.setdefault(ServiceKey(key.namespace, key.name), set()).add(cluster)
        return {key: frozenset(owners) for key, owners in found.items()}

    def _find_external(self, key: ResourceKey) -> None:
        service = ServiceKey(key.namespace, key.name)
        owners = self._externals.pop(service, frozenset()) - {key.scope}
        if key.encode() in self._tables.resources and key.scope in self.clusters:
            owners |= {key.scope}
        if owners:
            self._externals[service] = owners

    def _read_drains(self) -> dict[str, DrainSpec]:
        return self._read_all(FEDERATION_SCOPE, "Drain", None, DrainSpec)

    def _read_clusters(self) -> dict[str, ClusterSpec]:
        return self._read_all(FEDERATION_SCOPE, "Cluster", None, ClusterSpec)

    def _read_dead(self) -> frozenset[str]:
        verdicts = self._read_all(FEDERATION_SCOPE, "Verdict", None, VerdictSpec)
        return frozenset(name for name, spec in verdicts.items() if spec.state == "dead")

    def _read_trust_domains(self) -> dict[str, TrustDomainRoots]:
        specs = self._read_all(FEDERATION_SCOPE, "TrustDomain", None, TrustDomainSpec)
        return {
            name: TrustDomainRoots(trust_domain=name, roots_pem=spec.roots, sequence=spec.sequence)
            for name, spec in specs.items()
        }

    def _read_exports(self, cluster: str, namespace: str) -> Iterator["Export"]:
        for row, spec in self._read_rows(cluster, "ExportPolicy", namespace, ExportPolicySpec):
            yield Export("ExportPolicy", row.key.name, _age(row), spec)
        if namespace in SYSTEM_NAMESPACES:
            return
        for row, every in self._read_rows(cluster, "ClusterExportPolicy", "", ClusterExportPolicySpec):
            if namespace not in every.except_namespaces:
                in_each = ExportPolicySpec(services=(ANY,), consumers=every.consumers)
                yield Export("ClusterExportPolicy", row.key.name, _age(row), in_each)

    def _read_all(
        self, scope: str, kind: str, namespace: str | None, expected: type[_AnySpec]
    ) -> dict[str, _AnySpec]:
        return {row.key.name: spec for row, spec in self._read_rows(scope, kind, namespace, expected)}

    def _read_rows(
        self, scope: str, kind: str, namespace: str | None, expected: type[_AnySpec]
    ) -> Iterator[tuple[Resource, _AnySpec]]:
        for row in self._tables.list_resources(scope, kind, namespace):
            try:
                spec = decode_spec(kind, row.spec, where=str(row.key))
            except InvalidInputError as error:
                self.quarantined[str(row.key)] = error.message
                continue
            assert isinstance(spec, expected)
            yield row, spec


def _alias(read: tuple[Resource, ServiceAliasSpec]) -> tuple[ServiceKey, ServiceKey]:
    row, spec = read
    return (
        ServiceKey(row.key.namespace, row.key.name),
        ServiceKey(spec.namespace or row.key.namespace, spec.service),
    )


def _age(row: Resource) -> Age:
    return Age(row.created_ms, row.created_revision)


def _remember(cache: dict[tuple[str, str], _Specs], key: tuple[str, str], specs: _Specs) -> None:
    if len(cache) >= NAMESPACES_CACHED_MAX:
        del cache[next(iter(cache))]
    cache[key] = specs
