"""What the kernel announces about queued packets is read, and nothing else, however it is cut."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.lab.nfqueue import packets, verdict

PACKET = 3 << 8


def announcement(queue: int, packet: int, *, kind: int = PACKET, extra: bytes = b"") -> bytes:
    """As the kernel sends it in copy mode META, with another attribute before the packet's header."""
    mark = struct.pack("=HHI", 8, 3, 7)
    header = struct.pack("=HH", 11, 1) + struct.pack(">IHB", packet, 0x0800, 2) + b"\0"
    body = struct.pack("=BB", 2, 0) + struct.pack(">H", queue) + mark + header + extra
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        pytest.param(announcement(5, 70_000), [(5, 70_000)], id="one"),
        pytest.param(announcement(0, 1) + announcement(11, 2), [(0, 1), (11, 2)], id="two-in-one-datagram"),
        pytest.param(announcement(5, 9, kind=2), [], id="another-message"),
        pytest.param(announcement(5, 9)[:-1], [], id="cut-short"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(bytes(64), [], id="zeros"),
    ],
)
def test_announced_packets_are_read(datagram: bytes, expected: list[tuple[int, int]]) -> None:
    assert list(packets(datagram)) == expected


@given(st.binary(max_size=300))
def test_no_datagram_makes_it_fail_or_hang(datagram: bytes) -> None:
    assert all(0 <= queue < 1 << 16 for queue, _ in packets(datagram))
    assert list(packets(announcement(1, 2) + datagram))[:1] == [(1, 2)]


def test_a_verdict_names_its_queue_and_packet_in_network_order() -> None:
    message = verdict(5, 70_000, 1)
    assert struct.unpack_from("=IHH", message) == (len(message), PACKET | 1, 1)
    assert message[18:20] == bytes([0, 5])
    assert struct.unpack(">II", message[-8:]) == (1, 70_000)
