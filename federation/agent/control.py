"""The client's side of the Control service: one channel to one controller, judged by its own roots."""

import asyncio
from typing import Any, TypeAlias

import grpc
import msgspec

from certs.core import spiffe
from certs.runtime.grpc_security import client_channel
from certs.runtime.identity import LeafIdentity
from federation.agent.directory import DirectoryStore
from federation.api.messages import (
    CONTROL_SERVICE,
    AgentMessage,
    ControllerMessage,
    NamedController,
    SignReply,
    SignRequest,
)
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import (
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    UnavailableError,
    error_class,
)
from federation.kernel.limits import FRAME_BYTES_MAX

SIGN_TIMEOUT_S = 10.0

Options = tuple[tuple[str, str | int], ...]

# A controller that vanished without closing its connection is noticed within about 15 s.
CHANNEL_OPTIONS: Options = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Our own backoff decides when to try again; gRPC's must not sit on a dead address for minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)

RegisterCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

_encoder = msgspec.msgpack.Encoder()
_sign_decoder = msgspec.msgpack.Decoder(SignReply)
_message_decoder: msgspec.msgpack.Decoder[ControllerMessage] = msgspec.msgpack.Decoder(ControllerMessage)


def open_channel(
    controller: NamedController,
    identity: LeafIdentity,
    directory: DirectoryStore,
    *,
    message_bytes_max: int = FRAME_BYTES_MAX,
) -> grpc.aio.Channel:
    """Return a new channel to `controller`, which has to prove the identity that the directory names.

    Our certificate on it is the one of this moment: make a new channel for each new stream.
    """
    server = spiffe.parse(controller.spec.identity)
    bundle = directory.bundles().get(server.trust_domain)
    if bundle is None:
        raise NotFoundError(f"directory: no roots of trust domain {server.trust_domain}, that of {server}")
    options: Options = (*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", message_bytes_max))
    return client_channel(controller.spec.control, identity, bundle, server=server, options=options)


async def sign(channel: grpc.aio.Channel, request: SignRequest) -> SignReply:
    """Control/Sign. Raises the error that the controller answered, or `UnavailableError`."""
    call: Any = channel.unary_unary(f"/{CONTROL_SERVICE}/Sign", _as_is, _as_is)
    try:
        raw: bytes = await call(_encoder.encode(request), timeout=SIGN_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "sign") from error
    try:
        return _sign_decoder.decode(raw)
    except MALFORMED as error:
        raise InvalidInputError(f"sign: the controller's answer cannot be read: {error}") from error


def register(channel: grpc.aio.Channel) -> RegisterCall:
    """Open Control/Register; see `send` and `receive`."""
    method: Any = channel.stream_stream(f"/{CONTROL_SERVICE}/Register", _as_is, _as_is)
    call: RegisterCall = method()  # Without an iterator: we write when we want to.
    return call


async def send(call: RegisterCall, message: AgentMessage) -> None:
    """Write one message; returns when gRPC has taken it. Raises as `receive`."""
    try:
        await call.write(_encoder.encode(message))
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "register") from error
    except asyncio.InvalidStateError as error:  # The stream is over; `receive` tells why.
        raise UnavailableError(f"register: {error}") from error


async def receive(call: RegisterCall) -> ControllerMessage:
    """Read one message. Raises the controller's error, or `UnavailableError` when the stream has ended."""
    try:
        raw = await call.read()
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "register") from error
    if not isinstance(raw, bytes):
        raise UnavailableError("register: the controller closed the stream")
    try:
        return _message_decoder.decode(raw)
    except MALFORMED as error:
        raise InvalidInputError(f"register: the controller's message cannot be read: {error}") from error


def from_rpc_error(error: grpc.aio.AioRpcError, what: str) -> IsthmusError:
    """Return our error for one that gRPC raised: same code, same text."""
    number = error.code().value[0]
    return error_class(number)(f"{what}: {error.details() or error.code().name.lower()}")


def _as_is(message: bytes) -> bytes:
    """GRPC reports a codec's error as its own; ours are made where they are understood."""
    return message
