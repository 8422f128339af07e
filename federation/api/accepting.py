"""The connections of an HTTP port: so many, whoever they come from.

aiohttp takes as many as there are file descriptors. When none is left, the loop of Python 3.11 tries again a hundred
times a second for each listener, and more often each time, with a traceback for each: nothing else gets a turn.
"""

import asyncio
import errno
import socket
import ssl

import structlog
from aiohttp import web

from federation.kernel.errors import UnavailableError

# More than the watches of a controller, and callers besides; the units allow eight times as many descriptors.
CONNECTIONS_MAX = 8_000
METRICS_CONNECTIONS_MAX = 64
HANDSHAKE_S = 10.0
# How long accepting rests when the process has no descriptor or the kernel no memory for a connection.
ACCEPT_PAUSE_S = 0.2
SAID_AGAIN_S = 10.0
BACKLOG = 128

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LISTENER_BROKEN = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})

_log = structlog.get_logger("http")


def listen_on(host: str, port: int) -> socket.socket:
    """Return a listening socket that no other process shares; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


async def serve_http(
    listener: socket.socket,
    server: web.Server,
    *,
    tls: ssl.SSLContext | None = None,
    connections_max: int = CONNECTIONS_MAX,
) -> None:
    """Give what connects to `server` until cancelled, then close the listener.

    Who comes when there are `connections_max` is closed at once. UnavailableError: the listener broke.
    """
    loop = asyncio.get_running_loop()
    greeting: set[asyncio.Task[None]] = set()
    said_s = -SAID_AGAIN_S
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    if error.errno in _LISTENER_BROKEN:
                        raise UnavailableError(
                            f"http port accepts no connection any more: {error}"
                        ) from error
                    if error.errno in _OUT_OF_RESOURCES:
                        if loop.time() >= said_s + SAID_AGAIN_S:
                            said_s = loop.time()
                            _log.error(
                                "http_port_waits", reason=f"out of file descriptors or memory: {error}"
                            )
                        await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue  # Anything else befell one caller before we met it, such as a reset.
                if len(greeting) + len(server.connections) >= connections_max:
                    connection.close()
                    continue
                task = tasks.create_task(_greet(connection, server, tls), name="http-connection")
                greeting.add(task)
                task.add_done_callback(greeting.discard)
    finally:
        listener.close()


async def _greet(connection: socket.socket, server: web.Server, tls: ssl.SSLContext | None) -> None:
    """Shake hands and leave the connection to the server; who does not get that far was nobody."""
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            server, connection, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
        )
    except OSError:
        return
