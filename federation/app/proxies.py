"""The proxies that are connected to this controller: who they may be, and what `isthmus proxy status` says of them."""

from certs.core.spiffe import SpiffeId, system_identity
from discovery.core.tables import Tables
from federation.kernel.errors import NotAllowedError
from gateways.runtime.xds_service import XdsService


def describe_proxies(xds: XdsService) -> list[dict[str, object]]:
    """Return one entry for each connected proxy."""
    return [
        {
            "proxy": proxy.id,
            "cluster": proxy.cluster,
            "peer": proxy.peer,
            "version": proxy.user_agent,
            "kinds": [
                {
                    "kind": kind.type_url.rpartition(".")[2],
                    "state": kind.status,
                    "resources": kind.sent,
                    "error": kind.error,
                    "quarantined": kind.quarantined,
                }
                for kind in proxy.types
            ],
        }
        for proxy in xds.status()
    ]


def proxy_peer(peer: SpiffeId, tables: Tables) -> str:
    """Return who asks for configuration; raises NotAllowedError for a trust domain that is none of its cluster's.

    Which proxy it may speak for follows from the rest of its identity (`gateways.core.proxy.check_peer`).
    """
    system = system_identity(peer)
    spec = None if system is None else tables.cluster(system.cluster)
    if spec is None or peer.trust_domain not in spec.trust_domains:
        raise NotAllowedError(
            f"{peer} is not of a cluster that has joined, or of another trust domain than that"
        )
    return str(peer)
