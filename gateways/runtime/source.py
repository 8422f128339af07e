"""Where an xDS service finds configuration, and the small thing that both of our sources share.

A controller serves compiled views (`compiled`), an agent what it relays (`relay_store`); the service
(`xds_service`) knows only the two protocols below. Everything here runs on one event loop.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from gateways.core.ads import Ack
from gateways.core.wire import XdsResource


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How the proxy introduced itself in the stream's first request."""

    id: str
    cluster: str
    description: str  # JSON of `gateways.core.proxy.Proxy`; empty when it sent none.
    user_agent: str


class Progress(Protocol):
    """Who wants to know how far an update has come. Each proxy that it touches is told of once by `sent`."""

    def compiled(self, cluster: str) -> None:
        """The view of a cluster is compiled, and all its proxies that are touched were told of."""

    def sent(self, cluster: str) -> None:
        """A proxy of the cluster is to get the update."""

    def answered(self, cluster: str) -> None:
        """It has answered to all that it was sent, or wanted nothing of it."""

    def gone(self, cluster: str) -> None:
        """Its stream ended before."""


class Subscription(Protocol):
    """One stream's view of a source."""

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""

    def names(self, type_url: str) -> Iterable[str]:
        """The names of all resources of a type."""

    def take_dirty(self) -> Mapping[str, set[str]]:
        """The names, by type, that may have changed since the last call."""

    def take_progress(self) -> Sequence[Progress]:
        """Who wants to know when the proxy has answered to what `take_dirty` returned."""

    async def wait(self) -> None:
        """Return when there is something to take; raises an IsthmusError when nothing ever will be."""

    def on_ack(self, ack: Ack) -> None:
        """The proxy accepted or, if `ack.error`, rejected a response."""

    def close(self) -> None:
        """The stream ended."""


class ResourceSource(Protocol):
    """What a service serves."""

    def open(self, node: NodeInfo, peer: str) -> Subscription:
        """Begin to serve one proxy; raises IsthmusError to refuse it. `peer` is its identity, or empty."""


class DirtyNames:
    """Names to look at again, and a way to wait for some. Bounded by the names that exist."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._event = asyncio.Event()

    def add(self, changed: Mapping[str, Iterable[str]]) -> None:
        """Note changed names by type."""
        for type_url, names in changed.items():
            self._names.setdefault(type_url, set()).update(names)
        if self._names:
            self._event.set()

    def take(self) -> dict[str, set[str]]:
        """Return what was noted, and forget it."""
        self._event.clear()
        taken, self._names = self._names, {}
        return taken

    def wake(self) -> None:
        """Have `wait` return although nothing is noted."""
        self._event.set()

    async def wait(self) -> None:
        """Return when something is noted."""
        await self._event.wait()
