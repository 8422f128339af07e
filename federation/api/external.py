"""External services for people: what the doctor says of addresses that checkers miss, or that nobody is sent to."""

from collections.abc import Iterator, Sequence

from discovery.core.external import KIND, read_status
from discovery.core.model import ResourceKey
from discovery.core.specs import ExternalAddressStatus
from discovery.core.tables import Tables
from federation.api.directory import resources
from federation.api.doctor import Finding, nothing_found, worst_first

CHECK = "external services"
# So many findings are told one by one.
FINDINGS_TOLD_MAX = 20


def examine_external(tables: Tables, others: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the doctor's other findings and those on external services, worst first."""
    found = list(_findings(tables))
    told = worst_first(found)[:FINDINGS_TOLD_MAX]
    if len(told) < len(found):
        more = Finding(
            check=CHECK,
            level="warning",
            subject="others",
            message=f"{len(found) - len(told)} more findings of external services",
            next_step="isthmus get externalservices",
        )
        told = (*told, more)
    return worst_first([*(told or (nothing_found(CHECK),)), *others])


def _findings(tables: Tables) -> Iterator[Finding]:
    for cluster, _ in resources(tables, "Cluster"):
        for row in tables.list_resources(cluster.key.name, KIND):
            status = read_status(row)
            addresses = status.addresses
            for one in status.conditions:
                if one.type == "Conflict" and one.status == "True":
                    yield _overlap(row.key, one.message)
            if any(one.state != "ok" for one in addresses):
                yield _finding(row.key, addresses)


def _overlap(key: ResourceKey, message: str) -> Finding:
    name = f"{key.name}.{key.namespace} of cluster {key.scope}"
    return Finding(
        check=CHECK,
        level="warning",
        subject=name,
        message=f"external service {name}: {message}",
        next_step="take the address out of the service, or have the range of that cluster narrowed",
    )


def _finding(key: ResourceKey, addresses: Sequence[ExternalAddressStatus]) -> Finding:
    missed = [
        f"{one.address} is {one.state}, missed by {', '.join(one.missed_by)}"
        for one in addresses
        if one.state != "ok"
    ]
    name = f"{key.name}.{key.namespace} of cluster {key.scope}"
    return Finding(
        check=CHECK,
        level="problem" if all(one.state == "unhealthy" for one in addresses) else "warning",
        subject=name,
        message=f"external service {name}: {'; '.join(missed)}",
        next_step="look at the address and at the way to it from who misses it: there the log says why (sight_changed)",
    )
