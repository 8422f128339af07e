"""Endpoints to which nobody is sent since the rules changed, and why: their part of `isthmus explain`."""

from collections.abc import Iterable, Iterator

from discovery.core.external_part import ExternalPart, outside_refusal
from discovery.core.model import Endpoint
from discovery.core.served import ServedAddresses
from gateways.core.explain_sent import hidden_endpoints
from gateways.core.explained import EndpointFact

NOTHING_SERVED = "nobody is sent to any of its addresses: see there"


def unserved_endpoints(served: ServedAddresses, endpoints: Iterable[Endpoint]) -> Iterator[EndpointFact]:
    """Yield each port of those of these endpoints of agents that are not served."""
    for endpoint in endpoints:
        if reason := served.refusal(endpoint):
            yield from hidden_endpoints([endpoint], f"not served: {reason}")


def unserved_outside(served: ServedAddresses, part: ExternalPart) -> Iterator[EndpointFact]:
    """The same of the addresses of an external service."""
    for endpoint in part.unserved:
        yield from hidden_endpoints([endpoint], f"not served: {outside_refusal(endpoint, served)}")
