"""Private loopback addresses: a /24 of 127.0.0.0/8 that no other test or laboratory on this machine uses.

Fixed addresses make two runs on one machine talk to each other's processes, and ports taken from the
kernel's ephemeral range may be taken again before the process that was given them binds them. A block avoids both:
it belongs to one test or laboratory while its lock socket is open (the kernel closes that with the process, however it
ends), and its ports lie below the ephemeral range.
"""

import errno
import random
import socket
from collections.abc import Iterator
from typing import Self

SECOND_OCTETS = range(120, 250)
LOCK_HOST = 255
LOCK_PORT = 20_999

# Below net.ipv4.ip_local_port_range (32768 and up) and above what needs root.
PORTS = range(21_000, 30_000)
HOST_MAX = 254
CLAIM_ATTEMPTS_MAX = 1_000


class LoopbackBlock:
    """One /24 on loopback, held until `close`; usable as a context manager."""

    def __init__(self, prefix: str, lock: socket.socket) -> None:
        self.prefix = prefix
        self._lock = lock
        self._ports: dict[str, Iterator[int]] = {}

    @property
    def cidr(self) -> str:
        """The block as `127.A.B.0/24`."""
        return f"{self.prefix}.0/24"

    def host(self, number: int) -> str:
        """Return address `number` (1 to 254) of the block."""
        if not 1 <= number <= HOST_MAX:
            raise ValueError(f"host number is {number}, expected 1 to {HOST_MAX}")
        return f"{self.prefix}.{number}"

    def port(self, host: str) -> int:
        """Return a port of `host` free for TCP and UDP, never the same twice.

        It stays free until it is bound: the address is ours and the kernel does not hand out ports
        of this range.
        """
        if not host.startswith(f"{self.prefix}."):
            raise ValueError(f"host is {host}, expected an address in {self.cidr}")
        # A wildcard listener of a stranger takes a port on every address; hence the look.
        for port in self._ports.setdefault(host, iter(PORTS)):
            if _is_free(host, port):
                return port
        raise RuntimeError(f"no port free on {host} in {PORTS.start} to {PORTS.stop - 1}")

    def close(self) -> None:
        """Give the block back."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def claim_block() -> LoopbackBlock:
    """Claim a block that nobody holds.

    Raises RuntimeError when 1,000 random ones are all taken, which means that something leaks them.
    """
    # Not seeded: two runs must not try the same blocks in the same order.
    choice = random.SystemRandom()
    for _ in range(CLAIM_ATTEMPTS_MAX):
        prefix = f"127.{choice.choice(SECOND_OCTETS)}.{choice.randrange(256)}"
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind((f"{prefix}.{LOCK_HOST}", LOCK_PORT))
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return LoopbackBlock(prefix, lock)
    raise RuntimeError(f"no free loopback block in {CLAIM_ATTEMPTS_MAX} attempts")


def _is_free(host: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
    return True
