"""Answers DNS over one UDP socket, in a thread of its own: asyncio would cost several times the answer."""

import contextlib
import socket
import struct
from collections.abc import Callable

from discovery.core.dns_answer import answer
from discovery.core.dns_zone import CompiledZone
from discovery.runtime.dns_sockets import Tally, is_wildcard
from federation.kernel.errors import UnavailableError

# Queries are far shorter; what is longer is cut by the kernel and then malformed.
QUERY_BYTES_MAX = 4_096

_IPV4_PKTINFO = struct.Struct("@i4s4s")  # Interface, our address, the header's destination.
_ANCILLARY_BYTES = socket.CMSG_SPACE(32)


class UdpResponder:
    """One bound UDP socket; `serve` blocks the calling thread until another one calls `stop`."""

    def __init__(self, udp: socket.socket, zone_provider: Callable[[], CompiledZone | None]) -> None:
        self.tally = Tally()
        self._udp = udp
        self._zone_provider = zone_provider
        self._stopped = False

    def serve(self) -> None:
        """Answer until stopped. Raises `UnavailableError` when the kernel no longer gives us packets."""
        try:
            if is_wildcard(self._udp.getsockname()[0]):
                self._serve_any_address()
            else:
                self._serve_one_address()
        except OSError as error:
            raise UnavailableError(f"dns over udp on {self._udp.getsockname()[:2]}: {error}") from error

    def stop(self) -> None:
        """Let `serve` return soon; what is in its hands is still answered."""
        self._stopped = True
        # Wakes a reader also of an unconnected socket, and says ENOTCONN all the same.
        with contextlib.suppress(OSError):
            self._udp.shutdown(socket.SHUT_RD)

    def _serve_one_address(self) -> None:
        receive, send = self._udp.recvfrom, self._udp.sendto
        zone_provider, tally, replies = self._zone_provider, self.tally, self.tally.replies
        while True:
            packet, caller = receive(QUERY_BYTES_MAX)
            if self._stopped:
                return
            reply = answer(packet, zone_provider(), transport="udp") if caller[1] else None
            if reply is None:
                tally.dropped += 1
                continue
            try:
                send(reply, caller)
            except OSError:
                tally.dropped += 1  # One caller's: no route back to it, or a firewall of ours.
                continue
            replies[reply[3] & 0x0F] += 1

    def _serve_any_address(self) -> None:
        """As above on a wildcard address: the reply must come from the address that was asked."""
        while True:
            packet, ancillary, _, caller = self._udp.recvmsg(QUERY_BYTES_MAX, _ANCILLARY_BYTES)
            if self._stopped:
                return
            reply = answer(packet, self._zone_provider(), transport="udp") if caller[1] else None
            if reply is None:
                self.tally.dropped += 1
                continue
            try:
                self._udp.sendmsg((reply,), [_reply_source(*item) for item in ancillary], 0, caller)
            except OSError:
                self.tally.dropped += 1
                continue
            self.tally.replies[reply[3] & 0x0F] += 1


def _reply_source(level: int, kind: int, data: bytes) -> tuple[int, int, bytes]:
    """Turn "arrived at" into "send from"; for IPv6 they are the same, for IPv4 routing picks the interface."""
    if level == socket.IPPROTO_IPV6:
        return level, kind, data
    _, ours, _ = _IPV4_PKTINFO.unpack(data)
    return level, kind, _IPV4_PKTINFO.pack(0, ours, bytes(4))
