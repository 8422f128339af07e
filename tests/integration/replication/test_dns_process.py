"""`isthmus dns` as a process: it answers from the catalog, and goes on without controllers."""

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from certs.core.spiffe import system_id
from certs.runtime.identity import LeafIdentity
from discovery.core.model import Change
from discovery.core.specs import ControllerSpec, TrustDomainSpec
from federation.agent.directory import save_directory
from federation.agent.enrollment import ENROLLMENT_FILE, IDENTITY_FOLDER, Enrollment
from federation.agent.state_file import write_state
from federation.api.directory import build_directory, cluster_spec
from federation.kernel.versions import PROTOCOL_VERSION
from tests.integration.replication.controller import Controller, World
from tests.support.loopback import LoopbackBlock
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually_async
from tests.unit.replication.catalog import HISTORY, endpoint, export, federation, gone, resource

WAIT_S = 45.0
ORDERS = "orders.shop.svc.clusterset.local."


class DnsHost:
    """Where one DNS process lives: its address, its data, its configuration."""

    def __init__(self, directory: Path, block: LoopbackBlock, processes: ProcessSet) -> None:
        self.directory = directory
        self.host = block.host(1)
        self.port, self.metrics_port = block.port(self.host), block.port(self.host)
        self.data_dir = directory / "data"
        self._processes = processes
        self._starts = itertools.count(1)
        self.config = directory / "dns.toml"
        self.config.write_text(
            f'id = "d1"\ndata_dir = "{self.data_dir}"\nlisten = ["{self.host}:{self.port}"]\n'
            f'metrics = "{self.host}:{self.metrics_port}"\n'
        )

    def enroll(self, world: World) -> None:
        """Leave what enrollment leaves: its own tests are the agent's."""
        identity = system_id("alpha.example", "alpha", "dns", "d1")
        self.data_dir.mkdir(mode=0o700)
        world.alpha.renew(LeafIdentity.load(self.data_dir / IDENTITY_FOLDER), identity)
        tables = world.catalog.tables
        save_directory(self.data_dir, build_directory(tables))
        write_state(
            self.data_dir / ENROLLMENT_FILE,
            "isthmus enrollment",
            Enrollment(
                purpose="dns",
                id="d1",
                identity=str(identity),
                federation=HISTORY,
                cluster="alpha",
                cluster_spec=cluster_spec(tables, "alpha"),
            ),
        )

    def start(self) -> Process:
        command = [sys.executable, "-m", "federation.cli.main", "dns", "run", "--config", self.config]
        return self._processes.start(f"dns-{next(self._starts)}", command)

    def ask(self, name: str, kind: str = "A") -> tuple[str, list[str]]:
        """Return the answer's rcode and records' data."""
        question = dns.message.make_query(name, kind)
        try:
            reply = dns.query.udp(question, self.host, timeout=1, port=self.port)
        except (TimeoutError, OSError, dns.exception.DNSException):
            return ("none", [])
        return (
            dns.rcode.to_text(reply.rcode()),
            [item.to_text() for rrset in reply.answer for item in rrset],
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.metrics_port}{path}", timeout=2) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@pytest.fixture
def host(tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet) -> DnsHost:
    return DnsHost(tmp_path, loopback(), processes)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def directory_rows(world: World, *controllers: Controller) -> list[Change]:
    """Return the rows by which processes know the controllers and whom to believe."""
    return [
        federation(HISTORY),
        *(
            resource("TrustDomain", name, TrustDomainSpec(roots=(bundle.pem().decode(),)))
            for name, bundle in world.bundles.items()
        ),
        *(
            resource(
                "Controller",
                f"alpha-{one.identity.spiffe_id.path.rpartition('/')[2]}",
                ControllerSpec(
                    cluster="alpha",
                    role="member",
                    identity=str(one.identity.spiffe_id),
                    control=one.address,
                    protocol=PROTOCOL_VERSION,
                ),
            )
            for one in controllers
        ),
    ]


async def asked(host: DnsHost, name: str, rcode: str, process: Process) -> list[str]:
    """Wait until `name` is answered with `rcode`; return the data."""
    data: list[str] = []

    async def answered() -> bool:
        nonlocal data
        process.check_running()
        found, data = await asyncio.to_thread(host.ask, name)
        return found == rcode

    await eventually_async(
        answered, timeout_s=WAIT_S, message=lambda: f"{name} is answered with {rcode}\n{process.log()}"
    )
    return data


@contextlib.asynccontextmanager
async def controller_in_directory(world: World) -> AsyncIterator[Controller]:
    async with Controller(world, "alpha").serving() as controller:
        world.catalog.commit(directory_rows(world, controller))
        yield controller


def test_dns_answers_from_its_disk_copy_when_it_starts_without_any_controller(
    world: World, host: DnsHost
) -> None:
    async def scenario() -> None:
        async with controller_in_directory(world) as controller:
            controller.feed.serve_local("alpha", [])
            host.enroll(world)
            process = host.start()
            # The log has orders, but the cluster's own controller says that it is gone.
            assert await asked(host, ORDERS, "NXDOMAIN", process) == []
            controller.feed.local_changed("alpha", [endpoint("local")])
            (vip,) = await asked(host, ORDERS, "NOERROR", process)
            world.catalog.commit([endpoint("p", owner="beta", service="pay"), export("beta", "pay")])
            await asyncio.to_thread(host.ask, ORDERS)
            status, body = await asyncio.to_thread(host.get, "/readyz")
            assert (status, json.loads(body)["ready"]) == (200, True)
            assert json.loads(body)["controller"] == "alpha-c1"
        await asyncio.to_thread(process.kill)
        process = host.start()
        assert await asked(host, ORDERS, "NOERROR", process) == [vip]
        assert "started from the stored copy" in process.log()
        status, body = await asyncio.to_thread(host.get, "/readyz")
        facts = json.loads(body)
        assert (status, facts["controller"]) == (200, "")
        assert facts["ageMs"] > 0
        assert facts["error"]
        metrics = (await asyncio.to_thread(host.get, "/metrics"))[1]
        assert 'isthmus_dns_replies_total{rcode="NOERROR",transport="udp"}' in metrics
        assert "isthmus_replication_connected 0.0" in metrics
        assert "isthmus_replication_age_seconds" in metrics
        assert await asyncio.to_thread(process.terminate) == 0, process.log()

    asyncio.run(scenario())


def test_dns_says_servfail_until_it_has_its_first_copy(world: World, host: DnsHost) -> None:
    async def scenario() -> None:
        controller = Controller(world, "alpha")
        async with controller.serving():
            world.catalog.commit(directory_rows(world, controller))
            host.enroll(world)
        process = host.start()
        await asked(host, ORDERS, "SERVFAIL", process)
        status, body = await asyncio.to_thread(host.get, "/readyz")
        assert (status, json.loads(body)["missing"]) == (503, ["no copy of the catalog yet"])
        assert (await asyncio.to_thread(host.get, "/livez"))[0] == 200
        async with controller.serving():
            await asked(host, ORDERS, "NOERROR", process)
        assert await asyncio.to_thread(process.terminate) == 0, process.log()

    asyncio.run(scenario())


def test_dns_learns_of_new_controllers_from_the_catalog(world: World, host: DnsHost) -> None:
    async def scenario() -> None:
        async with controller_in_directory(world) as first:
            host.enroll(world)
            process = host.start()
            await asked(host, ORDERS, "NOERROR", process)
            second = Controller(world, "alpha", "c2")
            async with second.serving():
                leaving = directory_rows(world, first)[-1]
                world.catalog.commit([*directory_rows(world, second), gone(leaving)])
                await eventually_async(
                    lambda: '"alpha-c2"' in (host.data_dir / "directory.json").read_text(),
                    timeout_s=WAIT_S,
                    message="the directory names the new controller",
                )
                assert "alpha-c1" not in (host.data_dir / "directory.json").read_text()

    asyncio.run(scenario())


def test_dns_without_an_identity_says_what_to_do(host: DnsHost) -> None:
    process = host.start()
    assert process.wait(timeout_s=WAIT_S) != 0
    assert "holds no identity yet: start once with --token" in process.log()


def test_dns_whose_port_is_taken_says_so_and_ends(world: World, host: DnsHost) -> None:
    async def scenario() -> None:
        async with controller_in_directory(world):
            host.enroll(world)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind((host.host, host.port))
                process = host.start()
                code = await asyncio.to_thread(process.wait, timeout_s=WAIT_S)
        assert code == 1, process.log()
        assert f"{host.host} port {host.port} (udp): another process listens there" in process.log()
        assert "Traceback" not in process.log()

    asyncio.run(scenario())


def test_a_second_dns_process_on_the_same_data_is_refused(world: World, host: DnsHost) -> None:
    async def scenario() -> None:
        async with controller_in_directory(world):
            host.enroll(world)
            process = host.start()
            await asked(host, ORDERS, "NOERROR", process)
            second = host.start()
            assert await asyncio.to_thread(second.wait, timeout_s=WAIT_S) != 0
            assert "is in use by process" in second.log()
            process.send(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, timeout_s=WAIT_S) == 0, process.log()

    asyncio.run(scenario())
