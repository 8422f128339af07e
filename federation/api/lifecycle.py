"""The calls under /v1/clusters: draining a cluster and giving it its traffic back."""

from typing import Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.catalog import Catalog
from discovery.core.drain_reports import watched_left_ms
from discovery.core.drains import state_of
from discovery.core.specs import DRAIN_EVERY_MS_MAX, DrainSpec
from discovery.core.tables import Tables
from federation.api.caller import caller_identity, require_operator
from federation.api.cluster_requests import PER_PERCENT, DrainRequest, RemoveRequest
from federation.api.directory import resources
from federation.api.removals import read_removal
from federation.api.rest import json_response, read_body
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

_REQUEST_BYTES_MAX = 4 * 1024

T = TypeVar("T")

_log = structlog.get_logger("api")


class Removals(Protocol):
    """What removes clusters; `federation.app.removing` does."""

    async def remove(self, cluster: str, operator: str, *, force: bool) -> str:
        """Remove it and say so."""
        ...


class Drains(Protocol):
    """What begins and ends drains; `federation.app.draining` does."""

    async def drain(self, cluster: str, request: DrainRequest, operator: str) -> DrainSpec:
        """Begin, and return at once."""
        ...

    async def undrain(self, cluster: str, operator: str) -> None:
        """Give the whole share back."""
        ...

    async def state(self, cluster: str) -> DrainSpec:
        """How far it is."""
        ...


class ClusterOperations:
    """Handlers of these paths of one controller, for operators of its cluster."""

    def __init__(
        self, *, cluster: str, catalog: Catalog, verifier: Verifier, drains: Drains, removals: Removals
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._drains = drains
        self._removals = removals

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [
            web.get("/v1/clusters/{cluster}/drain", self._state),
            web.post("/v1/clusters/{cluster}/drain", self._drain),
            web.post("/v1/clusters/{cluster}/undrain", self._undrain),
            web.post("/v1/clusters/{cluster}/remove", self._remove),
            web.get("/v1/removed/{cluster}", self._removed),
        ]

    async def _state(self, request: web.Request) -> web.Response:
        self._authorize(request)
        cluster = request.match_info["cluster"]
        return self._drain_response(cluster, await self._drains.state(cluster))

    async def _drain(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        cluster = request.match_info["cluster"]
        wanted = await _read_drain(request)
        return self._drain_response(cluster, await self._drains.drain(cluster, wanted, operator))

    def _drain_response(self, cluster: str, drain: DrainSpec) -> web.Response:
        left_ms = watched_left_ms(drain, now_ms=self._catalog.now_ms)
        return json_response({**drain_object(cluster, drain), "watchedLeftMs": left_ms})

    async def _undrain(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        cluster = request.match_info["cluster"]
        await self._drains.undrain(cluster, operator)
        return json_response({"message": f"cluster {cluster} has its whole share of the traffic again"})

    async def _remove(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        wanted = await _read(request, RemoveRequest)
        message = await self._removals.remove(request.match_info["cluster"], operator, force=wanted.force)
        return json_response({"message": message})

    async def _removed(self, request: web.Request) -> web.Response:
        """For everybody: who was removed has no certificate that anybody believes, and must be told."""
        return json_response(read_removal(self._catalog.tables, request.match_info["cluster"]))

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


def drains(tables: Tables) -> dict[str, DrainSpec]:
    """Every drain, by cluster."""
    return {row.key.name: spec for row, spec in resources(tables, "Drain") if isinstance(spec, DrainSpec)}


def drain_object(cluster: str, drain: DrainSpec) -> dict[str, object]:
    """Return a drain as the API shows it."""
    return {
        "cluster": cluster,
        "state": state_of(drain),
        "sharePercent": drain.share_percent,
        "stepPercent": drain.step_percent,
        "everyMs": drain.every_ms,
        "startedUnixMs": drain.started_ms,
        "startedBy": drain.started_by,
        "forced": drain.forced,
        "minCapacity": drain.capacity_percent_min,
        "maxErrorRate": drain.errors_per_million_max / PER_PERCENT,
        "reason": drain.rolled_back,
    }


async def _read_drain(request: web.Request) -> DrainRequest:
    wanted = await _read(request, DrainRequest)
    if not 1 <= wanted.step_percent <= 100:
        raise InvalidInputError(f"stepPercent is {wanted.step_percent}, expected 1 to 100")
    if not 0 <= wanted.every_ms <= DRAIN_EVERY_MS_MAX:
        raise InvalidInputError(f"everyMs is {wanted.every_ms}, expected 0 to {DRAIN_EVERY_MS_MAX}, a day")
    if not 0 <= wanted.min_capacity <= 100:
        raise InvalidInputError(f"minCapacity is {wanted.min_capacity}, expected 0 to 100 per cent")
    if not 0 <= wanted.max_error_rate <= 100:
        raise InvalidInputError(f"maxErrorRate is {wanted.max_error_rate:g}, expected 0 to 100 per cent")
    return wanted


async def _read(request: web.Request, schema: type[T]) -> T:
    body = await read_body(request, _REQUEST_BYTES_MAX)
    try:
        return msgspec.json.decode(body or b"{}", type=schema)
    except MALFORMED as error:
        raise InvalidInputError(f"{request.path}: {error}") from error
