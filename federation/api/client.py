"""Calls a controller's HTTPS port: synchronous, for commands and for processes that are not running yet.

No byte of a request leaves before the server's identity is proven: by the roots of the operator's own
trust domain, or by the pin that came with a join token.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from certs.core.bundle import Bundles
from certs.core.spiffe import SpiffeId, system_identity
from certs.core.token import JoinToken
from certs.core.verifier import Verifier
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from certs.runtime.tls import client_context, pinned_client_context, verify_peer, verify_pin
from federation.kernel.codec import MALFORMED
from federation.kernel.configfile import host_port
from federation.kernel.errors import (
    BadIdentityError,
    InvalidInputError,
    IsthmusError,
    OutcomeUnknownError,
    UnavailableError,
    error_class,
)
from federation.kernel.limits import FRAME_BYTES_MAX

TIMEOUT_S = 15.0

_CODE_OF_STATUS = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 3,
    409: 10,
    410: 11,
    422: 9,
    429: 8,
    500: 13,
    503: 14,
    504: 4,
}
_ALREADY_EXISTS = 6

Identify = Callable[[ssl.SSLSocket], SpiffeId]


class ApiClient:
    """Talks to the first controller of a list that can be reached."""

    def __init__(
        self, addresses: Sequence[str], *, context: Callable[[], ssl.SSLContext], identify: Identify
    ) -> None:
        self._addresses = tuple(addresses)
        self._context = context
        self._identify = identify

    @classmethod
    def of_operator(
        cls, addresses: Sequence[str], *, cluster: str, identity: LeafIdentity, bundles: Bundles
    ) -> "ApiClient":
        """For an operator of `cluster`, whose controllers alone are believed."""
        verifier = Verifier(lambda: bundles, clock=utc_now)

        def identify(connection: ssl.SSLSocket) -> SpiffeId:
            peer = verify_peer(connection, verifier, "server")
            return _controller_of(peer, cluster=cluster)

        return cls(addresses, context=lambda: client_context(identity, bundles), identify=identify)

    @classmethod
    def of_token(cls, token: JoinToken) -> "ApiClient":
        """For a process that has nothing but a join token."""

        def identify(connection: ssl.SSLSocket) -> SpiffeId:
            peer = verify_pin(connection, token.pin, token.trust_domain).spiffe_id
            return _controller_of(peer, cluster=None)

        return cls(token.endpoints, context=pinned_client_context, identify=identify)

    @classmethod
    def of_stranger(cls, address: str, *, cluster: str, bundles: Callable[[], Bundles]) -> "ApiClient":
        """For a process that shows no certificate, and knows the controllers of `cluster` by their roots."""
        verifier = Verifier(bundles, clock=utc_now)

        def identify(connection: ssl.SSLSocket) -> SpiffeId:
            return _controller_of(verify_peer(connection, verifier, "server"), cluster=cluster)

        return cls([address], context=pinned_client_context, identify=identify)

    def call(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the answer's body; raises the error that the API answered with.

        UnavailableError when no controller could be reached, OutcomeUnknownError when one was lost
        after the request had been sent. `timeout_s` holds for each wait: connecting, and every read.
        """
        with self._request(method, path, body, timeout_s) as response:
            content = response.read(FRAME_BYTES_MAX + 1)
        if len(content) > FRAME_BYTES_MAX:
            raise InvalidInputError(f"{method} {path}: the answer has more than {FRAME_BYTES_MAX} bytes")
        if response.status >= 400:
            raise _refusal(response.status, content)
        return content

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the lines of a watch, without end."""
        with self._request("GET", path, b"", None) as response:
            if response.status >= 400:
                raise _refusal(response.status, response.read(FRAME_BYTES_MAX))
            while line := response.readline(FRAME_BYTES_MAX):
                yield line

    @contextmanager
    def download(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """Open a long answer for reading, piece by piece; raises as `call`."""
        with self._request("GET", path, b"", TIMEOUT_S) as response:
            if response.status >= 400:
                raise _refusal(response.status, response.read(FRAME_BYTES_MAX))
            yield response

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes, timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, body=body or None, headers={"Content-Type": "application/json"})
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise OutcomeUnknownError(f"{method} {path}: the controller went away: {error}") from error
        finally:
            connection.close()

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        problems: list[str] = []
        for address in self._addresses:
            try:
                return self._open(address, timeout_s)
            except OSError as error:
                problems.append(f"{address}: {error.strerror or error}")
        raise UnavailableError(f"no controller answers: {'; '.join(problems)}")

    def _open(self, address: str, timeout_s: float | None) -> http.client.HTTPConnection:
        host, port = host_port(address, "api")
        # Without a limit is only a watch's wait for changes.
        connect_s = TIMEOUT_S if timeout_s is None else timeout_s
        plain = socket.create_connection((host, port), timeout=connect_s)
        try:
            secure = self._context().wrap_socket(plain)
            self._identify(secure)
        except BaseException:
            plain.close()
            raise
        secure.settimeout(timeout_s)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = secure
        return connection


def _controller_of(peer: SpiffeId, *, cluster: str | None) -> SpiffeId:
    system = system_identity(peer)
    if system is None or system.role != "controller" or cluster not in (None, system.cluster):
        raise BadIdentityError(
            f"the server is {peer}, expected a controller{f' of {cluster}' if cluster else ''}"
        )
    return peer


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""


def _refusal(status: int, content: bytes) -> IsthmusError:
    try:
        answer = msgspec.json.decode(content, type=_Status)
    except MALFORMED:
        answer = _Status()
    code = _ALREADY_EXISTS if answer.reason == "AlreadyExists" else _CODE_OF_STATUS.get(status, 13)
    return error_class(code)(answer.message or f"the controller answered with HTTP status {status}")
