"""One founded controller: its files, its process, and callers with any certificate one can think of."""

import asyncio
import http.client
import ssl
import sys
from pathlib import Path
from typing import Any

import msgspec

from certs.core.certificate import from_pem
from certs.runtime.authority import ROOT_FILE, RootAuthority
from certs.runtime.identity import LeafIdentity
from certs.runtime.keystore import SCRYPT_WORK_LOG2_MIN, export_root, import_root
from federation.app.config import ControllerConfig
from federation.app.context import ROOTS_FILE
from federation.app.credentials import AUTHORITY_DIRECTORY, PASSPHRASE_FILE
from federation.app.founding import found
from federation.kernel.configfile import decode_config
from tests.support.pki import TestDomain
from tests.support.processes import Process, ProcessSet
from tests.support.wait import NeverHappenedError, eventually

RAFT_PORT, CONTROL_PORT, API_PORT, METRICS_PORT = 7443, 7444, 7445, 7446
PORTS = {"raft": RAFT_PORT, "control": CONTROL_PORT, "api": API_PORT, "metrics": METRICS_PORT}
WAIT_S = 60.0
ISTHMUS = (sys.executable, "-m", "federation.cli.main")
BASE = "/apis/federation.isthmus.dev/v1alpha1"
API_VERSION = "federation.isthmus.dev/v1alpha1"


class Installation:
    """The configuration and data directory of one controller at `host`."""

    def __init__(self, folder: Path, host: str, *, cluster: str = "alpha", ranges: str = "") -> None:
        self.folder = folder
        self.host = host
        self.cluster = cluster
        self.trust_domain = f"{cluster}.example"
        self.ranges = ranges or f"{host.rpartition('.')[0]}.0/24"
        self.data_dir = folder / "data"
        self.config_path = folder / "controller.toml"
        self.context = self.data_dir / "operator"
        folder.mkdir(parents=True, exist_ok=True)
        self.config_path.write_text(self.config_text())

    def config_text(self) -> str:
        listen = "".join(f'{name} = "{self.host}:{port}"\n' for name, port in PORTS.items())
        return (
            f'id = "c1"\ndata_dir = "{self.data_dir}"\n[cluster]\nname = "{self.cluster}"\n'
            f'trust_domain = "{self.trust_domain}"\nregion = "eu"\nranges = ["{self.ranges}"]\n'
            f'[listen]\n{listen}[agents]\nlease = "2s"\n[raft]\nround_trip = "1ms"\n'
        )

    def config(self) -> ControllerConfig:
        return decode_config(self.config_text(), ControllerConfig, path=str(self.config_path))

    def found(self) -> None:
        asyncio.run(found(self.config(), name="test", root_export=None, export_passphrase=b""))
        # Sealed again for less: opening the root takes a second of pure work, at each start.
        folder, passphrase = self.data_dir / AUTHORITY_DIRECTORY, self.passphrase()
        root = import_root(folder / ROOT_FILE, passphrase)
        (folder / ROOT_FILE).unlink()
        export_root(folder / ROOT_FILE, root, passphrase, work_log2=SCRYPT_WORK_LOG2_MIN)

    def passphrase(self) -> bytes:
        return (self.data_dir / PASSPHRASE_FILE).read_bytes()

    def start(self, processes: ProcessSet) -> Process:
        return processes.start("controller", [*ISTHMUS, "controller", "run", "--config", self.config_path])

    def wait_ready(self, process: Process) -> None:
        def ready() -> bool:
            if not process.running():
                raise NeverHappenedError(f"{process.describe_end()}\n{process.log()}")
            return self.plain("/readyz")[0] == 200

        eventually(ready, timeout_s=WAIT_S, message=lambda: f"the controller is ready\n{process.log()}")

    def plain(self, path: str) -> tuple[int, bytes]:
        """GET on the metrics port; status 0 when nobody listens."""
        connection = http.client.HTTPConnection(self.host, METRICS_PORT, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionError:
            return 0, b""
        finally:
            connection.close()

    def domain(self, folder: Path) -> TestDomain:
        """Return this controller's own trust domain, to sign with its true root what it never would."""
        domain = TestDomain(self.trust_domain, folder)
        domain.root = RootAuthority.open(self.data_dir / AUTHORITY_DIRECTORY, self.passphrase())
        domain.authority.enroll(domain.root)
        return domain

    def caller(self, identity: Path | None) -> "Caller":
        """Return a client of the HTTPS port with the key and chain in the file `identity`, or without."""
        return Caller(self.host, roots=self.context / ROOTS_FILE, identity=identity)

    def operator(self) -> "Caller":
        return self.caller(LeafIdentity.load(self.context).path)


class Controller(msgspec.Struct, frozen=True, kw_only=True):
    """A running controller of cluster alpha, and the means to lie to it."""

    installation: Installation
    process: Process
    domain: TestDomain  # Its own, in the wrong hands.
    stranger: TestDomain  # One that nobody federated with.


class Caller:
    """Speaks HTTP with the API port and hides nothing: status and body as they came."""

    def __init__(self, host: str, *, roots: Path, identity: Path | None) -> None:
        self._host = host
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        der = from_pem(roots.read_bytes(), where=str(roots))
        self._context.load_verify_locations(cadata=b"".join(der))
        if identity is not None:
            self._context.load_cert_chain(identity)

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, API_PORT, timeout=30, context=self._context)

    def call(
        self, method: str, path: str, value: object = None, *, raw: bytes | None = None
    ) -> tuple[int, Any]:
        """Return status and decoded body; a body that is no JSON comes back as bytes."""
        connection = self.connect()
        body = raw if raw is not None else (None if value is None else msgspec.json.encode(value))
        try:
            connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        try:
            return response.status, msgspec.json.decode(content)
        except msgspec.DecodeError:
            return response.status, content

    def ok(self, method: str, path: str, value: object = None) -> Any:
        status, body = self.call(method, path, value)
        assert status in (200, 201), f"{method} {path}: {status} {body}"
        return body


def export_policy(name: str, *services: str, namespace: str = "shop", **metadata: Any) -> dict[str, Any]:
    """An object that people may write."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ExportPolicy",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"services": list(services) or ["*"]},
    }
