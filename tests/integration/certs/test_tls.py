"""Real handshakes: who is let in after them, and who is not although the handshake was fine."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certs.core.bundle import Bundles, make_bundle
from certs.core.certificate import spki_pin
from certs.core.verifier import Verifier, verify_chain
from certs.runtime.clock import utc_now
from certs.runtime.tls import (
    PinnedPeer,
    RotatingServerContext,
    client_context,
    peer_chain_der,
    pinned_client_context,
    server_chain_with_root,
    server_context,
    verify_peer,
    verify_pin,
)
from federation.kernel.errors import BadIdentityError, PreconditionError
from tests.support.pki import Forged, TestDomain, bundles_of

HOST = "127.102.1.1"
HANG_GUARD_S = 20


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("alpha.example", tmp_path_factory.mktemp("alpha"))


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> TestDomain:
    return TestDomain("beta.example", tmp_path_factory.mktemp("beta"))


@asynccontextmanager
async def listening(context: ssl.SSLContext, bundles: Callable[[], Bundles]) -> AsyncIterator[int]:
    """Answer every connection with who the peer is, or with why it is refused."""
    verifier = Verifier(bundles, clock=utc_now)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            text = str(verify_peer(writer.get_extra_info("ssl_object"), verifier, "client"))
        except BadIdentityError as error:
            text = f"refused: {error.message}"
        writer.write(text.encode())
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def ask(port: int, context: ssl.SSLContext, name: str = HOST) -> tuple[str, tuple[bytes, ...]]:
    """Return the server's answer and chain; an address as `name` is not sent as a server name."""
    async with asyncio.timeout(HANG_GUARD_S):
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname=name)
        chain = peer_chain_der(writer.get_extra_info("ssl_object"))
        text = (await reader.read()).decode()
        writer.close()
        if not text:  # in TLS 1.3 a client learns of a refused handshake only when it reads
            raise ConnectionResetError("closed without an answer")
        return text, chain


def forged_context(forged: Forged, bundles: Bundles, directory: Path) -> ssl.SSLContext:
    context = client_context(None, bundles)
    context.load_cert_chain(forged.write(directory / "forged.pem"))
    return context


def test_both_sides_know_each_other_across_domains(alpha: TestDomain, beta: TestDomain) -> None:
    bundles = bundles_of(alpha, beta)
    controller, agent = alpha.controller("alpha"), beta.agent("beta")

    async def run() -> None:
        async with listening(server_context(controller, bundles, client="required"), lambda: bundles) as port:
            text, chain = await ask(port, client_context(agent, bundles))
            assert text == str(agent.spiffe_id)
            assert verify_chain(chain, bundles, utc_now(), purpose="server") == controller.spiffe_id
            assert chain == controller.chain_der

    asyncio.run(run())


@pytest.mark.parametrize(
    ("uris", "reason"),
    [
        pytest.param(
            ["spiffe://alpha.example/isthmus/alpha/agent/a1"], "another trust domain", id="forged-domain"
        ),
        pytest.param(["spiffe://beta.example/x", "spiffe://alpha.example/x"], "2 URI names", id="two-uris"),
        pytest.param(["spiffe://beta.example"], "no path", id="no-path"),
    ],
)
def test_a_forged_leaf_passes_the_handshake_and_is_refused_after_it(
    alpha: TestDomain, beta: TestDomain, tmp_path: Path, uris: list[str], reason: str
) -> None:
    bundles = bundles_of(alpha, beta)

    async def run() -> str:
        context = server_context(alpha.controller("alpha"), bundles, client="required")
        async with listening(context, lambda: bundles) as port:
            return (await ask(port, forged_context(beta.forge(uris=uris), bundles, tmp_path)))[0]

    answer = asyncio.run(run())
    assert answer.startswith("refused: ")
    assert reason in answer


@pytest.mark.parametrize("known", ["no-certificate", "unknown-root"])
def test_without_a_known_certificate_the_handshake_fails(
    alpha: TestDomain, beta: TestDomain, known: str
) -> None:
    identity = None if known == "no-certificate" else beta.agent("beta")

    async def run() -> None:
        context = server_context(alpha.controller("alpha"), alpha.bundles, client="required")
        async with listening(context, lambda: alpha.bundles) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, client_context(identity, alpha.bundles))

    asyncio.run(run())


def test_an_optional_certificate_may_be_missing_and_is_then_nobody(alpha: TestDomain) -> None:
    async def run() -> tuple[str, str]:
        context = server_context(alpha.controller("alpha"), alpha.bundles, client="optional")
        async with listening(context, lambda: alpha.bundles) as port:
            without, _ = await ask(port, client_context(None, alpha.bundles))
            with_one, _ = await ask(port, client_context(alpha.agent("alpha"), alpha.bundles))
            return without, with_one

    assert asyncio.run(run()) == (
        "refused: the peer sent no certificate",
        "spiffe://alpha.example/isthmus/alpha/agent/a1",
    )


def test_a_client_does_not_finish_a_handshake_with_an_unknown_server(
    alpha: TestDomain, beta: TestDomain
) -> None:
    async def run() -> None:
        context = server_context(beta.controller("beta"), bundles_of(alpha, beta), client="optional")
        async with listening(context, lambda: beta.bundles) as port:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(port, client_context(None, alpha.bundles))

    asyncio.run(run())


def test_older_tls_is_refused(alpha: TestDomain) -> None:
    async def run() -> None:
        old = client_context(alpha.agent("alpha"), alpha.bundles)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        context = server_context(alpha.controller("alpha"), alpha.bundles, client="required")
        async with listening(context, lambda: alpha.bundles) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, old)

    asyncio.run(run())


@pytest.mark.parametrize("name", [HOST, "alpha.example"], ids=["without-server-name", "with-server-name"])
def test_a_listener_follows_its_identity_and_its_bundles(
    alpha: TestDomain, beta: TestDomain, name: str
) -> None:
    identity, agent = alpha.controller("alpha"), beta.agent("beta")
    bundles = dict(alpha.bundles)
    rotating = RotatingServerContext(identity, lambda: bundles, client="required")

    async def run() -> None:
        async with listening(rotating.context, lambda: bundles) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, client_context(agent, bundles_of(alpha, beta)), name)
            first, own = identity.chain_der, client_context(alpha.agent("alpha"), alpha.bundles)
            assert (await ask(port, own, name))[1] == first

            alpha.renew(identity, identity.spiffe_id)
            bundles.update(beta.bundles)
            assert identity.chain_der != first
            text, chain = await ask(port, client_context(agent, bundles), name)
            assert (text, chain) == (str(agent.spiffe_id), identity.chain_der)

            del bundles["beta.example"]
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, client_context(agent, bundles_of(alpha, beta)), name)

    asyncio.run(run())


def test_a_listener_whose_bundles_are_all_revoked_refuses_everybody(alpha: TestDomain) -> None:
    """Its chain can no longer be made, so the last one serves, and the Verifier judges by the empty bundle."""
    bundles = dict(alpha.bundles)
    identity, agent = alpha.controller("alpha"), alpha.agent("alpha")
    rotating = RotatingServerContext(identity, lambda: bundles, client="required", send_root=True)

    async def run() -> str:
        async with listening(rotating.context, lambda: bundles) as port:
            bundles["alpha.example"] = make_bundle("alpha.example", [])
            return (await ask(port, client_context(agent, alpha.bundles)))[0]

    answer = asyncio.run(run())
    assert answer.startswith("refused: ")
    assert "revoked" in answer


async def pinned(port: int, pin: str, trust_domain: str) -> PinnedPeer:
    async with asyncio.timeout(HANG_GUARD_S):
        reader, writer = await asyncio.open_connection(HOST, port, ssl=pinned_client_context())
        try:
            return verify_pin(writer.get_extra_info("ssl_object"), pin, trust_domain)
        finally:
            await reader.read()
            writer.close()


def test_a_pin_alone_finds_the_server_and_its_root(alpha: TestDomain) -> None:
    identity = alpha.controller("alpha")

    async def run() -> PinnedPeer:
        context = server_context(identity, alpha.bundles, client="optional", send_root=True)
        async with listening(context, lambda: alpha.bundles) as port:
            return await pinned(port, spki_pin(alpha.root.certificate_der), "alpha.example")

    assert asyncio.run(run()) == PinnedPeer(spiffe_id=identity.spiffe_id, root_der=alpha.root.certificate_der)


@pytest.mark.parametrize(
    ("send_root", "pin_of", "trust_domain", "reason"),
    [
        pytest.param(True, "beta", "alpha.example", "pinned key", id="pin-of-another-root"),
        pytest.param(False, "alpha", "alpha.example", "pinned key", id="root-not-sent"),
        pytest.param(True, "alpha", "beta.example", "not known here", id="another-trust-domain"),
    ],
)
def test_a_server_that_does_not_fit_the_pin_is_refused(
    alpha: TestDomain, beta: TestDomain, send_root: bool, pin_of: str, trust_domain: str, reason: str
) -> None:
    pin = spki_pin((alpha if pin_of == "alpha" else beta).root.certificate_der)

    async def run() -> None:
        context = server_context(
            alpha.controller("alpha"), alpha.bundles, client="optional", send_root=send_root
        )
        async with listening(context, lambda: alpha.bundles) as port:
            with pytest.raises(BadIdentityError, match=reason):
                await pinned(port, pin, trust_domain)

    asyncio.run(run())


def test_a_pinned_root_as_decoration_vouches_for_nobody(
    alpha: TestDomain, beta: TestDomain, tmp_path: Path
) -> None:
    """Beta shows alpha's root, which is public, behind a leaf that names alpha but is signed by beta."""
    forged = beta.forge(uris=["spiffe://alpha.example/isthmus/alpha/controller/c1"])
    decorated = Forged(key=forged.key, chain_der=(forged.chain_der[0], alpha.root.certificate_der))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(decorated.write(tmp_path / "forged.pem"))

    async def run() -> None:
        async with listening(context, lambda: alpha.bundles) as port:
            with pytest.raises(BadIdentityError, match="no valid path"):
                await pinned(port, spki_pin(alpha.root.certificate_der), "alpha.example")

    asyncio.run(run())


def test_the_root_appended_is_the_one_that_vouches(alpha: TestDomain, beta: TestDomain) -> None:
    identity = alpha.controller("alpha")
    roots = [beta.root.certificate_der, alpha.root.certificate_der]
    both = {"alpha.example": make_bundle("alpha.example", roots)}
    assert server_chain_with_root(identity, both) == (*identity.chain_der, alpha.root.certificate_der)
    with pytest.raises(PreconditionError, match="vouches"):
        server_chain_with_root(identity, {"alpha.example": make_bundle("alpha.example", roots[:1])})


def test_no_key_is_left_in_a_file_by_a_context(alpha: TestDomain) -> None:
    identity = alpha.controller("alpha")
    before = sorted(identity.directory.iterdir())
    server_context(identity, alpha.bundles, client="optional", send_root=True)
    assert sorted(identity.directory.iterdir()) == before
