"""Configuration of an agent and of a gateway: `isthmus agent run`, `isthmus gateway run`."""

import ipaddress
from typing import Literal

from federation.kernel.configfile import Section, host_port
from federation.kernel.errors import IsthmusError
from federation.kernel.names import check_label
from federation.kernel.units import duration_ms

CAPTURE_ENTRIES_MAX = 256  # Of each list in `[capture]`.
INBOUND_PORT_FIRST = 15006  # Istio's inbound port; further workloads of one agent take the next ones.


class ProbeSection(Section, frozen=True, kw_only=True):
    """`[workload.probe]`: how the agent finds out whether the application can serve."""

    kind: Literal["tcp", "http"] = "tcp"
    path: str = "/"  # For http: a 2xx or 3xx answer is healthy.
    interval: str = "1s"
    timeout: str = "1s"
    failures: int = 2  # Consecutive failures until it is unready.
    successes: int = 1  # Consecutive successes until it is ready again.

    def __post_init__(self) -> None:
        """Check durations and counts."""
        for key in ("interval", "timeout"):
            try:
                if duration_ms(getattr(self, key)) < 100:
                    raise ValueError(f"probe.{key}: {getattr(self, key)!r} is shorter than 100ms")
            except IsthmusError as error:
                raise ValueError(f"probe.{key}: {error.message}") from error
        if self.failures < 1 or self.successes < 1:
            raise ValueError("probe.failures and probe.successes: expected at least 1")


class WorkloadSection(Section, frozen=True, kw_only=True):
    """`[[workload]]`: one instance of a service, listening on this host."""

    service: str
    port: int  # The service's port: what callers name.
    app: str  # host:port where the application listens.
    name: str = ""  # Unique within the agent; default: SERVICE-AGENT.
    protocol: Literal["http", "tcp"] = "http"
    port_name: str = ""  # Default: the protocol.
    inbound_port: int = 0  # Where the sidecar accepts mutual TLS for it; 0: 15006 and up, in order.
    weight: int = 1
    probe: ProbeSection = ProbeSection()

    def __post_init__(self) -> None:
        """Check names, ports and weight."""
        for key in ("service", "name", "port_name"):
            text = getattr(self, key)
            if text or key == "service":
                try:
                    check_label(text, f"workload.{key}")
                except IsthmusError as error:
                    raise ValueError(error.message) from error
        host_port(self.app, "workload.app")
        if not 0 < self.port < 65_536 or not 0 <= self.inbound_port < 65_536:
            raise ValueError("workload.port and workload.inbound_port: expected 1 to 65535")
        if not 1 <= self.weight <= 1_000:
            raise ValueError(f"workload.weight: {self.weight} is outside 1 to 1000")


class GroupSection(Section, frozen=True, kw_only=True):
    """`[group]`: where the application listens that the agent's workload group describes."""

    app: str | dict[str, str]  # host:port; where the group has several ports, by the name of the port.

    def __post_init__(self) -> None:
        """Check the addresses."""
        if isinstance(self.app, str):
            host_port(self.app, "group.app")
            return
        for name, address in self.app.items():
            host_port(address, f"group.app.{name[:63]}")


class OutboundTcpSection(Section, frozen=True, kw_only=True):
    """`[[outbound_tcp]]`: a local address through which applications reach one TCP service."""

    service: str
    port: int  # The service's port.
    listen: str  # IP:port of this host.
    namespace: str = ""  # Default: the agent's.

    def __post_init__(self) -> None:
        """Check names and ports."""
        for key in ("service", "namespace"):
            if getattr(self, key) or key == "service":
                try:
                    check_label(getattr(self, key), f"outbound_tcp.{key}")
                except IsthmusError as error:
                    raise ValueError(error.message) from error
        host_port(self.listen, "outbound_tcp.listen")
        if not 0 < self.port < 65_536:
            raise ValueError(f"outbound_tcp.port: {self.port} is no port: expected 1 to 65535")


class CaptureSection(Section, frozen=True, kw_only=True):
    """`[capture]`: connections of this host's applications are redirected to `outbound`.

    Envoy is made ready for them; `isthmus capture apply` redirects them.
    """

    enabled: bool = False
    users: tuple[str, ...] = ()  # Names or numbers: whose connections; empty: everybody else's.
    exempt_users: tuple[str, ...] = ()  # Never captured, as is the user of `data_dir`.
    exclude_ranges: tuple[str, ...] = ()  # IPv4 CIDRs that are reached directly.
    exclude_ports: tuple[int, ...] = ()  # TCP ports that are reached directly.

    def __post_init__(self) -> None:
        """Check ranges, ports and numbers."""
        for key in ("users", "exempt_users", "exclude_ranges", "exclude_ports"):
            if len(getattr(self, key)) > CAPTURE_ENTRIES_MAX:
                raise ValueError(f"capture.{key}: more than {CAPTURE_ENTRIES_MAX} entries")
        for text in self.exclude_ranges:
            try:
                ipaddress.IPv4Network(text)
            except ValueError as error:
                raise ValueError(
                    f"capture.exclude_ranges: {text[:64]!r} is not an IPv4 range such as 10.0.0.0/8"
                ) from error
        for port in self.exclude_ports:
            if not 0 < port < 65_536:
                raise ValueError(f"capture.exclude_ports: {port} is no port: expected 1 to 65535")


class AgentConfig(Section, frozen=True, kw_only=True):
    """One agent, with one sidecar Envoy."""

    id: str
    data_dir: str
    address: str  # IP of this host on the cluster's network: where the sidecar accepts mutual TLS.
    outbound: str = (
        "127.0.0.1:15001"  # host:port where applications of this host call services, by Host header.
    )
    region: str = ""  # Default: the cluster's.
    zone: str = ""
    metrics: str = ""
    workload: tuple[WorkloadSection, ...] = ()
    group: GroupSection | None = None  # In place of workloads, for an agent enrolled by a workload group.
    outbound_tcp: tuple[OutboundTcpSection, ...] = ()
    capture: CaptureSection = CaptureSection()
    drain: str = "5s"  # On SIGTERM: how long requests in flight may take.
    log: str = "info"

    def __post_init__(self) -> None:
        """Check the id, addresses and that workloads do not collide."""
        _check_host(self.id, self.address, self.metrics, self.drain)
        host_port(self.outbound, "outbound")
        names = [workload.name or workload.service for workload in self.workload]
        if len(set(names)) != len(names):
            raise ValueError("workload: two workloads have the same name: give each its own")
        if self.workload and self.group is not None:
            raise ValueError("workload and group: expected one of them, not both")


class GatewayConfig(Section, frozen=True, kw_only=True):
    """One east-west gateway."""

    id: str
    data_dir: str
    listen: str  # host:port where other clusters reach it, usually port 15443.
    metrics: str = ""
    drain: str = "5s"
    log: str = "info"

    def __post_init__(self) -> None:
        """Check the id and the address."""
        host, _ = host_port(self.listen, "listen")
        _check_host(self.id, host, self.metrics, self.drain)


def _check_host(id: str, address: str, metrics: str, drain: str) -> None:  # noqa: A002 (the key's name)
    try:
        check_label(id, "id")
        duration_ms(drain)
    except IsthmusError as error:
        raise ValueError(error.message) from error
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise ValueError(f"address: {address!r} is not an IP address") from error
    if metrics:
        host_port(metrics, "metrics")
