"""What the `spec` of each kind of resource may say.

The Structs below are the schema: unknown fields and wrong types are refused with the path of the
field. JSON uses camelCase, as everywhere in Kubernetes. What types cannot say is in `spec_checks`.
"""

from typing import Literal, TypeAlias

import msgspec

from discovery.core.condition import Condition
from discovery.core.model import ServiceAffinity, ServiceType
from federation.kernel.limits import ENDPOINTS_PER_CLUSTER_MAX

Standing: TypeAlias = Literal["voter", "learner", "removed"]
Role: TypeAlias = Literal["primary", "remote", "witness"]
# From best to worst; what they mean: `discovery.core.liveness`.
ClusterState: TypeAlias = Literal["ok", "control-lost", "data-degraded", "dead"]
# Callers learn to accept both homes' identities; processes change to those of the new home; or back; all have changed.
RehomingState: TypeAlias = Literal["announced", "moving", "returning", "done"]
OnLoss: TypeAlias = Literal["keep", "last-resort", "withdraw"]
# From best to worst; what they mean: `discovery.core.external`.
ExternalState: TypeAlias = Literal["ok", "degraded", "unhealthy"]

# What one workload of a group becomes is one endpoint, whose own bounds are these or close to them.
GROUP_PORTS_MAX = 32
GROUP_LABELS_MAX = 16
GROUP_LABELS_BYTES_MAX = 1_024  # Names and values together; an endpoint has 4 KiB for everything.
GROUP_PROBE_MS_MIN = 100
FORMER_TRUST_DOMAINS_MAX = 16
DRAIN_EVERY_MS_MAX = 24 * 3_600_000
EXTERNAL_ADDRESSES_MAX = 64
EXTERNAL_CHECKERS_MAX = 16
EXTERNAL_INTERVAL_MS_MIN = 1_000
EXTERNAL_CHECK_MS_MAX = 3_600_000
EXTERNAL_STATUSES_MAX = 16
EXTERNAL_COUNT_MAX = 100  # Of failures or successes in a row.
DRAIN_TEXT_CHARS_MAX = 1_000
DRAIN_ERRORS_PER_MILLION_MAX = 10_000  # 1%
DRAIN_FAILING_MAX = 20
TRAFFIC_COUNT_MAX = 2**50
SERVICE_TEXT_CHARS_MAX = 140  # Two labels and a port.
REHOMING_WITHIN_MS_MIN, REHOMING_WITHIN_MS_MAX = 1_000, 24 * 3_600_000
REHOMING_TEXT_CHARS_MAX = 1_000

# Where no Quota says otherwise. A cluster that needs more has something to say about it.
QUOTA_SERVICES = 25_000
QUOTA_RESOURCES = 20_000
QUOTA_BYTES = 256 * 1024 * 1024
QUOTA_CHANGES_PER_SECOND = 2_000
QUOTA_CHANGES_BURST = 20_000
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


class Rehoming(Spec, frozen=True, kw_only=True):
    """A remote cluster's other home: the one that it moves to or comes back from or, when done, does not have (any more)."""

    state: RehomingState
    home: str
    trust_domain: str  # That home's.
    started_by: str  # SPIFFE ID of the operator.
    changed_ms: int  # Federation time: since when it is in this state.
    within_ms: int  # A move that is not finished after this time is taken back.
    reason: str = ""  # Why it was taken back, or goes on after all.


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
    rehoming: Rehoming | None = None  # Nobody writes it: it follows from `isthmus cluster rehome`.

    @property
    def shown_trust_domain(self) -> str:
        """The trust domain that its processes show, or change to."""
        moving = self.rehoming is not None and self.rehoming.state == "moving"
        return self.rehoming.trust_domain if moving and self.rehoming else self.trust_domain

    @property
    def homes(self) -> tuple[str, ...]:
        """Those whose controllers serve it: its own first and, on the way between two homes, the other one."""
        if self.rehoming is None or self.rehoming.state == "done":
            return (self.home,) if self.home else ()
        return (self.home, self.rehoming.home)

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """Those that its processes may show: its own first and, on the way between two homes, the other one's."""
        if self.rehoming is None or self.rehoming.state == "done":
            return (self.trust_domain,)
        return (self.trust_domain, self.rehoming.trust_domain)


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
    # It is given up when so many requests of a million fail beyond those that failed before it began.
    errors_per_million_max: int = DRAIN_ERRORS_PER_MILLION_MAX
    # Of the ready weight of each service so much must be elsewhere; 0: anything.
    capacity_percent_min: int = 0


class ServiceTraffic(Spec, frozen=True, kw_only=True):
    """What came of the requests to one port of a service, in some seconds now and in some before a drain began."""

    service: str  # NAMESPACE/NAME:PORT; empty: all services together.
    requests: int
    errors: int
    requests_before: int = 0
    errors_before: int = 0


class DrainReportSpec(Spec, frozen=True, kw_only=True):
    """What fails for callers in the scope's cluster since the cluster of this name is drained. No row: nothing of note."""

    started_ms: int  # Of the drain: what is said of an earlier one means nothing.
    failing: tuple[ServiceTraffic, ...]  # The worst first, at most DRAIN_FAILING_MAX.


class RemovedClusterSpec(Spec, frozen=True, kw_only=True):
    """A cluster that was removed, named by it: its name is taken again by a join of the next epoch only."""

    epoch: int
    role: Role
    trust_domain: str
    removed_ms: int  # Federation time.
    removed_by: str  # SPIFFE ID of the operator.
    forced: bool = False  # It was not drained.
    swept: bool = False  # All its rows are deleted.
    # Of those that had the name before it: Grants outlive them all.
    former_trust_domains: tuple[str, ...] = ()


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
    member_lost: bool = False  # Of its controllers only mirrors answer, which observe nothing.


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


class ExternalPort(Spec, frozen=True, kw_only=True):
    """One port of an external service."""

    name: str
    port: int  # What callers name.
    target_port: int = 0  # Where the addresses listen for it; 0: the same.
    protocol: Literal["http", "tcp"] = "http"


class ExternalCheck(Spec, frozen=True, kw_only=True):
    """How checkers find out whether an address can serve. Careful by default: nobody runs an agent there."""

    kind: Literal["tcp", "http"] = "tcp"
    port: int = 0  # One of the service's; 0: the first.
    path: str = "/"  # For http.
    host: str = ""  # For http: the name that is asked for; empty: the address.
    statuses: tuple[int, ...] = ()  # For http: which answers are healthy; none: each 2xx or 3xx.
    interval: str = "5s"
    timeout: str = "2s"
    failures: int = 3  # Consecutive failures until it is missed.
    successes: int = 2  # Consecutive successes until it is not missed any more.


class ExternalServiceSpec(Spec, frozen=True, kw_only=True):
    """Addresses outside of all clusters that serve the service of this name, without agent or sidecar."""

    addresses: tuple[str, ...]  # IP addresses.
    ports: tuple[ExternalPort, ...]
    # Clusters whose controllers check them. Default: its own cluster or, of a remote one, the home.
    checked_from: tuple[str, ...] = ()
    check: ExternalCheck = ExternalCheck()


class ExternalObservationSpec(Spec, frozen=True, kw_only=True):
    """What the scope's cluster misses of an external service, named SERVICE.OWNER. No row: nothing is missed."""

    missed: tuple[str, ...]  # Addresses, sorted.


class ExternalAddressStatus(Spec, frozen=True, kw_only=True):
    """What the federation holds of one address. Lease times are those of `discovery.core.leases.LeaseTime`."""

    address: str
    state: ExternalState
    since_ms: int  # Federation time.
    missed_by: tuple[str, ...] = ()  # Checkers that count, sorted; the first EVIDENCE_MAX.
    losses_lease_ms: tuple[int, ...] = ()  # The last times that it was found unhealthy.
    held_lease_ms: int | None = None  # Since when all evidence says unhealthy, and damping says wait.


class ExternalServiceStatus(Spec, frozen=True, kw_only=True):
    """Of each address of the spec, in its order. Nobody writes it."""

    addresses: tuple[ExternalAddressStatus, ...] = ()
    flips: int = 0  # How often the state of an address changed.
    # `Conflict`: whether addresses lie in ranges that other clusters got later.
    conditions: tuple[Condition, ...] = ()


class NamespaceQuota(Spec, frozen=True, kw_only=True):
    """What one namespace of a cluster may have in the catalog."""

    endpoints: int = ENDPOINTS_PER_CLUSTER_MAX
    services: int = QUOTA_SERVICES
    resources: int = QUOTA_RESOURCES
    bytes: int = QUOTA_BYTES
    # As those of the cluster; what is not less than these is no limit.
    changes_per_second: int = QUOTA_CHANGES_PER_SECOND
    changes_burst: int = QUOTA_CHANGES_BURST


class QuotaSpec(Spec, frozen=True, kw_only=True):
    """What the cluster of this name may have in the catalog, and how fast it may change; `default`: each other."""

    endpoints: int = ENDPOINTS_PER_CLUSTER_MAX
    services: int = QUOTA_SERVICES  # Names with at least one endpoint of the cluster.
    resources: int = QUOTA_RESOURCES  # Its configuration; most are Agents.
    bytes: int = QUOTA_BYTES  # Keys and rows together.
    namespace: NamespaceQuota = NamespaceQuota()  # Of each namespace...
    namespaces: dict[str, NamespaceQuota] = {}  # ... but for those named here.
    # Endpoints that are set or removed. The publisher waits; what changes twice meanwhile counts once.
    changes_per_second: int = QUOTA_CHANGES_PER_SECOND
    changes_burst: int = QUOTA_CHANGES_BURST  # What may go at once after a quiet time.
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
    | DrainReportSpec
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
    | ExternalServiceSpec
    | ExternalObservationSpec
    | QuotaSpec
)
