"""The service by which controllers of one cluster follow what each of them hears; see `heard`.

The peer was verified by the interceptor of `certs.runtime.grpc_security` before anything here runs.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeAlias

import grpc
import structlog

from certs.core.spiffe import SpiffeId, system_identity
from certs.runtime.grpc_security import peer_identity
from discovery.core.model import ResourceKey
from discovery.core.tables import Tables
from federation.api.directory import cluster_spec
from federation.api.health import check_asker
from federation.api.heard import HEARD_SERVICE, Beat, decode_hear_request, encode_heard
from federation.api.registry import ClusterRegistry
from federation.kernel.errors import IsthmusError, NotAllowedError, PreconditionError, UnavailableError
from federation.kernel.versions import PROTOCOL_VERSION_MIN, speaks

# One that takes nothing for this long is gone, whatever its connection says.
STALLED_MAX_S = 30.0
# A certificate is verified when a stream opens, so no stream outlives it by much.
STREAM_AGE_MAX_S = 3_600.0

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
_log = structlog.get_logger("heard")


def check_fellow(peer: SpiffeId, tables: Tables, cluster: str) -> None:
    """Raise NotAllowedError for anybody but a controller, as the catalog has it, that serves `cluster`."""
    check_asker(peer, tables)
    system = system_identity(peer)
    assert system is not None  # As `check_asker` found.
    try:
        homes = cluster_spec(tables, cluster).homes
    except IsthmusError as error:
        raise NotAllowedError(f"cluster {cluster[:80]!r} has not joined") from error
    if system.cluster not in (cluster, *homes):
        raise NotAllowedError(f"{peer} does not serve cluster {cluster}")
    if tables.resource(ResourceKey("", "Controller", "", f"{system.cluster}-{system.id}")) is None:
        raise NotAllowedError(f"{peer} is no controller of cluster {system.cluster}, or was evicted")


class HeardService:
    """Answers Hear from the registries of the served clusters."""

    def __init__(
        self,
        *,
        tables: Callable[[], Tables],
        registry: Callable[[str], ClusterRegistry | None],
        peer: Callable[[], SpiffeId] = peer_identity,
    ) -> None:
        self._tables = tables
        self._registry = registry
        self._peer = peer

    def handler(self) -> "grpc.GenericRpcHandler[bytes, bytes]":
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            HEARD_SERVICE, {"Hear": grpc.unary_stream_rpc_method_handler(self._hear)}
        )

    async def _hear(self, request: bytes, context: Context) -> None:
        try:
            await self._answer(request, context)
        except IsthmusError as error:
            _log.info("fellow_refused", peer=context.peer(), reason=error.message)
            status = next(status for status in grpc.StatusCode if status.value[0] == int(error.code))
            await context.abort(status, error.message)

    async def _answer(self, request: bytes, context: Context) -> None:
        wanted = decode_hear_request(request)
        if not speaks(wanted.protocol):
            raise PreconditionError(
                f"the controller speaks protocol {wanted.protocol}, expected at least {PROTOCOL_VERSION_MIN}"
            )
        peer = self._peer()
        check_fellow(peer, self._tables(), wanted.cluster)
        registry = self._registry(wanted.cluster)
        if registry is None:
            raise UnavailableError(f"cluster {wanted.cluster} is not served here yet")
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + STREAM_AGE_MAX_S
        async with contextlib.aclosing(registry.heard_here.subscribe()) as answers:
            async for answer in answers:
                try:
                    async with asyncio.timeout(STALLED_MAX_S):
                        await context.write(encode_heard(answer))
                except TimeoutError as error:
                    raise UnavailableError(f"{peer} took nothing for {STALLED_MAX_S:g} s") from error
                if registry.retired:
                    raise UnavailableError(f"cluster {wanted.cluster} is served here no longer")
                if isinstance(answer, Beat):
                    check_fellow(peer, self._tables(), wanted.cluster)  # It may have been evicted.
                    if loop.time() >= ends_at_s:
                        return
