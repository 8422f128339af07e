"""A TCP service through real Envoys: a local address that stands for it, its owners in turn, who gets through."""

import asyncio
import socket

import msgspec

from discovery.core.model import ServiceKey
from discovery.core.view import AdmittedSource
from gateways.core.proxy import OutboundTcp
from tests.integration.gateways.federation import ALL_OF_ALPHA, CALLER, Federation
from tests.integration.gateways.mesh import Controller, Member, Mesh
from tests.support.wait import eventually_async
from tests.unit.gateways.builders import endpoint, gateway, owner, service, sidecar, workload

LEDGER = ServiceKey("bank", "ledger")
PORT = 5432
IDENTITY = "/ns/bank/sa/ledger"
ANSWER_TIMEOUT_S = 20.0


class Bank:
    """`ledger` lives in alpha and, behind the gateway, in beta; the caller has a local address for it."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        block = federation.block
        self.local = block.host(30), block.port(block.host(30))
        rows = {
            "alpha": self._row("alpha", federation.alpha_address, federation.alpha_port),
            "beta": self._row("beta", federation.beta_address, federation.beta_port),
        }
        ports = [(PORT, "tcp")]
        door = gateway("beta", address=federation.gateway_address, port=federation.gateway_port)
        self.seen_by_alpha = service(
            owner("alpha", [rows["alpha"]], local=True),
            owner("beta", [rows["beta"]], gateways=[door]),
            key=LEDGER,
            ports=ports,
        )
        federation.alpha.put(self.seen_by_alpha)
        federation.beta.put(
            service(owner("beta", [rows["beta"]], local=True), key=LEDGER, ports=ports),
            exported_to=["alpha"],
        )
        federation.beta.sources[LEDGER] = (ALL_OF_ALPHA,)

    def _row(self, cluster: str, address: str, listen_port: int):
        return endpoint(
            cluster,
            key=LEDGER,
            address=address,
            listen_port=listen_port,
            service_port=PORT,
            protocol="tcp",
        )

    def caller(self, controllers: list[Controller]) -> Member:
        local = OutboundTcp(
            namespace="bank",
            service="ledger",
            service_port=PORT,
            address=self.local[0],
            listen_port=self.local[1],
        )
        proxy = sidecar("alpha", id="web", address=self.federation.block.host(20), outbound=None)
        proxy = msgspec.structs.replace(proxy, outbound_tcp=(local,))
        return self.federation.member(proxy, CALLER, controllers)

    def callee(self, cluster: str, controllers: list[Controller]) -> Member:
        place = self.federation
        address, port, app = {
            "alpha": (place.alpha_address, place.alpha_port, place.local_app),
            "beta": (place.beta_address, place.beta_port, place.app),
        }[cluster]
        found = workload(cluster, key=LEDGER, app=app, listen_port=port, service_port=PORT, protocol="tcp")
        proxy = sidecar(cluster, id=f"ledger-{cluster}", address=address, outbound=None, workloads=[found])
        return place.member(proxy, IDENTITY, controllers)

    async def call(self, word: bytes = b"") -> bytes:
        """Return the greeting of who answered, and what came back of `word`; empty when it was closed."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            try:
                reader, writer = await asyncio.open_connection(*self.local)
            except OSError as error:
                return type(error).__name__.encode()
            try:
                greeting = await reader.readline()
                if greeting and word:
                    writer.write(word)
                    greeting += await reader.readexactly(len(word))
                return greeting
            except ConnectionError:
                return b""
            finally:
                writer.close()

    async def until(self, expected: bytes) -> None:
        async def answered() -> bool:
            return await self.call() == expected

        await eventually_async(answered, timeout_s=40, interval_s=0.1, message=f"the answer {expected!r}")


def test_a_local_address_reaches_the_own_clusters_service_and_behind_it_the_other_ones(federation):
    bank = Bank(federation)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            for name, address in (("alpha", federation.local_app), ("beta", federation.app)):
                await mesh.byte_application(name, socket.create_server(address))
            web, near = bank.caller([alpha]), bank.callee("alpha", [alpha])
            far, door = bank.callee("beta", [beta]), federation.gateway([beta])
            for member in (near, far, door, web):
                mesh.start(member)
            await mesh.ready(near, far, door, web)
            await bank.until(b"alpha\n")
            assert await bank.call(b"x" * 100_000) == b"alpha\n" + b"x" * 100_000
            # Nobody listens any more for the nearest owner: not one connection is lost for that.
            await mesh.stop(near)
            for _ in range(5):
                assert await bank.call(b"hello") == b"beta\nhello"
            assert await door.counter("^tcp.eastwest.downstream_cx_total$") >= 5
            mesh.start(near)
            await mesh.ready(near)
            await bank.until(b"alpha\n")
            # The service is withdrawn: the address refuses. It returns, and so does the address.
            federation.alpha.known.pop(LEDGER)
            alpha.source.update("alpha", [LEDGER])
            await bank.until(b"ConnectionRefusedError")
            federation.alpha.put(bank.seen_by_alpha)
            alpha.source.update("alpha", [LEDGER])
            await bank.until(b"alpha\n")

    asyncio.run(scenario())


def test_only_admitted_callers_hear_a_tcp_service_that_speaks_first(federation):
    bank = Bank(federation)
    federation.alpha.put(
        service(
            *(each for each in bank.seen_by_alpha.owners if each.cluster == "beta"),
            key=LEDGER,
            ports=[(PORT, "tcp")],
        )
    )
    federation.beta.sources[LEDGER] = (AdmittedSource(trust_domain="alpha.example", namespaces=("bank",)),)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            await mesh.byte_application("beta", socket.create_server(federation.app))
            web, far, door = bank.caller([alpha]), bank.callee("beta", [beta]), federation.gateway([beta])
            for member in (far, door, web):
                mesh.start(member)
            await mesh.ready(far, door, web)
            # The caller is of namespace shop.
            await bank.until(b"")
            assert await far.counter("ssl.fail_verify_san$") > 0
            federation.beta.sources[LEDGER] = (ALL_OF_ALPHA,)
            beta.source.update("beta", [LEDGER])
            await bank.until(b"beta\n")

    asyncio.run(scenario())
