"""When is a laboratory whole? Every scenario begins then, so that no fault of one is counted in the next.

Asked of the processes themselves: controllers by HTTP, their catalog by the operator's API, Envoys by their sockets.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from chaos.lab.asking import ControllerFacts, controller_facts
from chaos.lab.envoys import envoy_stats
from chaos.lab.processes import LabError
from chaos.lab.topology import NAMESPACE
from federation.cli.session import Session
from federation.kernel.errors import IsthmusError

if TYPE_CHECKING:
    from chaos.lab.federation import Lab

# A member is behind by the entries that are on their way to it: ticks alone are one a second.
APPLIED_BEHIND_MAX = 5
_SHOWN_MAX = 3


def facts_of(lab: "Lab") -> dict[str, ControllerFacts]:
    """Return what each controller that runs says of itself, by cluster."""
    found = {}
    for cluster in lab.clusters.values():
        if cluster.controller and lab.processes[f"{cluster.name}/controller"].running():
            with lab.place.inside(cluster.name):
                found[cluster.name] = controller_facts(cluster.controller)
    return found


def leader_of(facts: dict[str, ControllerFacts]) -> str:
    """Return the leader that a majority of the controllers which run names, "" if there is none."""
    named = Counter(one.leader for one in facts.values() if one.leader)
    leader, votes = max(named.items(), key=lambda item: item[1], default=("", 0))
    return leader if 2 * votes > len(facts) else ""


def missing(lab: "Lab") -> str:
    """Say what is not yet as it was in the beginning; an empty text when everything is."""
    steps: tuple[Callable[[Lab], Iterator[str]], ...] = (_ended, _apart, _unregistered, thought_dead)
    for step in steps:  # The later ones cost more, and make no sense before.
        if found := list(step(lab)):
            return "; ".join(found[:_SHOWN_MAX])
    return ""


def _ended(lab: "Lab") -> Iterator[str]:
    for cluster in lab.clusters:
        for process in lab.of_cluster(cluster):
            if process.name not in lab.resting and not process.running():
                yield f"{process.name} does not run"


def _apart(lab: "Lab") -> Iterator[str]:
    """What keeps the controllers from being one: leader, log, agents."""
    facts = facts_of(lab)
    yield from (f"the controller of {name} is not ready" for name, one in facts.items() if not one.ready)
    if len({one.leader for one in facts.values()}) != 1 or not leader_of(facts):
        yield f"leaders named: { {name: one.leader for name, one in facts.items()} }"
    applied = [one.applied_index for one in facts.values()]
    if applied and max(applied) - min(applied) > APPLIED_BEHIND_MAX:
        yield f"applied: { {name: one.applied_index for name, one in facts.items()} }"
    for cluster in lab.serving():
        agents = facts.get(cluster.home or cluster.name, ControllerFacts()).agents
        live = agents.get((cluster.name, "live"), 0)
        expected = len(cluster.agents) + 1  # And the gateway.
        silent = sum(agents.get((cluster.name, phase), 0) for phase in ("unheard", "lost"))
        if live < expected or silent:
            yield f"cluster {cluster.name}: {live} agents are live and {silent} silent, expected {expected} and 0"


def _unregistered(lab: "Lab") -> Iterator[str]:
    """Instances that some controller does not hold as ready."""
    expected = {
        (cluster.name, workload.service, f"{workload.service}-{agent.name}")
        for cluster in lab.serving()
        for agent in cluster.agents
        for workload in agent.workloads
    }
    for cluster in lab.clusters.values():
        if cluster.controller:
            absent = expected - _ready_endpoints(lab, cluster.name)
            yield from (
                f"{name} is not ready in the catalog of {cluster.name}" for _, _, name in sorted(absent)
            )


def _ready_endpoints(lab: "Lab", cluster: str) -> set[tuple[str, str, str]]:
    session = Session(str(lab.data_dir(cluster, "controller") / "operator"))
    try:
        with lab.place.inside(cluster):
            rows = session.get(f"/v1/endpoints?namespace={NAMESPACE}")
    except (IsthmusError, OSError):
        return set()
    return {(row["cluster"], row["service"], row["name"]) for row in rows if row["ready"]}


def thought_dead(lab: "Lab") -> Iterator[str]:
    """Sidecars that find an endpoint or gateway dead: a recovered one is used as before only when none does."""
    for cluster in lab.serving():
        for agent in cluster.agents:
            try:
                stats = envoy_stats(lab.data_dir(cluster.name, agent.name), ".membership_")
            except (OSError, LabError, json.JSONDecodeError) as error:
                yield f"the sidecar of {agent.name} does not answer: {error}"
                continue
            yield from (
                f"the sidecar of {agent.name} finds an endpoint of {name.split('.')[1]} dead"
                for name, total in stats.items()
                if name.startswith("cluster.outbound|")
                and name.endswith(".membership_total")
                and total > stats[f"{name.removesuffix('total')}healthy"]
            )
