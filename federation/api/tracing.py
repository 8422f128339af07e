"""The call /v1/trace: how far a write has come, as every controller that answers says of itself."""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.catalog import Catalog
from discovery.core.model import Change, ServiceKey
from discovery.core.tables import endpoint_prefix
from federation.api.caller import caller_identity, require_operator
from federation.api.messages import Message
from federation.api.operations import parse_service_name
from federation.api.rest import json_response
from federation.kernel.errors import InvalidInputError, NotFoundError

_REVISION_DIGITS_MAX = 18


# Of the rows that a write changed, so many are named.
NAMES_MAX = 10


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How the proxies of one cluster, those that the write concerns, took it. Durations in milliseconds."""

    cluster: str
    compiled_ms: float  # Until the view of the cluster was compiled...
    acknowledged: int = 0  # Proxies that took it, or refused it: `isthmus proxy status` tells.
    waiting: int = 0  # Connected proxies that have not answered yet.
    gone: int = 0  # Proxies whose stream ended before they answered.
    last_ms: float | None = None  # ... and until the last answer so far.


class Held(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A process that follows the catalog has the write, and serves by it."""

    cluster: str
    name: str
    after_ms: float


class Trace(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one controller knows of the way of one write."""

    revision: int
    committed_unix_ms: int  # By the clock of the controller; durations count from here.
    changed: tuple[str, ...]  # At most NAMES_MAX of the rows...
    rows: int  # ... of so many.
    declared_ms_before: float | None = None  # When its agent declared it here, if it did.
    local: tuple[Acknowledged, ...] = ()  # Before the commit, counted from the declaration.
    proxies: tuple[Acknowledged, ...] = ()
    held: tuple[Held, ...] = ()  # The first ones...
    held_more: int = 0  # ... and so many others.


class TraceQuestion(Message, frozen=True, kw_only=True):
    """What one controller asks another."""

    revision: int


class TraceAnswer(Message, frozen=True, kw_only=True):
    """What a controller says of itself."""

    controller: str  # CLUSTER-ID
    revision: int  # The newest that it has applied.
    trace: Trace | None = None  # None: it is not here yet, or it was too long ago.


class ControllerTrace(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was found out from one controller."""

    controller: str
    state: str  # "applied", "behind": it has not applied the write yet, "forgotten", or "silent".
    error: str = ""  # Why it is silent.
    trace: Trace | None = None


class WriteTrace(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How far one write has come."""

    revision: int
    controllers: tuple[ControllerTrace, ...]


def state_of(revision: int, answer: TraceAnswer) -> str:
    """Say in one word how a controller stands to a write."""
    if answer.trace is not None:
        return "applied"
    return "behind" if answer.revision < revision else "forgotten"


def newest_write(history: Iterable[tuple[int, tuple[Change, ...]]], key: ServiceKey) -> int:
    """Return the newest revision that changed an endpoint of a service; raises NotFoundError."""
    prefix = endpoint_prefix(key)
    found = 0
    for revision, changes in history:
        if any(change.table == "endpoints" and change.key.startswith(prefix) for change in changes):
            found = revision
    if not found:
        raise NotFoundError(f"no remembered write changed an endpoint of {key}: give a revision")
    return found


class Tracing:
    """Handlers of this path of one controller, for operators of its cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: Catalog,
        verifier: Verifier,
        gather: Callable[[int], Awaitable[tuple[ControllerTrace, ...]]],
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._gather = gather

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [web.get("/v1/trace", self._trace)]

    async def _trace(self, request: web.Request) -> web.Response:
        identity = caller_identity(request, self._verifier)
        require_operator(identity, self._catalog.tables, cluster=self._cluster)
        revision = self._read(request.query.get("write", ""))
        controllers = await self._gather(revision)
        if not any(one.state in ("applied", "behind") for one in controllers):
            raise NotFoundError(
                f"write {revision}: no controller that answers remembers a change at this revision, the newest"
                f" is {self._catalog.revision}"
            )
        return json_response(WriteTrace(revision=revision, controllers=controllers))

    def _read(self, text: str) -> int:
        if not text.isascii() or not text.isdigit():
            return newest_write(self._catalog.kept_history(), parse_service_name(text))
        if len(text) > _REVISION_DIGITS_MAX or int(text) > self._catalog.revision:
            raise InvalidInputError(
                f"write {text[:40]}: the newest revision of this controller is {self._catalog.revision}"
            )
        return int(text)
