"""Rows and commands of a small federation: alpha and beta are primaries, delta is remote with home alpha."""

import itertools
import json
from collections.abc import Iterable

import msgspec

from discovery.core.catalog import Catalog
from discovery.core.commands import (
    AcquireLease,
    Body,
    Command,
    Operation,
    Outcome,
    PublishEndpoints,
    Put,
    Tick,
    Write,
    decode_outcome,
    encode_command,
)
from discovery.core.leases import TICK_MS_MAX
from discovery.core.model import Endpoint, EndpointKey, EndpointPort, Resource, ResourceKey
from federation.kernel.versions import PROTOCOL_VERSION

PORT = EndpointPort(name="http", service_port=8080, listen_port=15006)
TRUST_DOMAINS = {"alpha": "alpha.test", "beta": "beta.test", "gamma": "gamma.test", "delta": "alpha.test"}


def key(kind: str, name: str, *, scope: str = "", namespace: str = "") -> ResourceKey:
    return ResourceKey(scope, kind, namespace, name)


def put(target: ResourceKey, spec: dict[str, object] | None = None, **rest: object) -> Put:
    return Put(key=target, spec=None if spec is None else json.dumps(spec).encode(), **rest)  # type: ignore[arg-type]


def put_cluster(name: str, *, role: str = "primary", **spec: object) -> Put:
    return put(key("Cluster", name), {"role": role, "trustDomain": TRUST_DOMAINS[name], **spec})


def put_trust_domain(name: str, *, sequence: int = 1, roots: Iterable[str] = ("PEM",)) -> Put:
    return put(key("TrustDomain", name), {"roots": list(roots), "sequence": sequence})


def put_controller(name: str, cluster: str, *, protocol: int = PROTOCOL_VERSION) -> Put:
    identity = f"spiffe://{TRUST_DOMAINS[cluster]}/isthmus/{cluster}/controller/{name}"
    return put(
        key("Controller", name),
        {"cluster": cluster, "role": "member", "identity": identity, "protocol": protocol},
    )


def put_drain(cluster: str, share_percent: int = 100, **rest: object) -> Put:
    spec = {
        "sharePercent": share_percent,
        "stepPercent": 25,
        "everyMs": 1_000,
        "startedMs": 0,
        "steppedMs": 0,
    }
    return put(
        key("Drain", cluster), {**spec, "startedBy": "spiffe://alpha.test/isthmus/alpha/admin", **rest}
    )


def put_export(
    owner: str,
    namespace: str,
    *services: str,
    consumers: Iterable[str] = ("*",),
    name: str = "export",
    **rest: object,
) -> Put:
    target = key("ExportPolicy", name, scope=owner, namespace=namespace)
    return put(target, {"services": list(services), "consumers": list(consumers), **rest})


def put_cluster_export(owner: str, *, name: str = "every", **spec: object) -> Put:
    return put(key("ClusterExportPolicy", name, scope=owner), spec)


def put_import(viewer: str, *, name: str = "import", **spec: object) -> Put:
    return put(key("ImportPolicy", name, scope=viewer), spec)


def put_alias(viewer: str, namespace: str, name: str, service: str, of: str = "") -> Put:
    """An alias NAMESPACE/NAME of cluster `viewer` for `service`, of namespace `of` if given."""
    target = key("ServiceAlias", name, scope=viewer, namespace=namespace)
    return put(target, {"service": service} | ({"namespace": of} if of else {}))


def put_external(
    owner: str, namespace: str = "shop", name: str = "orders", *addresses: str, **rest: object
) -> Put:
    target = key("ExternalService", name, scope=owner, namespace=namespace)
    ports = [{"name": "http", "port": 8080}]
    return put(target, {"addresses": list(addresses or ("203.0.113.5",)), "ports": ports, **rest})


def with_states(row: Resource, **states: str) -> Resource:
    """An ExternalService of which that is held; an address is named by its last part."""
    held = [
        {"address": address, "state": state, "sinceMs": 1, "missedBy": ["alpha"]}
        for address in json.loads(row.spec)["addresses"]
        if (state := states.get(f"a{address.rpartition('.')[2]}")) is not None
    ]
    return msgspec.structs.replace(row, status=json.dumps({"addresses": held}).encode())


def put_grant(owner: str, namespace: str, *services: str, name: str = "grant", **source: list[str]) -> Put:
    target = key("Grant", name, scope=owner, namespace=namespace)
    return put(target, {"services": list(services), "sources": [source]})


def put_token(
    name: str, cluster: str, secret: str, *, purpose: str = "agent", expires_ms: int = 1_000
) -> Put:
    spec = {"purpose": purpose, "cluster": cluster, "secretSha256": secret, "expiresMs": expires_ms}
    return put(key("JoinToken", name), spec)


def resource(operation: Put, revision: int = 1, *, created: int = 1) -> Resource:
    """The row that an accepted `Put` makes, for tests of what reads rows; `created` is a revision."""
    assert operation.spec is not None
    return Resource(
        key=operation.key,
        uid="uid",
        owner=operation.key.scope,
        revision=revision,
        generation=1,
        created_ms=0,
        spec=operation.spec,
        created_revision=created,
    )


def endpoint(
    cluster: str = "alpha",
    name: str = "orders-1",
    *,
    namespace: str = "shop",
    service: str = "orders",
    agent: str = "agent-1",
    version: tuple[int, int] = (1, 1),
    address: str = "10.1.0.1",
    ready: bool = True,
    ports: tuple[EndpointPort, ...] = (PORT,),
    identity: str = "",
    **rest: object,
) -> Endpoint:
    return Endpoint(
        key=EndpointKey(namespace, service, cluster, name),
        address=address,
        ports=ports,
        identity=identity or f"spiffe://{TRUST_DOMAINS[cluster]}/ns/{namespace}/sa/{service}",
        ready=ready,
        agent=agent,
        incarnation=version[0],
        sequence=version[1],
        **rest,  # type: ignore[arg-type]
    )


def gateway(cluster: str, name: str = "gw-1", **rest: object) -> Endpoint:
    return endpoint(
        cluster,
        name,
        namespace="isthmus-system",
        service="eastwest",
        identity=f"spiffe://{TRUST_DOMAINS[cluster]}/isthmus/{cluster}/gateway/{name}",
        **rest,  # type: ignore[arg-type]
    )


class Log:
    """A catalog with the log that feeds it."""

    def __init__(self, catalog: Catalog | None = None, *, index: int = 0) -> None:
        self.catalog = catalog or Catalog()
        self.entries: list[tuple[int, bytes]] = []
        self.index = index
        self._requests = itertools.count()

    def entry(self, data: bytes) -> Outcome:
        self.index += 1
        self.entries.append((self.index, data))
        return decode_outcome(self.catalog.apply(self.index, data))

    def send(self, proposer: str, body: Body, *, request: str | None = None) -> Outcome:
        request_id = f"request-{next(self._requests)}" if request is None else request
        return self.entry(encode_command(Command(request_id=request_id, proposer=proposer, body=body)))

    def write(self, proposer: str, *operations: Operation) -> Outcome:
        return self.send(proposer, Write(operations=operations))

    def accept(self, proposer: str, *operations: Operation) -> Outcome:
        outcome = self.write(proposer, *operations)
        assert outcome.code == 0, outcome.message
        return outcome

    def tick(self, now_ms: int, proposer: str = "alpha") -> Outcome:
        return self.send(proposer, Tick(now_ms=now_ms))

    def wait(self, passed_ms: int) -> None:
        """Let federation time pass while somebody leads: in steps, as ticks come."""
        end_ms = self.catalog.now_ms + passed_ms
        while self.catalog.now_ms < end_ms:
            assert self.tick(min(end_ms, self.catalog.now_ms + TICK_MS_MAX)).code == 0

    def lease(self, name: str, holder: str, *, proposer: str = "alpha", ttl_ms: int = 1_000) -> Outcome:
        return self.send(proposer, AcquireLease(name=name, holder=holder, ttl_ms=ttl_ms))

    def publish(self, cluster: str, *rows: Endpoint, proposer: str | None = None, **rest: object) -> Outcome:
        proposer = proposer or cluster
        grant = self.lease(f"publish/{cluster}", "publisher", proposer=proposer).lease
        fence = 0 if grant is None else grant.fence
        batch = PublishEndpoints(**{"cluster": cluster, "fence": fence, "put": rows, **rest})  # type: ignore[arg-type]
        return self.send(proposer, batch)


def founded() -> Log:
    """A federation of alpha, beta and delta, at federation time 100."""
    log = Log()
    log.accept(
        "alpha",
        put(key("Federation", "federation"), {"id": "f1"}),
        put_cluster("alpha"),
        put_trust_domain("alpha.test"),
        put_controller("alpha-1", "alpha"),
    )
    log.accept("alpha", put_cluster("beta"), put_trust_domain("beta.test"), put_controller("beta-1", "beta"))
    log.accept("alpha", put_cluster("delta", role="remote", home="alpha"))
    assert log.tick(100).code == 0
    return log
