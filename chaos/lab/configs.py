"""The configuration files and manifests that a plan (`chaos.lab.topology`) comes to."""

from pathlib import Path

from chaos.lab.topology import (
    API_PORT,
    CONTROL_PORT,
    GATEWAY_PORT,
    METRICS_PORT,
    NAMESPACE,
    OUTBOUND_PORT,
    RAFT_PORT,
    SERVICE_ACCOUNT,
    SERVICE_PORT,
    AgentPlan,
    ClusterPlan,
)

_PROBE_INTERVAL = "500ms"
_HEAD = "apiVersion: federation.isthmus.dev/v1alpha1"


def controller_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The controller's configuration file."""
    ports = {"raft": RAFT_PORT, "control": CONTROL_PORT, "api": API_PORT, "metrics": METRICS_PORT}
    listen = "".join(f'{name} = "{cluster.controller}:{port}"\n' for name, port in ports.items())
    return (
        f'id = "c1"\ndata_dir = "{data_dir}"\n\n{cluster_section(cluster)}\n[listen]\n{listen}\n'
        f'[agents]\nlease = "10s"\n{_raft(cluster)}'
    )


def _raft(cluster: ClusterPlan) -> str:
    return f'\n[raft]\nround_trip = "{cluster.round_trip_ms}ms"\n' if cluster.round_trip_ms else ""


def cluster_section(cluster: ClusterPlan) -> str:
    """The `[cluster]` section: all that a remote cluster's join needs."""
    home = f'home = "{cluster.home}"\n' if cluster.home else ""
    domain = "" if cluster.home else f'trust_domain = "{cluster.trust_domain}"\n'
    return (
        f'[cluster]\nname = "{cluster.name}"\nrole = "{cluster.role}"\nregion = "{cluster.region}"\n'
        f'{domain}{home}ranges = ["{cluster.cidr}"]\n'
    )


def agent_config(agent: AgentPlan, data_dir: Path) -> str:
    """The agent's configuration file."""
    return (
        f'id = "{agent.name}"\ndata_dir = "{data_dir}"\naddress = "{agent.address}"\n'
        f'outbound = "{agent.address}:{OUTBOUND_PORT}"\ndrain = "1s"\n{_served(agent)}{_captured(agent)}'
    )


def _served(agent: AgentPlan) -> str:
    if agent.group:
        return f'\n[group]\napp = "{agent.address}:{agent.workloads[0].port}"\n'
    return "".join(
        f'\n[[workload]]\nservice = "{workload.service}"\nport = {SERVICE_PORT}\n'
        f'app = "{agent.address}:{workload.port}"\n'
        f'[workload.probe]\nkind = "http"\ninterval = "{_PROBE_INTERVAL}"\n'
        for workload in agent.workloads
    )


def _captured(agent: AgentPlan) -> str:
    return f'\n[capture]\nenabled = true\nusers = ["{agent.user}"]\n' if agent.user else ""


def gateway_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The gateway's configuration file."""
    return f'id = "gw1"\ndata_dir = "{data_dir}"\nlisten = "{cluster.gateway}:{GATEWAY_PORT}"\ndrain = "1s"\n'


def dns_config(cluster: ClusterPlan, data_dir: Path) -> str:
    """The DNS process's configuration file."""
    return f'id = "dns1"\ndata_dir = "{data_dir}"\nlisten = ["{cluster.dns}:{cluster.dns_port}"]\n'


def manifests(cluster: ClusterPlan, trust_domains: tuple[str, ...]) -> str:
    """What a cluster exports, and to whom it grants it: all of the shop to the whole federation. And its groups."""
    sources = "".join(f"\n  - trustDomains: [{domain}]" for domain in trust_domains)
    policies = (
        f'{_HEAD}\nkind: ExportPolicy\n{_metadata("shop", cluster)}\nspec: {{services: ["*"]}}\n',
        f'{_HEAD}\nkind: Grant\n{_metadata("shop", cluster)}\nspec:\n  services: ["*"]\n  sources:{sources}\n',
    )
    return "---\n".join((*policies, *(_group(cluster, service) for service in cluster.groups)))


def _group(cluster: ClusterPlan, service: str) -> str:
    return (
        f"{_HEAD}\nkind: WorkloadGroup\n{_metadata(service, cluster)}\nspec:\n"
        f"  serviceAccount: {SERVICE_ACCOUNT}\n  service: {service}\n"
        f"  ports: [{{name: http, port: {SERVICE_PORT}}}]\n"
        f"  probe: {{kind: http, path: /, interval: {_PROBE_INTERVAL}}}\n"
    )


def _metadata(name: str, cluster: ClusterPlan) -> str:
    return f"metadata: {{name: {name}, namespace: {NAMESPACE}, cluster: {cluster.name}}}"
