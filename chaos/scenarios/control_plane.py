"""Every controller dies. Meanwhile one process of each other kind is killed, and must come back from its own disk."""

from chaos.faults.processes import killed
from chaos.lab import topology
from chaos.lab.federation import Lab, Say
from chaos.lab.processes import wait_until
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.late_agent import prepare_late_agent, start_late_agent
from chaos.scenarios.restarts import ColdRestarts
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Stage

RECOVERY_TIMEOUT_S = 90.0
# Whose processes are restarted: catalogue has another instance in alpha, and a gateway of its own in gamma.
CLUSTER, AGENT, CALLER, SERVICE = "alpha", "alpha-2", "beta", "catalogue"
DNS_OF = "delta"
LATE_CLUSTER, LATE_CALLER = "beta", "delta"


def control_plane_dies(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Calls and DNS go on without controllers, through four restarts; a service registered meanwhile is callable later."""
    lab.wait_recovered()
    prepare_late_agent(lab, LATE_CLUSTER)
    clusters = [cluster.name for cluster in lab.serving()]
    controllers = [controller.name for controller in lab.controllers()]
    with (
        Stage(
            lab, "control-plane-dies", clusters, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds
        ) as stage,
        DnsWatch(lab, clusters) as watch,
    ):
        restarts = ColdRestarts(lab, stage)
        fault_s = stage.event(f"kill -9 of all {len(controllers)} controllers")
        with killed(lab, controllers):
            restarts.event(f"a new service, {topology.LATE_SERVICE}, starts in {LATE_CLUSTER}")
            start_late_agent(lab, LATE_CLUSTER, topology.LATE_SERVICE)
            checks = [
                restarts.agent(CLUSTER, AGENT),
                restarts.sidecar(CLUSTER, AGENT, SERVICE),
                restarts.gateway(CLUSTER, SERVICE, caller=CALLER),
                restarts.dns(DNS_OF, watch),
            ]
            lab.wait_healthy()
            restarts.event("all four are back and used as before")
            restarted_s = stage.event("starting the controllers again")
        wait_until(
            lambda: lab.call(LATE_CALLER, topology.LATE_SERVICE)[0] == 200,
            f"{topology.LATE_SERVICE} of {LATE_CLUSTER} answers in {LATE_CALLER}",
            RECOVERY_TIMEOUT_S,
        )
        recovered_s = stage.event(f"{topology.LATE_SERVICE} of {LATE_CLUSTER} answers in {LATE_CALLER}")
        instance = lab.call(LATE_CALLER, topology.LATE_SERVICE)[1].get("instance", "nobody")
        result = stage.finish(fault_s=fault_s, restarted_s=restarted_s, recovered_s=recovered_s)
    late = topology.late_agent(lab.clusters[LATE_CLUSTER])
    called = Check(
        name=f"new service of {LATE_CLUSTER} called from {LATE_CALLER}",
        passed=instance == late.name,
        detail=f"answered by {instance} {result.recovered_ms:.0f} ms after the controllers were started",
    )
    return result, [*checks, called, watch.check("dns without controllers")]
