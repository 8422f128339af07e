"""Configuration of the controller and of the DNS process: schema, defaults and documentation in one.

Durations are text with a unit ("15s"), addresses are host:port. Secrets are paths to files.
"""

import ipaddress
from typing import Literal

from federation.kernel.configfile import Section, host_port
from federation.kernel.errors import IsthmusError
from federation.kernel.names import check_label, check_name
from federation.kernel.units import duration_ms

ROLES = ("primary", "remote", "witness")


def _duration(text: str, key: str) -> int:
    try:
        return duration_ms(text)
    except IsthmusError as error:
        raise ValueError(f"{key}: {error.message}") from error


class ClusterSection(Section, frozen=True, kw_only=True):
    """`[cluster]`: the failure domain that this process belongs to."""

    name: str
    trust_domain: str = ""  # Of its own for a primary or witness; a remote cluster uses its home's.
    role: str = "primary"
    home: str = ""  # For role "remote": the primary whose controllers serve it.
    region: str = ""
    zone: str = ""
    network: str = ""  # Clusters on the same network reach each other without gateways.
    ranges: tuple[str, ...] = ()  # CIDRs that its endpoints and gateways may use.

    def __post_init__(self) -> None:
        """Check names, role and ranges."""
        try:
            check_label(self.name, "cluster.name")
            if self.trust_domain:
                check_name(self.trust_domain, "cluster.trust_domain")
        except IsthmusError as error:
            raise ValueError(error.message) from error
        if self.role not in ROLES:
            raise ValueError(f"cluster.role: {self.role!r} is not one of {', '.join(ROLES)}")
        if (self.role == "remote") != bool(self.home):
            raise ValueError("cluster.home: a remote cluster names its home, others have none")
        if self.role != "remote" and not self.trust_domain:
            raise ValueError('cluster.trust_domain is missing: expected a name such as "alpha.example.org"')
        for text in self.ranges:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"cluster.ranges: {text!r} is not a network such as 10.0.0.0/8") from error


class ListenSection(Section, frozen=True, kw_only=True):
    """`[listen]`: the controller's four ports, host:port each. Peers and agents are told these addresses."""

    raft: str  # Other members.
    control: str  # Agents, DNS processes, mirrors and proxies (gRPC).
    api: str  # Operators, enrollment and joining (HTTPS).
    metrics: str  # Prometheus, /livez and /readyz (plain HTTP): keep it inside the cluster.

    def __post_init__(self) -> None:
        """Check that each is host:port."""
        for key in ("raft", "control", "api", "metrics"):
            host_port(getattr(self, key), f"listen.{key}")


class RaftSection(Section, frozen=True, kw_only=True):
    """`[raft]`: how far apart the members are."""

    # Longest usual round trip between members. Raising it makes elections calmer and slower: the
    # election timeout is at least ten round trips.
    round_trip: str = "20ms"

    def __post_init__(self) -> None:
        """Check the duration: members further apart than 250 ms are not supported."""
        if not 1 <= _duration(self.round_trip, "raft.round_trip") <= 250:
            raise ValueError(f"raft.round_trip: {self.round_trip!r} is outside 1ms to 250ms")


class AgentsSection(Section, frozen=True, kw_only=True):
    """`[agents]`: when the silence of an agent ends the lease of its endpoints."""

    # Longer keeps endpoints through longer agent restarts; shorter withdraws those of dead hosts sooner.
    lease: str = "15s"

    def __post_init__(self) -> None:
        """Check the duration."""
        if _duration(self.lease, "agents.lease") < 2_000:
            raise ValueError(f"agents.lease: {self.lease!r} is too short: expected at least 2s")


class ControllerConfig(Section, frozen=True, kw_only=True):
    """One controller: `isthmus controller run --config FILE`."""

    id: str  # Unique within the cluster, such as "c1".
    data_dir: str
    cluster: ClusterSection
    listen: ListenSection
    raft: RaftSection = RaftSection()
    agents: AgentsSection = AgentsSection()
    root_passphrase_file: str = (
        ""  # Unlocks this trust domain's root key; empty: data_dir/passphrase, made by init or join.
    )
    log: str = "info"

    def __post_init__(self) -> None:
        """Check the id and that the role is one that runs a controller."""
        try:
            check_label(self.id, "id")
        except IsthmusError as error:
            raise ValueError(error.message) from error
        if self.cluster.role == "remote":
            raise ValueError("cluster.role: a remote cluster runs no controller")


class MirrorListenSection(Section, frozen=True, kw_only=True):
    """`[listen]` of a mirror: three ports, host:port each. Agents are told these addresses."""

    control: str  # Agents, DNS processes, proxies and the cluster's other controllers (gRPC).
    api: str  # Operators (HTTPS).
    metrics: str  # Prometheus, /livez and /readyz (plain HTTP): keep it inside the cluster.

    def __post_init__(self) -> None:
        """Check that each is host:port."""
        for key in ("control", "api", "metrics"):
            host_port(getattr(self, key), f"listen.{key}")


class MirrorConfig(Section, frozen=True, kw_only=True):
    """A controller without a vote: `isthmus controller run --config FILE`. Its token says of which cluster it is."""

    role: Literal["mirror"]
    id: str  # Unique within the cluster, such as "m1".
    data_dir: str
    listen: MirrorListenSection
    agents: AgentsSection = AgentsSection()
    log: str = "info"

    def __post_init__(self) -> None:
        """Check the id."""
        try:
            check_label(self.id, "id")
        except IsthmusError as error:
            raise ValueError(error.message) from error


class DnsConfig(Section, frozen=True, kw_only=True):
    """One DNS process: `isthmus dns run --config FILE`."""

    id: str
    data_dir: str
    listen: tuple[str, ...]  # host:port, UDP and TCP both.
    metrics: str = ""  # host:port for Prometheus, /livez and /readyz; empty: none.
    log: str = "info"

    def __post_init__(self) -> None:
        """Check the id and the addresses."""
        try:
            check_label(self.id, "id")
        except IsthmusError as error:
            raise ValueError(error.message) from error
        if not self.listen:
            raise ValueError('listen is empty: expected at least one address such as "10.0.0.1:53"')
        for text in self.listen:
            host_port(text, "listen")
        if self.metrics:
            host_port(self.metrics, "metrics")


class JoinConfig(Section, frozen=True, kw_only=True):
    """A remote cluster, for `isthmus cluster join`: it has no controller, only this description."""

    cluster: ClusterSection
