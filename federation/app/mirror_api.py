"""The HTTPS port of a mirror: reads with the age of its copy, writes by way of a member, and no admission.

Reads are linearizable by default, as on a member, and then need one; with `resourceVersion=0` they come from the
copy. Every answer says how old the copy is: `Isthmus-Copy-Age-Ms`, and `Isthmus-Copy-Revision`.
"""

from collections.abc import Callable
from typing import NoReturn

from aiohttp import web

from certs.core.verifier import Verifier
from discovery.core.join_forecast import Forecast
from federation.api.health import Facts
from federation.api.messages import EnrollReply, EnrollRequest, ForecastRequest, JoinReply, JoinRequest
from federation.api.operations import Operations
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.rest import ResourceApi
from federation.api.tokens import TokenReply, TokenRequest
from federation.api.understanding import Understanding
from federation.api.watch import WatchHub
from federation.app.live_views import LiveViews
from federation.app.proxies import describe_proxies
from federation.kernel.errors import UnavailableError
from federation.replication.follower import FollowerStatus
from gateways.runtime.xds_service import XdsService

AGE_HEADER = "Isthmus-Copy-Age-Ms"
REVISION_HEADER = "Isthmus-Copy-Revision"


class MirrorApi:
    """The routes of one mirror."""

    def __init__(
        self,
        *,
        name: str,
        cluster: str,
        catalog: CatalogReader,
        proposer: Proposer,
        watches: WatchHub,
        verifier: Verifier,
        views: LiveViews,
        xds: XdsService,
        status: Callable[[], FollowerStatus],
    ) -> None:
        self._status = status
        self._resources = ResourceApi(
            cluster=cluster, catalog=catalog, proposer=proposer, watches=watches, verifier=verifier
        )
        self._operations = Operations(
            id=name.removeprefix(f"{cluster}-"),
            cluster=cluster,
            catalog=catalog,
            admission=NoAdmission(name),
            verifier=verifier,
            views=views,
            proxies=lambda: describe_proxies(xds),
            standing=self._standing,
            barrier=proposer.barrier,
            create_token=self._no_token,
        )
        self._understanding = Understanding(
            cluster=cluster, catalog=catalog, verifier=verifier, views=views, facts=self._no_facts
        )
        self._name = name

    def routes(self) -> list[web.RouteDef]:
        """The routes of these calls."""
        return [*self._resources.routes(), *self._operations.routes(), *self._understanding.routes()]

    def age_headers(self) -> dict[str, str]:
        """What every answer says of the copy that it was made from."""
        status = self._status()
        age = {} if status.age_ms is None else {AGE_HEADER: str(status.age_ms)}
        return {REVISION_HEADER: str(status.revision), **age}

    def _standing(self) -> dict[str, object]:
        status = self._status()
        return {
            "mirror": {
                "member": status.source,
                "revision": status.revision,
                "newestRevision": status.newest_revision,
                "ageMs": status.age_ms,
                "error": status.last_error if not status.source else "",
            }
        }

    async def _no_token(self, _request: TokenRequest) -> TokenReply:
        _refuse(self._name)

    async def _no_facts(self) -> Facts:
        _refuse(self._name)


class NoAdmission:
    """A mirror holds no tokens, which never leave the members, and no key that could sign."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def enroll(self, _request: EnrollRequest) -> EnrollReply:
        """Refuse, so that the caller tries the next controller."""
        _refuse(self._name)

    async def join(self, _request: JoinRequest) -> JoinReply:
        """Refuse, so that the caller tries the next controller."""
        _refuse(self._name)

    async def forecast(self, _request: ForecastRequest) -> Forecast:
        """Refuse, so that the caller tries the next controller."""
        _refuse(self._name)


def _refuse(name: str) -> NoReturn:
    raise UnavailableError(f"{name} is a mirror and does not do this: ask a member of its cluster or home")
