"""The replication protocol over gRPC: who may follow, and how answers are written.

The peer was verified by the interceptor of `certs.runtime.grpc_security` before anything here runs.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

import grpc
import structlog

from certs.core.spiffe import SpiffeId, SystemIdentity, system_identity
from certs.runtime.grpc_security import peer_identity
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, ResourceKey
from discovery.core.rehoming import was_of
from discovery.core.specs import ClusterSpec
from discovery.core.tables import Tables
from federation.kernel.errors import IsthmusError, NotAllowedError, UnavailableError
from federation.replication.feed import Feed
from federation.replication.messages import REPLICATION_SERVICE, FollowAnswer, Heartbeat
from federation.replication.wire import decode_hold, decode_request, encode

FOLLOWERS = frozenset({"controller", "agent", "gateway", "dns"})

# A follower that takes nothing for this long is gone, whatever its connection says.
STALLED_MAX_S = 30.0
# A certificate is verified when a stream opens, so no stream outlives the shortest-lived one by much.
STREAM_AGE_MAX_S = 3_600.0

_Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_log = structlog.get_logger(__name__)


def check_follower(peer: SpiffeId, tables: Tables) -> SystemIdentity:
    """Return who follows; raises `NotAllowedError` for anyone but a process of a cluster that joined.

    One that was away while its cluster moved to another home still shows the old one's trust domain: it learns here whom
    to ask for a new identity. It is told no more than its old home, which holds the whole log.
    """
    identity = system_identity(peer)
    if identity is None or identity.role not in FOLLOWERS:
        raise NotAllowedError(
            f"{peer} may not follow the catalog: expected one of {', '.join(sorted(FOLLOWERS))}"
        )
    row = tables.resource(ResourceKey(FEDERATION_SCOPE, "Cluster", "", identity.cluster))
    if row is None:
        raise NotAllowedError(f"{peer} is of cluster {identity.cluster!r}, which has not joined")
    spec = cast("ClusterSpec", decode_spec("Cluster", row.spec, where=str(row.key)))
    if not was_of(spec, peer.trust_domain):
        raise NotAllowedError(
            f"{peer} is not of trust domain {spec.trust_domain!r} of cluster {identity.cluster!r}"
        )
    return identity


class HoldsNoted(Protocol):
    """Who wants to know how far followers have come."""

    def holds(self, cluster: str, name: str, revision: int) -> None:
        """A follower serves by everything up to a revision."""

    def left(self, cluster: str, name: str) -> None:
        """It follows no longer."""


class ReplicationService:
    """Answers Follow from a `Feed`. Add `handler()` to a server whose first interceptor verifies peers."""

    def __init__(
        self,
        feed: Feed,
        *,
        tables: Callable[[], Tables],
        tracer: HoldsNoted,
        peer: Callable[[], SpiffeId] = peer_identity,
    ) -> None:
        self._feed = feed
        self._tracer = tracer
        self._tables = tables
        self._peer = peer
        self._last: tuple[FollowAnswer, bytes] | None = None

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            REPLICATION_SERVICE,
            {
                "Follow": grpc.unary_stream_rpc_method_handler(self._follow),
                "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
            },
        )

    async def _follow(self, request: bytes, context: _Context) -> None:
        try:
            await self._answer(request, context)
        except IsthmusError as error:
            _log.info("follower refused", peer=context.peer(), reason=error.message)
            await context.abort(_status(error), error.message)

    async def _hold(self, request: bytes, context: _Context) -> bytes:
        try:
            follower = check_follower(self._peer(), self._tables())
            self._tracer.holds(follower.cluster, _name(follower), decode_hold(request).revision)
        except IsthmusError as error:
            await context.abort(_status(error), error.message)
        return b""

    async def _answer(self, request: bytes, context: _Context) -> None:
        peer = self._peer()
        follower = check_follower(peer, self._tables())
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + STREAM_AGE_MAX_S
        async with contextlib.aclosing(
            self._feed.subscribe(follower.cluster, decode_request(request), name=_name(follower))
        ) as answers:
            try:
                async for answer in answers:
                    try:
                        async with asyncio.timeout(STALLED_MAX_S):
                            await context.write(self._encoded(answer))
                    except TimeoutError as error:
                        raise UnavailableError(f"{peer} took nothing for {STALLED_MAX_S:g} s") from error
                    if isinstance(answer, Heartbeat):
                        check_follower(peer, self._tables())  # Its cluster may have been removed.
                        if loop.time() >= ends_at_s:
                            return  # It comes back at once, with its certificate of then.
            finally:
                self._tracer.left(follower.cluster, _name(follower))

    def _encoded(self, answer: FollowAnswer) -> bytes:
        """Return the bytes of an answer; followers at the same place share the answer, so also its bytes."""
        last = self._last
        if last is None or last[0] is not answer:
            last = self._last = (answer, encode(answer))
        return last[1]


def _name(follower: SystemIdentity) -> str:
    return f"{follower.role}.{follower.id}"


def _status(error: IsthmusError) -> grpc.StatusCode:
    return next(status for status in grpc.StatusCode if status.value[0] == int(error.code))
