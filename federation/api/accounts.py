"""The calls /v1/history and /v1/withheld: what changed, by whom, and which removals wait for a second word."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.accounts import Event, concerns, newest_first, tell
from discovery.core.catalog import Catalog
from federation.api.caller import caller_identity, require_operator
from federation.api.registry import ClusterRegistry
from federation.api.rest import json_response
from federation.kernel.errors import InvalidInputError, PreconditionError

EVENTS_LISTED_MAX = 1_000
# Some microseconds each; then the event loop serves others.
CHANGES_PER_SLICE = 500
_SINCE_DIGITS_MAX = 15

_log = structlog.get_logger("api")


class History(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is kept about a name."""

    name: str
    revision: int  # The newest of the catalog.
    now_ms: int  # Federation time.
    begins_after: int  # Every change after this revision was looked at, none before.
    begins_ms: int | None  # Federation time of the oldest change that is kept; None: nothing is.
    complete: bool  # False: there are more than EVENTS_LISTED_MAX.
    events: tuple[Event, ...]  # The newest first.


class Withheld(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent that came back without most of what it had."""

    cluster: str
    agent: str
    endpoints: int  # That stay for now.


class Accounts:
    """Handlers of these paths of one controller, for operators of its cluster."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: Catalog,
        verifier: Verifier,
        registries: Callable[[], dict[str, ClusterRegistry]],
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._verifier = verifier
        self._registries = registries

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [
            web.get("/v1/history", self._history),
            web.get("/v1/withheld", self._withheld),
            web.post("/v1/withheld/{cluster}/{agent}/confirm", self._confirm),
        ]

    async def _history(self, request: web.Request) -> web.Response:
        self._authorize(request)
        since_ms = _read_since(request.query.get("sinceMs", ""))
        return json_response(await gather(self._catalog, request.query.get("name", ""), since_ms=since_ms))

    async def _withheld(self, request: web.Request) -> web.Response:
        self._authorize(request)
        return json_response(
            [
                Withheld(cluster=cluster, agent=agent, endpoints=count)
                for cluster, registry in sorted(self._registries().items())
                for agent, count in sorted(registry.withheld().items())
            ]
        )

    async def _confirm(self, request: web.Request) -> web.Response:
        operator = self._authorize(request)
        cluster, agent = request.match_info["cluster"], request.match_info["agent"]
        registry = self._registries().get(cluster)
        if registry is None:
            raise PreconditionError(
                f"cluster {cluster[:80]} is not served here: ask one of its own controllers, or its home's"
            )
        count = registry.confirm(agent)
        _log.info("withheld_confirmed", cluster=cluster, agent=agent, endpoints=count, operator=operator)
        return json_response({"endpoints": count})

    def _authorize(self, request: web.Request) -> str:
        identity = caller_identity(request, self._verifier)
        return require_operator(identity, self._catalog.tables, cluster=self._cluster)


async def gather(catalog: Catalog, name: str, *, since_ms: int | None) -> History:
    """Look through the kept history, letting others run now and then; `since_ms`: so long ago at most."""
    is_it = concerns(name)
    now_ms, begins_after, kept = catalog.now_ms, catalog.history_begins(), catalog.kept_history()
    oldest = catalog.cause(kept[0][0]) if kept else None
    events: list[Event] = []
    complete = True
    for number, (revision, cause, position, change) in enumerate(newest_first(kept, catalog.cause), start=1):
        if number % CHANGES_PER_SLICE == 0:
            await asyncio.sleep(0)
        if since_ms is not None and cause is not None and cause.now_ms < now_ms - since_ms:
            break
        before = cause.before[position] if cause is not None and position < len(cause.before) else None
        if not is_it(change, before):
            continue
        if len(events) == EVENTS_LISTED_MAX:
            complete = False
            break
        events.append(tell(revision, cause, position, change))
    return History(
        name=name,
        revision=catalog.revision,
        now_ms=now_ms,
        begins_after=begins_after,
        begins_ms=None if oldest is None else oldest.now_ms,
        complete=complete,
        events=tuple(events),
    )


def _read_since(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _SINCE_DIGITS_MAX:
        raise InvalidInputError(f"sinceMs: {text[:40]!r} is no number of milliseconds")
    return int(text)
