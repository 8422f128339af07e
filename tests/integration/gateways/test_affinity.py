"""Session affinity through real Envoys: who keeps to whom, and what happens when that one dies."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from discovery.core.model import ServiceAffinity, ServiceKey
from gateways.core import names
from gateways.core.proxy import OutboundTcp
from tests.integration.gateways.federation import ALL_OF_ALPHA, CALLER, HOST, Federation
from tests.integration.gateways.mesh import Caller, Controller, Member, Mesh, caller
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import ORDERS, endpoint, owner, service, sidecar, workload

LEDGER = ServiceKey("bank", "ledger")
LEDGER_PORT = 5432
INSTANCES = ("one", "two", "three")
REQUESTS = 60
IN_A_ROW = 20
SOURCES = 40  # That one of three endpoints gets none of them comes once in 10^6.
TIMEOUT_S = 60.0


class Triplets:
    """Three instances of `orders` (HTTP) and `ledger` (bytes) in one cluster, each behind a sidecar of its own."""

    def __init__(self, federation: Federation, cluster: str) -> None:
        self.federation = federation
        self.cluster = cluster
        self.block = federation.block
        self.addresses = {name: self.block.host(30 + number) for number, name in enumerate(INSTANCES)}
        self.ports = {name: self._ports(address) for name, address in self.addresses.items()}
        self.members: dict[str, Member] = {}

    def _ports(self, address: str) -> tuple[int, int]:
        return self.block.port(address), self.block.port(address)

    def declare(self, affinity: ServiceAffinity, *, without: str = "") -> None:
        """Let the cluster's view have both services, perhaps without an instance."""
        view = {"alpha": self.federation.alpha, "beta": self.federation.beta}[self.cluster]
        for key, number, protocol, place in ((ORDERS, 8080, "http", 0), (LEDGER, LEDGER_PORT, "tcp", 1)):
            rows = [
                msgspec.structs.replace(
                    endpoint(
                        self.cluster,
                        name,
                        key=key,
                        address=self.addresses[name],
                        listen_port=self.ports[name][place],
                        service_port=number,
                        protocol=protocol,
                    ),
                    identity=f"spiffe://{self.cluster}.example/ns/shop/sa/orders",
                )
                for name in INSTANCES
                if name != without
            ]
            found = service(
                owner(self.cluster, rows, local=True), key=key, ports=[(number, protocol)], affinity=affinity
            )
            view.put(found, exported_to=["alpha"])
            view.sources[key] = (ALL_OF_ALPHA,)

    async def start(self, mesh: Mesh, controllers: list[Controller]) -> None:
        """Start applications and their sidecars."""
        for name, address in self.addresses.items():
            places = [(address, self.block.port(address)) for _ in range(2)]
            await mesh.application(name, *places[0])
            await mesh.byte_application(name, socket.create_server(places[1]))
            listen = self.ports[name]
            workloads = [
                workload(self.cluster, app=places[0], listen_port=listen[0]),
                workload(
                    self.cluster,
                    key=LEDGER,
                    app=places[1],
                    listen_port=listen[1],
                    service_port=LEDGER_PORT,
                    protocol="tcp",
                ),
            ]
            proxy = sidecar(self.cluster, id=name, address=address, outbound=None, workloads=workloads)
            member = self.federation.member(proxy, "/ns/shop/sa/orders", controllers)
            self.members[name] = member
            mesh.start(member)
        await mesh.ready(*self.members.values())


def client_of(
    federation: Federation, number: int, controllers: list[Controller], *, cluster: str = "alpha"
) -> Member:
    """A caller by Host header, and of `ledger` at a local address."""
    address = federation.block.host(20 + number)
    outbound = (address, federation.block.port(address))
    local = OutboundTcp(
        namespace=LEDGER.namespace,
        service=LEDGER.service,
        service_port=LEDGER_PORT,
        address=address,
        listen_port=federation.block.port(address),
    )
    proxy = sidecar(cluster, id=f"web-{number}", address=address, outbound=outbound)
    return federation.member(msgspec.structs.replace(proxy, outbound_tcp=(local,)), CALLER, controllers)


async def answers(client: Caller, count: int = REQUESTS) -> Counter[str]:
    """Who answered so many requests; none may fail."""
    found: Counter[str] = Counter()
    for _ in range(count):
        status, answer = await client.call(HOST)
        assert status == 200, answer
        found[answer["from"]] += 1
    return found


async def greetings(web: Member, count: int) -> Counter[str]:
    """Who answered so many connections to the local address of `ledger`; none may fail."""
    (local,) = web.proxy.outbound_tcp
    found: Counter[str] = Counter()
    for _ in range(count):
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(local.address, local.listen_port)
            found[(await reader.readline()).decode().strip()] += 1
            writer.close()
    return found


async def settles(found: Callable[[], Awaitable[Counter[str]]], count: int) -> None:
    """Wait until so many different instances answer."""

    async def so_many() -> bool:
        return len(await found()) == count

    await eventually_async(so_many, timeout_s=TIMEOUT_S, message=f"answered by {count} instances")


async def knows(web: Member, key: ServiceKey, port: int, count: int) -> None:
    """Wait until a caller's Envoy has so many endpoints of a service."""
    cluster = names.owner_cluster(key, port, "alpha").replace("|", ".")

    async def so_many() -> bool:
        return await web.counter(f"^cluster.{cluster}.membership_total$") == count

    await eventually_async(so_many, timeout_s=TIMEOUT_S, message=f"{key} has {count} endpoints")


def test_a_caller_keeps_to_one_endpoint_and_to_another_when_that_dies(federation):
    triplets = Triplets(federation, "alpha")
    triplets.declare("None")

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, _ = await federation.controllers(mesh)
            await triplets.start(mesh, [alpha])
            web, other = (client_of(federation, number, [alpha]) for number in (1, 2))
            for member in (web, other):
                mesh.start(member)
            await mesh.ready(web, other)
            async with caller(web.proxy) as client, caller(other.proxy) as second:
                for each in (client, second):
                    await each.until(HOST, lambda status, _: status == 200)
                # Without affinity they spread.
                await settles(lambda: answers(client, IN_A_ROW), 3)

                triplets.declare("ClientIP")
                alpha.publish()
                await settles(lambda: answers(client, IN_A_ROW), 1)
                await settles(lambda: answers(second, IN_A_ROW), 1)
                await settles(lambda: greetings(web, IN_A_ROW), 1)
                ((chosen, _),) = (await answers(client)).items()
                assert len(await answers(second)) == 1
                assert len(await greetings(web, IN_A_ROW)) == 1

                triplets.members[chosen].kill()
                await mesh.stop(triplets.members[chosen])
                assert chosen not in await answers(client)
                assert chosen not in await greetings(web, IN_A_ROW)

                # Once the registration has noticed too, nobody tries it any more.
                triplets.declare("ClientIP", without=chosen)
                alpha.publish()
                await knows(web, ORDERS, 8080, 2)
                await knows(web, LEDGER, LEDGER_PORT, 2)
                await settles(lambda: answers(client, IN_A_ROW), 1)
                await settles(lambda: greetings(web, IN_A_ROW), 1)
                assert len(await answers(client)) == 1
                assert len(await greetings(web, IN_A_ROW)) == 1

    asyncio.run(scenario())


async def greeting_through(door: tuple[str, int], source: str, pem: Path) -> str:
    """Call `ledger` through a gateway from a source address of one's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # By SPIFFE IDs, which this client does not judge.
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(pem)
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            *door,
            ssl=context,
            server_hostname=names.service_sni(LEDGER, LEDGER_PORT),
            local_addr=(source, 0),
        )
        try:
            return (await reader.readline()).decode().strip()
        finally:
            writer.close()


def test_behind_a_gateway_each_source_address_keeps_to_one_endpoint_and_they_spread(federation):
    triplets = Triplets(federation, "beta")
    triplets.declare("ClientIP")
    leaf = federation.domains["alpha"].leaf(CALLER).pem()
    pem = federation.folder / "client.pem"
    pem.write_bytes(leaf.key + leaf.chain)
    door = (federation.gateway_address, federation.gateway_port)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            _, beta = await federation.controllers(mesh)
            await triplets.start(mesh, [beta])
            gateway, web = federation.gateway([beta]), client_of(federation, 1, [beta], cluster="beta")
            for member in (gateway, web):
                mesh.start(member)
            await mesh.ready(gateway, web)

            async def chosen(address: str) -> str:
                return await greeting_through(door, address, pem)

            sources = [federation.block.host(100 + number) for number in range(SOURCES)]
            first = [await chosen(source) for source in sources]
            assert set(first) == set(INSTANCES)
            assert [await chosen(source) for source in sources] == first
            # What a sidecar says of its host counts as much as a connection's own source.
            assert await greetings(web, 5) == {await chosen(web.proxy.address): 5}

    asyncio.run(scenario())
