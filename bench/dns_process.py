"""The two sides of the DNS comparison, each in a process of its own; killed in the end.

    python -m bench.dns_process isthmus|echo HOST PORT SERVICES

`isthmus` is the UDP loop of `isthmus dns` with a zone of so many services; `echo` sends back what it gets.
"""

import sys
from collections.abc import Iterable

from discovery.core.dns_zone import CompiledZone
from discovery.core.model import Endpoint, EndpointKey, EndpointPort, ServiceKey
from discovery.core.view import Owner, Service
from discovery.runtime.dns_sockets import open_udp
from discovery.runtime.dns_udp import QUERY_BYTES_MAX, UdpResponder

READY = "ready"
NAMESPACE = "shop"


class View:
    """Made-up services with one endpoint each."""

    def __init__(self, count: int) -> None:
        self._services = {service.key: service for service in map(_service, range(count))}

    def service(self, key: ServiceKey) -> Service | None:
        """One of them."""
        return self._services.get(key)

    def services(self) -> Iterable[ServiceKey]:
        """All of them."""
        return self._services


def service_name(number: int) -> str:
    """Return the name of one service."""
    return f"service-{number}"


def _service(number: int) -> Service:
    key = ServiceKey(NAMESPACE, service_name(number))
    endpoint = Endpoint(
        key=EndpointKey(*key, "alpha", f"{key.service}-1"),
        address="10.1.0.1",
        ports=(),
        identity="spiffe://alpha.example/ns/shop/sa/shop",
        ready=True,
    )
    owner = Owner(
        cluster="alpha",
        trust_domain="alpha.example",
        region="",
        zone="",
        local=True,
        direct=True,
        identities=(endpoint.identity,),
        endpoints=(endpoint,),
    )
    return Service(
        key=key, ports=(EndpointPort(name="http", service_port=8080, listen_port=0),), owners=(owner,)
    )


def main() -> None:
    """Serve until killed."""
    kind, host, port, services = sys.argv[1:5]
    bound = open_udp((host, int(port)))
    if kind == "echo":
        print(READY, flush=True)
        receive, send = bound.recvfrom, bound.sendto
        while True:
            packet, caller = receive(QUERY_BYTES_MAX)
            send(packet, caller)
    zone = CompiledZone(addresses=[host])
    zone.replace(View(int(services)))
    print(READY, flush=True)
    UdpResponder(bound, lambda: zone).serve()


if __name__ == "__main__":
    main()
