"""Private loopback addresses: a /24 of 127.0.0.0/8 that no other laboratory on this machine uses.

A block belongs to one laboratory while its lock socket is open; the kernel closes that with the
process, however it ends. Its ports lie below the ephemeral range, so nobody is handed one by chance.
"""

import errno
import random
import socket
from typing import Self

SECOND_OCTETS = range(200, 250)
LOCK_HOST = 255
LOCK_PORT = 20_999
CLAIM_ATTEMPTS_MAX = 1_000


class LoopbackBlock:
    """One /24 on loopback, held until `close`."""

    def __init__(self, prefix: str, lock: socket.socket) -> None:
        self.prefix = prefix
        self._lock = lock

    def host(self, number: int) -> str:
        """Return address `number` (1 to 254) of the block."""
        if not 1 <= number < LOCK_HOST:
            raise ValueError(f"host number is {number}, expected 1 to 254")
        return f"{self.prefix}.{number}"

    def close(self) -> None:
        """Give the block back."""
        self._lock.close()

    def __enter__(self) -> Self:
        """Hold the block for the `with` statement."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Give the block back."""
        self.close()


def claim_block() -> LoopbackBlock:
    """Claim a block that nobody holds; RuntimeError when 1,000 random ones are all taken."""
    choice = random.SystemRandom()  # Two runs must not try the same blocks in the same order.
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
