"""The listeners of clusterset addresses, for proxies that capture their host's connections.

Which service has which address is computed from the set of all services of the view, exactly as DNS does
it (`discovery.core.vips`), so that both agree without asking each other. A listener is called after its
address: where a service's address passes to another one, the listener changes its content, and at no moment
do two listeners have one address, which Envoy would refuse.

Listeners are made when a proxy first asks for them: where nobody captures they cost a name.
"""

import ipaddress
from collections.abc import Iterable, Mapping

from discovery.core.dns_names import service_name
from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.vips import VIPS_MAX, Vip, VipTable
from federation.kernel.errors import InvalidInputError, LimitExceededError
from gateways.core import names
from gateways.core.outbound import captured_listener
from gateways.core.wire import XdsResource


class CapturedListeners:
    """The listeners of one view's services. Cost of a change: the services and addresses that it touches."""

    def __init__(self, addresses: int = VIPS_MAX) -> None:
        """`addresses` is how many there are, as of `VipTable`."""
        self._vips = VipTable(addresses)
        self._ports: dict[ServiceKey, tuple[EndpointPort, ...]] = {}
        self._stands_for: dict[ServiceKey, ServiceKey] = {}  # Of aliases.
        self._names_of: dict[ServiceKey, frozenset[str]] = {}
        self._made_of: dict[str, tuple[ServiceKey, EndpointPort, str]] = {}
        self._ready: dict[str, XdsResource] = {}  # Of those, what somebody asked for.

    def update(
        self,
        seen: Mapping[ServiceKey, tuple[EndpointPort, ...] | None],
        stands_for: Mapping[ServiceKey, ServiceKey],
    ) -> frozenset[str]:
        """Follow a change of the view; return the names of the listeners that may have changed.

        `seen` gives each service its ports that can be called, None where it is gone from the view. A
        service without such ports still has its address. `stands_for` gives the aliases among them their services.
        """
        moved: set[ServiceKey] = set()
        for key, ports in seen.items():
            moved |= self._vips.remove(key) if ports is None or not _has_name(key) else self._add(key)
            if ports is None:
                self._ports.pop(key, None)
            else:
                self._ports[key] = ports
        for key in seen:
            self._stands_for.pop(key, None)
        self._stands_for |= stands_for
        touched = moved | seen.keys()
        before = frozenset().union(*(self._names_of.pop(key, frozenset()) for key in touched))
        old = {name: self._made_of.pop(name) for name in before}
        for key in sorted(touched):
            self._enter(key)
        after = frozenset().union(*(self._names_of.get(key, frozenset()) for key in touched))
        changed = frozenset(name for name in before | after if old.get(name) != self._made_of.get(name))
        for name in changed:
            self._ready.pop(name, None)
        return changed

    def names(self) -> Iterable[str]:
        """The names of all listeners."""
        return self._made_of

    def get(self, name: str) -> XdsResource | None:
        """One listener, or None."""
        ready = self._ready.get(name)
        if ready is None and name in self._made_of:
            ready = self._ready[name] = captured_listener(*self._made_of[name])
        return ready

    def vip(self, key: ServiceKey) -> Vip | None:
        """The clusterset addresses of a service; None if it is not in the view, or DNS has none for it."""
        return self._vips.get(key)

    def _add(self, key: ServiceKey) -> frozenset[ServiceKey]:
        try:
            return self._vips.add(key)
        except LimitExceededError:  # Then DNS has no address for it either.
            return frozenset()

    def _enter(self, key: ServiceKey) -> None:
        vip = self._vips.get(key)
        if vip is None:
            return
        address = str(ipaddress.IPv4Address(vip.ipv4))
        found = {
            names.captured_listener(address, port.service_port): (
                self._stands_for.get(key, key),
                port,
                address,
            )
            for port in self._ports.get(key, ())
        }
        if found:
            self._names_of[key] = frozenset(found)
            self._made_of |= found


def _has_name(key: ServiceKey) -> bool:
    """Whether DNS can express the service's name: only then does it give it an address."""
    try:
        service_name(key)
    except InvalidInputError:
        return False
    return True
