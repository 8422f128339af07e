"""A real gRPC server: nobody reaches a handler whom the Verifier does not believe."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest

from certs.core.bundle import Bundles, TrustBundle, make_bundle
from certs.core.issuance import CONTROLLER_DNS_NAME, LEAF_TTL
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.grpc_security import (
    VerifyingInterceptor,
    client_channel,
    peer_identity,
    server_credentials,
)
from certs.runtime.identity import IdentityPem, LeafIdentity
from federation.kernel.errors import BadIdentityError, InvalidInputError, PreconditionError
from tests.support.pki import TestDomain, bundles_of
from tests.support.wait import eventually_async

HOST = "127.102.2.1"
CALL_TIMEOUT_S = 20
METHODS = ("unary_unary", "unary_stream", "written_stream", "stream_unary", "stream_stream")


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("alpha.example", tmp_path_factory.mktemp("alpha"))


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("beta.example", tmp_path_factory.mktemp("beta"))


class WhoAmI:
    """Answers who called, in each of the shapes that a handler can have; counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.open_streams = 0

    def _who(self) -> bytes:
        self.runs += 1
        return str(peer_identity()).encode()

    async def unary_unary(self, _request: bytes, _context: Any) -> bytes:
        return self._who()

    async def unary_stream(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for _ in range(2):
            yield self._who()

    async def written_stream(self, _request: bytes, context: Any) -> None:
        for _ in range(2):
            await context.write(self._who())

    async def stream_unary(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([self._who() async for _ in requests][:1])

    async def stream_stream(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield self._who()

    async def endless(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.open_streams += 1
        try:
            while True:
                yield self._who()
                await asyncio.Event().wait()
        finally:
            self.open_streams -= 1

    async def anonymous(self, _request: bytes, _context: Any) -> bytes:
        return b"anybody"

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.WhoAmI",
            {
                "anonymous": grpc.unary_unary_rpc_method_handler(self.anonymous),
                "endless": grpc.unary_stream_rpc_method_handler(self.endless),
                "unary_unary": grpc.unary_unary_rpc_method_handler(self.unary_unary),
                "unary_stream": grpc.unary_stream_rpc_method_handler(self.unary_stream),
                "written_stream": grpc.unary_stream_rpc_method_handler(self.written_stream),
                "stream_unary": grpc.stream_unary_rpc_method_handler(self.stream_unary),
                "stream_stream": grpc.stream_stream_rpc_method_handler(self.stream_stream),
            },
        )


class Service:
    """A server on a port of its own, with bundles that a test changes."""

    def __init__(
        self, identity: LeafIdentity, bundles: dict[str, TrustBundle], *, guarded: bool = True
    ) -> None:
        self.identity = identity
        self.guarded = guarded
        self.clock_ahead = timedelta(0)
        self.bundles = bundles
        self.who = WhoAmI()
        self.target = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        def bundles() -> Bundles:
            return self.bundles

        def clock() -> datetime:
            return utc_now() + self.clock_ahead

        interceptor = VerifyingInterceptor(Verifier(bundles, clock=clock))
        server = grpc.aio.server(interceptors=[interceptor] if self.guarded else [])
        server.add_generic_rpc_handlers([self.who.handlers()])
        port = server.add_secure_port(f"{HOST}:0", server_credentials(self.identity, bundles))
        self.target = f"{HOST}:{port}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)


async def two_requests() -> AsyncIterator[bytes]:
    for _ in range(2):
        yield b"x"


async def no_request_yet() -> AsyncIterator[bytes]:
    """A stream that says nothing: gRPC's client replaces the status by INTERNAL if a write meets a refusal."""
    await asyncio.Event().wait()
    yield b"x"


async def call(
    channel: grpc.aio.Channel,
    method: str = "unary_unary",
    requests: Callable[[], AsyncIterator[bytes]] = two_requests,
) -> list[str]:
    """Return every answer to one call."""
    path = f"/test.WhoAmI/{method}"
    match method:
        case "unary_unary":
            answers = [await channel.unary_unary(path)(b"", timeout=CALL_TIMEOUT_S)]
        case "stream_unary":
            answers = [await channel.stream_unary(path)(requests(), timeout=CALL_TIMEOUT_S)]
        case "stream_stream":
            answers = [one async for one in channel.stream_stream(path)(requests(), timeout=CALL_TIMEOUT_S)]
        case _:
            answers = [one async for one in channel.unary_stream(path)(b"", timeout=CALL_TIMEOUT_S)]
    return [answer.decode() for answer in answers]


def raw_channel(
    target: str, roots: bytes, pem: IdentityPem | None, name: str = CONTROLLER_DNS_NAME
) -> grpc.aio.Channel:
    """A channel that shows any certificate, forged ones too."""
    credentials = grpc.ssl_channel_credentials(roots, pem.key if pem else None, pem.chain if pem else None)
    return grpc.aio.secure_channel(target, credentials, options=[("grpc.ssl_target_name_override", name)])


async def refusal(channel: grpc.aio.Channel, method: str = "unary_unary") -> tuple[grpc.StatusCode, str]:
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, method, no_request_yet)
    return refused.value.code(), refused.value.details() or ""


@pytest.mark.parametrize("method", METHODS)
def test_a_handler_of_any_shape_knows_its_caller(alpha: TestDomain, beta: TestDomain, method: str) -> None:
    agent = beta.agent("beta")

    async def run() -> list[str]:
        async with (
            Service(alpha.controller("alpha"), bundles_of(alpha, beta)).running() as service,
            client_channel(service.target, agent, alpha.bundle) as channel,
        ):
            return await call(channel, method)

    answers = asyncio.run(run())
    assert set(answers) == {str(agent.spiffe_id)}
    assert len(answers) == (1 if method.endswith("unary") else 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("uris", "reason"),
    [
        pytest.param(
            ["spiffe://alpha.example/isthmus/alpha/controller/c1"], "another trust domain", id="forged-domain"
        ),
        pytest.param(["spiffe://beta.example/x", "spiffe://alpha.example/x"], "2 URI names", id="two-uris"),
    ],
)
def test_a_forged_peer_reaches_no_handler(
    alpha: TestDomain, beta: TestDomain, method: str, uris: list[str], reason: str
) -> None:
    async def run() -> None:
        async with Service(alpha.controller("alpha"), bundles_of(alpha, beta)).running() as service:
            channel = raw_channel(service.target, alpha.bundle.pem(), beta.forge(uris=uris).pem())
            code, details = await refusal(channel, method)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert reason in details
            assert service.who.runs == 0

    asyncio.run(run())


def test_tls_of_grpc_alone_would_let_the_forged_peer_in(alpha: TestDomain, beta: TestDomain) -> None:
    """The control of the test above: what refuses there is the interceptor, and it is needed."""
    forged = beta.forge(
        uris=["spiffe://alpha.example/isthmus/alpha/controller/c1", "spiffe://beta.example/x"]
    )

    async def run() -> bytes:
        async with (
            Service(alpha.controller("alpha"), bundles_of(alpha, beta), guarded=False).running() as service,
            raw_channel(service.target, alpha.bundle.pem(), forged.pem()) as channel,
        ):
            return await channel.unary_unary("/test.WhoAmI/anonymous")(b"", timeout=CALL_TIMEOUT_S)

    assert asyncio.run(run()) == b"anybody"


def test_a_leaf_that_expires_on_a_living_connection_ends_the_next_call(alpha: TestDomain) -> None:
    async def run() -> None:
        async with (
            Service(alpha.controller("alpha"), alpha.bundles).running() as service,
            client_channel(service.target, alpha.agent("alpha"), alpha.bundle) as channel,
        ):
            await call(channel)
            service.clock_ahead = LEAF_TTL
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "expired at" in str(refused.value.details())

    asyncio.run(run())


def test_a_handler_is_closed_when_its_caller_goes_away(alpha: TestDomain) -> None:
    async def run() -> None:
        async with (
            Service(alpha.controller("alpha"), alpha.bundles).running() as service,
            client_channel(service.target, alpha.agent("alpha"), alpha.bundle) as channel,
        ):
            stream = channel.unary_stream("/test.WhoAmI/endless")(b"", timeout=CALL_TIMEOUT_S)
            await stream.read()
            assert service.who.open_streams == 1
            stream.cancel()
            await eventually_async(lambda: service.who.open_streams == 0, timeout_s=CALL_TIMEOUT_S)

    asyncio.run(run())


def test_without_a_certificate_there_is_no_connection(alpha: TestDomain) -> None:
    async def run() -> None:
        async with Service(alpha.controller("alpha"), alpha.bundles).running() as service:
            code, _ = await refusal(client_channel(service.target, None, alpha.bundle))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert service.who.runs == 0

    asyncio.run(run())


def test_a_stranger_reaches_no_handler(alpha: TestDomain, beta: TestDomain) -> None:
    async def run() -> None:
        async with Service(alpha.controller("alpha"), alpha.bundles).running() as service:
            code, _ = await refusal(client_channel(service.target, beta.agent("beta"), alpha.bundle))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert service.who.runs == 0

    asyncio.run(run())


def test_a_bundle_that_goes_away_ends_the_next_call_of_a_living_connection(
    alpha: TestDomain, beta: TestDomain
) -> None:
    async def run() -> None:
        async with (
            Service(alpha.controller("alpha"), bundles_of(alpha, beta)).running() as service,
            client_channel(service.target, beta.agent("beta"), alpha.bundle) as channel,
        ):
            await call(channel)
            service.bundles = alpha.bundles
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "is not known here" in str(refused.value.details())

    asyncio.run(run())


def test_when_everything_is_revoked_everybody_is_refused(alpha: TestDomain) -> None:
    async def run() -> None:
        async with Service(alpha.controller("alpha"), alpha.bundles).running() as service:
            async with client_channel(service.target, alpha.agent("alpha"), alpha.bundle) as channel:
                await call(channel)
            service.bundles = {"alpha.example": make_bundle("alpha.example", [])}
            code, details = await refusal(client_channel(service.target, alpha.agent("alpha"), alpha.bundle))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "revoked" in details

    asyncio.run(run())


def test_a_domain_federated_later_connects_without_a_restart(alpha: TestDomain, beta: TestDomain) -> None:
    agent = beta.agent("beta")

    async def run() -> None:
        async with Service(alpha.controller("alpha"), alpha.bundles).running() as service:
            await refusal(client_channel(service.target, agent, alpha.bundle))
            service.bundles = bundles_of(alpha, beta)
            async with client_channel(service.target, agent, alpha.bundle) as channel:
                assert await call(channel) == [str(agent.spiffe_id)]

    asyncio.run(run())


def test_a_renewed_server_leaf_serves_new_connections_without_a_restart(
    alpha: TestDomain, beta: TestDomain
) -> None:
    """Shown by a client that believes the new root only: the server's old leaf could not satisfy it."""
    identity = beta.controller("beta")
    successor = TestDomain("beta.example", beta.directory / "successor")
    roots = make_bundle("beta.example", [beta.root.certificate_der, successor.root.certificate_der])

    async def run() -> None:
        async with Service(identity, {**alpha.bundles, "beta.example": roots}).running() as service:
            agent = alpha.agent("alpha")
            assert (await refusal(client_channel(service.target, agent, successor.bundle)))[
                0
            ] is grpc.StatusCode.UNAVAILABLE
            async with client_channel(service.target, agent, beta.bundle) as old_connection:
                await call(old_connection)
                successor.renew(identity, identity.spiffe_id)
                async with client_channel(service.target, agent, successor.bundle) as new_connection:
                    assert await call(new_connection) == [str(agent.spiffe_id)]
                assert await call(old_connection) == [str(agent.spiffe_id)]

    asyncio.run(run())


Pick = Callable[[TestDomain, TestDomain], LeafIdentity]


@pytest.mark.parametrize(
    "pick",
    [
        pytest.param(lambda a, _: a.controller("alpha", "c2"), id="another-controller-of-the-domain"),
        pytest.param(lambda a, _: a.controller("gamma", "c1"), id="same-name-in-another-cluster"),
        pytest.param(lambda a, _: a.agent("alpha"), id="an-agent-of-the-domain"),
        pytest.param(lambda _, b: b.controller("alpha", "c1"), id="same-name-in-another-domain"),
    ],
)
def test_a_channel_speaks_to_the_one_controller_it_was_made_for(
    alpha: TestDomain, beta: TestDomain, pick: Pick
) -> None:
    wanted = alpha.controller("alpha", "c1")
    impostor = pick(alpha, beta)

    async def run() -> None:
        bundles = bundles_of(alpha, beta)
        async with Service(wanted, bundles).running() as right, Service(impostor, bundles).running() as wrong:
            agent = alpha.agent("alpha")
            async with client_channel(right.target, agent, alpha.bundle, server=wanted.spiffe_id) as channel:
                assert await call(channel) == [str(agent.spiffe_id)]
            code, _ = await refusal(
                client_channel(wrong.target, agent, alpha.bundle, server=wanted.spiffe_id)
            )
            assert code is grpc.StatusCode.UNAVAILABLE
            assert wrong.who.runs == 0

    asyncio.run(run())


def test_a_channel_to_nobody_in_particular_takes_any_controller_and_no_agent(alpha: TestDomain) -> None:
    async def run() -> None:
        async with (
            Service(alpha.controller("alpha", "c9"), alpha.bundles).running() as service,
            client_channel(service.target, alpha.agent("alpha"), alpha.bundle) as channel,
        ):
            assert len(await call(channel)) == 1
        async with Service(alpha.agent("alpha"), alpha.bundles).running() as service:
            await refusal(client_channel(service.target, alpha.agent("alpha"), alpha.bundle))
            assert service.who.runs == 0

    asyncio.run(run())


def test_a_channel_is_made_for_controllers_of_its_own_domain_only(
    alpha: TestDomain, beta: TestDomain
) -> None:
    agent = alpha.agent("alpha")
    with pytest.raises(InvalidInputError, match="not a controller"):
        client_channel(HOST, agent, alpha.bundle, server=agent.spiffe_id)
    with pytest.raises(InvalidInputError, match="not a controller"):
        client_channel(HOST, agent, alpha.bundle, server=beta.controller("beta").spiffe_id)
    with pytest.raises(PreconditionError, match="empty"):
        client_channel(HOST, agent, make_bundle("alpha.example", []))


def test_credentials_without_any_root_cannot_be_made(alpha: TestDomain) -> None:
    with pytest.raises(PreconditionError, match="no trust domain has a root"):
        server_credentials(alpha.controller("alpha"), dict)


def test_outside_a_verified_call_there_is_no_peer() -> None:
    with pytest.raises(BadIdentityError, match="no verified peer"):
        peer_identity()
