"""What each kind of process holds in memory."""

import time

from bench.machine import Memory, memory_of
from bench.records import Figure, Measured, of_rounds
from bench.session import Session
from chaos.lab import envoys
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError

TITLE = "Memory of each kind of process"
SETTLE_S = 5.0  # After the start of everything.
METHOD = f"""
Read {SETTLE_S:g} s after everything serves, from `/proc/PID/smaps_rollup` of every process of the demo's federation, each process one round. RSS counts shared
pages wholly, PSS by their share: the sum of PSS is what the machine gives away. The catalog holds the
demo's endpoints only; a controller with 10,000 stands under "Controller start".
"""


def measure(session: Session) -> Measured:
    """Read them all."""
    lab = session.lab()
    time.sleep(SETTLE_S)
    figures: list[Figure] = []
    for kind, pids in _processes(lab).items():
        held = [memory_of(pid) for pid in pids]
        figures += figures_of(kind, held)
    return Measured(figures=tuple(figures))


def figures_of(kind: str, held: list[Memory]) -> list[Figure]:
    """Return the figures of one kind of process."""
    return [
        of_rounds(f"{kind}, RSS", [one.rss_mib for one in held], "MiB"),
        of_rounds(f"{kind}, PSS", [one.pss_mib for one in held], "MiB"),
    ]


def _processes(lab: Lab) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for cluster in lab.clusters.values():
        if cluster.controller:
            found.setdefault("controller", []).append(lab.processes[f"{cluster.name}/controller"].pid)
    for cluster in lab.serving():
        found.setdefault("dns", []).append(lab.processes[f"{cluster.name}/dns"].pid)
        for agent in cluster.agents:
            found.setdefault("agent", []).append(lab.processes[f"{cluster.name}/{agent.name}"].pid)
            found.setdefault("Envoy as sidecar", []).append(_envoy(lab, cluster.name, agent.name))
        found.setdefault("gateway process", []).append(lab.processes[f"{cluster.name}/gateway"].pid)
        found.setdefault("Envoy as gateway", []).append(_envoy(lab, cluster.name, "gateway"))
    return found


def _envoy(lab: Lab, cluster: str, name: str) -> int:
    pid = envoys.envoy_pid(lab.data_dir(cluster, name))
    if not pid:
        raise LabError(f"{cluster}/{name} has no serving Envoy")
    return pid
