"""Who would be left alone if a cluster gave its traffic away: the check before a drain, and while it goes on.

Asked of the same functions that make load assignments, as `gateways.core.whatif` does.
"""

from collections.abc import Collection, Iterator

import msgspec

from discovery.core.view import Service
from gateways.core.whatif import ready_endpoints


class Orphan(msgspec.Struct, frozen=True, kw_only=True, order=True, rename="camel"):
    """One port of a service that callers of one cluster would have nobody else ready for."""

    service: str
    service_port: int
    caller: str

    def __str__(self) -> str:
        return f"{self.service}:{self.service_port} for callers in {self.caller}"


def orphans(service: Service, caller: str, leaving: str, gone: Collection[str]) -> Iterator[Orphan]:
    """Yield the ports at which `leaving` has something ready, and no other owner that `caller` sees has.

    Owners in `gone` do not count: they give their traffic away themselves. A port at which `leaving` has nothing ready
    loses nothing.
    """
    for port in service.ports:
        reached = {owner.part: ready_endpoints(owner, port) for owner in service.owners}
        others = (count for cluster, count in reached.items() if cluster != leaving and cluster not in gone)
        if reached.get(leaving) and not any(others):
            yield Orphan(service=str(service.key), service_port=port.service_port, caller=caller)
