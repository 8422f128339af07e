"""The controller's source: what its views compile to, for the proxies of every cluster that it serves."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from discovery.core.model import ServiceKey
from federation.kernel.errors import UnavailableError
from gateways.core.ads import Ack
from gateways.core.compile import Dirty, ProxyConfig, ViewCompiler
from gateways.core.proxy import check_peer, decode_proxy
from gateways.core.wire import XdsResource
from gateways.runtime.source import DirtyNames, NodeInfo, Progress

# Updates whose arrival at one proxy is awaited. One that takes nothing does not make them pile up.
PROGRESS_MAX = 256


class CompiledSource:
    """Serves one compiler per cluster.

    A cluster is served once it was added, and that must not happen before its view is complete: a proxy
    would be told to remove what the view does not have yet (invariant F2).
    """

    def __init__(self) -> None:
        self._compilers: dict[str, ViewCompiler] = {}
        self._subscriptions: dict[str, set[CompiledSubscription]] = {}

    def add(self, compiler: ViewCompiler) -> None:
        """Begin to serve the proxies of the compiler's cluster; its view has been compiled whole."""
        self._compilers[compiler.cluster] = compiler
        self._subscriptions.setdefault(compiler.cluster, set())

    def remove(self, cluster: str) -> None:
        """Serve a cluster that left no longer: its streams end, and their proxies keep what they have."""
        self._compilers.pop(cluster, None)
        for subscription in self._subscriptions.pop(cluster, ()):
            subscription.end()

    def update(self, cluster: str, changed: Iterable[ServiceKey], progress: Progress | None = None) -> Dirty:
        """Recompile services of one cluster's view and wake the streams that are touched."""
        dirty = self._compilers[cluster].update(changed)
        for subscription in self._subscriptions[cluster]:
            subscription.apply(dirty, progress)
        if progress is not None:
            progress.compiled(cluster)
        return dirty

    def open(self, node: NodeInfo, peer: str) -> "CompiledSubscription":
        """Begin to serve a proxy.

        Raises InvalidInputError for a malformed description, BadIdentityError when the peer may not speak
        for the proxy, UnavailableError while its cluster's view is not ready here.
        """
        proxy = decode_proxy(node.description, node_id=node.id)
        check_peer(proxy, peer)
        compiler = self._compilers.get(proxy.cluster)
        if compiler is None:
            raise UnavailableError(
                f"this controller has no view of cluster {proxy.cluster!r} yet: expected one of"
                f" {', '.join(sorted(self._compilers)) or 'none'}"
            )
        subscriptions = self._subscriptions[proxy.cluster]
        subscription = CompiledSubscription(proxy.cluster, ProxyConfig(compiler, proxy), subscriptions)
        subscriptions.add(subscription)
        return subscription


class CompiledSubscription:
    """One proxy's part of a compiled view."""

    def __init__(self, cluster: str, config: ProxyConfig, registry: "set[CompiledSubscription]") -> None:
        self._cluster = cluster
        self._config = config
        self._registry = registry
        self._dirty = DirtyNames()
        self._progress: deque[Progress] = deque()
        self._ended = False

    def end(self) -> None:
        """Have `wait` raise: the cluster is served no longer."""
        self._ended = True
        self._dirty.wake()

    def apply(self, dirty: Dirty, progress: Progress | None = None) -> None:
        """Follow an update of the compiler; the proxy's answer to it is reported to `progress`."""
        names = self._config.apply(dirty)
        self._dirty.add(names)
        if progress is None or not names:
            return
        progress.sent(self._cluster)
        self._progress.append(progress)
        if len(self._progress) > PROGRESS_MAX:
            self._progress.popleft().gone(self._cluster)

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""
        return self._config.get(type_url, name)

    def names(self, type_url: str) -> Iterable[str]:
        """The names of all resources of a type."""
        return self._config.names(type_url)

    def take_dirty(self) -> Mapping[str, set[str]]:
        """The names that may have changed."""
        return self._dirty.take()

    def take_progress(self) -> Sequence[Progress]:
        """Who wants to know of the proxy's answer."""
        taken, self._progress = tuple(self._progress), deque()
        return taken

    async def wait(self) -> None:
        """Return when there is something to take; raises UnavailableError once the cluster has left."""
        await self._dirty.wait()
        if self._ended:
            raise UnavailableError(f"cluster {self._cluster} has left: no configuration is made for it")

    def on_ack(self, ack: Ack) -> None:
        """Nothing to do: the service keeps each stream's status."""

    def close(self) -> None:
        """Stop to follow."""
        self._registry.discard(self)
        for progress in self.take_progress():
            progress.gone(self._cluster)
