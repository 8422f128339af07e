"""What a link of the emulated network does to packets: when each may go on, and which are lost.

Pure: the caller supplies time and chance.
"""

import heapq
from collections.abc import Iterator
from random import Random

from msgspec import Struct


class Link(Struct, frozen=True, kw_only=True):
    """One direction of a way between two clusters."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # Uniform, to both sides of the delay.
    loss: float = 0.0  # The share of packets that vanish, 0 to 1.

    def __post_init__(self) -> None:
        """Refuse what no link can do; raises ValueError."""
        if not 0.0 <= self.jitter_ms <= self.delay_ms:
            raise ValueError(
                f"jitter_ms is {self.jitter_ms:g} at delay_ms {self.delay_ms:g}, expected 0 to delay_ms"
            )
        if not 0.0 <= self.loss <= 1.0:
            raise ValueError(f"loss is {self.loss:g}, expected a share from 0 to 1")


class Held(Struct, frozen=True, order=True):
    """A packet that waits for its time."""

    due_s: float
    number: int  # Of arrival: packets of one moment leave in the order in which they came.
    queue: int
    packet: int


class Links:
    """All links of a network by queue, and the packets on their way. Packets of one link stay in order.

    A real path delays neighbouring packets alike; to shuffle them within the jitter would be another fault.
    """

    def __init__(self, queues: int, chance: Random) -> None:
        self._links = [Link()] * queues
        self._last_due_s = [0.0] * queues
        self._chance = chance
        self._held: list[Held] = []
        self._number = 0

    def change(self, queue: int, link: Link) -> None:
        """From the next packet on, a link is like this; raises IndexError for a queue that there is not."""
        self._links[queue] = link

    def take(self, queue: int, packet: int, now_s: float) -> bool:
        """Hold a packet that arrived now until its time; False when it is lost."""
        link = self._links[queue]
        if link.loss and self._chance.random() < link.loss:
            return False
        delay_s = (link.delay_ms + self._chance.uniform(-link.jitter_ms, link.jitter_ms)) / 1000
        due_s = max(self._last_due_s[queue], now_s + delay_s)
        self._last_due_s[queue] = due_s
        self._number += 1
        heapq.heappush(self._held, Held(due_s, self._number, queue, packet))
        return True

    def next_due_s(self) -> float | None:
        """When the first of the held may go on; None when none is held."""
        return self._held[0].due_s if self._held else None

    def release(self, now_s: float) -> Iterator[Held]:
        """Give up those whose time has come, in order."""
        while self._held and self._held[0].due_s <= now_s:
            yield heapq.heappop(self._held)
