"""How far each write has come from this controller: compiled, acknowledged by proxies, held by followers.

    an agent declares -> local views -> own proxies        (local first; before the commit)
    commit            -> views compiled -> proxies acknowledged
                      -> followers (DNS processes, mirrors) hold it

Times are of this controller's monotonic clock, so every duration has both its ends in one process. The newest
`TRACES_MAX` writes are kept. Everything lives on one event loop.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Histogram, Metric

from discovery.core.model import Change, EndpointKey, ResourceKey
from federation.api.tracing import NAMES_MAX, Acknowledged, Held, Trace
from federation.replication.feed import SUBSCRIBERS_MAX
from federation.replication.messages import Delta, FollowAnswer, LocalRows

TRACES_MAX = 1_000
# Declarations that have not been committed yet: in a partition they pile up.
DECLARED_MAX = 10_000
# Of those that hold a write, so many are named, the first ones; the others are counted.
HELD_NAMED_MAX = 100
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Clock = Callable[[], float]


class Passage:
    """The way of one set of changes to the proxies of each cluster. Given to the xDS part, which reports to it."""

    def __init__(self, clock: Clock, finished: Callable[[str, float, float], None]) -> None:
        self.started_s = clock()
        self._clock = clock
        self._finished = finished
        self._ways: dict[str, _Way] = {}

    def compiled(self, cluster: str) -> None:
        """The view of a cluster shows the changes now; who is concerned by them has been told by `sent`."""
        way = self._way(cluster)
        way.compiled_s = self._clock() - self.started_s
        self._end(cluster, way)

    def sent(self, cluster: str) -> None:
        """One more proxy is to get the changes; to be called before `compiled`."""
        self._way(cluster).waiting += 1

    def answered(self, cluster: str) -> None:
        """A proxy has answered to all that it was sent."""
        way = self._way(cluster)
        way.waiting -= 1
        way.acknowledged += 1
        way.last_s = self._clock() - self.started_s
        self._end(cluster, way)

    def gone(self, cluster: str) -> None:
        """A proxy left before it answered."""
        way = self._way(cluster)
        way.waiting -= 1
        way.gone += 1
        self._end(cluster, way)

    def ways(self) -> tuple[Acknowledged, ...]:
        """How far it has come, by cluster."""
        return tuple(
            Acknowledged(
                cluster=cluster,
                compiled_ms=_ms(way.compiled_s or 0.0),
                acknowledged=way.acknowledged,
                waiting=way.waiting,
                gone=way.gone,
                last_ms=None if way.last_s is None else _ms(way.last_s),
            )
            for cluster, way in sorted(self._ways.items())
        )

    def _way(self, cluster: str) -> "_Way":
        return self._ways.setdefault(cluster, _Way())

    def _end(self, cluster: str, way: "_Way") -> None:
        if way.compiled_s is not None and not way.waiting and not way.ended:
            way.ended = True
            self._finished(cluster, way.compiled_s, max(way.compiled_s, way.last_s or 0.0))


class _Way:
    """Of one passage, in one cluster."""

    def __init__(self) -> None:
        self.compiled_s: float | None = None
        self.waiting = 0
        self.acknowledged = 0
        self.gone = 0
        self.last_s: float | None = None
        self.ended = False


class _Committed:
    """One write that this controller has applied."""

    def __init__(self, revision: int, changes: tuple[Change, ...], passage: Passage, unix_ms: int) -> None:
        self.revision = revision
        self.passage = passage
        self.unix_ms = unix_ms
        self.rows = len(changes)
        self.names = tuple(_name(change) for change in changes[:NAMES_MAX])
        self.declared: Passage | None = None
        self.held: dict[tuple[str, str], Held] = {}  # By cluster and name, at most HELD_NAMED_MAX.
        self.held_more = 0


class Tracer:
    """Remembers the newest writes of one controller and how far they came, and counts how long it took."""

    def __init__(self, *, clock: Clock, unix_ms: Callable[[], int]) -> None:
        self._clock = clock
        self._unix_ms = unix_ms
        self._writes: OrderedDict[int, _Committed] = OrderedDict()
        self._declared: OrderedDict[bytes, Passage] = OrderedDict()  # By row.
        self._holds: dict[tuple[str, str], int] = {}  # The newest revision of each follower.
        self._seconds = Histogram(
            "isthmus_propagation_seconds",
            "How long writes took, by stage and by the cluster that they reached",
            ("cluster", "stage"),
            buckets=BUCKETS_S,
            registry=None,
        )

    def metrics(self) -> Iterable[Metric]:
        """What Prometheus is told."""
        return self._seconds.collect()

    def declared(self, changes: Iterable[Change]) -> None:
        """An agent declared these rows here; they are not committed yet."""
        passage = Passage(
            self._clock, lambda where, _compiled_s, last_s: self._observe(where, "local", last_s)
        )
        for change in changes:
            self._declared[change.key] = passage
            self._declared.move_to_end(change.key)
        while len(self._declared) > DECLARED_MAX:
            self._declared.popitem(last=False)

    def committed(self, revision: int, changes: tuple[Change, ...]) -> None:
        """This controller has applied a revision."""
        passage = Passage(self._clock, self._reached)
        write = _Committed(revision, changes, passage, self._unix_ms())
        for change in changes:
            declared = self._declared.pop(change.key, None)
            if declared is not None and change.table == "endpoints":
                if write.declared is None or declared.started_s < write.declared.started_s:
                    write.declared = declared
                self._observe(
                    EndpointKey.decode(change.key).cluster, "committed", self._clock() - declared.started_s
                )
        self._writes[revision] = write
        if len(self._writes) > TRACES_MAX:
            self._writes.popitem(last=False)

    def passage(self, answer: FollowAnswer) -> Passage | None:
        """Return the passage that a view's part of it belongs to, if it is remembered."""
        match answer:
            case Delta(revision=revision):
                write = self._writes.get(revision)
                return None if write is None else write.passage
            case LocalRows(changes=changes) if changes:
                return self._declared.get(changes[0].key)
            case _:
                return None

    def holds(self, cluster: str, name: str, revision: int) -> None:
        """A follower has everything up to a revision and serves by it. The names are those of its certificate.

        What it said before is not said again: a follower that goes back and forth is counted once, and costs nothing.
        """
        follower = (cluster, name)
        before = self._holds.get(follower)
        if before is None and len(self._holds) >= SUBSCRIBERS_MAX:
            return  # So many cannot follow: it only says that it does.
        self._holds[follower] = max(revision, before or 0)
        if before is None:
            return  # It came with what it had, or got a snapshot: no write took that long.
        for write in self._between(before, revision):
            if follower in write.held:
                continue
            after_s = self._clock() - write.passage.started_s
            self._observe(cluster, "held", after_s)
            if len(write.held) < HELD_NAMED_MAX:
                write.held[follower] = Held(cluster=cluster, name=name, after_ms=_ms(after_s))
            else:
                write.held_more += 1

    def left(self, cluster: str, name: str) -> None:
        """A follower follows no longer."""
        self._holds.pop((cluster, name), None)

    def trace(self, revision: int) -> Trace | None:
        """Return what is known of a revision; None when it changed nothing, is too old, or is not here yet."""
        write = self._writes.get(revision)
        if write is None:
            return None
        passage, declared = write.passage, write.declared
        return Trace(
            revision=revision,
            committed_unix_ms=write.unix_ms,
            changed=write.names,
            rows=write.rows,
            declared_ms_before=None if declared is None else _ms(passage.started_s - declared.started_s),
            local=() if declared is None else declared.ways(),
            proxies=passage.ways(),
            held=tuple(one for _, one in sorted(write.held.items())),
            held_more=write.held_more,
        )

    def _between(self, after: int, upto: int) -> Iterator[_Committed]:
        """Yield the writes of (after, upto], newest first: a follower is seldom far behind."""
        for revision in reversed(self._writes):
            if revision <= after:
                return
            if revision <= upto:
                yield self._writes[revision]

    def _reached(self, cluster: str, compiled_s: float, last_s: float) -> None:
        self._observe(cluster, "compiled", compiled_s)
        self._observe(cluster, "acknowledged", last_s)

    def _observe(self, cluster: str, stage: str, seconds: float) -> None:
        self._seconds.labels(cluster, stage).observe(seconds)


def _name(change: Change) -> str:
    gone = "" if change.value is not None else " removed"
    if change.table == "resources":
        return f"{ResourceKey.decode(change.key)}{gone}"
    key = EndpointKey.decode(change.key)
    return f"endpoint {key.cluster}/{key.namespace}/{key.service}/{key.name}{gone}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
