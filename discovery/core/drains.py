"""Draining a cluster: its traffic is handed over in steps, and given back when nobody is there to take it.

    (no Drain) --start--> share 100 --step--> 75 --step--> ... --step--> 0: drained, the last resort
                              ^                  |
                              +---- roll back ---+    the share is whole again, the reason is kept

Pure: callers supply federation time. Which services others can take over is for the callers to find out, who see
them (federation/app/draining.py); here is what the rows alone tell.
"""

from collections.abc import Mapping

import msgspec

from discovery.core.specs import (
    DRAIN_ERRORS_PER_MILLION_MAX,
    DRAIN_TEXT_CHARS_MAX,
    ClusterSpec,
    DrainSpec,
)
from federation.kernel.errors import PreconditionError


def start(
    *,
    step_percent: int,
    every_ms: int,
    forced: bool,
    started_by: str,
    now_ms: int,
    errors_per_million_max: int = DRAIN_ERRORS_PER_MILLION_MAX,
    capacity_percent_min: int = 0,
    after_ms: int = -1,
) -> DrainSpec:
    """Return a drain that begins now: the first step is due at once.

    `after_ms` is when the last one began: what was said of that must not be taken for this one, if no time has passed.
    """
    return DrainSpec(
        share_percent=100,
        step_percent=step_percent,
        every_ms=every_ms,
        started_ms=max(now_ms, after_ms + 1),
        stepped_ms=now_ms - every_ms,
        started_by=started_by,
        forced=forced,
        errors_per_million_max=errors_per_million_max,
        capacity_percent_min=capacity_percent_min,
    )


def is_under_way(drain: DrainSpec) -> bool:
    """True while steps are to come."""
    return drain.share_percent > 0 and not drain.rolled_back


def is_lost(drain: DrainSpec) -> bool:
    """True when others must not count on the cluster: it hands its traffic over, or has done so."""
    return not drain.rolled_back


def state_of(drain: DrainSpec) -> str:
    """How it is, in a word or two."""
    if drain.rolled_back:
        return "rolled back"
    return "draining" if drain.share_percent else "drained"


def step(drain: DrainSpec, *, now_ms: int) -> DrainSpec:
    """Return the drain after the step that is due, or the same one when none is."""
    if not is_under_way(drain) or now_ms < drain.stepped_ms + drain.every_ms:
        return drain
    share = max(0, drain.share_percent - drain.step_percent)
    return msgspec.structs.replace(drain, share_percent=share, stepped_ms=now_ms)


def roll_back(drain: DrainSpec, reason: str, *, now_ms: int) -> DrainSpec:
    """Return the drain given up: the cluster has its whole share again."""
    reason = reason[:DRAIN_TEXT_CHARS_MAX]
    return msgspec.structs.replace(drain, share_percent=100, stepped_ms=now_ms, rolled_back=reason)


def counted_out(cluster: str, drains: Mapping[str, DrainSpec]) -> frozenset[str]:
    """The other clusters that a drain of `cluster` must not count on to take its traffic over.

    Those that are drained, and those whose drain began before its own. So of two drains that began together and leave a
    service to nobody, only the later one is in the way: it is rolled back, and the other goes on.
    """
    mine = drains.get(cluster)
    return frozenset(
        other
        for other, drain in drains.items()
        if other != cluster
        and is_lost(drain)
        and (
            mine is None or drain.share_percent == 0 or (drain.started_ms, other) < (mine.started_ms, cluster)
        )
    )


def check_drain(
    cluster: str, spec: DrainSpec, clusters: Mapping[str, ClusterSpec], drains: Mapping[str, DrainSpec]
) -> None:
    """Raise PreconditionError unless a drain of `cluster` may begin, as far as rows tell."""
    own = clusters.get(cluster)
    if own is None:
        raise PreconditionError(f"cluster {cluster} has not joined the federation")
    if own.role == "witness":
        raise PreconditionError(f"cluster {cluster} is a witness: it has no traffic to hand over")
    if spec.forced:
        return
    left = [
        name
        for name, other in clusters.items()
        if name != cluster and other.role != "witness" and not (name in drains and is_lost(drains[name]))
    ]
    if not left:
        raise PreconditionError(
            f"cluster {cluster} is the last one that is not drained: isthmus cluster undrain another one first"
        )
