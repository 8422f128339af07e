"""Whether callers reach the addresses of an external service, and by whose checks: its part of `isthmus explain`."""

from collections.abc import Iterator

from discovery.core.external import KIND, read_status
from discovery.core.model import ResourceKey, ServiceKey
from discovery.core.specs import ExternalAddressStatus
from discovery.core.tables import Tables
from discovery.core.view import Owner, Service
from gateways.core.endpoints import Target, owner_targets
from gateways.core.explained import Called, EndpointFact

ADMITS_WHY = "outside of the mesh: nobody there asks who calls"
CALLED_WHY = "called as it is, without mutual TLS"


def external_endpoints(tables: Tables, service: Service, owner: Owner) -> Iterator[EndpointFact]:
    """Yield each port of each address of a visible external part."""
    ports = {port.service_port: port for port in service.ports}
    sent = {
        number: {target.name: target for target in owner_targets(owner, port)}
        for number, port in ports.items()
    }
    held = _held(tables, owner.cluster, service.called_as)
    for endpoint in owner.endpoints:
        for port in endpoint.ports:
            number = port.service_port
            if port.protocol == ports[number].protocol:
                called, why = _fate(sent[number].get(endpoint.key.name), held.get(endpoint.address))
            else:
                called, why = "no", f"no agreement on what is spoken at {number}: see conflicts"
            yield EndpointFact(
                name=endpoint.key.name,
                address=endpoint.address,
                service_port=number,
                listen_port=port.listen_port,
                ready=endpoint.ready,
                weight=endpoint.weight,
                called=called,
                why=why,
            )


def _held(tables: Tables, cluster: str, key: ServiceKey) -> dict[str, ExternalAddressStatus]:
    row = tables.resource(ResourceKey(cluster, KIND, key.namespace, key.service))
    return {} if row is None else {one.address: one for one in read_status(row).addresses}


def _fate(target: Target | None, held: ExternalAddressStatus | None) -> tuple[Called, str]:
    """Whether callers reach an address; `target` is None where it is left out."""
    by = "" if held is None else ", ".join(held.missed_by)
    if target is None:
        return "no", f"unhealthy, missed by {by}, while others are not"
    if not target.ready:
        return "last resort", f"unhealthy, missed by {by}, as all others: called when no owner has better"
    if target.suspect:
        return "last resort", f"degraded, missed by {by}: called when none is left that nobody misses"
    return "yes", f"missed by nobody that counts; {CALLED_WHY}"
