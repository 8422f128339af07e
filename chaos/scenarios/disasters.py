"""The demo's scenarios: what dies under load, and what has to hold meanwhile."""

import os
import signal
from collections.abc import Callable

from chaos.lab import envoys, topology
from chaos.lab.federation import Lab
from chaos.lab.processes import LabProcess, wait_until
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.restarts import ColdRestarts, start_cluster
from chaos.scenarios.stage import Stage

HOLD_S = 6.0  # Between a fault and the recovery: longer than every timeout and ejection on the way.
RECOVERY_TIMEOUT_S = 90.0

Say = Callable[[str], None]


def prove_paths(lab: Lab) -> list[Check]:
    """Every cluster calls every cluster's own service; gateways count; the callee sees who called."""
    checks = []
    for caller in lab.serving():
        for owner in lab.serving():
            before = lab.gateway_connections(owner.name, owner.name)
            status, answer = lab.call(caller.name, owner.name)
            after = lab.gateway_connections(owner.name, owner.name)
            identity = f"spiffe://{caller.trust_domain}/ns/{topology.NAMESPACE}/sa/shop"
            seen = str(answer.get("caller", ""))
            # A connection is kept for later calls, so the count may have grown while waiting for readiness.
            passed_gateway = after >= 1 if owner.name != caller.name else after == before
            good = (
                status == 200 and answer.get("cluster") == owner.name and identity in seen and passed_gateway
            )
            detail = (
                f"status {status}, answered by {answer.get('cluster')}, gateway connections {after}, {seen}"
            )
            checks.append(Check(name=f"{caller.name} calls {owner.name}", passed=good, detail=detail))
    return checks


def local_instances_die(lab: Lab, say: Say) -> tuple[Result, list[Check]]:
    """The only local instance of a service dies: its callers go on at another cluster's."""
    victim = lab.processes["delta/app-delta-1-stock"]
    with Stage(lab, "local-instances-die", ["alpha", "beta", "delta"], say) as stage:
        fault_s = stage.event("kill -9 of the application of stock in delta, the only one there")
        victim.kill()
        stage.hold(HOLD_S)
        restarted_s = stage.event("starting it again")
        victim.start()
        _wait_answered_by(lab, "delta", "stock", "delta")
        recovered_s = stage.event("stock is answered by delta again in delta")
        result = stage.finish(
            fault_s=fault_s,
            victims=["delta-1"],
            # The other services of delta-1 live on: only what stock's callers saw counts as its shift.
            services=["stock"],
            restarted_s=restarted_s,
            recovered_s=recovered_s,
        )
    return result, []


def cluster_dies(lab: Lab, say: Say) -> tuple[Result, list[Check]]:
    """A whole cluster dies by kill -9 and comes back; callers and DNS in the others go on."""
    survivors = ["beta", "delta"]
    processes = lab.of_cluster("alpha")
    with Stage(lab, "cluster-dies", survivors, say) as stage, DnsWatch(lab, survivors) as dns_watch:
        fault_s = stage.event(f"kill -9 of all of cluster alpha: {len(processes)} processes and their Envoys")
        for process in processes:
            _kill_group(process)
        for process in processes:
            process.kill()  # Waits until nothing of it is left.
        stage.hold(HOLD_S)
        restarted_s = stage.event("starting cluster alpha again")
        start_cluster(lab, "alpha")
        lab.wait_serving()
        stage.event("alpha serves again: every cluster reaches every service")
        lab.wait_healthy()
        recovered_s = stage.event("alpha is used as before: every sidecar finds every endpoint healthy")
        result = stage.finish(
            fault_s=fault_s, victims=["alpha-1"], restarted_s=restarted_s, recovered_s=recovered_s
        )
    return result, [dns_watch.check("dns of the others while alpha dies and returns")]


def control_plane_dies(lab: Lab, say: Say) -> tuple[Result, list[Check]]:
    """Every controller dies; then an agent, a sidecar, a gateway and a DNS process are killed and come back."""
    clusters = [cluster.name for cluster in lab.serving()]
    with Stage(lab, "control-plane-dies", clusters, say) as stage, DnsWatch(lab, clusters) as dns_watch:
        fault_s = stage.event(f"kill -9 of all {len(lab.controllers())} controllers")
        for controller in lab.controllers():
            controller.kill()
        restarts = ColdRestarts(lab, stage)
        restarted_s = stage.event("from now on no controller lives")
        checks = [
            restarts.agent("beta", "beta-2"),
            restarts.sidecar("beta", "beta-2"),
            restarts.gateway("beta", caller="alpha"),
            restarts.dns("delta", dns_watch),
        ]
        lab.wait_healthy()
        recovered_s = stage.event("all four are back and used as before, no controller lives")
        result = stage.finish(
            fault_s=fault_s, victims=["beta-2"], restarted_s=restarted_s, recovered_s=recovered_s
        )
    return result, [*checks, dns_watch.check("dns without controllers")]


def controllers_return(lab: Lab, say: Say) -> tuple[Result, list[Check]]:
    """With a service registered while no controller lived, the controllers return: it becomes callable."""
    beta = lab.clusters["beta"]
    late = topology.late_agent(beta, topology.LATE_SERVICE)
    clusters = [cluster.name for cluster in lab.serving()]
    with Stage(lab, "controllers-return", clusters, say) as stage, DnsWatch(lab, clusters) as dns_watch:
        fault_s = stage.event(
            f"starting a new service, {topology.LATE_SERVICE}, in beta: no controller lives"
        )
        start_late_agent(lab, beta.name, topology.LATE_SERVICE)
        stage.hold(HOLD_S)
        restarted_s = stage.event("starting the controllers again")
        for controller in lab.controllers():
            controller.start()
        wait_until(
            lambda: lab.call("delta", topology.LATE_SERVICE)[0] == 200,
            f"{topology.LATE_SERVICE} of beta answers in delta",
            RECOVERY_TIMEOUT_S,
        )
        recovered_s = stage.event(f"{topology.LATE_SERVICE} of beta answers in delta")
        status, answer = lab.call("delta", topology.LATE_SERVICE)
        result = stage.finish(fault_s=fault_s, restarted_s=restarted_s, recovered_s=recovered_s)
    called = Check(
        name="new service of beta called from delta",
        passed=status == 200 and answer.get("instance") == late.name,
        detail=f"{result.recovered_ms:.0f} ms after the controllers were started",
    )
    return result, [called, dns_watch.check("dns while controllers return")]


def prepare_late_agent(lab: Lab, cluster: str) -> None:
    """Enroll a cluster's late agent, with nothing to register yet, and stop it."""
    late = topology.late_agent(lab.clusters[cluster])
    lab.enroll_agent(lab.clusters[cluster], late)
    wait_until(
        lambda: envoys.envoy_pid(lab.data_dir(cluster, late.name)) != 0,
        f"agent {late.name} is enrolled and its Envoy serves",
        RECOVERY_TIMEOUT_S,
    )
    lab.processes[f"{cluster}/{late.name}"].terminate()


def start_late_agent(lab: Lab, cluster: str, service: str) -> None:
    """Start a cluster's late agent, which now has an instance of `service` to register."""
    late = topology.late_agent(lab.clusters[cluster], service)
    lab.start_apps(lab.clusters[cluster], late)
    lab.write_agent(lab.clusters[cluster], late)
    lab.processes[f"{cluster}/{late.name}"].start()


def _wait_answered_by(lab: Lab, caller: str, service: str, cluster: str) -> None:
    wait_until(
        lambda: lab.call(caller, service)[1].get("cluster") == cluster,
        f"{service} is answered by {cluster} again",
        RECOVERY_TIMEOUT_S,
    )


def _kill_group(process: LabProcess) -> None:
    """Send SIGKILL to the whole group without waiting, so that a cluster dies at one moment."""
    if process.running():
        os.killpg(process.pid, signal.SIGKILL)
