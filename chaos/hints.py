"""What to try with a federation that was left running: commands to copy, right for where its clusters live."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from chaos.lab import topology
from chaos.lab.federation import Lab
from chaos.lab.processes import family
from chaos.lab.topology import ClusterPlan


def what_to_try(lab: Lab) -> list[str]:
    """Return the lines to print."""
    serving = lab.serving()
    first = next(one for one in serving if one.controller)
    victim = next((one for one in reversed(serving) if one.controller), first)
    service = _most_spread(serving, victim)
    context = lab.data_dir(first.name, "controller") / "operator"
    commands = (
        ("status",),
        ("get", "endpoints"),
        ("resolve", f"{service}.{topology.NAMESPACE}", "--from", serving[-1].name),
        ("proxy", "status"),
    )
    lines = [
        "",
        f"Everything runs until Ctrl-C. In another terminal, as the operator of {first.name}:",
        "",
        f"  export ISTHMUS_CONTEXT={shlex.quote(str(context))}",
        *(f"  {_in(lab, first, [*_isthmus(), *arguments])}" for arguments in commands),
    ]
    lines += ["", "Ask the DNS process of each cluster, and call through a sidecar of it:", ""]
    lines += [f"  {line}" for cluster in serving for line in _questions(lab, cluster, service)]
    pids = " ".join(str(pid) for pid in family(lab.of_cluster(victim.name)))
    lines += [
        "",
        f"Kill all of cluster {victim.name} (nothing starts it again), then call again:",
        "",
        f"  kill -9 {pids}",
        "",
    ]
    return lines


def _most_spread(clusters: list[ClusterPlan], one: ClusterPlan) -> str:
    """Return the service of one cluster that most others have too: it outlives that cluster."""
    return max(one.services, key=lambda service: sum(service in each.services for each in clusters))


def _questions(lab: Lab, cluster: ClusterPlan, service: str) -> Iterator[str]:
    address = topology.plain_name(service)
    name = address.partition(":")[0]
    yield _in(lab, cluster, ["dig", f"@{cluster.dns}", "-p", str(cluster.dns_port), name])
    user = cluster.agents[0].user
    if user:  # Only what this user opens is captured by the agent.
        own = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        yield _in(lab, cluster, [*own, "curl", f"http://{address}/"])
    else:
        url = f"http://{cluster.agents[0].address}:{topology.OUTBOUND_PORT}/"
        yield _in(lab, cluster, ["curl", "-H", f"Host: {topology.service_host(service)}", url])


def _in(lab: Lab, cluster: ClusterPlan, command: list[str]) -> str:
    return shlex.join(lab.place.command(cluster.name, command))


def _isthmus() -> list[str]:
    """The command as it can be typed here: by its name if it is on PATH, else as it was started."""
    if shutil.which("isthmus"):
        return ["isthmus"]
    started = Path(sys.argv[0])
    return (
        [str(started.absolute())]
        if started.name == "isthmus"
        else [sys.executable, "-m", "federation.cli.main"]
    )
