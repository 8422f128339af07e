"""What agents, DNS processes and joining clusters say to a controller.

Enrollment and joining are JSON over HTTPS, since the caller has no certificate yet; everything else
is MessagePack over gRPC on the control port. Unknown fields are ignored and new fields have
defaults, so that versions N and N-1 understand each other.
"""

from typing import TypeAlias

import msgspec

from discovery.core.join_forecast import ExpectedService
from discovery.core.model import Endpoint, EndpointKey
from discovery.core.specs import (
    ClusterSpec,
    ControllerSpec,
    ServiceTraffic,
    Standing,
    WorkloadGroupSpec,
)
from federation.kernel.versions import PROTOCOL_VERSION

CONTROL_SERVICE = "isthmus.v1.Control"
# The first protocol whose agents are asked what they see: `ProbeTargets`, `WatchDrains`. Earlier ones know neither message.
PROTOCOL_QUESTIONS = 2


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages."""


class NamedController(Message, frozen=True, kw_only=True):
    """One row of the directory of controllers."""

    name: str  # Resource name: CLUSTER-ID.
    spec: ControllerSpec


class Directory(Message, frozen=True, kw_only=True):
    """Whom to talk to and whom to believe. Kept on disk by whoever gets it; a newer revision replaces it."""

    revision: int
    federation: str  # FederationSpec.id
    controllers: tuple[NamedController, ...]
    bundles: dict[str, tuple[str, ...]]  # Trust domain to its roots, PEM.
    homes: dict[str, str]  # Remote cluster to its home.
    incarnation: int = 1  # Grows with each restore: FederationSpec.incarnation.
    standings: dict[str, Standing] = {}  # Clusters of which an operator said whether they vote.
    # Remote cluster that moves between two homes to the one that it is not at,
    next_homes: dict[str, str] = {}
    # and every remote cluster to the trust domain that its processes show, or change to.
    trust_domains: dict[str, str] = {}


class EnrollRequest(Message, frozen=True, kw_only=True):
    """POST /v1/enroll: an agent, gateway or DNS process proves a token and gets its system identity."""

    secret: bytes  # Of the join token.
    purpose: str
    id: str  # The name that it wants, unique among its role in its cluster.
    csr: bytes  # DER
    protocol: int = PROTOCOL_VERSION


class EnrollReply(Message, frozen=True, kw_only=True):
    """The system identity and all that is needed to go on."""

    identity: str
    chain: tuple[bytes, ...]  # DER, leaf first.
    cluster: str
    cluster_spec: ClusterSpec
    directory: Directory
    namespace: str = ""  # For agents: of their workloads.
    workload_identity: str = ""  # For agents: the SPIFFE ID that their workloads show.
    workload_group: str = ""  # For agents: the group whose token it was, if any,
    template: WorkloadGroupSpec | None = None  # and what a machine of that group runs.
    protocol: int = PROTOCOL_VERSION


class JoinRequest(Message, frozen=True, kw_only=True):
    """POST /v1/join: a cluster proves a token and that it holds its root key."""

    secret: bytes
    cluster: str
    spec: ClusterSpec
    roots: tuple[str, ...] = ()  # PEM; empty for a remote cluster, which uses its home's.
    controller: NamedController | None = None  # None for a remote cluster.
    again: bool = False  # It joined before, and has lost its log, or its log is of no use any more.
    proof: bytes = b""  # ECDSA by the root key over SHA-256("isthmus join" NUL secret NUL cluster).
    protocol: int = PROTOCOL_VERSION


class ForecastRequest(Message, frozen=True, kw_only=True):
    """POST /v1/join/forecast: what a join by this token would change. Uses nothing up, needs no key."""

    secret: bytes
    cluster: str
    spec: ClusterSpec
    controller: NamedController | None = None  # None for a remote cluster.
    services: tuple[ExpectedService, ...] = ()
    protocol: int = PROTOCOL_VERSION


class JoinReply(Message, frozen=True, kw_only=True):
    """The federation as the new cluster must know it to start."""

    directory: Directory
    revision: int
    epoch: int = 1  # Of the cluster: grows when its name was a removed cluster's.
    protocol: int = PROTOCOL_VERSION


class SignRequest(Message, frozen=True, kw_only=True):
    """Control/Sign: a new leaf for the caller's own identity, or for its workloads'."""

    csr: bytes
    identity: str  # The caller's own SPIFFE ID, or the workload identity of its enrollment.
    caller: str = ""  # From a mirror: the process that asked it. Its SPIFFE ID.


class SignReply(Message, frozen=True, kw_only=True):
    """The new leaf."""

    chain: tuple[bytes, ...]
    not_after_ms: int


# Control/Register: a stream from an agent to each controller of its cluster.


class AgentHello(Message, frozen=True, kw_only=True, tag="hello"):
    """First message of a stream. The agent's name and cluster are in its certificate, not here."""

    incarnation: int  # Start time of the agent, Unix milliseconds; grows with each start.
    protocol: int = PROTOCOL_VERSION


class Declare(Message, frozen=True, kw_only=True, tag="declare"):
    """What the agent's workloads are now. After a hello: the whole list, `complete` in its last part."""

    number: int  # Of this message; acknowledged by it.
    put: tuple[Endpoint, ...] = ()
    remove: tuple[tuple[EndpointKey, int, int], ...] = ()  # Key, incarnation, sequence.
    complete: bool = False


class AgentHeartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Keeps the lease; sent every third of it."""


class Sightings(Message, frozen=True, kw_only=True, tag="sightings"):
    """From a gateway: what has turned in what it sees of the clusters that it was told to look at."""

    heard: tuple[str, ...] = ()  # Clusters of which a gateway answers again, or for the first time.
    lost: tuple[str, ...] = ()  # Of which none does any more.
    unseen: tuple[str, ...] = ()  # It no longer looks at.


class TrafficReport(Message, frozen=True, kw_only=True, tag="traffic"):
    """What the agent's Envoy counted since its last report, of the services that a drained cluster serves.

    Sent about once a second to controllers that asked (`WatchDrains`), while there are requests.
    """

    drained: str
    started_ms: int  # Of the drain.
    services: tuple[ServiceTraffic, ...]  # All together first, then the worst; at most DRAIN_FAILING_MAX.


AgentMessage: TypeAlias = AgentHello | Declare | AgentHeartbeat | Sightings | TrafficReport


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """Answer to a hello."""

    controller: str
    lease_ms: int
    protocol: int = PROTOCOL_VERSION


class DeclareAck(Message, frozen=True, kw_only=True, tag="ack"):
    """All declarations up to `number` are held: by this controller, or by the log's quorum."""

    number: int
    level: str  # "local" | "global"
    revision: int = 0  # For level "global".
    # For level "global": these are held by the controller alone, and why. It is the whole list of now.
    unpublished: tuple[tuple[EndpointKey, str], ...] = ()


class DeclareRefused(Message, frozen=True, kw_only=True, tag="refused"):
    """One endpoint of a declaration was refused; the others stand."""

    number: int
    key: EndpointKey
    code: int
    message: str


class DirectoryUpdate(Message, frozen=True, kw_only=True, tag="directory"):
    """Sent after the welcome and whenever it changes."""

    directory: Directory


class ProbeTarget(Message, frozen=True, kw_only=True):
    """The gateways of another cluster; none: do not look at it any more."""

    cluster: str
    trust_domain: str = ""
    other_trust_domain: str = ""  # While it moves from one home to another: whose they may be as well.
    gateways: tuple[tuple[str, str, int], ...] = ()  # Name, address, port.
    timeout_ms: int = 1_000


class ProbeTargets(Message, frozen=True, kw_only=True, tag="probe"):
    """To gateways of PROTOCOL_QUESTIONS and newer: whom to look at. `whole`: at nobody else."""

    targets: tuple[ProbeTarget, ...]
    whole: bool = False


class WatchedDrain(Message, frozen=True, kw_only=True):
    """A cluster that hands its traffic over now."""

    cluster: str
    started_ms: int


class WatchDrains(Message, frozen=True, kw_only=True, tag="drains"):
    """For which drains the agent shall report what fails, and for no others; from PROTOCOL_QUESTIONS on."""

    drains: tuple[WatchedDrain, ...] = ()


ControllerMessage: TypeAlias = (
    Welcome | DeclareAck | DeclareRefused | DirectoryUpdate | ProbeTargets | WatchDrains
)
