"""Asks a controller over HTTP how it is."""

import http.client

from msgspec import Struct, json

from chaos.lab.topology import METRICS_PORT

_TIMEOUT_S = 5.0


class Readiness(Struct, frozen=True, kw_only=True):
    """What `/readyz` says."""

    ready: bool = False
    revision: int = 0
    leader: str = ""


class _Facts(Struct):
    revision: int
    leader: str | None


def readiness(host: str) -> Readiness:
    """Return what the controller at `host` says of itself; not ready while nobody answers there."""
    connection = http.client.HTTPConnection(host, METRICS_PORT, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        facts = json.decode(response.read(), type=_Facts)
    except (OSError, http.client.HTTPException):
        return Readiness()
    finally:
        connection.close()
    return Readiness(ready=response.status == 200, revision=facts.revision, leader=facts.leader or "")
