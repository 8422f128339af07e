"""What has to be true before anything is broken: calls do cross clusters, through gateways, and callees know callers."""

from itertools import pairwise

import msgspec

from chaos.lab import topology
from chaos.lab.federation import Lab
from chaos.load.dns_watch import Check
from chaos.shop.app import CHAIN_PATH, Chain, Hop


def prove_paths(lab: Lab) -> list[Check]:
    """A purchase from every cluster: each hop saw who called, each crossing is in the counters of a gateway."""
    return [_prove(lab, caller.name) for caller in lab.serving()]


def _prove(lab: Lab, caller: str) -> Check:
    status, answer = lab.call(caller, topology.SERVICES[0], path=CHAIN_PATH)
    hops = msgspec.convert(answer, Chain).hops if status == 200 else ()
    crossed = [(hop.cluster, hop.service) for before, hop in pairwise(hops) if hop.cluster != before.cluster]
    connections = {place: lab.gateway_connections(*place) for place in crossed}
    detail = " > ".join(f"{hop.service} {hop.cluster}/{hop.instance}" for hop in hops)
    counted = ", ".join(f"{cluster} for {service} {n}" for (cluster, service), n in connections.items())
    return Check(
        name=f"purchase from {caller}",
        passed=tuple(hop.service for hop in hops) == topology.SERVICES
        and hops[0].cluster == caller
        and not _strangers(lab, caller, hops)
        # A connection is kept for later calls, so only that there is one is certain.
        and bool(crossed)
        and all(connections.values()),
        detail=f"status {status}: {detail}; connections through gateways: {counted}"
        + "".join(f"; {stranger}" for stranger in _strangers(lab, caller, hops)),
    )


def _strangers(lab: Lab, caller: str, hops: tuple[Hop, ...]) -> list[str]:
    """Hops that were not told the identity of the workload that called them."""
    found = []
    for before, hop in zip((caller, *(hop.cluster for hop in hops)), hops, strict=False):
        domain = lab.clusters[before].trust_domain
        identity = f"spiffe://{domain}/ns/{topology.NAMESPACE}/sa/{topology.SERVICE_ACCOUNT}"
        if f"URI={identity}" not in hop.caller:
            found.append(f"{hop.service} was called by {hop.caller!r}, expected {identity}")
    return found
