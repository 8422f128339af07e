"""Who would be left alone, or with too little, if a cluster gave its traffic away: the check before a drain, and while it goes on.

Asked of the same functions that make load assignments, as `gateways.core.whatif` does.
"""

from collections.abc import Collection, Iterator

import msgspec

from discovery.core.model import EndpointPort
from discovery.core.view import Owner, Service
from gateways.core.endpoints import endpoint_targets
from gateways.core.whatif import ready_endpoints


class Orphan(msgspec.Struct, frozen=True, kw_only=True, order=True, rename="camel"):
    """One port of a service of which callers of one cluster would have nobody else ready, or too little."""

    service: str
    service_port: int
    caller: str
    weight_now: int  # Of what callers reach and is ready: the sum of its weights,
    weight_left: int = 0  # and without the cluster that leaves, and those that leave before it.

    def __str__(self) -> str:
        left = f", {self.weight_left} of {self.weight_now} left" if self.weight_left else ""
        return f"{self.service}:{self.service_port} for callers in {self.caller}{left}"


def orphans(
    service: Service, caller: str, leaving: str, gone: Collection[str], *, percent_min: int = 0
) -> Iterator[Orphan]:
    """Yield the ports at which `leaving` has something ready, and no other owner that `caller` sees has, or too little.

    Too little is less than `percent_min` of the weight that is ready now, that of `leaving` included. Owners in `gone` do
    not count: they give their traffic away themselves. A port at which `leaving` has nothing ready loses nothing.
    """
    for port in service.ports:
        reached = {owner.part: ready_weight(owner, port) for owner in service.owners}
        own = reached.get(leaving, 0)
        left = sum(
            weight for cluster, weight in reached.items() if cluster != leaving and cluster not in gone
        )
        if own and (not left or left * 100 < percent_min * (own + left)):
            yield Orphan(
                service=str(service.key),
                service_port=port.service_port,
                caller=caller,
                weight_now=own + left,
                weight_left=left,
            )


def ready_weight(owner: Owner, port: EndpointPort) -> int:
    """How much of an owner callers reach ready at a service's port: the sum of its endpoints' weights."""
    if not ready_endpoints(owner, port):
        return 0
    targets = endpoint_targets(owner.endpoints, port.service_port, port.protocol)
    return sum(target.weight for target in targets if target.ready)
