"""The rows of three primaries and a remote one, and tables that hold them."""

from discovery.core.model import Change, Endpoint, Resource, pack
from discovery.core.tables import EMPTY_TABLES, Tables
from tests.unit.discovery.builders import put_cluster, put_trust_domain, resource

FEDERATION = [
    *(resource(put_cluster(name)) for name in ("alpha", "beta", "gamma")),
    resource(put_cluster("delta", role="remote", home="alpha")),
    *(resource(put_trust_domain(name)) for name in ("alpha.test", "beta.test", "gamma.test")),
]


def changes(*rows: Resource | Endpoint) -> tuple[Change, ...]:
    return tuple(
        Change("endpoints" if isinstance(row, Endpoint) else "resources", row.key.encode(), pack(row))
        for row in rows
    )


def tables_of(*rows: Resource | Endpoint) -> Tables:
    return EMPTY_TABLES.with_changes(changes(*FEDERATION, *rows), 1)
