"""An agent that is enrolled early and gets something to register when a fault is there: enrollment needs a quorum."""

from chaos.lab import envoys, topology
from chaos.lab.federation import Lab
from chaos.lab.processes import wait_until

_TIMEOUT_S = 90.0


def prepare_late_agent(lab: Lab, cluster: str) -> None:
    """Enroll a cluster's late agent, with nothing to register yet, and stop it; nothing if that was done before."""
    late = topology.late_agent(lab.clusters[cluster])
    name = f"{cluster}/{late.name}"
    if name in lab.processes:
        return
    lab.enroll_agent(lab.clusters[cluster], late)
    wait_until(
        lambda: envoys.envoy_pid(lab.data_dir(cluster, late.name)) != 0,
        f"agent {late.name} is enrolled and its Envoy serves",
        _TIMEOUT_S,
    )
    lab.processes[name].terminate()
    lab.resting.add(name)


def start_late_agent(lab: Lab, cluster: str, service: str) -> None:
    """Start a cluster's late agent, which now has an instance of `service` to register."""
    late = topology.late_agent(lab.clusters[cluster], service)
    name = f"{cluster}/{late.name}"
    lab.start_apps(lab.clusters[cluster], late)
    lab.write_agent(lab.clusters[cluster], late)
    lab.processes[name].start()
    lab.resting.discard(name)
