"""What a controller says of itself when another one, for an operator, asks how it is, and what all said."""

from typing import Literal

import msgspec

from certs.core.spiffe import SpiffeId, system_identity
from consensus.core.contract import PeerStatus, Role
from discovery.core.specs import Standing
from discovery.core.tables import Tables
from federation.api.directory import cluster_spec
from federation.api.messages import Message
from federation.kernel.errors import IsthmusError, NotAllowedError
from federation.kernel.versions import PROTOCOL_VERSION

# An answer names this many silent agents and slow followers of each cluster; their numbers are exact.
NAMES_MAX = 20
# A member that did not answer the leader for this long is away: several heartbeats, also over a WAN.
CONTACT_MS_MAX = 5_000


class AgentsHealth(Message, frozen=True, kw_only=True):
    """The enrolled agents and gateways of one cluster, as its registry hears them."""

    cluster: str
    live: int = 0
    silent: int = 0
    silent_names: tuple[str, ...] = ()
    dns_absent: tuple[str, ...] = ()  # Enrolled DNS processes that do not follow this controller.
    # Agents that came back without most of what they had, with how many endpoints stay for now.
    withheld: tuple[tuple[str, int], ...] = ()
    limited: str = ""  # Why new endpoints are not published.


class FollowerHealth(Message, frozen=True, kw_only=True):
    """A process that follows the catalog here and has not taken the newest change yet."""

    cluster: str
    name: str
    behind_ms: int


class Health(Message, frozen=True, kw_only=True):
    """One controller at one moment. Times are Unix milliseconds by its own clock."""

    controller: str  # CLUSTER-ID
    cluster: str
    version: str  # Of the program.
    unix_ms: int
    started_unix_ms: int
    incarnation: int  # Of the federation that it belongs to.
    revision: int
    role: Role
    term: int
    leader: str | None
    last_index: int
    commit_index: int
    applied_index: int
    journal_bytes: int
    leader_contact_ms: int | None
    voters: tuple[str, ...]
    leaf_expires_ms: int
    intermediate_expires_ms: int
    root_expires_ms: int
    disk_free_bytes: int
    disk_total_bytes: int
    directory: str = ""  # The name that its log's directory was given when it was begun.
    raft_problem: str = ""  # Why it takes no part in the log, such as a full disk.
    snapshot_unix_ms: int | None = None
    connected: tuple[str, ...] = ()
    peers: tuple[PeerStatus, ...] = ()  # On the leader.
    agents: tuple[AgentsHealth, ...] = ()
    clocks: tuple[tuple[str, int], ...] = ()  # What members told it that theirs show now: Unix ms.
    followers: int = 0
    slow_followers: tuple[FollowerHealth, ...] = ()
    protocol: int = PROTOCOL_VERSION


class MemberHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about one controller of the federation."""

    id: str  # Its cluster, which is its name as a member.
    controller: str
    raft: str  # host:port
    is_witness: bool
    standing: Standing | Literal["joining"] = "voter"  # "joining": it has joined and has not caught up yet.
    health: Health | None = None
    error: str = ""  # Why there is no health.
    clock_offset_ms: int = 0  # Its clock less that of the controller that asked...
    clock_error_ms: int = 0  # ... give or take this.


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is looked at: the controllers as they answered to the one that asked."""

    asked: str  # The member that asked the others.
    leader_id: str | None  # As that member knows it.
    voters: tuple[str, ...]
    members: tuple[MemberHealth, ...]

    def health(self, member_id: str) -> Health | None:
        """Return what a member said of itself."""
        return next((member.health for member in self.members if member.id == member_id), None)

    @property
    def leader(self) -> Health | None:
        """The leader of the newest term, if it answered: a witness leads without a word."""
        leading = [
            one.health for one in self.members if one.health is not None and one.health.role == "leader"
        ]
        return max(leading, key=lambda health: health.term, default=None)

    @property
    def has_leader(self) -> bool:
        """True when one answered, or when the member that asked hears one that does not answer questions."""
        if self.leader is not None:
            return True
        return any(one.is_witness and one.id == self.leader_id for one in self.members)

    def peer(self, member_id: str) -> PeerStatus | None:
        """Return how the leader sees a member."""
        leader = self.leader
        return None if leader is None else next((one for one in leader.peers if one.id == member_id), None)

    def is_heard(self, member_id: str) -> bool:
        """True for the leader and whoever answers it; for whoever answered us where nobody tells.

        Of a witness beside a leader that does not answer questions nothing is known: it counts as heard.
        """
        leader = self.leader
        if leader is None:
            is_witness = any(one.is_witness and one.id == member_id for one in self.members)
            return self.health(member_id) is not None or (is_witness and self.has_leader)
        if leader.cluster == member_id:
            return True
        peer = self.peer(member_id)
        return (
            peer is not None
            and peer.last_contact_ms_ago is not None
            and peer.last_contact_ms_ago <= CONTACT_MS_MAX
        )


def check_asker(peer: SpiffeId, tables: Tables) -> None:
    """Raise NotAllowedError for anybody but a controller of a cluster that joined."""
    system = system_identity(peer)
    if system is None or system.role != "controller":
        raise NotAllowedError(f"{peer} may not ask how this controller is: expected another controller")
    try:
        spec = cluster_spec(tables, system.cluster)
    except IsthmusError as error:
        raise NotAllowedError(f"{peer} is of cluster {system.cluster}, which has not joined") from error
    if peer.trust_domain not in spec.trust_domains:
        raise NotAllowedError(
            f"{peer} is not of trust domain {spec.trust_domain!r} of cluster {system.cluster}"
        )
