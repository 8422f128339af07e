"""Verdicts for people: as part of the status of each cluster, and as findings of the doctor."""

from collections.abc import Iterator, Mapping, Sequence

from discovery.core.specs import VerdictSpec
from discovery.core.tables import Tables
from discovery.core.verdicts import Verdict, read_verdicts
from federation.api.doctor import Finding, nothing_found, worst_first


def states(tables: Tables) -> Mapping[str, dict[str, object]]:
    """Return what the status of a cluster says of its verdict, by cluster; none for one that was always well."""
    return {name: _object(verdict) for name, verdict in read_verdicts(tables).items()}


ALWAYS_WELL: Mapping[str, object] = {
    "state": "ok",
    "stateSinceMs": None,
    "controlLostBy": (),
    "dataLostBy": (),
    "held": False,
    "history": (),
}


def _object(verdict: Verdict) -> dict[str, object]:
    return {
        "state": verdict.spec.state,
        "stateSinceMs": verdict.spec.since_ms,
        "controlLostBy": verdict.spec.control_lost_by,
        "dataLostBy": verdict.spec.data_lost_by,
        "held": verdict.status.held_lease_ms is not None,
        "history": verdict.status.changes,
    }


def examine_clusters(tables: Tables, others: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the doctor's other findings and those on clusters, worst first."""
    found = list(_findings(tables)) or [nothing_found("clusters")]
    return worst_first([*found, *others])


def _findings(tables: Tables) -> Iterator[Finding]:
    """Yield what is wrong with clusters by the federation's verdicts."""
    for name, verdict in sorted(read_verdicts(tables).items()):
        spec = verdict.spec
        if spec.state == "dead":
            yield Finding(
                check="clusters",
                level="problem",
                subject=name,
                message=f"cluster {name} is dead: {_evidence(spec)}",
                next_step=f"start its controllers and gateways: the verdict lifts by itself; what others see of its"
                f" services meanwhile, its LossPolicies say: isthmus cluster status {name}",
            )
        elif spec.state == "data-degraded":
            held = ", and died so often of late that the verdict dead is held back" * (
                verdict.status.held_lease_ms is not None
            )
            yield Finding(
                check="clusters",
                level="warning",
                subject=name,
                message=f"cluster {name} is data-degraded: {_evidence(spec)}{held}",
                next_step=f"look at the gateways of {name}, and open their port 15443 between clusters",
            )
        elif spec.state == "control-lost":
            yield Finding(
                check="clusters",
                level="warning",
                subject=name,
                message=f"cluster {name} is control-lost: {_evidence(spec)}",
                next_step=f"look at the controllers of {name}, and open their control port 7444 between clusters",
            )


def _evidence(spec: VerdictSpec) -> str:
    said = [
        f"{what} missed by {', '.join(by)}"
        for what, by in (("controllers", spec.control_lost_by), ("gateways", spec.data_lost_by))
        if by
    ]
    return "; ".join(said) or "its home is silent"
