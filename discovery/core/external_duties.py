"""Which external services a cluster checks, and what it may say of them by what it sees."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from discovery.core.external import KIND, checkers
from discovery.core.kinds import decode_spec
from discovery.core.liveness import is_suspended
from discovery.core.model import ResourceKey, ServiceKey
from discovery.core.opinion import Opinion
from discovery.core.policies import Policies
from discovery.core.served import ServedAddresses
from discovery.core.specs import ExternalServiceSpec
from discovery.core.tables import Tables
from federation.kernel.errors import InvalidInputError

# Of one checker, its own services first; what is beyond is not checked from here.
ADDRESSES_CHECKED_MAX = 2_000
# What the duties follow from. A status changes an ExternalService too; that is rare.
DUTY_KINDS = frozenset(
    {
        KIND,
        "Cluster",
        "Controller",
        "TrustDomain",
        "ExportPolicy",
        "ClusterExportPolicy",
        "Grant",
        "ImportPolicy",
    }
)

Duties = dict[ResourceKey, ExternalServiceSpec]
Minds = Mapping[ResourceKey, Mapping[str, Opinion]]


def duties(tables: Tables, cluster: str) -> tuple[Duties, int]:
    """Return what a cluster checks, and how many services are left out because it would be too much.

    Its own and its remotes', where they name it; another cluster's only if that shows them to it and it takes them:
    nobody lets others knock at addresses that they have no business with. Cost: all external services.
    """
    policies = Policies(tables)
    found: Duties = {}
    addresses = left_out = 0
    for owner in sorted(policies.clusters, key=lambda name: (name != cluster, name)):
        is_own = cluster in (owner, policies.clusters[owner].home)
        for key, spec in _services(tables, owner, policies.served):
            if cluster not in checkers(spec, owner, policies.clusters):
                continue
            if not is_own and not policies.shows(owner, cluster, ServiceKey(key.namespace, key.name)):
                continue
            if addresses + len(spec.addresses) > ADDRESSES_CHECKED_MAX:
                left_out += 1
                continue
            addresses += len(spec.addresses)
            found[key] = spec
    return found, left_out


class Tally:
    """How much is lost of all that a cluster checks, to tell others' faults from its own."""

    def __init__(self, minds: Minds) -> None:
        self._by_service = {key: _counts(mind.values()) for key, mind in minds.items()}
        self._lost = sum(lost for lost, _ in self._by_service.values())
        self._heard = sum(heard for _, heard in self._by_service.values())

    def is_held(self, key: ResourceKey) -> bool:
        """True when more than half is missed of all other services, two addresses at least: that must be our fault."""
        own_lost, own_heard = self._by_service.get(key, (0, 0))
        lost, heard = self._lost - own_lost, self._heard - own_heard
        return is_suspended(lost, lost + heard)


def wanted_missed(
    opinions: Mapping[str, Opinion], said: Collection[str], *, is_held: bool
) -> tuple[str, ...]:
    """The addresses of a service that are to be said to be missed, sorted; `said` are those of now.

    What is unknown stays as it was said. While opinions are held back no loss is added; what has returned is taken
    back all the same.
    """
    return tuple(
        sorted(
            address
            for address, opinion in opinions.items()
            if (opinion.sight == "unknown" and address in said)
            or (opinion.sight == "lost" and (address in said or not is_held))
        )
    )


def _counts(opinions: Iterable[Opinion]) -> tuple[int, int]:
    sights = [one.sight for one in opinions]
    return sights.count("lost"), sights.count("heard")


def concerns_duties(kinds: Iterable[str]) -> bool:
    """True when a change of these kinds may change what is to be checked."""
    return not DUTY_KINDS.isdisjoint(kinds)


def _services(
    tables: Tables, owner: str, served: ServedAddresses
) -> Iterator[tuple[ResourceKey, ExternalServiceSpec]]:
    """Yield the services of a cluster, with those of their addresses to which callers may be sent."""
    for row in tables.list_resources(owner, KIND):
        try:
            spec = decode_spec(KIND, row.spec, where=str(row.key))
        except InvalidInputError:
            continue  # Of a newer build: its checkers are, too.
        assert isinstance(spec, ExternalServiceSpec)
        ports = [port.target_port or port.port for port in spec.ports]
        addresses = tuple(one for one in spec.addresses if not served.outside_refusal(owner, one, ports))
        if addresses:
            yield row.key, msgspec.structs.replace(spec, addresses=addresses)
