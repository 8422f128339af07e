"""What an agent holds for one of its Envoys: the controller's resources, and its own secrets.

The store is a source for the agent's own xDS service, so that an Envoy is configured by its agent and goes
on, and starts again, while no controller can be reached (invariant F1). The controller's part is kept on
disk; secrets made here never are (invariant S3).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from federation.kernel.errors import BadIdentityError
from gateways.core.ads import Ack
from gateways.core.wire import ORDER, XdsResource
from gateways.runtime.source import DirtyNames, NodeInfo, Progress


class RelayStore:
    """Resources of the proxy `proxy_id`. `ready` is set once they are complete: from disk, or of each type."""

    def __init__(self, proxy_id: str) -> None:
        self.proxy_id = proxy_id
        self.ready = asyncio.Event()
        self.changed = asyncio.Event()  # Set at each change of the controller's part; the cache clears it.
        self._remote: dict[str, dict[str, XdsResource]] = {type_url: {} for type_url in ORDER}
        self._local: dict[str, dict[str, XdsResource]] = {}
        self._received: set[str] = set()
        self._subscriptions: set[RelaySubscription] = set()
        self._rejections: dict[str, str] = {}
        self._verdicts = DirtyNames()

    @property
    def rejections(self) -> Mapping[str, str]:
        """What the Envoy says against its configuration, by type; empty when it is content."""
        return self._rejections

    def versions(self, type_url: str) -> dict[str, str]:
        """The controller's resources of a type, as a reconnecting client says what it has."""
        return {name: resource.version for name, resource in self._remote[type_url].items()}

    def remote_resources(self) -> list[XdsResource]:
        """All resources of the controller, sorted by type and name."""
        return [table[name] for _, table in sorted(self._remote.items()) for name in sorted(table)]

    def load(self, resources: Iterable[XdsResource]) -> None:
        """Begin with what was on disk."""
        for resource in resources:
            self._remote[resource.type_url][resource.name] = resource
        self.ready.set()

    def apply(self, type_url: str, put: Iterable[XdsResource], removed: Iterable[str]) -> None:
        """Take over one response of a controller."""
        table = self._remote[type_url]
        names = set()
        for resource in put:
            table[resource.name] = resource
            names.add(resource.name)
        for name in removed:
            if table.pop(name, None) is not None:
                names.add(name)
        self._received.add(type_url)
        if len(self._received) == len(ORDER):
            self.ready.set()
        if names:
            self._publish(type_url, names)
            self.changed.set()

    def set_local(self, resource: XdsResource) -> None:
        """Add or replace a resource of the agent's own, such as the certificate; it hides the controller's."""
        table = self._local.setdefault(resource.type_url, {})
        if table.get(resource.name) != resource:
            table[resource.name] = resource
            self._publish(resource.type_url, {resource.name})

    def open(self, node: NodeInfo, _peer: str) -> "RelaySubscription":
        """Begin to serve the local Envoy; BadIdentityError for any other proxy's."""
        if node.id != self.proxy_id:
            raise BadIdentityError(f"xds node {node.id!r} on the socket of proxy {self.proxy_id!r}")
        subscription = RelaySubscription(self)
        self._subscriptions.add(subscription)
        return subscription

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""
        return self._local.get(type_url, {}).get(name) or self._remote.get(type_url, {}).get(name)

    def names(self, type_url: str) -> set[str]:
        """The names of all resources of a type."""
        return self._local.get(type_url, {}).keys() | self._remote.get(type_url, {}).keys()

    def forget(self, subscription: "RelaySubscription") -> None:
        """A local stream ended."""
        self._subscriptions.discard(subscription)

    def on_ack(self, ack: Ack) -> None:
        """Note the Envoy's verdict, for the controller and for `rejections`."""
        before = self._rejections.get(ack.type_url, "")
        if ack.standing:
            self._rejections[ack.type_url] = ack.standing
        else:
            self._rejections.pop(ack.type_url, None)
        if before != ack.standing:
            self._verdicts.add({ack.type_url: {ack.standing}})

    async def verdict_types(self) -> Iterable[str]:
        """Wait until the Envoy changes its mind about some types and return them."""
        await self._verdicts.wait()
        return self._verdicts.take().keys()

    def _publish(self, type_url: str, names: set[str]) -> None:
        for subscription in self._subscriptions:
            subscription.dirty.add({type_url: names})


class RelaySubscription:
    """One local stream."""

    def __init__(self, store: RelayStore) -> None:
        self._store = store
        self.dirty = DirtyNames()

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""
        return self._store.get(type_url, name)

    def names(self, type_url: str) -> Iterable[str]:
        """The names of all resources of a type."""
        return self._store.names(type_url)

    def take_dirty(self) -> Mapping[str, set[str]]:
        """The names that may have changed."""
        return self.dirty.take()

    def take_progress(self) -> Sequence[Progress]:
        """Nobody: a controller counts the agent's answer."""
        return ()

    async def wait(self) -> None:
        """Return when there is something to take."""
        await self.dirty.wait()

    def on_ack(self, ack: Ack) -> None:
        """Pass the Envoy's verdict on."""
        self._store.on_ack(ack)

    def close(self) -> None:
        """Stop to follow."""
        self._store.forget(self)
