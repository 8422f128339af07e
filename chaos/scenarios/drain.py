"""A cluster hands its traffic over, is switched off for maintenance, comes back and gets its traffic again."""

from collections import Counter

from chaos.faults.processes import killed
from chaos.lab.federation import Lab, Say
from chaos.lab.processes import LabError, wait_until
from chaos.load.dns_watch import Check, DnsWatch
from chaos.load.records import Result
from chaos.scenarios.restarts import start_cluster
from chaos.scenarios.stage import CHAIN_RATE_PER_S, Scenario, Stage

# Callers in beta and delta use catalogue in alpha; gamma is the only other cluster that has it.
VICTIM, SERVICE, CALLERS = "alpha", "catalogue", ("beta", "gamma", "delta")
ASKED = "beta"  # Whose operator drains it.
ONLY_ONE = ("delta", "shop/payments")  # Nobody else has it.
STEP_PERCENT, EVERY = "25", "1s"
OFF_S = 4.0  # Longer than what callers' checks and rests take.
CALLS = 20
TIMEOUT_S = 60.0


def drain(lab: Lab, say: Say, seconds: float) -> tuple[Result, list[Check]]:
    """Drain a cluster under load, kill -9 all of it, start it again and give it its traffic back."""
    lab.wait_recovered()
    checks = [_refused(lab)]
    with (
        Stage(lab, "drain", CALLERS, say, chain_rate_per_s=CHAIN_RATE_PER_S, seconds=seconds) as stage,
        DnsWatch(lab, list(CALLERS)) as watch,
    ):
        fault_s = stage.event(f"isthmus cluster drain {VICTIM} --step {STEP_PERCENT} --every {EVERY}")
        _isthmus(lab, "drain", VICTIM, "--step", STEP_PERCENT, "--every", EVERY)
        stage.event(f"{VICTIM} is drained: 0% of its traffic are left")
        checks.append(_calls_nobody(lab))
        stage.event(f"kill -9 of all of cluster {VICTIM}")
        with killed(lab, [process.name for process in lab.of_cluster(VICTIM)]):
            stage.hold(OFF_S)
            restarted_s = stage.event(f"starting cluster {VICTIM} again")
            start_cluster(lab, VICTIM)
        lab.wait_recovered()
        stage.event(f"isthmus cluster undrain {VICTIM}")
        _isthmus(lab, "undrain", VICTIM)
        wait_until(
            lambda: set(_answerers(lab, SERVICE, 1)) == {VICTIM},
            f"{SERVICE} is answered by {VICTIM} again",
            TIMEOUT_S,
        )
        recovered_s = stage.event(f"{SERVICE} is answered by {VICTIM} again")
        result = stage.finish(
            fault_s=fault_s,
            victims=[agent.name for agent in lab.clusters[VICTIM].agents],
            restarted_s=restarted_s,
            recovered_s=recovered_s,
        )
    return result, [*checks, watch.check(f"dns while {VICTIM} is drained and off")]


DRAIN = Scenario("drain", "A cluster is drained, switched off, and comes back", drain)


def _isthmus(lab: Lab, action: str, *arguments: str) -> None:
    """Let the operator of another cluster do it; raises LabError with what was answered."""
    lab.isthmus("cluster", action, *arguments, at=lab.clusters[ASKED])


def _refused(lab: Lab) -> Check:
    """A cluster that alone serves something is not drained."""
    cluster, service = ONLY_ONE
    status, _, problem = lab.ask_isthmus("cluster", "drain", cluster, at=lab.clusters[ASKED])
    if status == 0:
        lab.isthmus("cluster", "undrain", cluster, at=lab.clusters[ASKED])
    return Check(
        name=f"{cluster} is not drained: it alone serves {service}",
        passed=status == 1 and service in problem,
        detail=f"exit status {status}: {problem.strip()[:200]}",
    )


def _calls_nobody(lab: Lab) -> Check:
    """Nobody is answered by a drained cluster."""
    found = _answerers(lab, SERVICE, CALLS)
    return Check(
        name=f"nobody calls {VICTIM} once it is drained",
        passed=VICTIM not in found,
        detail=f"{SERVICE} was answered by {', '.join(f'{name} ({count})' for name, count in sorted(found.items()))}",
    )


def _answerers(lab: Lab, service: str, calls: int) -> Counter[str]:
    """Who answers callers that had used the cluster; raises LabError for no answer."""
    found: Counter[str] = Counter()
    for caller in CALLERS:
        if service in lab.clusters[caller].services:
            continue  # It has its own.
        for _ in range(calls):
            status, answer = lab.call(caller, service)
            if status != 200:
                raise LabError(f"{service} answered {caller} with {status}")
            found[str(answer["cluster"])] += 1
    return found
