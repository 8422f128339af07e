"""Private loopback blocks."""

import ipaddress
import socket
from collections.abc import Callable

import pytest

from tests.support.loopback import LOCK_PORT, LoopbackBlock


def test_blocks_held_at_one_time_never_overlap(loopback: Callable[[], LoopbackBlock]) -> None:
    cidrs = {loopback().cidr for _ in range(50)}

    assert len(cidrs) == 50
    assert all(ipaddress.ip_network(cidr).is_loopback for cidr in cidrs)


def test_a_block_is_locked_until_it_is_closed(loopback: Callable[[], LoopbackBlock]) -> None:
    block = loopback()
    lock = (f"{block.prefix}.255", LOCK_PORT)

    with socket.socket() as second, pytest.raises(OSError, match="in use"):
        second.bind(lock)
    block.close()

    with socket.socket() as second:
        second.bind(lock)


def test_a_port_is_never_given_twice_and_skips_what_is_bound(loopback: Callable[[], LoopbackBlock]) -> None:
    block = loopback()
    host = block.host(1)
    first = block.port(host)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((host, first + 1))
        second = block.port(host)

    assert second == first + 2
    assert block.port(block.host(2)) == first


@pytest.mark.parametrize("number", [0, 255, -1])
def test_a_host_outside_the_block_is_refused(loopback: Callable[[], LoopbackBlock], number: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 254"):
        loopback().host(number)


def test_a_port_of_a_foreign_address_is_refused(loopback: Callable[[], LoopbackBlock]) -> None:
    with pytest.raises(ValueError, match="expected an address in"):
        loopback().port("127.0.0.1")
