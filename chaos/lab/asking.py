"""Questions to the processes of a laboratory over plain HTTP: a service through a sidecar, a controller how it is."""

import http.client
from typing import Any

import msgspec
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from chaos.lab import topology

CALL_TIMEOUT_S = 2.0
_CONTROLLER_TIMEOUT_S = 1.0  # A controller that was stopped (SIGSTOP) accepts connections and never answers.
_BODY_BYTES_MAX = 4 * 1024 * 1024


class ControllerFacts(Struct, frozen=True, kw_only=True):
    """What a controller says of itself; all empty while it does not answer."""

    answers: bool = False
    ready: bool = False
    leader: str = ""  # The cluster of the leader that it knows.
    revision: int = 0
    applied_index: int = 0
    agents: dict[tuple[str, str], int] = {}  # Agents and gateways, by cluster and phase.


class _Readiness(Struct):
    ready: bool
    revision: int
    leader: str | None


def call(
    address: str, service: str, *, path: str = "/", timeout_s: float = CALL_TIMEOUT_S
) -> tuple[int, dict[str, Any]]:
    """Call a service through the sidecar at `address`; status 0 when it cannot be reached."""
    status, body = _get(
        address,
        topology.OUTBOUND_PORT,
        path,
        headers={"Host": topology.service_host(service)},
        timeout_s=timeout_s,
    )
    try:
        return status, msgspec.json.decode(body, type=dict[str, Any]) if status == 200 else {}
    except msgspec.DecodeError:
        return 0, {}


def ready(host: str) -> bool:
    """True when the controller at `host` says that it is ready."""
    return _get(host, topology.METRICS_PORT, "/readyz", timeout_s=CALL_TIMEOUT_S)[0] == 200


def controller_facts(host: str) -> ControllerFacts:
    """Return what the controller at `host` says of itself."""
    status, body = _get(host, topology.METRICS_PORT, "/readyz", timeout_s=_CONTROLLER_TIMEOUT_S)
    if not status:
        return ControllerFacts()
    status, metrics = _get(host, topology.METRICS_PORT, "/metrics", timeout_s=_CONTROLLER_TIMEOUT_S)
    if status != 200:
        return ControllerFacts()
    said = msgspec.json.decode(body, type=_Readiness)
    samples = [
        sample
        for family in text_string_to_metric_families(metrics.decode())
        for sample in family.samples
        if sample.name in ("isthmus_raft_applied_index", "isthmus_agents")
    ]
    return ControllerFacts(
        answers=True,
        ready=said.ready,
        leader=said.leader or "",
        revision=said.revision,
        applied_index=next((int(one.value) for one in samples if not one.labels), 0),
        agents={
            (one.labels["cluster"], one.labels["phase"]): int(one.value) for one in samples if one.labels
        },
    )


def _get(
    host: str, port: int, path: str, *, timeout_s: float, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Return status and body of a GET; status 0 when nobody answers in time."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read(_BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
