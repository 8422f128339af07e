"""The kernel's packet queues (NFQUEUE) over a netlink socket, without a library.

The kernel holds each packet and tells its number only (copy mode META); it goes on, or is dropped, by our verdict.
So a packet costs one small message each way, whatever its size. Layout: linux/netfilter/nfnetlink_queue.h.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

# Packets that one queue holds; more pass without delay (FAIL_OPEN). At 40 ms: 250,000 packets a second.
QUEUE_PACKETS_MAX = 10_000
_SOCKET_BYTES = 16 << 20
_DATAGRAM_BYTES = 1 << 17
_DATAGRAMS_AT_ONCE = 64  # Then those whose time has come go on.

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_SO_RCVBUFFORCE = 33
_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _VERDICT, _CONFIG = (_SUBSYSTEM | kind for kind in (0, 1, 2))
_ERROR = 2  # NLMSG_ERROR: also the acknowledgement, with number 0.
_REQUEST, _ACK = 0x1, 0x4
_ATTRIBUTE_PACKET_HEADER = 1
_ATTRIBUTE_VERDICT = 2
_DROP, _ACCEPT = 0, 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_HEADER_BYTES = _HEADER.size + 4  # And family, version, queue.
# What a queue is configured with.
_COMMAND, _PARAMETERS, _MAXIMUM, _MASK, _FLAGS = 1, 2, 3, 4, 5
_BIND, _COPY_META = 1, 1
_FAIL_OPEN, _GSO = 1, 4


class PacketQueues:
    """Queues 0 to `count` - 1 of the network namespace in which this is opened. Needs CAP_NET_ADMIN."""

    def __init__(self, count: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SOCKET_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        self._socket.bind((0, 0))
        for queue in range(count):
            self._open(queue)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        """Open within the block."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """The kernel drops what a closed queue still holds, and passes what comes later (--queue-bypass)."""
        self._socket.close()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[int, int]]:
        """Return the packets that have come, as (queue, packet), some of them when there are many."""
        found: list[tuple[int, int]] = []
        with suppress(BlockingIOError):
            for _ in range(_DATAGRAMS_AT_ONCE):
                found += packets(self._socket.recv(_DATAGRAM_BYTES))
        return found

    def accept(self, queue: int, packet: int) -> None:
        """Let it go on."""
        self._socket.send(verdict(queue, packet, _ACCEPT))

    def drop(self, queue: int, packet: int) -> None:
        """Lose it."""
        self._socket.send(verdict(queue, packet, _DROP))

    def _open(self, queue: int) -> None:
        self._configure(queue, _attribute(_COMMAND, struct.pack(">BBH", _BIND, 0, socket.AF_INET)))
        flags = struct.pack(">I", _FAIL_OPEN | _GSO)  # GSO: what the sender joined is not cut up.
        self._configure(
            queue,
            _attribute(_PARAMETERS, struct.pack(">IB", 0, _COPY_META))
            + _attribute(_MAXIMUM, struct.pack(">I", QUEUE_PACKETS_MAX))
            + _attribute(_MASK, flags)
            + _attribute(_FLAGS, flags),
        )

    def _configure(self, queue: int, attributes: bytes) -> None:
        """Send one change and wait for the kernel's answer; raises OSError when it refuses."""
        self._socket.send(_message(_CONFIG, queue, attributes, _REQUEST | _ACK))
        while True:
            answer = self._socket.recv(_DATAGRAM_BYTES)
            _, kind, *_ = _HEADER.unpack_from(answer)
            if kind == _ERROR:
                break
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if number:
            raise OSError(number, f"packet queue {queue}: {os.strerror(number)}")


def packets(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Return (queue, packet) of each packet that the kernel announces in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        if kind == _PACKET and length >= _HEADER_BYTES:
            (queue,) = struct.unpack_from(">H", datagram, offset + _HEADER_BYTES - 2)
            packet = _packet_number(datagram[offset + _HEADER_BYTES : offset + length])
            if packet is not None:
                yield queue, packet
        offset += _aligned(length)


def verdict(queue: int, packet: int, decision: int) -> bytes:
    """Return the message that decides about a packet."""
    return _message(
        _VERDICT, queue, _attribute(_ATTRIBUTE_VERDICT, struct.pack(">II", decision, packet)), _REQUEST
    )


def _packet_number(attributes: bytes) -> int | None:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _ATTRIBUTE_PACKET_HEADER and length >= 8:
            return int(struct.unpack_from(">I", attributes, offset + 4)[0])
        if length < 4:
            return None
        offset += _aligned(length)
    return None


def _message(kind: int, queue: int, attributes: bytes, flags: int) -> bytes:
    body = struct.pack("=BB", socket.AF_UNSPEC, 0) + struct.pack(">H", queue) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
