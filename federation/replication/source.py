"""Where answers come from: a feed in this process, or a controller across gRPC."""

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import grpc

from federation.kernel.errors import error_class
from federation.replication.feed import Feed
from federation.replication.messages import REPLICATION_SERVICE, FollowAnswer, FollowRequest
from federation.replication.wire import decode_answer, encode

_METHOD = f"/{REPLICATION_SERVICE}/Follow"


class Source(Protocol):
    """A controller that can be followed."""

    @property
    def name(self) -> str:
        """For people."""

    def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream; raises an `IsthmusError` when it cannot be opened, breaks or says nonsense.

        Ends without one when the controller wants the follower to come back with a fresh certificate.
        """


class FeedSource:
    """The controller of this process: the same messages, no socket."""

    def __init__(self, feed: Feed, cluster: str) -> None:
        self.name = "this process"
        self._feed = feed
        self._cluster = cluster

    def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream."""
        return self._feed.subscribe(self._cluster, request)


class GrpcSource:
    """One controller's control port. `open_channel` makes a channel for one stream, which closes it."""

    def __init__(self, name: str, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self.name = name
        self._open_channel = open_channel

    async def follow(self, request: FollowRequest) -> AsyncGenerator[FollowAnswer]:
        """Open a stream."""
        channel = self._open_channel()
        try:
            call = channel.unary_stream(_METHOD, None, None)(encode(request))
            try:
                async for data in call:
                    yield decode_answer(data)
            except grpc.aio.AioRpcError as error:
                details = error.details() or error.code().name.lower()
                raise error_class(int(error.code().value[0]))(f"{self.name}: {details}") from error
        finally:
            await channel.close(None)
