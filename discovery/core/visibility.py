"""Which services a cluster may see of another, and who may call its own (invariants D1 and S2).

Seen: exported to the cluster, not left aside by its own import policies and, from another trust domain, also
granted to some identity of it.
Called: an own identity always; one of another trust domain by a Grant, if a cluster of that trust domain
is among those to which the service is exported. Nothing is allowed by default.
"""

from collections.abc import Iterable, Mapping

from discovery.core.model import ServiceKey
from discovery.core.specs import (
    ClusterSpec,
    ExportPolicySpec,
    GrantSource,
    GrantSpec,
    ImportPolicySpec,
    LossPolicySpec,
    OnLoss,
)
from discovery.core.view import AdmittedSource

ANY = "*"

# Of two policies that name a service equally well, the one that takes less away counts.
_HARM: dict[OnLoss, int] = {"keep": 0, "last-resort": 1, "withdraw": 2}


def covers(export: ExportPolicySpec, service: str) -> bool:
    """True when an export policy is about one of its namespace's services."""
    return ANY in export.services or service in export.services


def consumers(service: str, exports: Iterable[ExportPolicySpec]) -> frozenset[str]:
    """The clusters, or "*", to which a namespace's export policies show one of its services."""
    return frozenset(
        consumer for export in exports if covers(export, service) for consumer in export.consumers
    )


def is_exported(service: str, viewer: str, exports: Iterable[ExportPolicySpec]) -> bool:
    """True when cluster `viewer` is among the consumers of the service."""
    return not consumers(service, exports).isdisjoint((ANY, viewer))


def takes(owner: str, key: ServiceKey, imports: Iterable[ImportPolicySpec]) -> bool:
    """True when a cluster's import policies let it take what `owner` exports of a service."""
    taking, taken = False, False
    for policy in imports:
        applies = is_imported_by(policy, owner, key)
        if policy.action == "Refuse" and applies:
            return False
        taking |= policy.action == "Take"
        taken |= policy.action == "Take" and applies
    return taken or not taking


def is_imported_by(policy: ImportPolicySpec, owner: str, key: ServiceKey) -> bool:
    """True when an import policy, whatever it does, is about the owner's part of a service."""
    return all(
        ANY in names or name in names
        for name, names in (
            (owner, policy.clusters),
            (key.namespace, policy.namespaces),
            (key.service, policy.services),
        )
    )


def is_granted(service: str, trust_domain: str, grants: Iterable[GrantSpec]) -> bool:
    """True when a namespace's grants let some identity of `trust_domain` call one of its services."""
    return any(_admits(source, trust_domain) for source in _sources(service, grants))


def is_visible(
    service: str,
    viewer: str,
    viewer_trust_domain: str,
    owner_trust_domain: str,
    exports: Iterable[ExportPolicySpec],
    grants: Iterable[GrantSpec],
) -> bool:
    """True when `viewer` may see another cluster's service; policies are of the owner's namespace."""
    if not is_exported(service, viewer, exports):
        return False
    return viewer_trust_domain == owner_trust_domain or is_granted(service, viewer_trust_domain, grants)


def on_loss(service: str, policies: Iterable[LossPolicySpec]) -> OnLoss:
    """What a namespace's loss policies say of one of its services; one that names it goes before "*"."""
    named, general = (
        [policy.on_loss for policy in policies if name in policy.services] for name in (service, ANY)
    )
    return min(named or general or ["keep"], key=_HARM.__getitem__)


def admitted_sources(
    service: str,
    own: str,
    clusters: Mapping[str, ClusterSpec],
    federated: Iterable[str],
    exports: Iterable[ExportPolicySpec],
    grants: Iterable[GrantSpec],
) -> tuple[AdmittedSource, ...]:
    """Who of other trust domains may call a service of cluster `own`, sorted, without repetitions.

    `federated` are the trust domains whose roots are known: nobody else can be told apart from a liar.
    """
    shown_to = consumers(service, exports)
    callers = {
        trust_domain
        for name, spec in clusters.items()
        if name != own and (ANY in shown_to or name in shown_to)
        for trust_domain in spec.trust_domains
    } - set(clusters[own].trust_domains)
    return tuple(
        sorted(
            {
                AdmittedSource(
                    trust_domain=trust_domain,
                    namespaces=tuple(sorted(set(source.namespaces))),
                    principals=tuple(sorted({p for p in source.principals if _belongs(p, trust_domain)})),
                )
                for source in _sources(service, grants)
                for trust_domain in callers.intersection(federated)
                if _admits(source, trust_domain)
            }
        )
    )


def _sources(service: str, grants: Iterable[GrantSpec]) -> Iterable[GrantSource]:
    for grant in grants:
        if ANY in grant.services or service in grant.services:
            yield from grant.sources


def _admits(source: GrantSource, trust_domain: str) -> bool:
    """All lists that are given must match; one of principals needs a principal of the trust domain."""
    if source.trust_domains and trust_domain not in source.trust_domains:
        return False
    return not source.principals or any(_belongs(principal, trust_domain) for principal in source.principals)


def _belongs(principal: str, trust_domain: str) -> bool:
    return principal.startswith(f"spiffe://{trust_domain}/")
