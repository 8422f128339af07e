"""What the gateways of this cluster see of other clusters' gateways, and at whom they are told to look."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec

from federation.api.messages import ProbeTarget, ProbeTargets, Sightings

# Of one cluster so many are named: a probe asks three at a time, and the next three where none answers.
GATEWAYS_NAMED_MAX = 16
# A gateway that looks at others speaks three times in this time: the word of one that does not is old.
FRESH_S = 6.0


class GatewayEyes:
    """Between a controller's observer and the streams of its cluster's gateways. Lives on the event loop.

    What a gateway saw counts while it is heard: one that is silent for FRESH_S, or has gone, has no opinion.
    """

    def __init__(self, cluster: str, *, clock: Callable[[], float]) -> None:
        self.cluster = cluster  # Of which gateways count.
        self.on_turn: Callable[[], None] = _nothing
        self._targets: dict[str, ProbeTarget] = {}  # By cluster.
        self._seen: dict[object, dict[str, bool]] = {}  # By stream, and cluster: whether it is heard.
        self._heard_s: dict[object, float] = {}  # When each stream was last heard.
        self._clock = clock
        self._changed = asyncio.Event()

    # -- the observer's side -----------------------------------------------------------------------

    def aim(self, target: ProbeTarget) -> None:
        """Say at which gateways of a cluster to look now; none: at nothing."""
        target = msgspec.structs.replace(target, gateways=target.gateways[:GATEWAYS_NAMED_MAX])
        if self._targets.get(target.cluster) == target or not (
            target.gateways or target.cluster in self._targets
        ):
            return
        if target.gateways:
            self._targets[target.cluster] = target
        else:
            del self._targets[target.cluster]
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def told_of(self, cluster: str) -> tuple[bool, ...]:
        """Whether a cluster is heard, as each gateway says that has an opinion, and was itself heard of late."""
        since_s = self._clock() - FRESH_S
        return tuple(
            seen[cluster]
            for stream, seen in self._seen.items()
            if cluster in seen and self._heard_s[stream] >= since_s
        )

    # -- the streams' side -------------------------------------------------------------------------

    async def targets(self) -> AsyncIterator[ProbeTargets]:
        """Yield all targets, then what changes."""
        said: dict[str, ProbeTarget] = {}
        whole = True
        while True:
            changed = self._changed
            now = dict(self._targets)
            news = tuple(_news(said, now))
            if news or whole:
                yield ProbeTargets(targets=news, whole=whole)
            said, whole = now, False
            await changed.wait()

    def heard(self, stream: object) -> None:
        """A gateway gave a sign of life."""
        self._heard_s[stream] = self._clock()

    def told(self, stream: object, message: Sightings) -> None:
        """Take what a gateway says on its stream; of whom it was not told to look at, nothing."""
        self.heard(stream)
        seen = self._seen.setdefault(stream, {})
        for clusters, heard in ((message.heard, True), (message.lost, False)):
            for cluster in clusters:
                if cluster in self._targets:
                    seen[cluster] = heard
        for cluster in message.unseen:
            seen.pop(cluster, None)
        self.on_turn()

    def ended(self, stream: object) -> None:
        """The stream is over: what was said on it counts no more."""
        self._heard_s.pop(stream, None)
        if self._seen.pop(stream, None) is not None:
            self.on_turn()


def _news(said: dict[str, ProbeTarget], now: dict[str, ProbeTarget]) -> Iterator[ProbeTarget]:
    for cluster, target in now.items():
        if said.get(cluster) != target:
            yield target
    for cluster in said.keys() - now.keys():
        yield ProbeTarget(cluster=cluster)


def _nothing() -> None:
    """Nobody listens yet."""
