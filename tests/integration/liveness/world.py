"""A federation of three primaries, each with a controller, a stand-in gateway and perhaps an instance of `orders`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import dns.exception
import dns.message
import dns.query
import dns.rcode
import msgspec

from certs.core.token import parse_token
from certs.runtime.authority import ROOT_FILE
from certs.runtime.keystore import SCRYPT_WORK_LOG2_MIN, export_root, import_root
from federation.app.credentials import AUTHORITY_DIRECTORY
from federation.app.joining import join_with_controller
from tests.integration.controller.installation import API_VERSION, BASE, ISTHMUS, Caller, Installation
from tests.integration.liveness.stand_in import __name__ as stand_in
from tests.support.another_clock import __name__ as another_clock
from tests.support.loopback import LoopbackBlock
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually

NAMES = ("alpha", "beta", "gamma")
ORDERS = "orders.shop.svc.clusterset.local."
WAIT_S = 120.0
DNS_PORT = 5353


class Place(Protocol):
    """Where the processes of a cluster run."""

    def command(self, cluster: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` there."""
        ...

    def inside(self, cluster: str) -> AbstractContextManager[None]:
        """Move this thread there for the block."""
        ...


class Here:
    """All clusters on one machine."""

    def command(self, _cluster: str, command: Sequence[str]) -> list[str]:
        return list(command)

    def inside(self, _cluster: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Of one cluster."""

    controller: str
    gateway: str
    dns: str


def three_at(block: LoopbackBlock) -> dict[str, Addresses]:
    """Addresses for alpha, beta and gamma."""
    return {
        name: Addresses(
            controller=block.host(10 * n + 1), gateway=block.host(10 * n + 2), dns=block.host(10 * n + 3)
        )
        for n, name in enumerate(("alpha", "beta", "gamma"))
    }


class World:
    """Running clusters; every wait has a deadline and fails with what was found instead."""

    def __init__(
        self,
        folder: Path,
        addresses: Mapping[str, Addresses],
        processes: ProcessSet,
        *,
        place: Place | None,
        round_trip: str,
    ) -> None:
        self.addresses = addresses
        self.place = place or Here()
        self._folder = folder
        self._processes = processes
        self.running: dict[str, dict[str, Process]] = {name: {} for name in NAMES}
        self.installations = {
            name: Installation(folder / name, one.controller, cluster=name, ranges=_range(one))
            for name, one in addresses.items()
        }
        for installation in self.installations.values():
            text = installation.config_text().replace('round_trip = "1ms"', f'round_trip = "{round_trip}"')
            installation.config_path.write_text(text)

    def start(self) -> None:
        """Found alpha, let the others join, wait until all three vote."""
        with self.place.inside("alpha"):
            self.installations["alpha"].found()
        self.start_controller("alpha")
        for name in NAMES[1:]:
            self._join(name)
            self.start_controller(name)

        def all_vote() -> bool:
            members = self.get("alpha", "/v1/status")["raft"]["members"]
            return sorted(members) == sorted(NAMES)

        eventually(all_vote, timeout_s=WAIT_S, message="three members vote")

    def start_controller(self, cluster: str, *, days_off: int = 0) -> None:
        """Start a controller; one whose wall clock is `days_off` is not waited for."""
        installation = self.installations[cluster]
        python, *module = ISTHMUS
        if days_off:
            module = ["-m", another_clock, str(days_off), module[-1]]
        process = self._start(
            cluster, "controller", python, *module, "controller", "run", "--config", installation.config_path
        )
        if days_off:
            return
        with self.place.inside(cluster):
            installation.wait_ready(process)

    def start_parts(self, cluster: str, *purposes: str) -> None:
        """Start stand-ins for a gateway or an agent of a cluster; again after a kill: as who they were."""
        for purpose in purposes:
            workload = {"namespace": "shop", "serviceAccount": "shop"} if purpose == "agent" else {}
            token = self.token(cluster, purpose, **workload)
            data_dir = self._folder / f"{cluster}-{purpose}"
            address = self.addresses[cluster].gateway
            self._start(
                cluster, purpose, ISTHMUS[0], "-m", stand_in, purpose, purpose, address, data_dir, token
            )

    def start_dns(self, cluster: str) -> None:
        host, data_dir = self.addresses[cluster].dns, self._folder / f"{cluster}-dns"
        config = self._folder / f"{cluster}-dns.toml"
        config.write_text(f'id = "d1"\ndata_dir = "{data_dir}"\nlisten = ["{host}:{DNS_PORT}"]\n')
        token = self.token(cluster, "dns")
        self._start(cluster, "dns", *ISTHMUS, "dns", "run", "--config", config, "--token", token)

    def kill(self, cluster: str) -> None:
        """End every process of a cluster at once, as a power cut does."""
        for process in self.running[cluster].values():
            process.kill_alone()
        for process in self.running[cluster].values():
            process.kill()

    def operator(self, cluster: str) -> Caller:
        return self.installations[cluster].operator()

    def get(self, cluster: str, path: str) -> Any:
        with self.place.inside(cluster):
            return self.operator(cluster).ok("GET", path)

    def token(self, cluster: str, purpose: str, **more: str) -> str:
        with self.place.inside(cluster):
            wanted = {"purpose": purpose, "cluster": cluster, **more}
            return str(self.operator(cluster).ok("POST", "/v1/tokens", wanted)["token"])

    def share_orders(self, owner: str, *, on_loss: str) -> None:
        """Let everybody see and call what `owner` has in namespace `shop`."""
        for kind, plural, spec in (
            ("ExportPolicy", "exportpolicies", {"services": ["*"]}),
            ("Grant", "grants", {"services": ["*"], "sources": [{}]}),
            ("LossPolicy", "losspolicies", {"services": ["orders"], "onLoss": on_loss}),
        ):
            made = {
                "apiVersion": API_VERSION,
                "kind": kind,
                "metadata": {"name": "all", "namespace": "shop"},
                "spec": spec,
            }
            with self.place.inside(owner):
                self.operator(owner).ok("POST", f"/clusters/{owner}{BASE}/namespaces/shop/{plural}", made)

    def verdict(self, subject: str, *, asked: str = "alpha") -> dict[str, Any]:
        """Return what a controller holds of a cluster: spec and status, empty while nothing was ever wrong."""
        rows = self.get(asked, f"{BASE}/verdicts?resourceVersion=0")["items"]
        found = next((one for one in rows if one["metadata"]["name"] == subject), None)
        return {} if found is None else {**found["spec"], "changes": found["status"].get("changes", [])}

    def ask_dns(self, cluster: str) -> str:
        """Return the response code for `orders`, "none" where nobody answers."""
        question = dns.message.make_query(ORDERS, "A")
        try:
            with self.place.inside(cluster):
                reply = dns.query.udp(question, self.addresses[cluster].dns, timeout=1, port=DNS_PORT)
        except (OSError, dns.exception.DNSException):
            return "none"
        return dns.rcode.to_text(reply.rcode())

    def until(self, condition: Callable[[], Any], message: str) -> Any:
        """Wait for a condition; a failure shows every controller's log."""

        def logs() -> str:
            return "\n".join([message, *(parts["controller"].log() for parts in self.running.values())])

        return eventually(condition, timeout_s=WAIT_S, interval_s=0.1, message=logs)

    def _join(self, name: str) -> None:
        installation = self.installations[name]
        config = msgspec.structs.replace(installation.config())
        with self.place.inside("alpha"):
            wanted = {"purpose": "cluster", "cluster": name}
            token = parse_token(self.operator("alpha").ok("POST", "/v1/tokens", wanted)["token"])
        with self.place.inside(name):
            join_with_controller(config, token, again=False)
        # Sealed again for less: opening the root takes a second of pure work, at each start.
        folder, passphrase = installation.data_dir / AUTHORITY_DIRECTORY, installation.passphrase()
        root = import_root(folder / ROOT_FILE, passphrase)
        (folder / ROOT_FILE).unlink()
        export_root(folder / ROOT_FILE, root, passphrase, work_log2=SCRYPT_WORK_LOG2_MIN)

    def _start(self, cluster: str, part: str, *command: str | Path | tuple[str, ...]) -> Process:
        words = [str(word) for one in command for word in (one if isinstance(one, tuple) else (one,))]
        process = self._processes.start(f"{cluster}-{part}", self.place.command(cluster, words))
        self.running[cluster][part] = process
        return process


def _range(addresses: Addresses) -> str:
    return f"{addresses.controller.rpartition('.')[0]}.0/24"


@contextmanager
def world_at(
    folder: Path,
    addresses: Mapping[str, Addresses],
    *,
    place: Place | None = None,
    round_trip: str = "50ms",
) -> Iterator[World]:
    """Run a federation for the block."""
    processes = ProcessSet(folder / "logs")
    try:
        world = World(folder, addresses, processes, place=place, round_trip=round_trip)
        world.start()
        yield world
    finally:
        processes.close()
