"""Whether the others could serve what a cluster serves: asked before it is drained, and while it is."""

import asyncio
from collections.abc import Collection

from discovery.core.drains import counted_out
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from federation.api.directory import resources
from federation.api.lifecycle import drains
from federation.api.understanding import SERVICES_PER_SLICE, ServedViews
from federation.kernel.errors import LimitExceededError, UnavailableError
from gateways.core.handover import Orphan, orphans

# For one check, over all callers: some seconds of work, in slices.
SERVICES_CHECKED_MAX = 100_000
# Enough to see what is wrong; the others are counted.
ORPHANS_NAMED_MAX = 10


async def find_orphans(
    tables: Tables, views: ServedViews, cluster: str, *, percent_min: int = 0
) -> list[Orphan]:
    """Return what nobody but `cluster` serves now, sorted; the dead, and those that are drained or before it, do not count.

    Also that of which others have less than `percent_min` of the weight that is ready now.

    Raises UnavailableError while a view is not ready, LimitExceededError for more services than can be looked at.
    """
    gone = counted_out(cluster, drains(tables))
    callers = [
        row.key.name
        for row, spec in resources(tables, "Cluster")
        if isinstance(spec, ClusterSpec) and spec.role != "witness"
    ]
    found: list[Orphan] = []
    looked_at = 0
    for caller in callers:
        served = views.served(caller)
        if served is None or caller not in served.view.policies.clusters:
            raise UnavailableError(f"this controller's view of cluster {caller} is not ready yet: ask again")
        dead = frozenset(served.view.policies.dead) - {caller}
        for key in sorted(served.view.owned_by(cluster)):
            looked_at += 1
            if looked_at > SERVICES_CHECKED_MAX:
                raise LimitExceededError(
                    f"cluster {cluster} has more than {SERVICES_CHECKED_MAX} services and callers of them:"
                    " too many to check that others can serve them"
                )
            service = served.view.service(key)  # None: it went while others ran.
            found += (
                ()
                if service is None
                else orphans(service, caller, cluster, gone | dead, percent_min=percent_min)
            )
            if looked_at % SERVICES_PER_SLICE == 0:
                await asyncio.sleep(0)
    return sorted(found)


def name_orphans(found: Collection[Orphan]) -> str:
    """Name some of them, for people."""
    named = ", ".join(str(one) for one in list(found)[:ORPHANS_NAMED_MAX])
    more = len(found) - ORPHANS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named
