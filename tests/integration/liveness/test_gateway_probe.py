"""Who counts as a gateway that answers: one that proves to be of that cluster, and says that it is well."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from certs.runtime.tls import server_context
from discovery.core.view import Gateway
from federation.agent.gateway_probe import ANSWER_BYTES_MAX, GATEWAYS_ASKED_MAX, GatewaysProbe
from tests.support.pki import TestDomain, bundles_of

WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
LONG_S = 30.0  # A hang guard: nothing that answers takes that long.
SHORT_S = 0.3  # For what never answers.

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Domains:
    """beta, whose gateways are asked, and alpha, which is known too and has no business there."""

    def __init__(self, folder: Path) -> None:
        self.beta, self.alpha = TestDomain("beta.test", folder), TestDomain("alpha.test", folder)
        self.verifier = Verifier(lambda: bundles_of(self.alpha, self.beta), clock=utc_now)

    def probe(self) -> GatewaysProbe:
        return GatewaysProbe("beta", verifier=self.verifier)

    async def ask(self, probe: GatewaysProbe, *ports: int, timeout_s: float = LONG_S) -> bool:
        gateways = tuple(
            Gateway(name=f"gw-{port}", address="127.0.0.1", port=port, identity="", ready=True)
            for port in ports
        )
        return await probe.ask(gateways, self.beta.bundles, timeout_s=timeout_s)


@pytest.fixture
def domains(tmp_path: Path) -> Domains:
    return Domains(tmp_path)


class Server:
    """A listener on a free port; `names` are the server names that it was asked by."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.names: list[str | None] = []


@asynccontextmanager
async def served(leaf: LeafIdentity, domain: TestDomain, answer: Answer) -> AsyncIterator[Server]:
    server = Server()
    context = server_context(leaf, domain.bundles, client="optional")

    def asked_by(_connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        server.names.append(name)

    context.sni_callback = asked_by  # type: ignore[assignment]  # typeshed wants sockets too

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            await answer(reader, writer)
        except (EOFError, OSError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(count, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def always(answer: bytes) -> Answer:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer)

    return reply


async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


GATEWAY = "/isthmus/beta/gateway/gw-1"


async def test_a_gateway_that_is_well_is_asked_again_on_the_same_connection_by_its_reserved_name(
    domains: Domains,
) -> None:
    async with served(domains.beta.leaf(GATEWAY), domains.beta, always(WELL)) as server:
        probe = domains.probe()
        assert [await domains.ask(probe, server.port) for _ in range(3)] == [True] * 3
        assert (server.connections, server.names) == (1, ["health.beta.isthmus.internal"])
        probe.close()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", id="it-closes"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="length-unknown"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", id="length-absurd"),
    ],
)
async def test_after_such_an_answer_it_is_asked_on_a_new_connection(domains: Domains, answer: bytes) -> None:
    async with served(domains.beta.leaf(GATEWAY), domains.beta, always(answer)) as server:
        probe = domains.probe()
        assert [await domains.ask(probe, server.port) for _ in range(2)] == [True, True]
        assert server.connections == 2
        probe.close()


@pytest.mark.parametrize(
    ("owner", "identity"),
    [
        ("beta", "/isthmus/beta/agent/gw-1"),
        ("beta", "/isthmus/delta/gateway/gw-1"),
        ("beta", "/ns/shop/sa/shop"),
        ("alpha", "/isthmus/beta/gateway/gw-1"),
    ],
    ids=["an-agent", "of-another-cluster", "a-workload", "of-another-trust-domain"],
)
async def test_whoever_else_answers_there_is_no_gateway_of_the_cluster(
    domains: Domains, owner: str, identity: str
) -> None:
    domain = domains.beta if owner == "beta" else domains.alpha
    async with served(domain.leaf(identity), domain, always(WELL)) as server:
        assert not await domains.ask(domains.probe(), server.port)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(always(WELL.replace(b"200 OK", b"503 no")), id="not-well"),
        pytest.param(always(b"\xff\xfe\r\n\r\n"), id="garbage"),
        pytest.param(
            always(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2 * ANSWER_BYTES_MAX + b"\r\n\r\n"), id="too-long"
        ),
        pytest.param(hang_up, id="hangs-up"),
    ],
)
async def test_a_bad_answer_is_none(domains: Domains, answer: Answer) -> None:
    async with served(domains.beta.leaf(GATEWAY), domains.beta, answer) as server:
        assert not await domains.ask(domains.probe(), server.port)


async def test_no_answer_in_time_is_none(domains: Domains) -> None:
    async with served(domains.beta.leaf(GATEWAY), domains.beta, say_nothing) as server:
        assert not await domains.ask(domains.probe(), server.port, timeout_s=SHORT_S)


async def test_one_gateway_of_many_is_enough_and_is_found_in_turn(domains: Domains) -> None:
    async with served(domains.beta.leaf(GATEWAY), domains.beta, always(WELL)) as server:
        nobody = range(1, GATEWAYS_ASKED_MAX + 1)  # Ports at which nobody listens.
        probe = domains.probe()
        assert not await domains.ask(probe, *nobody, server.port)
        assert [await domains.ask(probe, *nobody, server.port) for _ in range(2)] == [True, True]
        assert server.connections == 1
        probe.close()


async def test_a_gateway_that_died_and_came_back_is_reached_again(domains: Domains) -> None:
    probe = domains.probe()
    leaf = domains.beta.leaf(GATEWAY)
    async with served(leaf, domains.beta, hang_up) as server:
        assert not await domains.ask(probe, server.port)
    async with served(leaf, domains.beta, always(WELL)) as server:
        assert await domains.ask(probe, server.port)
    probe.close()
