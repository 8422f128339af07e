"""Who may speak gRPC with us, and to whom we speak.

Server side. gRPC's TLS takes one pool of roots, which alone would let any known authority vouch
for any identity and would pass a leaf with two URI names. The pool only finishes the handshake;
`VerifyingInterceptor` judges leaf and chain before any handler runs, on every call, so a leaf
that expires on a living connection, or a bundle that goes away, ends the next call. Calls that
are already running go on: with SERVER_OPTIONS a long stream ends with its connection, which the
client then makes anew and proves itself again.

Client side. Python's gRPC shows a client neither the server's certificate nor a hook to judge it;
it compares a DNS name and a pool of roots. So one channel speaks to one controller: it gets only
the roots of that controller's trust domain, and demands the DNS name that the authorities of a
domain give to that controller alone (`certs.core.issuance.controller_dns_names`). Nothing is
pooled, and no other process of the same domain can answer in its place.

On a stream of requests a refused client may see INTERNAL instead of UNAUTHENTICATED: grpc.aio
replaces the status when one of the client's writes meets the end of the call.

A channel's own certificate is fixed when it is made: its owner makes a new channel after each
`LeafIdentity.install`.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import structlog

from certs.core.bundle import Bundles, TrustBundle, pooled_pem
from certs.core.certificate import CERTIFICATE_BYTES_MAX
from certs.core.issuance import CONTROLLER_DNS_NAME, controller_dns_names
from certs.core.spiffe import SpiffeId
from certs.core.verifier import CHAIN_CERTIFICATES_MAX, Verifier
from certs.runtime.identity import Certified, LeafIdentity
from federation.kernel.errors import BadIdentityError, InvalidInputError, PreconditionError

# For every server of ours: no connection outlives its proof by more than this (gRPC spreads it by 10%).
SERVER_OPTIONS = (
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
)
# PEM is a third longer than DER, and has two lines of its own.
CHAIN_PEM_BYTES_MAX = CHAIN_CERTIFICATES_MAX * CERTIFICATE_BYTES_MAX * 3 // 2
_PEM_END = "-----END CERTIFICATE-----"

_peer: ContextVar[SpiffeId] = ContextVar("certs.peer")
_log = structlog.get_logger(__name__)

# A call's parts, whose types only the generated stubs know.
_Behaviour = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Any]
_MakeHandler = Callable[..., "grpc.RpcMethodHandler[Any, Any]"]


def server_credentials(identity: LeafIdentity, bundles: Callable[[], Bundles]) -> grpc.ServerCredentials:
    """Return credentials that demand a client certificate and follow `identity` and `bundles`.

    Both are asked at each handshake, on a thread of gRPC's. Without `VerifyingInterceptor` these
    credentials authenticate nobody.
    """
    source = _ServerConfiguration(identity, bundles)
    first = source.fetch()
    if first is None:
        raise PreconditionError("no trust domain has a root: nobody could be authenticated")
    return grpc.dynamic_ssl_server_credentials(
        first,
        source.fetch,  # type: ignore[arg-type] # the stubs forget None, which means unchanged
        require_client_authentication=True,
    )


class _ServerConfiguration:
    """The newest key, chain and pool; asked for by gRPC's threads, so each step is one assignment."""

    def __init__(self, identity: LeafIdentity, bundles: Callable[[], Bundles]) -> None:
        self._identity = identity
        self._bundles = bundles
        self._given: tuple[Certified, dict[str, TrustBundle]] | None = None

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed since the last time, or None."""
        newest = (self._identity.current, dict(self._bundles()))
        if newest == self._given:
            return None
        pool = pooled_pem(newest[1])
        if not pool:
            # gRPC cannot express an empty pool. The old one lets handshakes finish; the Verifier,
            # which sees the empty bundles, then refuses everybody.
            return None
        pem = self._identity.pem()
        configuration = grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pool)
        self._given = newest
        return configuration


class VerifyingInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Refuses with UNAUTHENTICATED every call whose peer the Verifier does not believe.

    Handlers are asynchronous, in any of gRPC's shapes, and learn the peer from `peer_identity`.
    It must be the first interceptor.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Put the check before the behaviour of the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler  # unknown method: gRPC answers UNIMPLEMENTED, nothing of ours runs
        make, behaviour = _parts(handler)
        checked = (
            self._checked_stream(behaviour) if handler.response_streaming else self._checked_unary(behaviour)
        )
        return make(checked, handler.request_deserializer, handler.response_serializer)

    def _checked_unary(self, behaviour: _Behaviour) -> _Behaviour:
        async def checked(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            await self._admit(context)
            return await behaviour(request, context)

        return checked

    def _checked_stream(self, behaviour: _Behaviour) -> _Behaviour:
        async def checked(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
            await self._admit(context)
            answer = behaviour(request, context)
            if not isinstance(answer, AsyncIterator):
                await answer  # a handler that calls context.write itself
                return
            async with contextlib.aclosing(answer) as messages:  # type: ignore[type-var] # generators close
                async for message in messages:
                    await context.write(message)

        return checked

    async def _admit(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        try:
            peer = self._verifier.verify(peer_chain(context), purpose="client")
        except BadIdentityError as error:
            _log.warning("grpc peer refused", peer=context.peer(), reason=error.message)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
        _peer.set(peer)


def peer_identity() -> SpiffeId:
    """Return who called the handler that is running; BadIdentityError outside a verified call."""
    peer = _peer.get(None)
    if peer is None:
        raise BadIdentityError("no verified peer: this is not a call that came through the interceptor")
    return peer


def peer_chain(context: "grpc.aio.ServicerContext[Any, Any]") -> list[bytes]:
    """Return what the client sent, DER, leaf first; BadIdentityError when there is nothing to judge."""
    properties = context.auth_context()
    leaf = b"".join(properties.get("x509_pem_cert", ()))
    if not leaf:
        raise BadIdentityError("the peer sent no certificate")
    # On the server side gRPC's chain leaves the leaf out.
    chain = b"".join(properties.get("x509_pem_cert_chain", ()))
    if len(leaf) + len(chain) > CHAIN_PEM_BYTES_MAX:
        raise BadIdentityError(f"the peer's certificates have more than {CHAIN_PEM_BYTES_MAX} bytes")
    certificates = _der(leaf + chain)
    return [certificates[0], *(der for der in certificates[1:] if der != certificates[0])]


def client_channel(
    target: str,
    identity: LeafIdentity | None,
    bundle: TrustBundle,
    *,
    server: SpiffeId | None = None,
    options: tuple[tuple[str, str | int], ...] = (),
) -> grpc.aio.Channel:
    """Return a channel to the controller `server`, or to any controller of the bundle's trust domain.

    PreconditionError: the bundle is empty. InvalidInputError: `server` is no controller of that domain.
    """
    if not bundle.roots:
        raise PreconditionError(
            f"the bundle of {bundle.trust_domain} is empty, all its identities are revoked"
        )
    name = CONTROLLER_DNS_NAME
    if server is not None:
        own_names = controller_dns_names(server)
        if server.trust_domain != bundle.trust_domain or not own_names:
            raise InvalidInputError(f"{server} is not a controller of trust domain {bundle.trust_domain}")
        name = own_names[-1]
    pem = identity.pem() if identity is not None else None
    credentials = grpc.ssl_channel_credentials(
        bundle.pem(), pem.key if pem else None, pem.chain if pem else None
    )
    return grpc.aio.secure_channel(
        target, credentials, options=[*options, ("grpc.ssl_target_name_override", name)]
    )


def _der(pem: bytes) -> list[bytes]:
    try:
        text = pem.decode("ascii")
        blocks = [block + _PEM_END for block in text.split(_PEM_END) if block.strip()]
        return [ssl.PEM_cert_to_DER_cert(block.strip()) for block in blocks]
    except ValueError as error:
        raise BadIdentityError(f"the peer's certificates are not PEM: {error}") from error


def _parts(handler: "grpc.RpcMethodHandler[Any, Any]") -> tuple[_MakeHandler, Any]:
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary
