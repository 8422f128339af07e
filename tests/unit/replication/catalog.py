"""A small catalog for tests of replication: real tables, real history, rows that views can read."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from discovery.core.history import History
from discovery.core.model import Change, Endpoint, EndpointKey, EndpointPort, Resource, ResourceKey, pack
from discovery.core.specs import AnySpec, ClusterSpec, ExportPolicySpec, FederationSpec, JoinTokenSpec
from discovery.core.tables import EMPTY_TABLES

HISTORY = "fed-1"


class SourceCatalog:
    """What a feed reads; `commit` applies one revision and tells `listeners`, as the catalog does."""

    def __init__(self, history: str = HISTORY) -> None:
        self.tables = EMPTY_TABLES
        self.listeners: list[Callable[[int, tuple[Change, ...]], None]] = []
        self._history = History(complete_after=0)
        if history:
            self.commit([federation(history)])

    def commit(self, changes: Iterable[Change]) -> int:
        """Apply changes as the next revision."""
        changed, revision = tuple(changes), self.tables.revision + 1
        self._history.record(revision, changed)
        self.tables = self.tables.with_changes(changed, revision)
        for listener in self.listeners:
            listener(revision, changed)
        return revision

    def history(self, after_revision: int) -> Sequence[tuple[int, tuple[Change, ...]]]:
        return self._history.after(after_revision)

    def compact(self) -> None:
        """Forget all history, as a controller that started from a snapshot has."""
        self._history = History(complete_after=self.tables.revision)


def resource(kind: str, name: str, spec: AnySpec, *, scope: str = "", namespace: str = "") -> Change:
    key = ResourceKey(scope, kind, namespace, name)
    row = Resource(
        key=key, uid=name, owner=scope, revision=1, generation=1, created_ms=0, spec=msgspec.json.encode(spec)
    )
    return Change("resources", key.encode(), pack(row))


def federation(history: str) -> Change:
    return resource("Federation", "federation", FederationSpec(id=history))


def cluster(name: str, *, trust_domain: str = "", home: str = "") -> Change:
    domain = trust_domain or f"{home or name}.example"
    role = "remote" if home else "primary"
    return resource("Cluster", name, ClusterSpec(role=role, trust_domain=domain, home=home))


def export(scope: str, *services: str, namespace: str = "shop") -> Change:
    return resource(
        "ExportPolicy", "default", ExportPolicySpec(services=services), scope=scope, namespace=namespace
    )


def token(name: str) -> Change:
    spec = JoinTokenSpec(purpose="dns", cluster="alpha", secret_sha256="5ec7e7" * 10, expires_ms=1)
    return resource("JoinToken", name, spec)


def endpoint(
    name: str, *, owner: str = "alpha", service: str = "orders", sequence: int = 1, ready: bool = True
) -> Change:
    key = EndpointKey("shop", service, owner, name)
    row = Endpoint(
        key=key,
        address="10.107.0.9",
        ports=(EndpointPort(name="http", service_port=8080, listen_port=15006),),
        identity=f"spiffe://{owner}.example/ns/shop/sa/{service}",
        ready=ready,
        incarnation=1,
        sequence=sequence,
    )
    return Change("endpoints", key.encode(), pack(row))


def gone(change: Change) -> Change:
    """Return the removal of the row that `change` sets."""
    return Change(change.table, change.key, None)


def rows(changes: Iterable[Change]) -> list[tuple[bytes, bytes]]:
    return [(change.key, change.value) for change in changes if change.value is not None]
