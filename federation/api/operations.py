"""The calls under /v1: entering the federation, and what operators ask beside resources."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from certs.core.verifier import Verifier
from consensus.core.contract import Status
from discovery.core.join_forecast import Forecast
from discovery.core.model import Endpoint, EndpointKey, ServiceKey, unpack_endpoint
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from discovery.core.view import Owner, Service
from federation.api.caller import ABOUT, caller_identity, require_operator
from federation.api.counts import EndpointCounts, count_endpoints, sliced
from federation.api.directory import build_directory, cluster_spec, resources
from federation.api.lifecycle import drain_object, drains
from federation.api.liveness import ALWAYS_WELL, states
from federation.api.messages import EnrollReply, EnrollRequest, ForecastRequest, JoinReply, JoinRequest
from federation.api.reading import CatalogReader
from federation.api.rehomings import rehoming_of
from federation.api.rest import json_response, read_body
from federation.api.tokens import TokenReply, TokenRequest
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, NotFoundError
from federation.kernel.versions import PROTOCOL_VERSION

# An enrollment is a token, a name and a certificate request; a join adds one root.
ENTRY_BYTES_MAX = 64 * 1024
ENDPOINTS_LISTED_MAX = 10_000
_HOST_SUFFIXES = (".svc.clusterset.local", ".svc.cluster.local", ".svc")

T = TypeVar("T")
_log = structlog.get_logger("api")


class ViewSource(Protocol):
    """What a cluster sees."""

    def service(self, cluster: str, key: ServiceKey) -> Service | None:
        """Return a service as `cluster` sees it."""
        ...


class LetsIn(Protocol):
    """Who admits newcomers; `federation.api.admission` does."""

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Give a process its identity."""
        ...

    async def join(self, request: JoinRequest) -> JoinReply:
        """Let a cluster in."""
        ...

    async def forecast(self, request: ForecastRequest) -> Forecast:
        """Say what letting a cluster in would change."""
        ...


class Operations:
    """Handlers of the /v1 paths of one controller."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the controller's
        cluster: str,
        catalog: CatalogReader,
        admission: LetsIn,
        verifier: Verifier,
        views: ViewSource,
        proxies: Callable[[], list[dict[str, object]]],
        standing: Callable[[], dict[str, object]],
        barrier: Callable[[], Awaitable[None]],
        create_token: Callable[[TokenRequest], Awaitable[TokenReply]],
    ) -> None:
        self._id = id
        self._cluster = cluster
        self._catalog = catalog
        self._admission = admission
        self._verifier = verifier
        self._views = views
        self._proxies = proxies
        self._standing = standing
        self._barrier = barrier
        self._create_token = create_token

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [
            web.post("/v1/enroll", self._enroll),
            web.post("/v1/join", self._join),
            web.post("/v1/join/forecast", self._forecast),
            web.post("/v1/tokens", self._tokens),
            web.get("/v1/status", self._status),
            web.get("/v1/endpoints", self._endpoints),
            web.get("/v1/resolve", self._resolve),
            web.get("/v1/proxies", self._proxy_status),
        ]

    async def _enroll(self, request: web.Request) -> web.Response:
        return json_response(await self._admission.enroll(await _read(request, EnrollRequest)))

    async def _join(self, request: web.Request) -> web.Response:
        wanted = await _read(request, JoinRequest)
        if self._catalog.tables.cluster(wanted.cluster) is not None:
            request[ABOUT] = wanted.cluster  # Only names that there are: anybody may knock.
        return json_response(await self._admission.join(wanted))

    async def _forecast(self, request: web.Request) -> web.Response:
        return json_response(await self._admission.forecast(await _read(request, ForecastRequest)))

    async def _tokens(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        wanted = await _read(request, TokenRequest)
        reply = await self._create_token(wanted)
        _log.info(
            "token_created",
            operator=operator,
            purpose=wanted.purpose,
            cluster=wanted.cluster,
            name=reply.name,
        )
        return json_response(reply, status=201)

    async def _status(self, request: web.Request) -> web.Response:
        """With `?newest=true` no older state than any write that was finished before the call; raises UnavailableError."""
        self._authorize(request)
        if request.query.get("newest") == "true":
            await self._barrier()
        tables = self._catalog.tables
        directory = build_directory(tables)
        return json_response(
            {
                "federation": directory.federation,
                "incarnation": directory.incarnation,
                "cluster": self._cluster,
                "id": self._id,
                "revision": tables.revision,
                "protocol": PROTOCOL_VERSION,
                **self._standing(),
                "clusters": await _clusters(tables),
            }
        )

    async def _endpoints(self, request: web.Request) -> web.Response:
        self._authorize(request)
        namespace, cluster = request.query.get("namespace", ""), request.query.get("cluster", "")
        prefix = f"{namespace}\0".encode() if namespace else b""
        rows: list[dict[str, object]] = []
        async for key, value in sliced(self._catalog.tables.endpoints, prefix):
            if cluster in ("", EndpointKey.decode(key).cluster):
                rows.append(_endpoint_object(unpack_endpoint(value)))
            if len(rows) >= ENDPOINTS_LISTED_MAX:
                break
        return json_response(rows)

    async def _resolve(self, request: web.Request) -> web.Response:
        self._authorize(request)
        viewer = request.query.get("from", "")
        cluster_spec(self._catalog.tables, viewer)
        key = parse_service_name(request.query.get("name", ""))
        service = self._views.service(viewer, key)
        if service is None:
            raise NotFoundError(
                f"{key} is not visible to cluster {viewer}: either no endpoint of it is registered there, or its"
                f" owner does not export it to {viewer} (ExportPolicy) and grant it to its trust domain (Grant)"
            )
        return json_response(
            {
                "host": service.host,
                "ports": [port.service_port for port in service.ports],
                "owners": [_owner_object(owner) for owner in service.owners],
            }
        )

    async def _proxy_status(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return json_response(self._proxies())

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


def raft_standing(raft: Status) -> dict[str, object]:
    """Return a member's place in the log as its status shows it."""
    return {
        "raft": {
            "role": raft.role,
            "term": raft.term,
            "leader": raft.leader,
            "commitIndex": raft.commit_index,
            "appliedIndex": raft.applied_index,
            "lastIndex": raft.last_index,
            "members": raft.members,
            "connected": raft.connected,
            "journalBytes": raft.journal_bytes,
            "lastLeaderContactMsAgo": raft.last_leader_contact_ms_ago,
        }
    }


def parse_service_name(text: str) -> ServiceKey:
    """Return the service that `orders.shop` or `orders.shop.svc.clusterset.local` names."""
    short = text.rstrip(".").lower()
    for suffix in _HOST_SUFFIXES:
        short = short.removesuffix(suffix)
    parts = short.split(".")
    if len(parts) != 2 or not all(parts):
        raise InvalidInputError(f"name: {text[:200]!r} names no service, expected SERVICE.NAMESPACE")
    return ServiceKey(parts[1], parts[0])


async def _clusters(tables: Tables) -> list[dict[str, object]]:
    counts = await count_endpoints(tables.endpoints)
    drained = drains(tables)
    controllers = build_directory(tables).controllers
    verdicts = states(tables)
    found = []
    for row, spec in resources(tables, "Cluster"):
        assert isinstance(spec, ClusterSpec)
        count = counts.get(row.key.name, EndpointCounts())
        found.append(
            {
                "name": row.key.name,
                "role": spec.role,
                "trustDomain": spec.trust_domain,
                "region": spec.region,
                "zone": spec.zone,
                "network": spec.network,
                "home": spec.home,
                "controllers": [one.name for one in controllers if one.spec.cluster == row.key.name],
                "endpoints": count.endpoints,
                "readyEndpoints": count.ready,
                "gateways": count.gateways,
                "drain": drain_object(row.key.name, drained[row.key.name])
                if row.key.name in drained
                else None,
                "rehoming": rehoming_of(spec),
                **verdicts.get(row.key.name, ALWAYS_WELL),
            }
        )
    return found


def _endpoint_object(endpoint: Endpoint) -> dict[str, object]:
    return {
        **endpoint.key._asdict(),
        "address": endpoint.address,
        "ports": [
            {
                "name": port.name,
                "servicePort": port.service_port,
                "listenPort": port.listen_port,
                "protocol": port.protocol,
            }
            for port in endpoint.ports
        ],
        "identity": endpoint.identity,
        "ready": endpoint.ready,
        "weight": endpoint.weight,
        "agent": endpoint.agent,
    }


def _owner_object(owner: Owner) -> dict[str, object]:
    targets: Iterable[tuple[str, bool]] = (
        [(endpoint.address, endpoint.ready) for endpoint in owner.endpoints]
        if owner.direct
        else [(f"{gateway.address}:{gateway.port}", gateway.ready) for gateway in owner.gateways]
    )
    return {
        "cluster": owner.cluster,
        "trustDomain": owner.trust_domain,
        "local": owner.local,
        "external": owner.external,
        "direct": owner.direct,
        "readyEndpoints": owner.ready_count,
        "endpoints": len(owner.endpoints),
        "targets": [{"address": address, "ready": ready} for address, ready in targets],
    }


async def _read(request: web.Request, schema: type[T]) -> T:
    body = await read_body(request, ENTRY_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=schema)
    except MALFORMED as error:
        raise InvalidInputError(f"{request.path}: {error}") from error
