"""Where answers come from: a feed in this process, or a controller across gRPC."""

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import grpc

from federation.kernel.errors import IsthmusError, error_class
from federation.replication.feed import Feed
from federation.replication.messages import REPLICATION_SERVICE, FollowAnswer, FollowRequest, HoldRequest
from federation.replication.wire import decode_answer, encode

_METHOD = f"/{REPLICATION_SERVICE}/Follow"
_HOLD = f"/{REPLICATION_SERVICE}/Hold"
HOLD_TIMEOUT_S = 5.0


class Source(Protocol):
    """A controller that can be followed."""

    @property
    def name(self) -> str:
        """For people."""

    def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream; raises an `IsthmusError` when it cannot be opened, breaks or says nonsense.

        Ends without one when the controller wants the follower to come back with a fresh certificate.
        """

    async def hold(self, revision: int) -> None:
        """Say that the follower serves by this revision; raises an `IsthmusError`."""


class FeedSource:
    """The controller of this process: the same messages, no socket."""

    def __init__(self, feed: Feed, cluster: str) -> None:
        self.name = "this process"
        self._feed = feed
        self._cluster = cluster

    def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream."""
        return self._feed.subscribe(self._cluster, request)

    async def hold(self, revision: int) -> None:
        """Nobody asks for that in one process."""


class GrpcSource:
    """One controller's control port. `open_channel` makes a channel for one stream, which closes it."""

    def __init__(self, name: str, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self.name = name
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None

    async def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream."""
        channel = self._open_channel()
        try:
            call = channel.unary_stream(_METHOD, None, None)(encode(request))
            self._channel = channel
            try:
                async for data in call:
                    yield decode_answer(data)
            except grpc.aio.AioRpcError as error:
                raise _error(error, self.name) from error
        finally:
            self._channel = None
            await channel.close(None)

    async def hold(self, revision: int) -> None:
        """Say so on the channel of the stream; without one, nothing."""
        if self._channel is None:
            return
        call = self._channel.unary_unary(_HOLD, None, None)
        try:
            await call(encode(HoldRequest(revision=revision)), timeout=HOLD_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _error(error, self.name) from error


def _error(error: grpc.aio.AioRpcError, name: str) -> IsthmusError:
    details = error.details() or error.code().name.lower()
    return error_class(int(error.code().value[0]))(f"{name}: {details}")
