"""Which addresses of the catalog are served: those that the rules of now would still let in.

A row is judged when it is written (`discovery.core.vetting`, `discovery.core.external`). The ranges of its cluster may change
later, and a controller may come to listen where it points. Then the row stays where it is, and nobody is sent there: no view
has it, whoever looks. When the rules allow it again it is there again, without anybody writing it.
"""

from collections.abc import Iterable, Mapping

from discovery.core.model import Endpoint, EndpointKey, ServiceKey
from discovery.core.poison import ControllerPlaces, address_refusal, is_a_place
from discovery.core.specs import ClusterSpec
from discovery.core.vetting import is_good_address, place_refusal

# What an IPv6 address has in its text, or one of, that translators make an IPv4 address of.
_TRANSLATED_MARKS = (b"::", b"64:ff9b:", b"2001:", b"2002:", b"5efe:")


class ServedAddresses:
    """The rules of one moment: the ranges of all clusters, and where controllers listen."""

    def __init__(self, clusters: Mapping[str, ClusterSpec], places: ControllerPlaces) -> None:
        self.places = places
        self._hosts = frozenset(
            host for of_some in (places.everybodys, *places.mirrors.values()) for host, _ in of_some
        )
        self.ranges = {name: spec.ranges for name, spec in clusters.items() if spec.ranges}

    def serves(self, endpoint: Endpoint) -> bool:
        """True for an endpoint of an agent or gateway to which callers may be sent. Asked for each row of a view."""
        address = endpoint.address
        if not is_good_address(address, self.ranges.get(endpoint.key.cluster, ())):
            return False
        if address not in self._hosts and ":" not in address:
            return True
        places = self.places.of(endpoint.key.cluster)
        return not any(is_a_place(address, port.listen_port, places) for port in endpoint.ports)

    def refusal(self, endpoint: Endpoint) -> str:
        """Why callers are not sent to an endpoint, "" if they are."""
        if self.serves(endpoint):
            return ""
        cluster = endpoint.key.cluster
        return place_refusal(endpoint, self.ranges.get(cluster, ()), self.places.of(cluster))

    def outside_refusal(self, owner: str, address: str, ports: Iterable[int]) -> str:
        """The same of an address of an external service of `owner`, which may lie outside of its ranges."""
        reason = address_refusal(address, self.ranges.get(owner, ()))
        if reason is not None:
            return f"address {address} {reason}"
        for port in ports:
            if is_a_place(address, port, self.places.of(owner)):
                return f"address {address}:{port} is a controller's own"
        return ""

    def moved_since(self, earlier: "ServedAddresses") -> tuple[frozenset[tuple[str, int]], set[str]]:
        """Return where members came to listen, or left, since these `earlier` rules, and the clusters whose mirrors did."""
        if earlier is self:
            return frozenset(), set()
        then, now = earlier.places, self.places
        everybodys = then.everybodys ^ now.everybodys
        return everybodys, {
            cluster
            for cluster in then.mirrors.keys() | now.mirrors.keys()
            if then.of(cluster) ^ now.of(cluster) != everybodys
        }


def services_at(places: Iterable[tuple[str, int]], rows: Iterable[tuple[bytes, bytes]]) -> set[ServiceKey]:
    """The services of which a row may point to one of these places, and perhaps some others. Cost: a look at each row."""
    marks = (*{host.encode() for host, _ in places}, *_TRANSLATED_MARKS)
    return {
        EndpointKey.decode(key).service_key for key, value in rows if any(mark in value for mark in marks)
    }
