"""Opens the sockets that DNS is answered on, and counts what passes through them."""

import errno
import ipaddress
import os
import socket
from typing import TypeAlias

import msgspec

from discovery.core.dns_answer import Transport
from federation.kernel.errors import InvalidInputError, PreconditionError

ListenAddress: TypeAlias = tuple[str, int]

# The kernel grants what net.core.rmem_max allows; bursts wait here while Python holds the other thread.
UDP_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
TCP_BACKLOG = 128

RCODES = 16  # The header has four bits for it.


_IP_PKTINFO = 8  # linux/in.h; the socket module has it from Python 3.12 on.


class DnsCounters(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered since the start, over all addresses."""

    udp_replies: tuple[int, ...]  # By rcode of the header.
    tcp_replies: tuple[int, ...]
    dropped: int  # Packets that get no reply, and replies that the kernel refused to send.
    tcp_connections_open: int
    tcp_connections_accepted: int
    tcp_connections_evicted: int  # Closed to make room for newer ones.


class Tally:
    """The replies of one socket; written by one thread, read by any."""

    def __init__(self) -> None:
        self.replies = [0] * RCODES
        self.dropped = 0


def is_wildcard(host: str) -> bool:
    """Return whether an IP address stands for all of the machine's."""
    return ipaddress.ip_address(host).is_unspecified


def open_udp(address: ListenAddress) -> socket.socket:
    """Return a UDP socket bound to `address`; raises as `open_tcp` does.

    On a wildcard address each packet says which address it came to.
    """
    return _bind(address, socket.SOCK_DGRAM, "udp")


def open_tcp(address: ListenAddress) -> socket.socket:
    """Return a non-blocking TCP socket that listens on `address`.

    Raises `InvalidInputError` for what is no IP address and port, `PreconditionError` where the address is
    taken, is not this machine's, or needs rights that the process lacks.
    """
    listener = _bind(address, socket.SOCK_STREAM, "tcp")
    listener.setblocking(False)
    return listener


def _bind(address: ListenAddress, kind: socket.SocketKind, transport: Transport) -> socket.socket:
    host, port = address
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as error:
        raise InvalidInputError(f"dns address: {host!r} is not an IP address") from error
    if not 1 <= port <= 65_535:
        raise InvalidInputError(f"dns address: port of {host} is {port}, expected 1 to 65535")
    bound = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind)
    try:
        _set_options(bound, wildcard=is_wildcard(host))
        bound.bind(address)
        if kind == socket.SOCK_STREAM:
            bound.listen(TCP_BACKLOG)
    except OSError as error:
        bound.close()
        raise PreconditionError(
            f"cannot answer dns on {host} port {port} ({transport}): {_reason(error)}"
        ) from error
    return bound


def _set_options(unbound: socket.socket, *, wildcard: bool) -> None:
    is_ipv6 = unbound.family == socket.AF_INET6
    if is_ipv6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if unbound.type == socket.SOCK_STREAM:
        # For connections of our predecessor that linger; two listeners still exclude each other.
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return
    unbound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE_BUFFER_BYTES)
    # Before binding, because the kernel notes a packet's address when it arrives.
    if wildcard and is_ipv6:
        unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif wildcard:
        unbound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has the address"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return os.strerror(error.errno or 0).lower()
