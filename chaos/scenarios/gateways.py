"""The gateway of a cluster dies: its services are used in other clusters until another gateway runs."""

from chaos.faults.processes import killed
from chaos.lab.federation import Lab, Say
from chaos.lab.processes import wait_until
from chaos.load.dns_watch import Check
from chaos.load.records import Result
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Stage

HOLD_S = 6.0
TIMEOUT_S = 60.0
# delta, in the region of alpha, calls catalogue there; without it gamma is the only other cluster that has it.
VICTIM, SERVICE, CALLER, REFUGE = "alpha", "catalogue", "delta", "gamma"


def gateway_kill(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Kill -9 of a gateway with its Envoy: callers elsewhere go on at another cluster's, and come back to the next."""
    lab.wait_recovered()
    callers = [cluster.name for cluster in lab.serving()]
    with Stage(
        lab, "gateway-kill", callers, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds
    ) as stage:
        before = lab.gateway_connections(REFUGE, SERVICE)
        fault_s = stage.event(f"kill -9 of the gateway of {VICTIM} and its Envoy")
        with killed(lab, [f"{VICTIM}/gateway"]):
            stage.hold(HOLD_S)
            moved = lab.gateway_connections(REFUGE, SERVICE) - before
            answered = lab.call(CALLER, SERVICE)[1].get("cluster", "nobody")
            restarted_s = stage.event("starting it again")
        lab.wait_recovered()
        wait_until(
            lambda: lab.gateway_connections(VICTIM, SERVICE) > 0,
            f"the new gateway of {VICTIM} carries calls of {SERVICE}",
            TIMEOUT_S,
        )
        recovered_s = stage.event(f"the new gateway of {VICTIM} carries calls of {SERVICE}")
        result = stage.finish(
            fault_s=fault_s,
            victims=lab.clusters[VICTIM].instances(SERVICE),
            restarted_s=restarted_s,
            recovered_s=recovered_s,
        )
    return result, [
        Check(
            name=f"calls of {SERVICE} move to the gateway of {REFUGE}",
            passed=moved > 0 and answered == REFUGE,
            detail=f"{moved} new connections through it; {CALLER} is answered by {answered}",
        )
    ]
