"""The two ports of a controller that others call: gRPC for processes, HTTPS for people and newcomers."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
from aiohttp import web

from certs.core.bundle import Bundles
from certs.core.verifier import Verifier
from certs.runtime.grpc_security import SERVER_OPTIONS, VerifyingInterceptor, server_credentials
from certs.runtime.identity import LeafIdentity
from certs.runtime.tls import RotatingServerContext
from federation.api.accepting import listen_on, serve_http
from federation.api.audit import AuditTrail
from federation.api.caller import audited
from federation.api.rest import errors_to_status
from federation.kernel.configfile import host_port
from federation.kernel.errors import PreconditionError
from federation.kernel.limits import FRAME_BYTES_MAX

STOP_GRACE_S = 1.0

_GRPC_OPTIONS = (
    *SERVER_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    # Agents send a keepalive every 10 s, also without a stream.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

Listening = Callable[[], None]


async def serve_control(
    address: str,
    handlers: Sequence["grpc.GenericRpcHandler[Any, Any]"],
    *,
    verifier: Verifier,
    leaf: LeafIdentity,
    bundles: Callable[[], Bundles],
    listening: Listening,
) -> None:
    """Serve the gRPC services until cancelled; every peer is verified before a handler runs.

    Raises PreconditionError when the address cannot be listened on.
    """
    server = grpc.aio.server(interceptors=[VerifyingInterceptor(verifier)], options=_GRPC_OPTIONS)
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        server.add_secure_port(address, server_credentials(leaf, bundles))
    except RuntimeError as error:
        raise _taken("control", address) from error
    await server.start()
    listening()
    try:
        await asyncio.Event().wait()  # Until cancelled.
    finally:
        await server.stop(STOP_GRACE_S)


async def serve_api(
    address: str,
    routes: Iterable[web.RouteDef],
    *,
    audit: AuditTrail,
    verifier: Verifier,
    leaf: LeafIdentity,
    bundles: Callable[[], Bundles],
    listening: Listening,
    headers: Callable[[], dict[str, str]] = dict,
) -> None:
    """Serve HTTPS until cancelled. Callers may come without a certificate: handlers decide.

    `headers` gives what each answer says beside its own.

    Raises PreconditionError when the address cannot be listened on.
    """
    tls = RotatingServerContext(leaf, bundles, client="optional", send_root=True)
    app = web.Application(middlewares=[audited(audit, verifier), errors_to_status])
    app.add_routes(routes)

    async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers())

    app.on_response_prepare.append(add_headers)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # A watch ends when its client goes, also while nothing changes.
        shutdown_timeout=STOP_GRACE_S,
    )
    await runner.setup()
    try:
        host, port = host_port(address, "listen.api")
        try:
            listener = listen_on(host, port)
        except OSError as error:
            raise _taken("api", address) from error
        listening()
        assert runner.server is not None, "it is set up"
        await serve_http(listener, runner.server, tls=tls.context)
    finally:
        await runner.cleanup()


def _taken(name: str, address: str) -> PreconditionError:
    return PreconditionError(
        f"listen.{name}: {address} cannot be listened on: stop what listens there, or choose another address"
    )
