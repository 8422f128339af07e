"""From the configuration file to what is registered, probed and put behind the proxy: pure."""

import ipaddress

import msgspec

from certs.core.spiffe import parse
from discovery.core.model import (
    GATEWAY_SERVICE,
    SYSTEM_NAMESPACE,
    Endpoint,
    EndpointKey,
    EndpointPort,
    Protocol,
)
from discovery.core.specs import WorkloadGroupSpec
from federation.agent.config import (
    INBOUND_PORT_FIRST,
    AgentConfig,
    GatewayConfig,
    GroupSection,
    OutboundTcpSection,
    WorkloadSection,
)
from federation.agent.enrollment import Enrollment
from federation.agent.probe import ProbeTarget, probe_target, target_of
from federation.api.agent_stream import agent_name
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError
from federation.kernel.names import check_label
from gateways.core.proxy import OutboundTcp, Proxy, Workload, WorkloadPort, check_proxy

GATEWAY_PORT_NAME = "tls"


class RegisteredWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of this process: its row as declared (readiness aside) and how it is probed."""

    endpoint: Endpoint
    probe: ProbeTarget | None  # None: as ready as the proxy itself.


class _Port(msgspec.Struct, frozen=True, kw_only=True):
    """One port of an instance: what callers name, where the sidecar listens, where the application does."""

    name: str
    service_port: int
    listen_port: int
    protocol: Protocol
    app: str  # IP:port
    key: str  # Of the configuration, which says `app`.


class _Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service, whether a `[[workload]]` or a workload group describes it."""

    service: str
    name: str
    ports: tuple[_Port, ...]
    probe: ProbeTarget
    weight: int
    labels: tuple[tuple[str, str], ...] = ()


def agent_workloads(config: AgentConfig, enrollment: Enrollment) -> tuple[RegisteredWorkload, ...]:
    """Return the workloads of an agent; raises `InvalidInputError` naming the key that is wrong."""
    workloads = tuple(
        RegisteredWorkload(endpoint=_endpoint(instance, config, enrollment), probe=instance.probe)
        for instance in _instances(config, enrollment)
    )
    keys = [workload.endpoint.key for workload in workloads]
    for key in keys:
        if keys.count(key) > 1:
            raise InvalidInputError(
                f"workload.name: two workloads of {key.service_key} are called {key.name!r}: give each its own"
            )
    return workloads


def sidecar_proxy(config: AgentConfig, enrollment: Enrollment) -> Proxy:
    """Return the description of an agent's Envoy; raises `InvalidInputError` naming the key that is wrong."""
    proxy = Proxy(
        id=f"{config.id}.{enrollment.cluster}",
        cluster=enrollment.cluster,
        agent=config.id,
        kind="sidecar",
        address=config.address,
        namespace=enrollment.namespace,
        outbound=_ip_port(config.outbound, "outbound"),
        capture=config.capture.enabled,
        outbound_tcp=tuple(_outbound_tcp(section, enrollment) for section in config.outbound_tcp),
        workloads=tuple(
            Workload(
                namespace=enrollment.namespace,
                service=instance.service,
                identity=enrollment.workload_identity,
                ports=tuple(_workload_port(port) for port in instance.ports),
            )
            for instance in _instances(config, enrollment)
        ),
    )
    check_proxy(proxy, "configuration")
    return proxy


def gateway_workload(config: GatewayConfig, enrollment: Enrollment) -> RegisteredWorkload:
    """Return the gateway itself, as an endpoint of the service `isthmus-system/eastwest`."""
    address, port = _ip_port(config.listen, "listen")
    endpoint = Endpoint(
        key=EndpointKey(SYSTEM_NAMESPACE, GATEWAY_SERVICE, enrollment.cluster, config.id),
        address=address,
        ports=(EndpointPort(name=GATEWAY_PORT_NAME, service_port=port, listen_port=port, protocol="tcp"),),
        identity=enrollment.identity,
        ready=False,
        region=enrollment.cluster_spec.region,
        zone=enrollment.cluster_spec.zone,
        agent=agent_name("gateway", config.id),
    )
    return RegisteredWorkload(endpoint=endpoint, probe=None)


def gateway_proxy(config: GatewayConfig, enrollment: Enrollment) -> Proxy:
    """Return the description of a gateway's Envoy."""
    address, port = _ip_port(config.listen, "listen")
    proxy = Proxy(
        id=f"{config.id}.{enrollment.cluster}",
        cluster=enrollment.cluster,
        agent=config.id,
        kind="gateway",
        address=address,
        gateway_name=config.id,
        gateway_port=port,
    )
    check_proxy(proxy, "configuration")
    return proxy


def _instances(config: AgentConfig, enrollment: Enrollment) -> tuple[_Instance, ...]:
    """Return what runs here: the configured workloads, or what the agent's workload group says."""
    group, template = f"{enrollment.namespace}/{enrollment.workload_group}", enrollment.template
    if config.group is not None:
        if template is None:
            raise InvalidInputError(
                "group: this agent was not enrolled by a workload group: describe each [[workload]], or enroll"
                " it anew by a token made with --workload-group"
            )
        return (_instance_of_group(config, config.group, template, group),)
    if template is not None and not config.workload:
        raise InvalidInputError(
            f"group.app is missing: this agent was enrolled by workload group {group}, expected where its"
            f" application for {template.service} listens"
        )
    ports = _inbound_ports(config.workload)
    return tuple(
        _instance_of_section(section, listen_port, config)
        for section, listen_port in zip(config.workload, ports, strict=True)
    )


def _instance_of_section(section: WorkloadSection, listen_port: int, config: AgentConfig) -> _Instance:
    port = _Port(
        name=section.port_name or section.protocol,
        service_port=section.port,
        listen_port=listen_port,
        protocol=section.protocol,
        app=section.app,
        key="workload.app",
    )
    return _Instance(
        service=section.service,
        name=section.name or f"{section.service}-{config.id}",
        ports=(port,),
        probe=probe_target(section),
        weight=section.weight,
    )


def _instance_of_group(
    config: AgentConfig, section: GroupSection, template: WorkloadGroupSpec, group: str
) -> _Instance:
    names = [port.name for port in template.ports]
    if isinstance(section.app, str):
        if len(names) > 1:
            raise InvalidInputError(
                f"group.app: workload group {group} has several ports: expected a table with an address for"
                f" each of {', '.join(names)}"
            )
        apps, keys = {names[0]: section.app}, {names[0]: "group.app"}
    else:
        apps, keys = section.app, {name: f"group.app.{name}" for name in section.app}
    if set(apps) != set(names):
        raise InvalidInputError(
            f"group.app: addresses are given for {', '.join(sorted(apps)) or 'no port'}, workload group {group}"
            f" has {', '.join(names)}"
        )
    return _Instance(
        service=template.service,
        name=f"{template.service}-{config.id}",
        ports=tuple(
            _Port(
                name=port.name,
                service_port=port.port,
                listen_port=INBOUND_PORT_FIRST + position,
                protocol=port.protocol,
                app=apps[port.name],
                key=keys[port.name],
            )
            for position, port in enumerate(template.ports)
        ),
        probe=target_of(apps[names[0]], template.probe),
        weight=template.weight,
        labels=tuple(sorted(template.labels.items())),
    )


def _endpoint(instance: _Instance, config: AgentConfig, enrollment: Enrollment) -> Endpoint:
    parse(enrollment.workload_identity)
    check_label(instance.name, "workload.name (default: SERVICE-AGENT)")
    return Endpoint(
        key=EndpointKey(enrollment.namespace, instance.service, enrollment.cluster, instance.name),
        address=config.address,
        ports=tuple(
            EndpointPort(
                name=port.name,
                service_port=port.service_port,
                listen_port=port.listen_port,
                protocol=port.protocol,
            )
            for port in instance.ports
        ),
        identity=enrollment.workload_identity,
        ready=False,
        region=config.region or enrollment.cluster_spec.region,
        zone=config.zone or enrollment.cluster_spec.zone,
        weight=instance.weight,
        agent=config.id,
        labels=instance.labels,
    )


def _workload_port(port: _Port) -> WorkloadPort:
    address, number = _ip_port(port.app, port.key)
    return WorkloadPort(
        service_port=port.service_port,
        listen_port=port.listen_port,
        app_address=address,
        app_port=number,
        protocol=port.protocol,
    )


def _outbound_tcp(section: OutboundTcpSection, enrollment: Enrollment) -> OutboundTcp:
    address, listen_port = _ip_port(section.listen, "outbound_tcp.listen")
    return OutboundTcp(
        namespace=section.namespace or enrollment.namespace,
        service=section.service,
        service_port=section.port,
        address=address,
        listen_port=listen_port,
    )


def _inbound_ports(sections: tuple[WorkloadSection, ...]) -> list[int]:
    """Return where the sidecar listens for each workload: as configured, else the next free from 15006 on."""
    given = [section.inbound_port for section in sections if section.inbound_port]
    if len(set(given)) != len(given):
        raise InvalidInputError("workload.inbound_port: two workloads have the same one")
    free = (port for port in range(INBOUND_PORT_FIRST, 65_536) if port not in given)
    return [section.inbound_port or next(free) for section in sections]


def _ip_port(text: str, key: str) -> tuple[str, int]:
    """Split `IP:port`: Envoy is given addresses, not names."""
    try:
        host, port = host_port(text, key)
        ipaddress.ip_address(host)
    except ValueError as error:
        raise InvalidInputError(
            f"{key}: {text!r} is not an IP address and port, such as 127.0.0.1:8080"
        ) from error
    return host, port
