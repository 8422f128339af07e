"""The kinds of resource under `federation.isthmus.dev/v1alpha1`: how each is named, where it lives, who writes it."""

import msgspec

from discovery.core.spec_checks import check_spec
from discovery.core.specs import (
    AgentSpec,
    AnySpec,
    ClusterExportPolicySpec,
    ClusterSpec,
    ControllerSpec,
    DrainReportSpec,
    DrainSpec,
    ExportPolicySpec,
    ExternalObservationSpec,
    ExternalServiceSpec,
    FederationSpec,
    GrantSpec,
    ImportPolicySpec,
    JoinTokenSpec,
    LossPolicySpec,
    MemberSpec,
    ObservationSpec,
    QuotaSpec,
    RemovedClusterSpec,
    ServiceAliasSpec,
    TrustDomainSpec,
    VerdictSpec,
    WorkloadGroupSpec,
)
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

GROUP = "federation.isthmus.dev"
VERSION = "v1alpha1"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind is named, where it lives, and whether people may write it."""

    name: str
    plural: str
    spec: type[AnySpec]
    namespaced: bool
    scoped: bool  # True: lives in a cluster and is owned by it; False: belongs to the federation.
    writable: bool  # False: only joining, tokens and controllers write it.
    deletable: bool = True  # False: leaves only with its cluster.
    schema: int = 1  # Of the first commands that may write it: older builds do not know the kind.


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="Federation", plural="federations", spec=FederationSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Cluster", plural="clusters", spec=ClusterSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="TrustDomain", plural="trustdomains", spec=TrustDomainSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Controller", plural="controllers", spec=ControllerSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Member", plural="members", spec=MemberSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Drain", plural="drains", spec=DrainSpec, namespaced=False, scoped=False, writable=False, deletable=False, schema=2),
        Kind(name="DrainReport", plural="drainreports", spec=DrainReportSpec, namespaced=False, scoped=True, writable=False, deletable=False, schema=2),
        Kind(name="RemovedCluster", plural="removedclusters", spec=RemovedClusterSpec, namespaced=False, scoped=False, writable=False, schema=2),
        Kind(name="JoinToken", plural="jointokens", spec=JoinTokenSpec, namespaced=False, scoped=False, writable=False),
        Kind(name="Agent", plural="agents", spec=AgentSpec, namespaced=False, scoped=True, writable=False),
        Kind(name="ExportPolicy", plural="exportpolicies", spec=ExportPolicySpec, namespaced=True, scoped=True, writable=True),
        Kind(name="ClusterExportPolicy", plural="clusterexportpolicies", spec=ClusterExportPolicySpec, namespaced=False, scoped=True, writable=True, schema=2),
        Kind(name="ImportPolicy", plural="importpolicies", spec=ImportPolicySpec, namespaced=False, scoped=True, writable=True, schema=2),
        Kind(name="ServiceAlias", plural="servicealiases", spec=ServiceAliasSpec, namespaced=True, scoped=True, writable=True, schema=2),
        Kind(name="Grant", plural="grants", spec=GrantSpec, namespaced=True, scoped=True, writable=True),
        Kind(name="WorkloadGroup", plural="workloadgroups", spec=WorkloadGroupSpec, namespaced=True, scoped=True, writable=True),
        Kind(name="Observation", plural="observations", spec=ObservationSpec, namespaced=False, scoped=True, writable=False, deletable=False, schema=2),
        Kind(name="Verdict", plural="verdicts", spec=VerdictSpec, namespaced=False, scoped=False, writable=False, deletable=False),
        Kind(name="Quota", plural="quotas", spec=QuotaSpec, namespaced=False, scoped=False, writable=True, schema=2),
        Kind(name="LossPolicy", plural="losspolicies", spec=LossPolicySpec, namespaced=True, scoped=True, writable=True, schema=2),
        Kind(name="ExternalService", plural="externalservices", spec=ExternalServiceSpec, namespaced=True, scoped=True, writable=True, schema=2),
        Kind(name="ExternalObservation", plural="externalobservations", spec=ExternalObservationSpec, namespaced=True, scoped=True, writable=False, deletable=False, schema=2),
    )
}  # fmt: skip


def decode_spec(kind: str, raw: bytes, *, where: str) -> AnySpec:
    """Return the checked spec of a resource of `kind`.

    Raises `InvalidInputError` naming the field, the value and what was expected; `where` says which
    object it was.
    """
    known = KINDS.get(kind)
    if known is None:
        raise InvalidInputError(f"{where}: unknown kind {kind!r}, expected one of {', '.join(KINDS)}")
    try:
        spec = msgspec.json.decode(raw, type=known.spec)
    except MALFORMED as error:
        raise InvalidInputError(f"{where}: spec: {str(error)[0].lower()}{str(error)[1:]}") from error
    check_spec(spec, where)
    return spec
