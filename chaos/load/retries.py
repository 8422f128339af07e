"""How often the sidecars of a laboratory tried again, from the counters of their Envoys."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from chaos.lab.envoys import envoy_pid, envoy_stats
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError
from chaos.load.records import Retries

_COUNTER = ".upstream_rq_retry"  # Of the cluster that a route names: the parts of an aggregate count none.


class RetryCount(NamedTuple):
    """What one Envoy has retried since it started."""

    pid: int
    total: int


def retry_counts(lab: Lab) -> dict[str, RetryCount]:
    """Return the count of each sidecar, by CLUSTER/AGENT; not of those that do not answer."""
    found = {}
    for cluster in lab.serving():
        for agent in cluster.agents:
            data_dir = lab.data_dir(cluster.name, agent.name)
            with suppress(OSError, LabError, json.JSONDecodeError):
                stats = envoy_stats(data_dir, _COUNTER)
                total = sum(
                    value
                    for name, value in stats.items()
                    if name.startswith("cluster.outbound|") and name.endswith(_COUNTER)
                )
                found[f"{cluster.name}/{agent.name}"] = RetryCount(envoy_pid(data_dir), total)
    return found


def differences(before: Mapping[str, RetryCount], after: Mapping[str, RetryCount]) -> tuple[Retries, ...]:
    """Pair two countings; an Envoy that was not there at the first has begun at 0."""
    found = []
    for proxy, now in after.items():
        earlier = before.get(proxy)
        same = earlier is not None and earlier.pid == now.pid
        found.append(Retries(proxy=proxy, before=earlier.total if earlier and same else 0, after=now.total))
    return tuple(found)
