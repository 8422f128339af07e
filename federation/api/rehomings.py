"""The calls under /v1/clusters/NAME/rehome: moving a remote cluster to another home."""

from typing import Protocol

import msgspec
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.catalog import Catalog
from discovery.core.rehome_forecast import RehomeForecast
from discovery.core.specs import REHOMING_WITHIN_MS_MAX, REHOMING_WITHIN_MS_MIN, ClusterSpec, Rehoming
from federation.api.caller import caller_identity, require_operator
from federation.api.cluster_requests import RehomeRequest
from federation.api.rest import json_response, read_body
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError

_REQUEST_BYTES_MAX = 4 * 1024


class Progress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far a cluster is on its way. Without a move ever: `state` is empty."""

    cluster: str
    home: str
    trust_domain: str
    state: str = ""
    other_home: str = (
        ""  # Where it moves to or returns from; when done: the home that it left, or did not come to.
    )
    other_trust_domain: str = ""
    endpoints: int = 0  # Its gateways among them...
    changed: int = 0  # ... and those that show the identity which they should end with.
    late: tuple[str, ...] = ()  # The first few that do not.
    agents: tuple[str, ...] = ()  # Connected ones that do not, as far as this controller serves the cluster.
    changed_unix_ms: int = 0  # When `state` was last another one.
    within_ms: int = 0
    started_by: str = ""
    reason: str = ""  # Why it was taken back, or goes on after all.


class Rehomings(Protocol):
    """What moves clusters; `federation.app.rehoming` does."""

    async def forecast(self, cluster: str, to: str) -> RehomeForecast:
        """What a move would change."""
        ...

    async def begin(self, cluster: str, request: RehomeRequest, operator: str) -> Progress:
        """Begin, and return at once."""
        ...

    async def abort(self, cluster: str, operator: str) -> Progress:
        """Take it back."""
        ...

    async def progress(self, cluster: str) -> Progress:
        """How far it is."""
        ...


class RehomeOperations:
    """Handlers of these paths of one controller, for operators of its cluster."""

    def __init__(self, *, cluster: str, catalog: Catalog, verifier: Verifier, rehomings: Rehomings) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._rehomings = rehomings

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [
            web.get("/v1/clusters/{cluster}/rehome", self._progress),
            web.post("/v1/clusters/{cluster}/rehome", self._begin),
            web.post("/v1/clusters/{cluster}/rehome/forecast", self._forecast),
            web.post("/v1/clusters/{cluster}/rehome/abort", self._abort),
        ]

    async def _progress(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return json_response(await self._rehomings.progress(request.match_info["cluster"]))

    async def _begin(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        wanted = await _read(request)
        if not REHOMING_WITHIN_MS_MIN <= wanted.within_ms <= REHOMING_WITHIN_MS_MAX:
            raise InvalidInputError(
                f"withinMs is {wanted.within_ms}, expected {REHOMING_WITHIN_MS_MIN} to {REHOMING_WITHIN_MS_MAX}, a day"
            )
        return json_response(await self._rehomings.begin(request.match_info["cluster"], wanted, operator))

    async def _forecast(self, request: web.Request) -> web.Response:
        self._authorize(request)
        wanted = await _read(request)
        return json_response(await self._rehomings.forecast(request.match_info["cluster"], wanted.to))

    async def _abort(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        return json_response(await self._rehomings.abort(request.match_info["cluster"], operator))

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


def rehoming_of(spec: ClusterSpec) -> Rehoming | None:
    """What `isthmus cluster status` shows: a move that is under way."""
    move = spec.rehoming
    return None if move is None or move.state == "done" else move


async def _read(request: web.Request) -> RehomeRequest:
    body = await read_body(request, _REQUEST_BYTES_MAX)
    try:
        return msgspec.json.decode(body, type=RehomeRequest)
    except MALFORMED as error:
        raise InvalidInputError(f"{request.path}: {error}") from error
