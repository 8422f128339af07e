"""Killing one process of a laboratory and waiting for its successor, by facts of the successor itself.

While no controller lives: each must come back from its own disk (invariant F1).
"""

import os
import signal
from functools import partial

from chaos.lab import envoys
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError, parent_of, wait_until
from chaos.load.dns_watch import WATCHED_SERVICE, Check, DnsWatch, ask_dns
from chaos.scenarios.stage import Stage

TIMEOUT_S = 60.0
_DNS_RETRY_S = 0.2  # A question that came too early gets no answer at all.

_ADOPTED = "envoy of an earlier agent taken over"
_FROM_COPY = "started from the stored copy"


def start_cluster(lab: Lab, name: str) -> None:
    """Start a dead cluster's processes in the order in which they need each other, and wait for each.

    One after the other, since they share this machine's few cores with the load that they must not disturb.
    """
    cluster = lab.clusters[name]
    if cluster.controller:
        lab.processes[f"{name}/controller"].start()
        lab.wait_controller(cluster)
    for process in lab.of_cluster(name):
        if process.running() or process.name in lab.resting:
            continue
        process.start()
        part = process.name.removeprefix(f"{name}/")
        if part == "dns":
            wait_until(partial(_resolves, lab, name), f"dns answers again in {name}", TIMEOUT_S)
        elif part == "gateway" or part in {agent.name for agent in cluster.agents}:
            data_dir = lab.data_dir(name, part)
            wait_until(partial(envoys.envoy_pid, data_dir), f"the Envoy of {process.name} serves", TIMEOUT_S)


class ColdRestarts:
    """Kills and restarts under load; each event says how many controllers live, and none may."""

    def __init__(self, lab: Lab, stage: Stage) -> None:
        self._lab = lab
        self._stage = stage

    def agent(self, cluster: str, name: str) -> Check:
        """Kill the agent alone: its Envoy goes on, and the new agent takes it over."""
        agent, data_dir = self._lab.processes[f"{cluster}/{name}"], self._lab.data_dir(cluster, name)
        envoy = _envoy_of(self._lab, cluster, name)
        logged_bytes = agent.log_bytes()
        self.event(f"kill -9 of agent {name}, not of its Envoy (pid {envoy}); starting it again")
        agent.kill_alone()
        agent.start()
        wait_until(
            lambda: envoys.xds_pid(data_dir) == agent.pid, f"the new agent {name} serves its Envoy", TIMEOUT_S
        )
        wait_until(
            lambda: agent.logged(_ADOPTED, since_bytes=logged_bytes),
            f"the new agent {name} takes its Envoy over",
            TIMEOUT_S,
        )
        wait_until(
            lambda: envoys.follows_agent(data_dir), f"the Envoy of {name} follows the new agent", TIMEOUT_S
        )
        now = envoys.envoy_pid(data_dir)
        self.event(f"agent {name} is back, its Envoy has pid {now}")
        return Check(
            name="agent restarted without controllers",
            passed=now == envoy,
            detail=f"its Envoy had pid {envoy}, has pid {now}",
        )

    def sidecar(self, cluster: str, name: str, service: str) -> Check:
        """Kill the Envoy alone: its agent starts another one, from its own disk, which carries calls to `service`."""
        agent, data_dir = self._lab.processes[f"{cluster}/{name}"], self._lab.data_dir(cluster, name)
        envoy = _envoy_of(self._lab, cluster, name)
        self.event(f"kill -9 of the sidecar Envoy of {name} (pid {envoy})")
        os.kill(envoy, signal.SIGKILL)
        wait_until(
            lambda: envoys.envoy_pid(data_dir) not in (0, envoy),
            f"the agent {name} starts its Envoy again",
            TIMEOUT_S,
        )
        address = next(one.address for one in self._lab.clusters[cluster].agents if one.name == name)
        wait_until(
            lambda: self._lab.call(cluster, service, address=address)[0] == 200,
            f"the new Envoy of {name} carries calls",
            TIMEOUT_S,
        )
        now = envoys.envoy_pid(data_dir)
        self.event(f"the sidecar of {name} is back with pid {now}")
        return Check(
            name="sidecar restarted without controllers",
            passed=now != envoy and parent_of(now) == agent.pid,
            detail=f"pid {envoy}, now {now}, a child of agent {agent.pid}",
        )

    def gateway(self, cluster: str, service: str, *, caller: str) -> Check:
        """Kill a gateway and its Envoy; `caller` prefers that cluster's `service`, and reaches it by no other way."""
        gateway, data_dir = self._lab.processes[f"{cluster}/gateway"], self._lab.data_dir(cluster, "gateway")
        self.event(f"kill -9 of the gateway of {cluster} with its Envoy; starting it again")
        gateway.kill()
        gateway.start()
        wait_until(
            lambda: parent_of(envoys.envoy_pid(data_dir)) == gateway.pid,
            f"the new gateway of {cluster} runs its Envoy",
            TIMEOUT_S,
        )
        wait_until(
            lambda: self._lab.call(caller, service)[1].get("cluster") == cluster,
            f"{service} of {cluster} is reached from {caller} through its new gateway",
            TIMEOUT_S,
        )
        connections = self._lab.gateway_connections(cluster, service)
        self.event(f"the gateway of {cluster} is back")
        return Check(
            name="gateway restarted without controllers",
            passed=connections > 0,
            detail=f"{connections} connections for {service} through the new one",
        )

    def dns(self, cluster: str, watch: DnsWatch) -> Check:
        """Kill a DNS process: the new one answers from its copy on disk."""
        process = self._lab.processes[f"{cluster}/dns"]
        logged_bytes = process.log_bytes()
        with watch.without(cluster):
            self.event(f"kill -9 of the dns process of {cluster}; starting it again")
            process.kill()
            process.start()
            wait_until(partial(_resolves, self._lab, cluster), f"dns answers again in {cluster}", TIMEOUT_S)
            self.event(f"the dns process of {cluster} answers again")
        return Check(
            name="dns restarted without controllers",
            passed=process.running() and process.logged(_FROM_COPY, since_bytes=logged_bytes),
            detail="answers from its copy on disk",
        )

    def event(self, text: str) -> None:
        """Note what is done or seen now; raises LabError when a controller lives."""
        living = [controller.name for controller in self._lab.controllers() if controller.running()]
        if living:
            raise LabError(f"{', '.join(living)} lives, expected no controller while: {text}")
        self._stage.event(f"{text} (no controller lives)")


def _resolves(lab: Lab, cluster: str) -> bool:
    return not ask_dns(lab, cluster, WATCHED_SERVICE, timeout_s=_DNS_RETRY_S)


def _envoy_of(lab: Lab, cluster: str, name: str) -> int:
    """Return the pid of the serving Envoy of an agent; raises LabError when there is none."""
    pid = envoys.envoy_pid(lab.data_dir(cluster, name))
    if not pid:
        raise LabError(f"{cluster}/{name} has no serving Envoy, expected one before the kill")
    return pid
