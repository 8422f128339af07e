"""The kinds of resource under `federation.isthmus.dev/v1alpha1` and what their `spec` may say.

The Structs below are the schema: unknown fields and wrong types are refused with the path of the
field. JSON uses camelCase, as everywhere in Kubernetes.
"""

import ipaddress
from typing import Literal, TypeAlias

import msgspec

from discovery.core.model import ServiceAffinity, ServiceType
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import ENDPOINTS_PER_CLUSTER_MAX
from federation.kernel.names import check_label, check_name
from federation.kernel.units import duration_ms

GROUP = "federation.isthmus.dev"
VERSION = "v1alpha1"

Standing: TypeAlias = Literal["voter", "learner", "removed"]
Role: TypeAlias = Literal["primary", "remote", "witness"]
# From best to worst; what they mean: `discovery.core.liveness`.
ClusterState: TypeAlias = Literal["ok", "control-lost", "data-degraded", "dead"]
OnLoss: TypeAlias = Literal["keep", "last-resort", "withdraw"]

# What one workload of a group becomes is one endpoint, whose own bounds are these or close to them.
GROUP_PORTS_MAX = 32
GROUP_LABELS_MAX = 16
GROUP_LABELS_BYTES_MAX = 1_024  # Names and values together; an endpoint has 4 KiB for everything.
GROUP_PROBE_MS_MIN = 100
DRAIN_EVERY_MS_MAX = 24 * 3_600_000
DRAIN_TEXT_CHARS_MAX = 1_000

# Where no Quota says otherwise. A cluster that needs more has something to say about it.
QUOTA_SERVICES = 25_000
QUOTA_RESOURCES = 20_000
QUOTA_BYTES = 256 * 1024 * 1024
QUOTA_MAX = 2**40


class Spec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """Base of all specs."""


class FederationSpec(Spec, frozen=True, kw_only=True):
    """The one federation that a catalog belongs to; written by `isthmus init`."""

    id: str  # Random, never changes; every hello carries it.
    # Grows when the log is founded anew from a backup or by a survivor. Members of different
    # incarnations refuse each other: their logs have nothing in common.
    incarnation: int = 1


class ClusterSpec(Spec, frozen=True, kw_only=True):
    """A failure domain that joined."""

    role: Role
    trust_domain: str
    region: str = ""
    zone: str = ""
    network: str = ""  # Clusters on the same non-empty network reach each other's endpoints directly.
    home: str = ""  # For a remote cluster: the primary whose controllers serve it.
    ranges: tuple[str, ...] = ()  # CIDRs that its endpoints and gateways may use.
    epoch: int = 1  # Grows when the name is taken again after its cluster was removed.


class TrustDomainSpec(Spec, frozen=True, kw_only=True):
    """The public roots of one trust domain: the only ones that may vouch for its names."""

    roots: tuple[str, ...]  # PEM certificates.
    sequence: int = 1


class ControllerSpec(Spec, frozen=True, kw_only=True):
    """One controller of a cluster: where peers and agents reach it, and what it must prove to be."""

    cluster: str
    role: Literal["member", "witness", "mirror"]
    identity: str
    raft: str = ""  # host:port of the Raft transport.
    control: str = ""  # host:port of the gRPC port for agents, mirrors and xDS.
    api: str = ""  # host:port of the HTTPS port.
    protocol: int = 1  # Highest protocol version that its last start spoke.


class MemberSpec(Spec, frozen=True, kw_only=True):
    """What operators want of the log's members; named by the cluster. Without one: a voter, once it has joined."""

    standing: Standing


class DrainSpec(Spec, frozen=True, kw_only=True):
    """A cluster that hands its traffic over, step by step; named by the cluster. Without one: all of its share."""

    share_percent: int  # Of the traffic that it would have; 0: the last resort of whoever has nobody else.
    step_percent: int
    every_ms: int  # Between two steps.
    started_ms: int  # Federation time.
    stepped_ms: int  # Of the last step.
    started_by: str  # SPIFFE ID of the operator.
    forced: bool = (
        False  # Whether services that nobody else serves hinder it or not: it is never rolled back.
    )
    rolled_back: str = ""  # Why it was given up, its whole share being its own again.


class RemovedClusterSpec(Spec, frozen=True, kw_only=True):
    """A cluster that was removed, named by it: its name is taken again by a join of the next epoch only."""

    epoch: int
    role: Role
    trust_domain: str
    removed_ms: int  # Federation time.
    removed_by: str  # SPIFFE ID of the operator.
    forced: bool = False  # It was not drained.
    swept: bool = False  # All its rows are deleted.


class ExportPolicySpec(Spec, frozen=True, kw_only=True):
    """Which of a namespace's services other clusters may see. Nothing is exported without one."""

    services: tuple[str, ...]  # Names, or "*".
    consumers: tuple[str, ...] = ("*",)  # Clusters, or "*".
    # Where clusters that export the same service say otherwise, the oldest export decides.
    type: ServiceType = "ClusterSetIP"
    session_affinity: ServiceAffinity = "None"


class ClusterExportPolicySpec(Spec, frozen=True, kw_only=True):
    """Exports every service of a cluster, but for its system namespaces and those that are named."""

    consumers: tuple[str, ...] = ("*",)  # Clusters, or "*".
    except_namespaces: tuple[str, ...] = ()


class ImportPolicySpec(Spec, frozen=True, kw_only=True):
    """Which services of other clusters a cluster takes; all three lists must match. Without one: all.

    What a policy refuses is not taken. Where a cluster has policies that take, nothing else is taken.
    """

    action: Literal["Take", "Refuse"] = "Take"
    clusters: tuple[str, ...] = ("*",)  # Owners, or "*".
    namespaces: tuple[str, ...] = ("*",)
    services: tuple[str, ...] = ("*",)


class ServiceAliasSpec(Spec, frozen=True, kw_only=True):
    """A name of its cluster's that stands for a service elsewhere, and exists while that is visible there."""

    service: str
    namespace: str = ""  # Default: the alias's own.


class GrantSource(Spec, frozen=True, kw_only=True):
    """Who may call. Empty lists mean any; all given lists must match."""

    trust_domains: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()  # Full SPIFFE IDs.


class GrantSpec(Spec, frozen=True, kw_only=True):
    """Which identities of other trust domains may reach a namespace's services. Default: none."""

    services: tuple[str, ...]  # Names, or "*".
    sources: tuple[GrantSource, ...]


class JoinTokenSpec(Spec, frozen=True, kw_only=True):
    """A one-time permission to join. The secret is nowhere in the catalog, only its SHA-256."""

    purpose: Literal["cluster", "agent", "gateway", "dns", "controller"]
    cluster: str  # The cluster that joins, or that the agent will belong to.
    secret_sha256: str
    expires_ms: int  # Federation time.
    namespace: str = ""  # For agents: the namespace and service account of their workloads.
    service_account: str = ""
    workload_group: str = ""  # For agents: the group whose template they get, if any.


class AgentSpec(Spec, frozen=True, kw_only=True):
    """One enrolled agent, gateway or DNS process: which identities a controller may sign for it."""

    role: Literal["agent", "gateway", "dns", "controller"]  # "controller": a mirror.
    namespace: str = ""  # For agents: of their workloads.
    service_account: str = ""
    workload_group: str = ""  # For agents: the group that they were enrolled by, if any.


class JoinTokenStatus(Spec, frozen=True, kw_only=True):
    """Who took it. Empty until then."""

    claimed_by: str = ""  # SHA-256 of the claimant's public key: the same key may repeat its claim.
    claimed_ms: int = 0


class GroupPort(Spec, frozen=True, kw_only=True):
    """One port of a group's service. Where the application listens for it, each host says itself."""

    name: str
    port: int  # What callers name.
    protocol: Literal["http", "tcp"] = "http"


class GroupProbe(Spec, frozen=True, kw_only=True):
    """How agents find out whether the application behind the first port can serve."""

    kind: Literal["tcp", "http"] = "tcp"
    path: str = "/"  # For http: a 2xx or 3xx answer is healthy.
    interval: str = "1s"
    timeout: str = "1s"
    failures: int = 2  # Consecutive failures until it is unready.
    successes: int = 1  # Consecutive successes until it is ready again.


class WorkloadGroupSpec(Spec, frozen=True, kw_only=True):
    """What each virtual machine of a group runs: the template that its agent gets when it enrolls."""

    service_account: str
    service: str
    ports: tuple[GroupPort, ...]
    probe: GroupProbe = GroupProbe()
    labels: dict[str, str] = {}  # Of the endpoints.
    weight: int = 1


class ObservationSpec(Spec, frozen=True, kw_only=True):
    """What the scope's cluster misses of another one, which names it. No row: nothing is missed."""

    control_lost: bool = (
        False  # No controller of it answers; of a remote cluster, to its home: no agent is heard.
    )
    data_lost: bool = False  # No gateway of it answers.


class VerdictSpec(Spec, frozen=True, kw_only=True):
    """What the federation holds of the cluster of this name, and by whose observations. Nobody writes it."""

    state: ClusterState
    since_ms: int  # Federation time.
    control_lost_by: tuple[str, ...] = ()  # Observers that count, sorted; the first EVIDENCE_MAX.
    data_lost_by: tuple[str, ...] = ()


class VerdictChange(Spec, frozen=True, kw_only=True):
    """One change of state, with what it rested on."""

    state: ClusterState
    at_ms: int  # Federation time.
    control_lost_by: tuple[str, ...] = ()
    data_lost_by: tuple[str, ...] = ()


class VerdictStatus(Spec, frozen=True, kw_only=True):
    """How it came about. Lease times are those of `discovery.core.leases.LeaseTime`."""

    changes: tuple[VerdictChange, ...] = ()  # Oldest first; the last VERDICT_CHANGES_MAX.
    flips: int = 0  # How often the state changed.
    deaths_lease_ms: tuple[int, ...] = ()  # The last times that it was found dead.
    held_lease_ms: int | None = None  # Since when all evidence says dead, and damping says wait.


class LossPolicySpec(Spec, frozen=True, kw_only=True):
    """What others see of a namespace's services while the cluster that owns them is dead."""

    services: tuple[str, ...]  # Names, or "*".
    on_loss: OnLoss = "keep"


class NamespaceQuota(Spec, frozen=True, kw_only=True):
    """What one namespace of a cluster may have in the catalog."""

    endpoints: int = ENDPOINTS_PER_CLUSTER_MAX
    services: int = QUOTA_SERVICES
    resources: int = QUOTA_RESOURCES
    bytes: int = QUOTA_BYTES


class QuotaSpec(Spec, frozen=True, kw_only=True):
    """What the cluster of this name may have in the catalog, and how fast it may change; `default`: each other."""

    endpoints: int = ENDPOINTS_PER_CLUSTER_MAX
    services: int = QUOTA_SERVICES  # Names with at least one endpoint of the cluster.
    resources: int = QUOTA_RESOURCES  # Its configuration; most are Agents.
    bytes: int = QUOTA_BYTES  # Keys and rows together.
    namespace: NamespaceQuota = NamespaceQuota()  # Of each namespace...
    namespaces: dict[str, NamespaceQuota] = {}  # ... but for those named here.
    # Endpoints that are set or removed. The publisher waits; what changes twice meanwhile counts once.
    changes_per_second: int = 2_000
    changes_burst: int = 20_000  # What may go at once after a quiet time.
    # Writes by operators, at each controller. The API refuses.
    writes_per_second: int = 50
    writes_burst: int = 1_000


AnySpec: TypeAlias = (
    FederationSpec
    | ClusterSpec
    | TrustDomainSpec
    | ControllerSpec
    | MemberSpec
    | DrainSpec
    | RemovedClusterSpec
    | ExportPolicySpec
    | ClusterExportPolicySpec
    | ImportPolicySpec
    | ServiceAliasSpec
    | GrantSpec
    | JoinTokenSpec
    | AgentSpec
    | WorkloadGroupSpec
    | ObservationSpec
    | VerdictSpec
    | LossPolicySpec
    | QuotaSpec
)


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
    _check(spec, where)
    return spec


def _check(spec: AnySpec, where: str) -> None:
    match spec:
        case ClusterSpec():
            _check_cluster(spec, where)
        case DrainSpec():
            _check_drain(spec, f"{where}: spec")
        case ExportPolicySpec():
            _check_names(spec.services, f"{where}: spec.services")
            _check_names(spec.consumers, f"{where}: spec.consumers")
        case ClusterExportPolicySpec():
            _check_names(spec.consumers, f"{where}: spec.consumers")
            for position, name in enumerate(spec.except_namespaces):
                check_label(name, f"{where}: spec.exceptNamespaces[{position}]")
        case ImportPolicySpec():
            _check_names(spec.clusters, f"{where}: spec.clusters")
            _check_names(spec.namespaces, f"{where}: spec.namespaces")
            _check_names(spec.services, f"{where}: spec.services")
        case ServiceAliasSpec():
            check_label(spec.service, f"{where}: spec.service")
            if spec.namespace:
                check_label(spec.namespace, f"{where}: spec.namespace")
        case GrantSpec():
            _check_names(spec.services, f"{where}: spec.services")
            if not spec.sources:
                raise InvalidInputError(f"{where}: spec.sources is empty: expected at least one source")
        case ObservationSpec():
            if not (spec.control_lost or spec.data_lost):
                raise InvalidInputError(f"{where}: spec says that nothing is lost: delete the row instead")
        case LossPolicySpec():
            _check_names(spec.services, f"{where}: spec.services")
        case WorkloadGroupSpec():
            _check_group(spec, f"{where}: spec")
        case QuotaSpec():
            _check_quota(spec, f"{where}: spec")
        case _:
            pass


def _check_drain(spec: DrainSpec, where: str) -> None:
    for field, percent, least in (
        ("sharePercent", spec.share_percent, 0),
        ("stepPercent", spec.step_percent, 1),
    ):
        if not least <= percent <= 100:
            raise InvalidInputError(f"{where}.{field} is {percent}, expected {least} to 100")
    if not 0 <= spec.every_ms <= DRAIN_EVERY_MS_MAX:
        raise InvalidInputError(
            f"{where}.everyMs is {spec.every_ms}, expected 0 to {DRAIN_EVERY_MS_MAX}, a day"
        )
    if len(spec.rolled_back) > DRAIN_TEXT_CHARS_MAX:
        raise InvalidInputError(
            f"{where}.rolledBack has {len(spec.rolled_back)} characters, at most {DRAIN_TEXT_CHARS_MAX} are allowed"
        )


def _check_cluster(spec: ClusterSpec, where: str) -> None:
    check_name(spec.trust_domain, f"{where}: spec.trustDomain")
    if (spec.role == "remote") != bool(spec.home):
        raise InvalidInputError(
            f"{where}: spec.home is {spec.home!r}: a remote cluster names its home, others have none"
        )
    for position, text in enumerate(spec.ranges):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidInputError(
                f"{where}: spec.ranges[{position}]: {text!r} is not a network such as 10.0.0.0/8: {error}"
            ) from error


def _check_quota(spec: QuotaSpec, where: str) -> None:
    for namespace in spec.namespaces:
        check_label(namespace, f"{where}.namespaces")
    parts: list[tuple[str, QuotaSpec | NamespaceQuota]] = [("", spec), (".namespace", spec.namespace)]
    parts += [(f".namespaces.{name}", limits) for name, limits in spec.namespaces.items()]
    for part, limits in parts:
        for field, value, most in (
            ("endpoints", limits.endpoints, ENDPOINTS_PER_CLUSTER_MAX),
            ("services", limits.services, ENDPOINTS_PER_CLUSTER_MAX),
            ("resources", limits.resources, QUOTA_RESOURCES),
            ("bytes", limits.bytes, QUOTA_MAX),
        ):
            if not 0 <= value <= most:
                raise InvalidInputError(f"{where}{part}.{field} is {value}, expected 0 to {most}")
    for field, value in (
        ("changesPerSecond", spec.changes_per_second),
        ("changesBurst", spec.changes_burst),
        ("writesPerSecond", spec.writes_per_second),
        ("writesBurst", spec.writes_burst),
    ):
        if not 1 <= value <= QUOTA_MAX:
            raise InvalidInputError(f"{where}.{field} is {value}, expected 1 to {QUOTA_MAX}")


def _check_names(names: tuple[str, ...], where: str) -> None:
    if not names:
        raise InvalidInputError(f'{where} is empty: expected names, or "*" for all')
    for position, name in enumerate(names):
        if name != "*":
            check_label(name, f"{where}[{position}]")


def _check_group(spec: WorkloadGroupSpec, where: str) -> None:
    check_label(spec.service_account, f"{where}.serviceAccount")
    check_label(spec.service, f"{where}.service")
    if not 1 <= len(spec.ports) <= GROUP_PORTS_MAX:
        raise InvalidInputError(
            f"{where}.ports has {len(spec.ports)} entries, expected 1 to {GROUP_PORTS_MAX}"
        )
    for position, port in enumerate(spec.ports):
        check_label(port.name, f"{where}.ports[{position}].name")
        if not 1 <= port.port <= 65_535:
            raise InvalidInputError(
                f"{where}.ports[{position}].port is {port.port}, expected a port from 1 to 65535"
            )
    for field, values in (
        ("name", [port.name for port in spec.ports]),
        ("port", [port.port for port in spec.ports]),
    ):
        for position, value in enumerate(values):
            if value in values[:position]:
                raise InvalidInputError(f"{where}.ports[{position}].{field}: {value!r} is given twice")
    _check_group_probe(spec.probe, f"{where}.probe")
    _check_group_labels(spec.labels, f"{where}.labels")
    if not 1 <= spec.weight <= 1_000:
        raise InvalidInputError(f"{where}.weight is {spec.weight}, expected 1 to 1000")


def _check_group_probe(probe: GroupProbe, where: str) -> None:
    for field, text in (("interval", probe.interval), ("timeout", probe.timeout)):
        try:
            length_ms = duration_ms(text)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}.{field}: {error.message}") from error
        if length_ms < GROUP_PROBE_MS_MIN:
            raise InvalidInputError(f"{where}.{field}: {text!r} is shorter than {GROUP_PROBE_MS_MIN}ms")
    if not probe.path.startswith("/"):
        raise InvalidInputError(f"{where}.path: {probe.path[:80]!r} does not start with a slash")
    for field, count in (("failures", probe.failures), ("successes", probe.successes)):
        if count < 1:
            raise InvalidInputError(f"{where}.{field} is {count}, expected at least 1")


def _check_group_labels(labels: dict[str, str], where: str) -> None:
    if len(labels) > GROUP_LABELS_MAX:
        raise InvalidInputError(f"{where} has {len(labels)} entries, at most {GROUP_LABELS_MAX} are allowed")
    for name, value in labels.items():
        if not name or not name.isprintable() or not value.isprintable() or len(value) > 63:
            raise InvalidInputError(
                f"{where}[{name[:40]!r}]: expected a name, and a value of at most 63 printable characters"
            )
    size = sum(len(name.encode()) + len(value.encode()) for name, value in labels.items())
    if size > GROUP_LABELS_BYTES_MAX:
        raise InvalidInputError(f"{where} have {size} bytes, at most {GROUP_LABELS_BYTES_MAX} are allowed")
