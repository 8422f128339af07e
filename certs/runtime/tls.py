"""TLS for our asyncio endpoints: the handshake proves possession of a key, the Verifier says whose it is.

`ssl` knows one pool of roots. Given every domain's roots it would let the authority of one domain
vouch for identities of another, so the pool only lets honest handshakes finish, and no byte of an
application is read or written before `verify_peer` has judged the chain by the bundle of the
trust domain that it names (invariant S1). Host names are not compared: identities are URIs.

Sessions are never resumed: a resumed one shows no chain to judge.
"""

import os
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import structlog
from cryptography.exceptions import InvalidSignature
from msgspec import Struct

from certs.core.bundle import Bundles, make_bundle, pooled_pem
from certs.core.certificate import load_certificate, spki_pin, to_pem
from certs.core.spiffe import SpiffeId
from certs.core.verifier import CHAIN_CERTIFICATES_MAX, Purpose, Verifier, verify_chain
from certs.runtime.clock import utc_now
from certs.runtime.identity import Certified, IdentityPem, LeafIdentity
from federation.kernel.errors import BadIdentityError, InvalidInputError, IsthmusError, PreconditionError

ClientCertificate = Literal["required", "optional"]
TlsObject = ssl.SSLObject | ssl.SSLSocket

_log = structlog.get_logger(__name__)

_DER = 2  # _ssl.ENCODING_DER, which Python 3.11 does not export


class PinnedPeer(Struct, frozen=True, kw_only=True):
    """A peer known by its pin, and the root that it showed: the first bundle of an enrolling process."""

    spiffe_id: SpiffeId
    root_der: bytes


def server_context(
    identity: LeafIdentity, bundles: Bundles, *, client: ClientCertificate, send_root: bool = False
) -> ssl.SSLContext:
    """Return a TLS 1.3 server's context for the identity and bundles of this moment.

    `send_root` appends the root to the chain, for clients that know only its pin.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if client == "required" else ssl.CERT_OPTIONAL
    _trust(context, bundles)
    pem = identity.pem()
    if send_root:
        pem = IdentityPem(key=pem.key, chain=to_pem(server_chain_with_root(identity, bundles)))
    _prove(context, pem)
    return context


def client_context(identity: LeafIdentity | None, bundles: Bundles) -> ssl.SSLContext:
    """Return a TLS 1.3 client's context; the caller goes on with `verify_peer`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    _trust(context, bundles)
    if identity is not None:
        _prove(context, identity.pem())
    return context


def pinned_client_context() -> ssl.SSLContext:
    """Return the context of a client that knows a pin only: it believes nothing until `verify_pin`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RotatingServerContext:
    """A server's context that follows its identity and bundles while the server listens.

    `context` is handed to the listener once. At each handshake the newest inner context takes its
    place, so a renewed leaf and a changed bundle count from the next connection on.
    """

    def __init__(
        self,
        identity: LeafIdentity,
        bundles: Callable[[], Bundles],
        *,
        client: ClientCertificate,
        send_root: bool = False,
    ) -> None:
        self._identity = identity
        self._bundles = bundles
        self._client: ClientCertificate = client
        self._send_root = send_root
        self._built_from: tuple[Certified, Bundles] | None = None
        self._newest = self._build(bundles())
        self.context = self._build(bundles())
        self.context.sni_callback = self._swap

    def _swap(self, connection: TlsObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this for every ClientHello, with or without a server name.
        try:
            connection.context = self._refreshed()
        except IsthmusError as error:
            # The last good context lets handshakes finish; `verify_peer` judges by what holds now.
            _log.error("tls context not renewed", reason=error.message)
            connection.context = self._newest

    def _refreshed(self) -> ssl.SSLContext:
        source = (self._identity.current, dict(self._bundles()))
        if self._built_from != source:
            self._newest = self._build(source[1])
            self._built_from = source
        return self._newest

    def _build(self, bundles: Bundles) -> ssl.SSLContext:
        return server_context(self._identity, bundles, client=self._client, send_root=self._send_root)


def server_chain_with_root(identity: LeafIdentity, bundles: Bundles) -> tuple[bytes, ...]:
    """Return the identity's chain and, last, the root of its own domain that vouches for it."""
    chain = identity.chain_der
    last = load_certificate(chain[-1], where="chain")
    bundle = bundles.get(identity.spiffe_id.trust_domain)
    for root in bundle.roots if bundle else ():
        try:
            last.verify_directly_issued_by(load_certificate(root, where="root"))
        except (ValueError, TypeError, InvalidSignature):
            continue  # the bundle's other roots belong to other generations
        return (*chain, root)
    raise PreconditionError(
        f"no root of the bundle of {identity.spiffe_id.trust_domain} vouches for {identity.path}"
    )


def peer_chain_der(connection: TlsObject) -> tuple[bytes, ...]:
    """Return what the peer sent, leaf first; empty when it sent nothing. The handshake is over."""
    public = getattr(connection, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return tuple(public())
    inner = connection._sslobj  # type: ignore[union-attr] # noqa: SLF001 - the only way before 3.13
    # A server whose client sent nothing is given a list that holds None.
    return tuple(one.public_bytes(_DER) for one in inner.get_unverified_chain() or () if one is not None)


def verify_peer(connection: TlsObject, verifier: Verifier, purpose: Purpose) -> SpiffeId:
    """Return who the peer is, or raise BadIdentityError: then close without reading or writing more."""
    return verifier.verify(peer_chain_der(connection), purpose=purpose)


def verify_pin(
    connection: TlsObject, pin: str, trust_domain: str, *, clock: Callable[[], datetime] = utc_now
) -> PinnedPeer:
    """Return the server when the chain that it sent holds the pinned root and is valid under it alone.

    BadIdentityError otherwise. The caller still checks that the identity is one it wants.
    """
    chain = peer_chain_der(connection)
    if not 1 <= len(chain) <= CHAIN_CERTIFICATES_MAX:
        raise BadIdentityError(
            f"the server sent {len(chain)} certificates, expected 1 to {CHAIN_CERTIFICATES_MAX}"
        )
    try:
        root = next((der for der in chain if spki_pin(der) == pin), None)
        if root is None:
            raise BadIdentityError(f"no certificate of the server has the pinned key {pin}")
        bundles = {trust_domain: make_bundle(trust_domain, [root])}
    except InvalidInputError as error:
        raise BadIdentityError(f"the server's chain: {error.message}") from error
    return PinnedPeer(spiffe_id=verify_chain(chain, bundles, clock(), purpose="server"), root_der=root)


def _trust(context: ssl.SSLContext, bundles: Bundles) -> None:
    pooled = pooled_pem(bundles)
    if pooled:  # without any root nobody is believed, which is what empty bundles mean
        context.load_verify_locations(cadata=pooled.decode("ascii"))


def _prove(context: ssl.SSLContext, pem: IdentityPem) -> None:
    """Load key and chain; `ssl` reads files only, so the file is an anonymous one in memory."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem.key + pem.chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise PreconditionError(f"tls refuses the identity: {error}") from error
    finally:
        os.close(descriptor)
