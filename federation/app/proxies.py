"""The proxies that are connected to this controller, for `isthmus proxy status`."""

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
