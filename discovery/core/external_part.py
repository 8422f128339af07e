"""What a view shows of an external service: its addresses as endpoints of the cluster that declared it."""

import ipaddress

import msgspec

from discovery.core.external import read_status
from discovery.core.model import Endpoint, EndpointKey, EndpointPort, Resource
from discovery.core.served import ServedAddresses
from discovery.core.specs import ExternalServiceSpec


class ExternalPart(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses that one cluster declared of a service."""

    endpoints: tuple[Endpoint, ...]  # Sorted by key; ready unless the federation holds them to be unhealthy.
    suspects: tuple[str, ...] = ()  # Names of those that some checker misses: called when no other is left.
    unserved: tuple[Endpoint, ...] = ()  # Those that the rules of now refuse: nobody is sent there.


def external_part(row: Resource, spec: ExternalServiceSpec, served: ServedAddresses) -> ExternalPart:
    """Return the part of a service that an ExternalService adds."""
    states = {one.address: one.state for one in read_status(row).addresses}
    ports = tuple(
        EndpointPort(
            name=port.name,
            service_port=port.port,
            listen_port=port.target_port or port.port,
            protocol=port.protocol,
        )
        for port in spec.ports
    )
    found = [
        Endpoint(
            key=EndpointKey(row.key.namespace, row.key.name, row.key.scope, external_name(address)),
            address=address,
            ports=ports,
            identity="",  # Nobody proves anything there.
            ready=states.get(address) != "unhealthy",
        )
        for address in spec.addresses
    ]
    found.sort(key=lambda endpoint: endpoint.key)
    unserved = tuple(one for one in found if outside_refusal(one, served))
    found = [one for one in found if one not in unserved]
    return ExternalPart(
        endpoints=tuple(found),
        suspects=tuple(one.key.name for one in found if states.get(one.address) == "degraded"),
        unserved=unserved,
    )


def outside_refusal(endpoint: Endpoint, served: ServedAddresses) -> str:
    """Why callers are not sent to an address outside, "" if they are."""
    ports = [port.listen_port for port in endpoint.ports]
    return served.outside_refusal(endpoint.key.cluster, endpoint.address, ports)


def external_name(address: str) -> str:
    """The name of an address among a service's endpoints, a DNS label: ext-203-0-113-5."""
    return "ext-" + ipaddress.ip_address(address).exploded.replace(".", "-").replace(":", "-")
