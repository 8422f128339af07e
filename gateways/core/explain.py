"""Why a service is as callers of one cluster see it: the answer to `isthmus explain`.

Nothing is decided here. Who sees what is asked of the view and its policies, who is let in of
`authorization`, which addresses are called of `endpoints`; the DNS records are those that the zone compiles, and
Envoy's clusters are read from the compiled resources themselves. This module only says by which policy and why.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from msgspec.structs import replace

from certs.core.spiffe import workload_id
from discovery.core.conflicts import Claim, conflicts
from discovery.core.model import Change, Endpoint, EndpointKey, ServiceKey
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables, endpoint_prefix
from discovery.core.view import Service
from discovery.core.views import ViewIndex
from federation.kernel.errors import InvalidInputError
from federation.kernel.names import check_label
from gateways.core import names
from gateways.core.compile import ViewCompiler
from gateways.core.explain_external import ADMITS_WHY, external_endpoints
from gateways.core.explain_policies import Reasons
from gateways.core.explain_sent import (
    dns_records,
    envoy_ports,
    gateway_facts,
    hidden_endpoints,
    seen_endpoints,
)
from gateways.core.explain_unserved import NOTHING_SERVED, unserved_endpoints, unserved_outside
from gateways.core.explained import ConflictFact, EndpointFact, Explanation, OwnerFact, Withdrawn

# Of one owner; its counts are of all.
ENDPOINTS_EXPLAINED_MAX = 500
POLICIES_EXPLAINED_MAX = 50
WITHDRAWN_EXPLAINED_MAX = 50
CONFLICTS_EXPLAINED_MAX = 50
RECORDS_EXPLAINED_MAX = 500

# Of a cluster whose endpoints are still there and whose record is not.
_UNKNOWN = ClusterSpec(role="primary", trust_domain="")


class Caller(NamedTuple):
    """Who asks for the service: a cluster, or one workload identity of it."""

    cluster: str
    namespace: str = ""
    service_account: str = ""


def parse_caller(text: str) -> Caller:
    """Read CLUSTER or CLUSTER/NAMESPACE/SERVICE-ACCOUNT; raises InvalidInputError."""
    parts = text.split("/")
    if len(parts) not in (1, 3):
        raise InvalidInputError(
            f"from: {text[:200]!r} names no caller, expected CLUSTER or CLUSTER/NAMESPACE/SERVICE-ACCOUNT"
        )
    for part, where in zip(parts, ("cluster", "namespace", "service account"), strict=False):
        check_label(part, f"from: {where}")
    return Caller(*parts)


def explain(
    view: ViewIndex, compiler: ViewCompiler, caller: Caller, key: ServiceKey, withdrawn: Sequence[Withdrawn]
) -> Explanation:
    """Return why a service is as `caller` sees it; `view` and `compiler` are those of its cluster, which has joined.

    Cost: the endpoints of the service in all clusters, and the policies of its namespace in each.
    """
    policies = view.policies
    service = view.service(key)
    vip = compiler.captured.vip(key)
    target = view.target(key)
    reasons = Reasons(policies, caller.cluster, _path(caller), target)
    said = _claims(view, service)
    return Explanation(
        service=str(key),
        host=names.host(key),
        cluster=caller.cluster,
        identity=reasons.identities[0] if reasons.identities else "",
        other_identity=reasons.identities[1] if len(reasons.identities) > 1 else "",
        revision=view.revision,
        visible=service is not None,
        stands_for="" if target == key else str(target),
        owners=tuple(_with_policies_once(_owners(reasons, view.tables, service))),
        type="" if service is None else service.type,
        session_affinity="" if service is None else service.affinity,
        decided_by=f"{said[0].cluster} ({said[0].said.policy})" if said else "",
        conflicts=tuple(islice(_conflicts(said), CONFLICTS_EXPLAINED_MAX)),
        dns=()
        if service is None or vip is None
        else tuple(islice(dns_records(service, vip), RECORDS_EXPLAINED_MAX)),
        envoy=() if service is None else envoy_ports(compiler, service),
        withdrawn=tuple(withdrawn),
        problem=compiler.problems.get(key, ""),
    )


def _path(caller: Caller) -> str:
    """The caller's identity behind its trust domain; "" where it is a cluster."""
    if not caller.namespace:
        return ""
    return workload_id("any.test", caller.namespace, caller.service_account).path


def _claims(view: ViewIndex, service: Service | None) -> list[Claim]:
    """What the visible owners say of a service; who decides comes first."""
    if service is None:
        return []
    return sorted(view.claims(service.called_as, service.owners), key=lambda claim: claim.rank)


def _conflicts(said: Sequence[Claim]) -> Iterator[ConflictFact]:
    for one in conflicts(said):
        yield ConflictFact(cluster=one.cluster, policy=one.policy, reason=one.reason, message=one.message)


def withdrawn_of(
    history: Iterable[tuple[int, tuple[Change, ...]]], tables: Tables, key: ServiceKey
) -> list[Withdrawn]:
    """Return the endpoints of a service that went according to a history, oldest first, and did not come back."""
    prefix = endpoint_prefix(key)
    gone: dict[bytes, int] = {}
    for revision, changes in history:
        for change in changes:
            if change.table == "endpoints" and change.value is None and change.key.startswith(prefix):
                gone[change.key] = revision
    found = [
        Withdrawn(cluster=place.cluster, name=place.name, revision=revision)
        for row, revision in gone.items()
        if row not in tables.endpoints
        for place in (EndpointKey.decode(row),)
    ]
    found.sort(key=lambda one: (-one.revision, one.cluster, one.name))
    return found[:WITHDRAWN_EXPLAINED_MAX]


def _owners(reasons: Reasons, tables: Tables, service: Service | None) -> Iterator[OwnerFact]:
    parts: set[tuple[str, bool]] = set()
    served = reasons.policies.served
    for order, owner in enumerate(() if service is None else service.owners):
        assert service is not None
        parts.add((owner.cluster, owner.external))
        if owner.external:
            part = reasons.policies.external_parts(service.called_as)[owner.cluster]
            facts = chain(external_endpoints(tables, service, owner), unserved_outside(served, part))
            fact = replace(_external(reasons, owner.cluster, owner.endpoints, facts), direct=True)
        else:
            rows = tables.list_endpoints(service.called_as, owner.cluster)
            facts = chain(seen_endpoints(service, owner), unserved_endpoints(served, rows))
            fact = _owner(reasons, owner.cluster, owner.endpoints, facts)
            fact = replace(fact, direct=owner.direct, gateways=gateway_facts(service, owner))
        yield replace(fact, visible=True, order=order)
    yield from _hidden(reasons, tables, parts)


def _with_policies_once(owners: Iterable[OwnerFact]) -> Iterator[OwnerFact]:
    """Tell the policies of a cluster once: they are the same for what is registered and what is outside."""
    told: set[str] = set()
    for fact in owners:
        yield replace(fact, policies=()) if fact.cluster in told else fact
        told.add(fact.cluster)


def _hidden(reasons: Reasons, tables: Tables, seen: set[tuple[str, bool]]) -> Iterator[OwnerFact]:
    """What there is beside the parts that are seen: hidden by policies, or without an address that is served."""
    served = reasons.policies.served
    hidden: dict[str, list[Endpoint]] = {}
    for endpoint in tables.list_endpoints(reasons.key):
        hidden.setdefault(endpoint.key.cluster, []).append(endpoint)
    for cluster, endpoints in sorted(hidden.items()):
        if (cluster, False) not in seen:
            left = [one for one in endpoints if served.serves(one)]
            facts = chain(
                hidden_endpoints(left, reasons.visibility(cluster)), unserved_endpoints(served, endpoints)
            )
            fact = _owner(reasons, cluster, left, facts)
            yield fact if left else replace(fact, why=NOTHING_SERVED)
    for cluster, part in sorted(reasons.policies.external_parts(reasons.key).items()):
        if (cluster, True) not in seen:
            facts = chain(
                hidden_endpoints(part.endpoints, reasons.visibility(cluster)), unserved_outside(served, part)
            )
            fact = _external(reasons, cluster, part.endpoints, facts)
            yield fact if part.endpoints else replace(fact, why=NOTHING_SERVED)


def _external(
    reasons: Reasons, cluster: str, endpoints: Sequence[Endpoint], facts: Iterable[EndpointFact]
) -> OwnerFact:
    """What is to be said of addresses that a cluster declared outside."""
    fact = _owner(reasons, cluster, endpoints, facts)
    return replace(
        fact, external=True, admits_caller=True if reasons.identities else None, admits_why=ADMITS_WHY
    )


def _owner(
    reasons: Reasons, cluster: str, endpoints: Sequence[Endpoint], facts: Iterable[EndpointFact]
) -> OwnerFact:
    """What is to be said of an owner, visible or not."""
    spec = reasons.policies.clusters.get(cluster, _UNKNOWN)
    admitted, admits_why = reasons.admission(cluster)
    return OwnerFact(
        cluster=cluster,
        trust_domain=spec.trust_domain,
        other_trust_domain=spec.trust_domains[1] if len(spec.trust_domains) > 1 else "",
        region=spec.region,
        zone=spec.zone,
        visible=False,
        why=reasons.visibility(cluster),
        order=None,
        distance=reasons.distance(cluster),
        admits_caller=admitted,
        admits_why=admits_why,
        policies=tuple(reasons.policy_facts(cluster)[:POLICIES_EXPLAINED_MAX]),
        direct=False,
        gateways=(),
        endpoint_count=len(endpoints),
        ready_count=sum(endpoint.ready for endpoint in endpoints),
        endpoints=tuple(islice(facts, ENDPOINTS_EXPLAINED_MAX)),
    )
