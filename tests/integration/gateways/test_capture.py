"""Applications that know nothing of a mesh reach its services by name and address, through real Envoys.

Two hosts in network namespaces: the caller's with its Envoy, its DNS and a service of the own cluster, the
other cluster's with gateway and services, and something that is in no mesh. Needs root.
"""

import asyncio
import concurrent.futures
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from discovery.core.dns_zone import CompiledZone
from discovery.core.model import ServiceKey
from discovery.runtime.dns_server import DnsServer
from gateways.core.proxy import Proxy
from tests.integration.gateways.federation import ALL_OF_ALPHA, CALLER, Federation
from tests.integration.gateways.mesh import Controller, Member, Mesh
from tests.support.networks import Network, joined_networks
from tests.support.tools import tool
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import DictView, endpoint, gateway, owner, service, sidecar, workload

WEB, CART_AT = "10.78.0.1", "10.78.0.2"
GATEWAY_AT, BETA_AT, STRANGER = "10.78.0.11", "10.78.0.12", "10.78.0.13"
CART, ORDERS, LEDGER = ServiceKey("shop", "cart"), ServiceKey("shop", "orders"), ServiceKey("bank", "ledger")
OUTBOUND = ("127.0.0.1", 15001)
HTTP_PORT, TCP_PORT, STRANGER_PORT = 8080, 5432, 7000
APPLICATION_UID = 61_001

# The application: it becomes an ordinary user, then asks for what it was told to, and prints what it got.
HTTP = f"""
import encodings.idna, http.client, json, os, sys
os.setuid({APPLICATION_UID})
method, host, port, name = sys.argv[1:]
connection = http.client.HTTPConnection(host, int(port), timeout=20)
try:
    connection.request(method, "/", headers={{"Host": name}} if name else {{}})
    answer = connection.getresponse()
    print(json.dumps([answer.status, answer.read().decode()]))
except (OSError, http.client.HTTPException) as error:
    print(json.dumps([0, repr(error)]))
"""
# It says nothing before the server has spoken, then sends a word and closes its side.
BYTES = f"""
import encodings.idna, json, os, socket, sys
os.setuid({APPLICATION_UID})
host, port = sys.argv[1:]
try:
    with socket.create_connection((host, int(port)), timeout=20) as opened:
        stream = opened.makefile("rb")
        greeting = stream.readline()
        opened.sendall(b"a word")
        opened.shutdown(socket.SHUT_WR)
        print(json.dumps([1, (greeting + stream.read()).decode()]))
except OSError as error:
    print(json.dumps([0, repr(error)]))
"""


class Hosts:
    """What runs where."""

    def __init__(self, federation: Federation, left: Network, right: Network) -> None:
        self.federation = federation
        self.left = left
        self.right = right
        self.folder = federation.folder
        self.resolv_conf = self.folder / "resolv.conf"
        self.resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:10\n")
        self._fill(federation.alpha, federation.beta)

    def _fill(self, alpha: DictView, beta: DictView) -> None:
        door = gateway("beta", address=GATEWAY_AT, port=self.federation.gateway_port)
        http, byte = [(HTTP_PORT, "http")], [(TCP_PORT, "tcp")]
        cart = endpoint("alpha", key=CART, address=CART_AT)
        alpha.put(service(owner("alpha", [cart], local=True), key=CART, ports=http))
        orders = endpoint("beta", key=ORDERS, address=BETA_AT)
        ledger = endpoint(
            "beta", key=LEDGER, address=BETA_AT, listen_port=15007, service_port=TCP_PORT, protocol="tcp"
        )
        # One agent has one identity for all that runs behind it.
        ledger = msgspec.structs.replace(ledger, identity=orders.identity)
        for key, row, ports in ((ORDERS, orders, http), (LEDGER, ledger, byte)):
            alpha.put(service(owner("beta", [row], gateways=[door]), key=key, ports=ports))
            beta.put(service(owner("beta", [row], local=True), key=key, ports=ports), exported_to=["alpha"])
            beta.sources[key] = (ALL_OF_ALPHA,)

    def members(self, alpha: Controller, beta: Controller) -> tuple[Member, Member, Member, Member]:
        """The caller, the two callees and the gateway."""
        web = msgspec.structs.replace(
            sidecar("alpha", id="web", address=WEB, outbound=OUTBOUND), capture=True
        )
        cart = sidecar(
            "alpha",
            id="cart",
            address=CART_AT,
            outbound=None,
            workloads=[workload("alpha", key=CART, app=(CART_AT, 9000))],
        )
        both = sidecar(
            "beta",
            id="both",
            address=BETA_AT,
            outbound=None,
            workloads=[
                workload("beta", key=ORDERS, app=(BETA_AT, 9000)),
                workload(
                    "beta",
                    key=LEDGER,
                    app=(BETA_AT, 9001),
                    listen_port=15007,
                    service_port=TCP_PORT,
                    protocol="tcp",
                ),
            ],
        )
        door = Proxy(
            id="door",
            cluster="beta",
            agent="a1",
            kind="gateway",
            address=GATEWAY_AT,
            gateway_name="gw1",
            gateway_port=self.federation.gateway_port,
        )
        return (
            self._member(web, CALLER, alpha, self.left),
            self._member(cart, "/ns/shop/sa/cart", alpha, self.left),
            self._member(both, "/ns/shop/sa/orders", beta, self.right),
            self._member(door, "/isthmus/beta/gateway/a1", beta, self.right),
        )

    def _member(self, proxy: Proxy, path: str, controller: Controller, network: Network) -> Member:
        return self.federation.member(proxy, path, [controller], binary=self._envoy(network))

    def _envoy(self, network: Network) -> Path:
        """Envoy, but in a network: xDS comes over a Unix socket, which reaches everywhere."""
        starter = self.folder / f"envoy-{network.name}"
        command = " ".join(network.command([tool("envoy")]))
        starter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        starter.chmod(0o700)
        return starter

    async def ask(self, script: str, *words: object) -> tuple[int, str]:
        """Run an application on the caller's host, where names are asked of the cluster's DNS."""
        resolving = f'mount --bind {self.resolv_conf} /etc/resolv.conf && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", resolving, "sh", sys.executable, "-c", script]
        done = await asyncio.to_thread(self.left.run, [*command, *map(str, words)])
        assert done.returncode == 0, done.stderr
        status, text = msgspec.json.decode(done.stdout)
        return status, text

    async def http(self, host: str, *, method: str = "GET", port: int = HTTP_PORT, name: str = "") -> Any:
        """Return the status, and who answered whom; or the text of the answer."""
        status, text = await self.ask(HTTP, method, host, port, name)
        if status != 200:
            return status, text
        answer = msgspec.json.decode(text)
        caller = answer["headers"].get("x-forwarded-client-cert", "").rpartition(";URI=")[2]
        return status, answer["from"], caller

    def isthmus(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return self.left.run([sys.executable, "-m", "federation.cli.main", "capture", *words])

    def agent_config(self) -> Path:
        """What the caller's agent would have; its Envoy runs as root here."""
        path = self.folder / "agent.toml"
        path.write_text(
            f'id = "web"\ndata_dir = "{self.folder}"\naddress = "{WEB}"\n[capture]\nenabled = true\n'
        )
        return path


@pytest.fixture
def hosts(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    monkeypatch.setenv("PATH", f"{tool('nft').parent}:{os.environ['PATH']}")
    with joined_networks([WEB, CART_AT], [GATEWAY_AT, BETA_AT, STRANGER]) as (left, right):
        yield Hosts(federation, left, right)


def serve_dns(hosts: Hosts, view: DictView, ready: threading.Event, over: threading.Event) -> None:
    """Answer on the caller's host until it is over; on a thread, which alone is in that network."""

    async def serve() -> None:
        zone = CompiledZone()
        zone.replace(view)
        server = DnsServer([("127.0.0.1", 53)], lambda: zone)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.run())
            await server.ready.wait()
            ready.set()
            await asyncio.to_thread(over.wait)
            running.cancel()

    try:
        with hosts.left.inside():
            asyncio.run(serve())
    finally:
        ready.set()  # Also when it failed: its result says why.


async def start_applications(mesh: Mesh, hosts: Hosts) -> None:
    with hosts.left.inside():
        cart = socket.create_server((CART_AT, 9000))
    with hosts.right.inside():
        orders, ledger = (socket.create_server((BETA_AT, port)) for port in (9000, 9001))
        stranger = socket.create_server((STRANGER, STRANGER_PORT))
    await mesh.application_on("cart", cart)
    await mesh.application_on("orders", orders)
    await mesh.byte_application("ledger", ledger)
    await mesh.byte_application("stranger", stranger)


def test_an_application_that_knows_nothing_reaches_services_and_what_is_none(hosts: Hosts) -> None:
    caller = f"spiffe://alpha.example{CALLER}"
    ready, over = threading.Event(), threading.Event()

    async def scenario() -> None:
        async with Mesh(hosts.folder) as mesh:
            alpha, beta = await hosts.federation.controllers(mesh)
            await start_applications(mesh, hosts)
            web, cart, both, door = members = hosts.members(alpha, beta)
            for member in members:
                mesh.start(member)
            await mesh.ready(*members)
            assert (await hosts.http(name(CART)))[0] == 0, "nothing is captured yet"
            applied = await asyncio.to_thread(hosts.isthmus, "apply", "--config", hosts.agent_config())
            assert applied.returncode == 0, applied.stderr

            await its_services(hosts, caller)
            assert await door.counter("^tcp.eastwest.downstream_cx_total$") >= 2
            assert await cart.counter("ssl.handshake$") >= 1
            assert await both.counter("ssl.handshake$") >= 2
            await what_is_none(hosts, web)

            removed = await asyncio.to_thread(hosts.isthmus, "remove")
            assert removed.returncode == 0, removed.stderr
            passed = await web.counter("^tcp.passthrough.downstream_cx_total$")
            assert (await hosts.http(name(CART)))[0] == 0
            assert await hosts.ask(BYTES, STRANGER, STRANGER_PORT) == (1, "stranger\na word")
            assert await web.counter("^tcp.passthrough.downstream_cx_total$") == passed

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve_dns, hosts, hosts.federation.alpha, ready, over)
        try:
            assert ready.wait(20)
            asyncio.run(scenario())
        finally:
            over.set()
        serving.result()


def name(key: ServiceKey) -> str:
    return f"{key.service}.{key.namespace}.svc.clusterset.local"


async def its_services(hosts: Hosts, caller: str) -> None:
    """By HTTP and by bytes, in its own cluster and behind the other one's gateway."""

    async def reached() -> bool:
        return (await hosts.http(name(ORDERS)))[0] == 200

    await eventually_async(reached, timeout_s=40, interval_s=0.2, message="orders in the other cluster")
    assert await hosts.http(name(CART)) == (200, "cart", caller)
    assert await hosts.http(name(ORDERS)) == (200, "orders", caller)
    assert await hosts.http(name(ORDERS), method="POST") == (200, "orders", caller)
    # The address says which service is meant, whatever the Host header calls it.
    assert await hosts.http(name(ORDERS), name="anything.example") == (200, "orders", caller)
    assert await hosts.ask(BYTES, name(LEDGER), TCP_PORT) == (1, "ledger\na word")
    # Who calls by Host header goes on to do so.
    assert await hosts.http(*OUTBOUND[:1], port=OUTBOUND[1], name="orders.shop:8080") == (
        200,
        "orders",
        caller,
    )
    assert (await hosts.http(*OUTBOUND[:1], port=OUTBOUND[1], name="nobody.shop"))[0] == 404


async def what_is_none(hosts: Hosts, web: Member) -> None:
    """Strangers are reached as ever; an address or port of no service is closed."""
    before = await web.counter("^tcp.passthrough.downstream_cx_total$")
    assert await hosts.ask(BYTES, STRANGER, STRANGER_PORT) == (1, "stranger\na word")
    assert await web.counter("^tcp.passthrough.downstream_cx_total$") == before + 1
    for host, port in (("241.255.0.1", HTTP_PORT), (name(CART), HTTP_PORT + 1)):
        status, text = await hosts.http(host, port=port)
        assert status == 0
        assert "timed out" not in text
    assert await web.counter("^tcp.passthrough.downstream_cx_total$") == before + 1
