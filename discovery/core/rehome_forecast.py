"""What moving a remote cluster to another home would take from whom: found before it is done, changes nothing.

A remote cluster shares its home's trust domain, so its home's workloads call its services, and it calls theirs, without a
Grant. With the move all Grants that named the old trust domain for it are of no use to it. Whoever would see or call less
than before is named here, with the Grants that need a source of the new trust domain.
"""

from collections.abc import Iterator

import msgspec

from discovery.core.model import ServiceKey
from discovery.core.ownership import cluster_key
from discovery.core.policies import Policies
from discovery.core.rehoming import check_target
from discovery.core.specs import GrantSpec
from discovery.core.tables import Tables, endpoint_prefix
from discovery.core.view import AdmittedSource
from federation.kernel.errors import NotFoundError

LOSSES_NAMED_MAX = 1_000

_Reach = frozenset[tuple[str, str]]  # (namespace, principal's path): "" means any.
_EVERYBODY: _Reach = frozenset({("", "")})


class RehomeForecast(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a move would change."""

    cluster: str
    home: str
    to: str
    trust_domain: str  # Of now...
    to_trust_domain: str  # ... and afterwards.
    losses: tuple[str, ...] = ()  # Who could not see or call what; the first LOSSES_NAMED_MAX.
    grants: tuple[str, ...] = ()  # Those that name the trust domain of now and not the other one.


def foresee(tables: Tables, cluster: str, to: str) -> RehomeForecast:
    """Return what a move of `cluster` to home `to` would change.

    Raises NotFoundError or PreconditionError when it cannot move there at all. Cost: a look at all services, and at the
    policies of those in which the cluster has a part.
    """
    before = Policies(tables)
    spec = before.clusters.get(cluster)
    if spec is None:
        raise NotFoundError(f"{cluster_key(cluster)} does not exist")
    home = check_target(cluster, to, spec, dict(before.clusters))
    after = Policies(tables)
    moved = msgspec.structs.replace(spec, home=to, trust_domain=home.trust_domain, rehoming=None)
    after.clusters = {**after.clusters, cluster: moved}
    losses: list[str] = []
    for loss in _losses(tables, cluster, before, after):
        if len(losses) == LOSSES_NAMED_MAX:
            break
        losses.append(loss)
    return RehomeForecast(
        cluster=cluster,
        home=spec.home,
        to=to,
        trust_domain=spec.trust_domain,
        to_trust_domain=home.trust_domain,
        losses=tuple(losses),
        grants=tuple(_stale_grants(tables, before, cluster, home.trust_domain)),
    )


def _losses(tables: Tables, cluster: str, before: Policies, after: Policies) -> Iterator[str]:
    for key in tables.list_services():
        owners = [
            name
            for name in sorted(before.clusters)
            if next(tables.endpoints.keys(endpoint_prefix(key, name)), None) is not None
        ]
        for owner in owners:
            viewers = sorted(before.clusters) if owner == cluster else [cluster]
            for viewer in viewers:
                if viewer != owner and before.clusters[viewer].role != "witness":
                    yield from _loss(key, owner, viewer, before, after)


def _loss(key: ServiceKey, owner: str, viewer: str, before: Policies, after: Policies) -> Iterator[str]:
    """Yield what `viewer` would lose of `owner`'s part of a service."""
    if not before.shows(owner, viewer, key):
        return
    domain = after.clusters[viewer].trust_domain
    where = f"a Grant of {owner} in namespace {key.namespace} that names {domain}"
    if not after.shows(owner, viewer, key):
        yield f"{viewer} would no longer see {key} of {owner}: it needs {where}"
        return
    then = _reach(key, owner, viewer, after)
    lost = [
        who
        for who in sorted(_reach(key, owner, viewer, before))
        if not any(_covers(one, who) for one in then)
    ]
    if lost:
        callers = ", ".join(_name(who) for who in lost[:3])
        yield f"{callers} of {viewer} could no longer call {key} of {owner}: it needs {where}"


def _reach(key: ServiceKey, owner: str, viewer: str, policies: Policies) -> _Reach:
    """Which workloads of `viewer` may call a service of `owner`, whatever their trust domain is called."""
    domain = policies.clusters[viewer].trust_domain
    if domain == policies.clusters[owner].trust_domain:
        return _EVERYBODY
    admission = policies.admission(owner, key)
    sources = () if admission is None else admission.sources
    return frozenset(one for source in sources if source.trust_domain == domain for one in _parts(source))


def _parts(source: AdmittedSource) -> Iterator[tuple[str, str]]:
    prefix = f"spiffe://{source.trust_domain}/"
    for namespace in source.namespaces or ("",):
        for principal in source.principals or ("",):
            yield namespace, principal.removeprefix(prefix)


def _covers(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """True when every workload that `other` means is one that `one` means."""
    namespace = one[0] == "" or one[0] == other[0] or other[1].startswith(f"ns/{one[0]}/")
    return namespace and one[1] in ("", other[1])


def _name(who: tuple[str, str]) -> str:
    namespace, path = who
    if path:
        return f"workload {path}"
    return f"workloads in namespace {namespace}" if namespace else "workloads"


def _stale_grants(tables: Tables, policies: Policies, cluster: str, new: str) -> Iterator[str]:
    """Yield the Grants of others that name the old trust domain and not the new one."""
    old = policies.clusters[cluster].trust_domain
    for owner in sorted(policies.clusters.keys() - {cluster}):
        for row in tables.list_resources(owner, "Grant", None):
            spec = policies.named_grants(owner, row.key.namespace).get(row.key.name)
            if spec is not None and _names(spec, old) and not _names(spec, new):
                yield str(row.key)


def _names(spec: GrantSpec, trust_domain: str) -> bool:
    return any(
        trust_domain in source.trust_domains
        or any(principal.startswith(f"spiffe://{trust_domain}/") for principal in source.principals)
        for source in spec.sources
    )
