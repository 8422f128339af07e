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
    allow what any of them allows.
    """

    def __init__(self, policies: Policies, viewer: str, identity: str, key: ServiceKey) -> None:
        self.policies = policies
        self.viewer = viewer
        self.identity = identity  # Empty: any of the viewer's.
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
            return f"exported by {by}, granted by Grant {self._names(self._granting(owner))}"
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
            return (None if not self.identity else False), "it has not joined: nobody can be admitted"
        if self._is_own_trust_domain(owner):
            return (None if not self.identity else True), f"every identity of {self._own_trust_domain}"
        if not self.identity:
            domains = {source.trust_domain for source in admission.sources}
            some = self._own_trust_domain in domains
            by = (
                f"identities of Grant {self._names(self._granting(owner))}"
                if some
                else "nobody of this cluster"
            )
            return None, by
        if not admits(admission, self.identity):
            return False, f"no Grant that applies names {self.identity}"
        return True, f"by Grant {self._names(self._admitting(owner))}"

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
        if not self._is_own_trust_domain(owner):
            facts += [
                PolicyFact(
                    kind="Grant",
                    name=name,
                    applies=is_granted(self.key.service, self._own_trust_domain, [spec]),
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

    def _granting(self, owner: str) -> list[str]:
        return [
            name
            for name, spec in self._grants(owner).items()
            if is_granted(self.key.service, self._own_trust_domain, [spec])
        ]

    def _admitting(self, owner: str) -> list[str]:
        return [name for name, spec in self._grants(owner).items() if self._admits(owner, spec)]

    def _admits(self, owner: str, grant: GrantSpec) -> bool:
        """Whether this grant alone lets the caller in."""
        policies = self.policies
        sources = admitted_sources(
            self.key.service,
            owner,
            policies.clusters,
            policies.trust_domains,
            policies.exports(owner, self.key.namespace),
            [grant],
        )
        own = policies.clusters[owner].trust_domain
        return admits(Admission(own_trust_domain=own, sources=sources), self.identity)

    def _export_why(self, spec: ExportPolicySpec) -> str:
        if not {ANY, self.key.service} & set(spec.services):
            return f"names the services {self._names(spec.services)}"
        return f"shows it to {self._names(spec.consumers)}"

    def _grant_why(self, owner: str, spec: GrantSpec) -> str:
        if not {ANY, self.key.service} & set(spec.services):
            return f"names the services {self._names(spec.services)}"
        if not is_granted(self.key.service, self._own_trust_domain, [spec]):
            return f"has no source of {self._own_trust_domain}"
        if not self.identity:
            return f"has a source of {self._own_trust_domain}"
        return f"{'admits' if self._admits(owner, spec) else 'does not admit'} {self.identity}"

    @staticmethod
    def _names(names: Sequence[str]) -> str:
        shown = ", ".join(names[:_NAMES_SHOWN_MAX])
        more = len(names) - _NAMES_SHOWN_MAX
        return f"{shown} and {more} more" if more > 0 else shown
