"""A release of an application that is bad: it runs, it is ready, and it fails at some of what it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager

from chaos.lab.federation import Lab
from chaos.lab.topology import AgentPlan, ClusterPlan, Workload


@contextmanager
def bad_release(lab: Lab, cluster: str, service: str, *, path: str) -> Iterator[None]:
    """Replace every instance of `service` in a cluster by one that answers 500 to `path`; on exit the good ones start.

    Neither is waited for: `Lab.wait_recovered` is.
    """
    plan = lab.clusters[cluster]
    replaced = {f"{cluster}/{one.app}": (agent, one) for agent, one in _instances(plan, service)}
    good = {name: lab.processes[name] for name in replaced}
    try:
        for name, (agent, workload) in replaced.items():
            good[name].kill()
            command = [*lab.app_command(plan, agent, workload), f"--broken={path}"]
            lab.run(name, cluster, command, user=agent.user)
        yield
    finally:
        for name, process in good.items():
            lab.processes[name].kill()
            lab.processes[name] = process
            if not process.running():
                process.start()


def _instances(cluster: ClusterPlan, service: str) -> Iterator[tuple[AgentPlan, Workload]]:
    for agent in cluster.agents:
        for workload in agent.workloads:
            if workload.service == service:
                yield agent, workload
