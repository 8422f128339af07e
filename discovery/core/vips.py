"""The clusterset address of a service (KEP-1645), made from its name alone.

Every process that sees the same set of services computes the same addresses, without asking anybody:

* IPv4 in 241.0.0.0/8. 240.0.0.0/4 is reserved and never routed (RFC 1112 section 4), yet Linux, Envoy and
  the common resolvers treat it as unicast; 240.240.0.0/16 is what Istio assigns, 255/8 holds broadcast.
  Its first and last 256 addresses stay free.
* IPv6 in 2001:2:0:6973::/64, the IPv4 address in its last 32 bits. 2001:2::/48 is for benchmarks
  (RFC 5180) and never routed either; a unique local prefix would lose to IPv4 in every client (RFC 6724).

A name's candidate is a slot taken from its SHA-256; where it is taken by a lexicographically smaller name
it takes the next free slot behind. So the addresses are those that names would get if they chose one after
another in sorted order: a function of the set, not of the history. With 100,000 services about 300
candidates collide.
"""

import hashlib
import ipaddress
from typing import NamedTuple

from discovery.core.model import ServiceKey
from federation.kernel.errors import LimitExceededError

_SPARED = 256
VIP_PREFIX = ipaddress.IPv4Network("241.0.0.0/8")
_FIRST_IPV4 = int(VIP_PREFIX.network_address) + _SPARED
_IPV6_START = ipaddress.IPv6Address("2001:2:0:6973::").packed[:12]
VIPS_MAX = 2**24 - 2 * _SPARED


class Vip(NamedTuple):
    """The addresses of one service, packed: 4 and 16 bytes in network order."""

    ipv4: bytes
    ipv6: bytes


class VipTable:
    """The addresses of a set of services, kept while services come and go.

    The same rule as stable matching with one common priority: a newcomer takes its slot from a larger
    name, which moves on behind; a slot that becomes free goes to the smallest name that was refused it.
    Cost of a change: the collisions that it touches, not the number of services.
    """

    def __init__(self, slots: int = VIPS_MAX) -> None:
        """`slots` is how many addresses there are, counted from the first."""
        self._slots = slots
        self._slot_of: dict[ServiceKey, int] = {}
        self._holder: dict[int, ServiceKey] = {}
        # Who had to pass a slot on the way to its own; only slots that somebody passed are here.
        self._refused: dict[int, set[ServiceKey]] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def get(self, name: ServiceKey) -> Vip | None:
        """Return the addresses of `name`, or None if it is not in the set."""
        slot = self._slot_of.get(name)
        if slot is None:
            return None
        ipv4 = (_FIRST_IPV4 + slot).to_bytes(4, "big")
        return Vip(ipv4, _IPV6_START + ipv4)

    def add(self, name: ServiceKey) -> frozenset[ServiceKey]:
        """Put `name` into the set; return the names whose address changed, `name` included.

        Raises `LimitExceededError` when every address is taken.
        """
        if name in self._slot_of:
            return frozenset()
        if len(self._slot_of) >= self._slots:
            raise LimitExceededError(f"{name}: all {self._slots} clusterset addresses are taken")
        moved = {name}
        mover, slot = name, self._candidate(name)
        while (holder := self._holder.get(slot)) is not None:
            if holder < mover:
                self._refused.setdefault(slot, set()).add(mover)
            else:
                self._take(mover, slot)
                self._refused.setdefault(slot, set()).add(holder)
                mover = holder
                moved.add(holder)
            slot = (slot + 1) % self._slots
        self._take(mover, slot)
        return frozenset(moved)

    def remove(self, name: ServiceKey) -> frozenset[ServiceKey]:
        """Take `name` out of the set; return the names whose address changed, `name` included."""
        free = self._slot_of.pop(name, None)
        if free is None:
            return frozenset()
        self._forget_refusals(name, self._candidate(name), free)
        moved = {name}
        while waiting := self._refused.get(free):
            heir = min(waiting)
            vacated = self._slot_of[heir]
            self._forget_refusals(heir, free, vacated)
            self._take(heir, free)
            moved.add(heir)
            free = vacated
        del self._holder[free]
        return frozenset(moved)

    def _take(self, name: ServiceKey, slot: int) -> None:
        self._holder[slot] = name
        self._slot_of[name] = slot

    def _forget_refusals(self, name: ServiceKey, first: int, behind: int) -> None:
        """Forget that `name` passed the slots from `first` to just before `behind`."""
        slot = first
        while slot != behind:
            waiting = self._refused[slot]
            waiting.discard(name)
            if not waiting:
                del self._refused[slot]
            slot = (slot + 1) % self._slots

    def _candidate(self, name: ServiceKey) -> int:
        digest = hashlib.sha256(str(name).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self._slots
