"""Facts about the Envoys of a laboratory and their agents, asked over the Unix sockets of a data directory."""

import http.client
import json
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from chaos.lab.processes import LabError

_TIMEOUT_S = 5.0


class _AdminConnection(http.client.HTTPConnection):
    """HTTP over an Envoy's admin socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def admin_get(data_dir: Path, path: str) -> bytes:
    """Return what the Envoy of an agent or gateway answers on its admin socket; raises OSError, LabError."""
    connection = _AdminConnection(data_dir / "admin.sock")
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    except http.client.HTTPException as error:
        raise LabError(f"{data_dir}: the Envoy's admin socket answered nonsense: {error}") from error
    finally:
        connection.close()


def envoy_stats(data_dir: Path, contains: str) -> dict[str, int]:
    """Return the counters of the Envoy of an agent or gateway whose name contains `contains`."""
    pattern = quote(re.escape(contains))
    stats = json.loads(admin_get(data_dir, f"/stats?format=json&filter={pattern}"))["stats"]
    # Histograms have no value.
    return {one["name"]: one["value"] for one in stats if isinstance(one.get("value"), int)}


def assigned_share(data_dir: Path, cluster: str) -> int:
    """Return how much per cent of its traffic the newest load assignment of an Envoy's `cluster` lets it take.

    100 where nothing is held back, and where the Envoy has no assignment of it; raises OSError, LabError.
    """
    dump = json.loads(admin_get(data_dir, "/config_dump?include_eds&resource=dynamic_endpoint_configs"))
    for one in dump.get("configs", ()):
        assignment = one["endpoint_config"]
        if assignment["cluster_name"] == cluster:
            return min(100, int(assignment.get("policy", {}).get("overprovisioning_factor", 100)))
    return 100


def envoy_pid(data_dir: Path) -> int:
    """Return the process id of the Envoy that serves with the admin socket in `data_dir`, 0 when none does."""
    with suppress(OSError, json.JSONDecodeError, LabError):
        if json.loads(admin_get(data_dir, "/server_info")).get("state") == "LIVE":
            return _listener_pid(data_dir / "admin.sock")
    return 0


def xds_pid(data_dir: Path) -> int:
    """Return the process id of who listens on the xDS socket in `data_dir`, 0 when nobody does."""
    with suppress(OSError):
        return _listener_pid(data_dir / "xds.sock")
    return 0


def follows_agent(data_dir: Path) -> bool:
    """True while the Envoy of `data_dir` has its xDS stream to whoever listens on the xDS socket."""
    with suppress(OSError, json.JSONDecodeError, KeyError, LabError):
        return (
            envoy_stats(data_dir, "control_plane.connected_state").get("control_plane.connected_state") == 1
        )
    return False


def _listener_pid(path: Path) -> int:
    """Return the process that listens on a Unix socket (SO_PEERCRED: who called listen)."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT_S)
        probe.connect(str(path))
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid)
