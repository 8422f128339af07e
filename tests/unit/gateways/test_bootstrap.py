"""What an Envoy is told at its start."""

import json
from pathlib import Path

import msgspec
import pytest

from federation.kernel.errors import InvalidInputError
from gateways.core.proxy import decode_proxy
from gateways.runtime.bootstrap import EnvoySettings, bootstrap
from tests.unit.gateways.builders import sidecar, workload

SETTINGS = EnvoySettings(
    proxy=sidecar(workloads=[workload()]),
    folder=Path("/var/lib/isthmus/envoy"),
    xds_socket=Path("/var/lib/isthmus/xds.sock"),
    region="r1",
    zone="a",
)


def test_it_says_who_it_is_and_asks_its_agent_for_everything_else():
    document = json.loads(bootstrap(SETTINGS))
    assert document["node"]["locality"] == {"region": "r1", "zone": "a"}
    assert decode_proxy(document["node"]["metadata"]["isthmus"], node_id="s1") == SETTINGS.proxy
    assert document["admin"]["address"]["pipe"] == {
        "path": "/var/lib/isthmus/envoy/admin.sock",
        "mode": 0o600,
    }
    (cluster,) = document["static_resources"]["clusters"]
    (place,) = cluster["load_assignment"]["endpoints"]
    assert place["lb_endpoints"][0]["endpoint"]["address"]["pipe"]["path"] == "/var/lib/isthmus/xds.sock"
    assert "listeners" not in document["static_resources"]


def test_equal_settings_give_equal_bytes():
    assert bootstrap(SETTINGS) == bootstrap(msgspec.structs.replace(SETTINGS))


def test_a_path_too_long_for_a_socket_is_named():
    settings = msgspec.structs.replace(SETTINGS, folder=Path("/" + "x" * 120))
    with pytest.raises(InvalidInputError, match="has 132 bytes, a unix socket's path at most 107"):
        bootstrap(settings)
