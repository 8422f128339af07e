"""The board: everything that a view shows, as one frozen value. Pure: times come from the caller, in Unix seconds.

A board changes by `with_...`, which returns the next one. The facts that it is given also yield lines of its
own: a leader is elected, a cluster dies or returns, endpoints of a service are gone or back.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from chaos.load.records import LoadStatus, Result
from chaos.view.facts import ClusterFacts, Facts, State, state_of

LINES_MAX = 500
RESULTS_MAX = 100
LINE_CHARS_MAX = 500
LOAD_STALE_S = 2.0  # A load writes four times a second: silent for so long, it has ended or is stopped.


class Line(Struct, frozen=True, kw_only=True):
    """Something that happened."""

    at_s: float
    text: str


class Running(Struct, frozen=True, kw_only=True):
    """The scenario under way."""

    name: str
    title: str
    since_s: float


class LoadSum(Struct, frozen=True, kw_only=True):
    """All callers together. Quantiles are bounds: that of all requests is at most the largest of a caller."""

    rate_per_s: float
    sent: int
    failed: int
    failed_per_s: float
    p50_ms_max: float
    p99_ms_max: float


class Board(Struct, frozen=True, kw_only=True):
    """What is shown."""

    started_s: float
    planned: tuple[str, ...] = ()  # The scenarios to come, in their order.
    running: Running | None = None
    results: tuple[Result, ...] = ()
    facts: Facts = Facts()
    loads: tuple[LoadStatus, ...] = ()
    lines: tuple[Line, ...] = ()  # The newest last, at most LINES_MAX.
    announced: Mapping[str, State] = field(default_factory=dict)  # What was last said of a cluster.
    gone: frozenset[tuple[str, str]] = (
        frozenset()
    )  # (service, cluster) without a ready endpoint, as was said.

    def with_line(self, at_s: float, text: str) -> "Board":
        """Add a line."""
        words = " ".join(text.split())[:LINE_CHARS_MAX]
        line = Line(at_s=at_s, text="".join(one if one.isprintable() else "?" for one in words))
        return replace(self, lines=(*self.lines[1 - LINES_MAX :], line))

    def with_scenario(self, at_s: float, name: str, title: str) -> "Board":
        """A scenario begins; the loads of the last one are of the past."""
        return replace(self, running=Running(name=name, title=title, since_s=at_s), loads=())

    def with_result(self, result: Result) -> "Board":
        """The scenario has ended."""
        return replace(self, running=None, loads=(), results=(*self.results[1 - RESULTS_MAX :], result))

    def with_loads(self, loads: tuple[LoadStatus, ...]) -> "Board":
        """What the loads write of themselves."""
        return replace(self, loads=loads)

    def with_facts(self, facts: Facts) -> tuple["Board", tuple[str, ...]]:
        """Take new facts; also return what has to be said about the change."""
        announced = dict(self.announced)
        texts = [*_election(self.facts, facts)]
        for cluster in facts.clusters:
            if news := _news(announced.get(cluster.name), cluster):
                announced[cluster.name], text = news
                texts.append(text)
        gone = self.gone
        # A cluster that starts announces its endpoints one by one; only losses afterwards are news.
        if facts.endpoints_at_s != self.facts.endpoints_at_s:
            gone = _without_ready(self.facts, facts, self.gone)
            texts += _endpoint_news(self.gone, gone)
        return replace(self, facts=facts, announced=announced, gone=gone), tuple(texts)

    def state(self, cluster: ClusterFacts) -> State:
        """Return the state to show."""
        state = state_of(cluster)
        return state if state is State.UP or cluster.name in self.announced else State.STARTING

    @property
    def number(self) -> int:
        """Which of the planned scenarios is under way, from 1; 0 if none is."""
        if self.running is None or self.running.name not in self.planned:
            return 0
        return self.planned.index(self.running.name) + 1

    def current_loads(self, now_s: float) -> tuple[LoadStatus, ...]:
        """The loads that were heard of just now."""
        return tuple(load for load in self.loads if now_s - load.at_s <= LOAD_STALE_S)

    def load_sum(self, now_s: float) -> LoadSum | None:
        """All loads together; failures also of loads that have ended. None without any."""
        if not self.loads:
            return None
        current = self.current_loads(now_s)
        return LoadSum(
            rate_per_s=sum(load.rate_per_s for load in current),
            sent=sum(load.sent for load in self.loads),
            failed=sum(load.failed for load in self.loads),
            failed_per_s=sum(load.failed_per_s for load in current),
            p50_ms_max=max((load.p50_ms for load in current), default=0.0),
            p99_ms_max=max((load.p99_ms for load in current), default=0.0),
        )


def _election(before: Facts, after: Facts) -> Iterator[str]:
    if before.leader != after.leader:
        yield f"{after.leader} is elected leader" if after.leader else f"{before.leader} leads no longer"


def _news(announced: State | None, facts: ClusterFacts) -> tuple[State, str] | None:
    """Return what to announce of a cluster. Degraded is shown, not announced: it comes and goes with every part."""
    state = state_of(facts)
    if state is announced or state is State.DEGRADED:
        return None
    match state:
        case State.UP:
            return state, f"cluster {facts.name} is up{' again' if announced else ''}"
        case State.DOWN if announced:
            return state, f"cluster {facts.name} is down: none of its {facts.planned} processes runs"
        case State.SILENT if announced:
            return state, f"cluster {facts.name} is silent: its {facts.stopped} processes are stopped"
        case _:
            return None


def _without_ready(
    before: Facts, after: Facts, gone: frozenset[tuple[str, str]]
) -> frozenset[tuple[str, str]]:
    had = {(one.service, one.cluster) for one in before.endpoints if one.ready} | gone
    has = {(one.service, one.cluster) for one in after.endpoints if one.ready}
    return frozenset(had - has)


def _endpoint_news(before: frozenset[tuple[str, str]], after: frozenset[tuple[str, str]]) -> Iterator[str]:
    for pairs, words in ((after - before, "no ready endpoint of"), (before - after, "ready again:")):
        for cluster in sorted({cluster for _, cluster in pairs}):
            services = ", ".join(sorted(service for service, its in pairs if its == cluster))
            yield f"{cluster}: {words} {services}"
