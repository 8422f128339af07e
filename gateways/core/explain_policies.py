"""By which policies a cluster's part of a service is seen, and its callers admitted, or not."""

from collections.abc import Mapping, Sequence

from discovery.core.model import SYSTEM_NAMESPACE, ServiceKey
from discovery.core.policies import Distance, Export, Policies
from discovery.core.specs import ExportPolicySpec, GrantSpec
from discovery.core.view import Admission
from discovery.core.visibility import ANY, admitted_sources, is_exported, is_granted, is_imported_by, takes
from gateways.core.authorization import admits
from gateways.core.explained import PolicyFact

_NAMES_SHOWN_MAX = 5

_DISTANCES = {
    Distance.OWN: "own cluster",
    Distance.ZONE: "same zone",
    Distance.REGION: "same region",
    Distance.ELSEWHERE: "elsewhere",
}


class Reasons:
    """What `policies` say about one service, asked for by one cluster or one identity of it.

    Each policy is put to the rules of `discovery.core.visibility` alone, as if there were no other: together they
    allow what any of them allows. Who is seen by whom is judged by the trust domain of a cluster's home; who is let in, while
    the cluster moves to another home, by each of the two that its workloads may show.
    """

    def __init__(self, policies: Policies, viewer: str, path: str, key: ServiceKey) -> None:
        self.policies = policies
        self.viewer = viewer
        self._shown = _shown(policies, viewer)
        # Of one workload, by its path behind the trust domain; none: any of the viewer's.
        self.identities = tuple(f"spiffe://{domain}{path}" for domain in self._shown) if path else ()
        self.key = key
        self._read_grants: dict[str, Mapping[str, GrantSpec]] = {}

    def distance(self, owner: str) -> str:
        """Why an owner stands where it does; empty if it is no cluster of the federation."""
        if owner not in self.policies.clusters:
            return ""
        place = _DISTANCES[self.policies.distance(owner, self.viewer)]
        share = self.policies.share_percent(owner)
        return place if share == 100 else f"{place}; drained: {share}% of its traffic"

    def visibility(self, owner: str) -> str:
        """Why the viewer sees the owner's part of the service, or not."""
        if self.key.namespace == SYSTEM_NAMESPACE:
            return f"{SYSTEM_NAMESPACE} holds our own parts, which are no services"
        spec = self.policies.clusters.get(owner)
        if spec is None:
            return f"there is no readable Cluster record of {owner}"
        if owner == self.viewer:
            return "own cluster: what is registered is seen"
        if self.policies.shows(owner, self.viewer, self.key):
            on_loss = self.policies.on_loss(owner, self.viewer, self.key)
            if on_loss != "keep":
                return f"{owner} is dead, and a LossPolicy of {owner}/{self.key.namespace} says {on_loss}"
            by = self._exporting(owner)
            if self._is_own_trust_domain(owner):
                return f"exported by {by}; same trust domain: no Grant needed"
            return f"exported by {by}, granted by Grant {self._names(self._granting(owner, self._own_trust_domain))}"
        if spec.trust_domain not in self.policies.trust_domains:
            return (
                f"the roots of trust domain {spec.trust_domain} are not known: nobody could check who answers"
            )
        place = f"{owner}/{self.key.namespace}"
        if not self._exporting(owner):
            return f"not exported: no ExportPolicy of {place} shows {self.key.service} to {self.viewer}"
        imports = self.policies.imports(self.viewer)
        if not takes(owner, self.key, imports):
            refusing = [
                name
                for name, spec in self.policies.named_imports(self.viewer).items()
                if spec.action == "Refuse" and is_imported_by(spec, owner, self.key)
            ]
            if refusing:
                return f"not imported: ImportPolicy {self._names(refusing)} of {self.viewer} refuses it"
            return f"not imported: no ImportPolicy of {self.viewer} takes it"
        return f"not granted: no Grant of {place} lets {self._own_trust_domain} call {self.key.service}"

    def admission(self, owner: str) -> tuple[bool | None, str]:
        """Whether the owner's proxies let the caller in, and why; None where no identity is named."""
        admission = self.policies.admission(owner, self.key)
        if admission is None:
            return (False if self.identities else None), "it has not joined: nobody can be admitted"
        if not self.identities:
            parts = [self._admitted_of(domain, owner, admission) for domain in self._shown]
            return None, parts[0] if len(parts) == 1 else _each(self._shown, parts)
        judged = [self._admitted(identity, owner, admission) for identity in self.identities]
        whys = [why for _, why in judged]
        return all(found for found, _ in judged), whys[0] if len(whys) == 1 else _each(self.identities, whys)

    def _admitted_of(self, domain: str, owner: str, admission: Admission) -> str:
        """Whom of a trust domain that the viewer's workloads may show the owner's proxies let in."""
        if domain in (admission.own_trust_domain, admission.other_own_trust_domain):
            return f"every identity of {domain}"
        if domain not in {source.trust_domain for source in admission.sources}:
            return "nobody of this cluster"
        return f"identities of Grant {self._names(self._granting(owner, domain))}"

    def _admitted(self, identity: str, owner: str, admission: Admission) -> tuple[bool, str]:
        """Whether the owner's proxies let one identity in, and why."""
        domain = identity.removeprefix("spiffe://").partition("/")[0]
        if domain in (admission.own_trust_domain, admission.other_own_trust_domain):
            return True, f"every identity of {domain}"
        if not admits(admission, identity):
            return False, f"no Grant that applies names {identity}"
        admitting = [
            name for name, spec in self._grants(owner).items() if self._admits(owner, spec, identity)
        ]
        return True, f"by Grant {self._names(admitting)}"

    def policy_facts(self, owner: str) -> list[PolicyFact]:
        """The policies of the owner's namespace; those that apply first. Empty for the viewer itself."""
        if owner not in self.policies.clusters or owner == self.viewer:
            return []
        facts = [
            PolicyFact(
                kind=export.kind,
                name=export.name,
                applies=is_exported(self.key.service, self.viewer, [export.spec]),
                why=self._export_why(export.spec),
            )
            for export in self._exports(owner)
        ]
        facts += [
            PolicyFact(
                kind="ImportPolicy",
                name=name,
                applies=is_imported_by(spec, owner, self.key),
                why="takes it" if spec.action == "Take" else "refuses it",
            )
            for name, spec in self.policies.named_imports(self.viewer).items()
        ]
        foreign = [name for name in self._shown if name not in self._own_domains(owner)]
        if foreign or not self._is_own_trust_domain(owner):
            facts += [
                PolicyFact(
                    kind="Grant",
                    name=name,
                    applies=bool(self._granted(spec)),
                    why=self._grant_why(owner, spec),
                )
                for name, spec in self._grants(owner).items()
            ]
        return sorted(facts, key=lambda fact: (not fact.applies, fact.kind, fact.name))

    @property
    def _own_trust_domain(self) -> str:
        return self.policies.clusters[self.viewer].trust_domain

    def _is_own_trust_domain(self, owner: str) -> bool:
        return self.policies.clusters[owner].trust_domain == self._own_trust_domain

    def _own_domains(self, owner: str) -> tuple[str, ...]:
        """The trust domains whose identities the owner's proxies let in without a Grant."""
        return (self.policies.clusters[owner].trust_domain, self.policies.other_trust_domain(owner))

    def _granted(self, spec: GrantSpec) -> list[str]:
        """The trust domains of the viewer that a Grant has a source of."""
        return [domain for domain in self._shown if is_granted(self.key.service, domain, [spec])]

    def _exports(self, owner: str) -> Sequence[Export]:
        return self.policies.exports_with_age(owner, self.key.namespace)

    def _grants(self, owner: str) -> Mapping[str, GrantSpec]:
        if owner not in self._read_grants:
            self._read_grants[owner] = self.policies.named_grants(owner, self.key.namespace)
        return self._read_grants[owner]

    def _exporting(self, owner: str) -> str:
        """The policies that export, by kind; empty if none does."""
        by_kind: dict[str, list[str]] = {}
        for export in self._exports(owner):
            if is_exported(self.key.service, self.viewer, [export.spec]):
                by_kind.setdefault(export.kind, []).append(export.name)
        return " and ".join(f"{kind} {self._names(found)}" for kind, found in by_kind.items())

    def _granting(self, owner: str, domain: str) -> list[str]:
        return [
            name for name, spec in self._grants(owner).items() if is_granted(self.key.service, domain, [spec])
        ]

    def _admits(self, owner: str, grant: GrantSpec, identity: str) -> bool:
        """Whether this grant alone lets an identity in."""
        policies = self.policies
        sources = admitted_sources(
            self.key.service,
            owner,
            policies.clusters,
            policies.trust_domains,
            policies.exports(owner, self.key.namespace),
            [grant],
        )
        return admits(Admission(own_trust_domain="", sources=sources), identity)

    def _export_why(self, spec: ExportPolicySpec) -> str:
        if not {ANY, self.key.service} & set(spec.services):
            return f"names the services {self._names(spec.services)}"
        return f"shows it to {self._names(spec.consumers)}"

    def _grant_why(self, owner: str, spec: GrantSpec) -> str:
        if not {ANY, self.key.service} & set(spec.services):
            return f"names the services {self._names(spec.services)}"
        granted = self._granted(spec)
        if not granted:
            return f"has no source of {' or '.join(self._shown)}"
        if not self.identities:
            return f"has a source of {' and '.join(granted)}"
        admitted = [identity for identity in self.identities if self._admits(owner, spec, identity)]
        if not admitted:
            return f"does not admit {' or '.join(self.identities)}"
        return f"admits {' and '.join(admitted)}"

    @staticmethod
    def _names(names: Sequence[str]) -> str:
        shown = ", ".join(names[:_NAMES_SHOWN_MAX])
        more = len(names) - _NAMES_SHOWN_MAX
        return f"{shown} and {more} more" if more > 0 else shown


def _shown(policies: Policies, cluster: str) -> tuple[str, ...]:
    """The trust domains whose identities a cluster's workloads may show now: two while they change from one to the other."""
    spec = policies.clusters[cluster]
    changing = spec.rehoming is not None and spec.rehoming.state in ("moving", "returning")
    return spec.trust_domains if changing else (spec.trust_domain,)


def _each(whom: Sequence[str], whys: Sequence[str]) -> str:
    return "; ".join(f"{who}: {why}" for who, why in zip(whom, whys, strict=True))
