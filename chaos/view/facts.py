"""What is known of a federation at one moment, and what that means. Pure."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct


class State(StrEnum):
    """How a cluster is, in words: colours only repeat them."""

    STARTING = "starting"  # Has never been up.
    UP = "up"
    DEGRADED = "degraded"  # A process is missing, or its controller says no leader.
    SILENT = "silent"  # Its processes are there and stopped: nobody is told (a blackhole).
    DOWN = "down"  # No process of it runs.


class ControllerAnswer(Struct, frozen=True, kw_only=True):
    """What a controller says of itself."""

    leader: str  # Whom it follows or is; empty: it knows none.
    revision: int


class ClusterFacts(Struct, frozen=True, kw_only=True):
    """One cluster."""

    name: str
    role: str = "primary"
    region: str = ""
    planned: int  # The processes that it should have.
    running: int = 0
    stopped: int = 0  # Of those that run: stopped by a signal.
    controller_planned: bool = True
    controller_running: bool = False
    controller: ControllerAnswer | None = None  # None: it has none, or it does not answer.


class EndpointCount(Struct, frozen=True, kw_only=True):
    """The endpoints of a service in a cluster, as the catalog has them."""

    service: str
    cluster: str
    ready: int
    registered: int


class Facts(Struct, frozen=True, kw_only=True):
    """A federation. Endpoints may be older than the rest: a controller is asked for them while one answers."""

    clusters: tuple[ClusterFacts, ...] = ()
    endpoints: tuple[EndpointCount, ...] = ()
    endpoints_at_s: float = 0.0  # Unix seconds; 0: never asked.

    @property
    def leader(self) -> str:
        """Whom most of the controllers name that know a leader; empty if none knows one, or they disagree.

        One that has just started or joined knows none: that is no reason to call the others leaderless.
        """
        said = [one.controller.leader for one in self.clusters if one.controller and one.controller.leader]
        for name, votes in Counter(said).most_common(1):
            return name if 2 * votes > len(said) else ""
        return ""

    @property
    def revision(self) -> int:
        """The newest revision that a controller has."""
        return max((one.controller.revision for one in self.clusters if one.controller), default=0)


def state_of(facts: ClusterFacts) -> State:
    """Return how a cluster is that has been up before."""
    if not facts.running:
        return State.DOWN
    if facts.stopped == facts.running:
        return State.SILENT
    controlled = not facts.controller_planned or (facts.controller is not None and facts.controller.leader)
    return State.UP if controlled and facts.running == facts.planned and not facts.stopped else State.DEGRADED


def reason_of(facts: ClusterFacts) -> str:
    """Return in a few words why a cluster is not up, empty if it is."""
    if not facts.running:
        return "nothing runs"
    if facts.stopped:
        return f"{facts.stopped} stopped"
    if facts.running < facts.planned:
        controller = facts.controller_planned and not facts.controller_running
        return "no controller" if controller else f"{facts.planned - facts.running} missing"
    if not facts.controller_planned:
        return ""
    if facts.controller is None:
        return "controller mute"
    return "" if facts.controller.leader else "knows no leader"


def count_endpoints(rows: Sequence[tuple[str, str, bool]]) -> tuple[EndpointCount, ...]:
    """Count (service, cluster, ready) rows, by service and cluster in the order of their names."""
    registered = Counter((service, cluster) for service, cluster, _ in rows)
    ready = Counter((service, cluster) for service, cluster, is_ready in rows if is_ready)
    return tuple(
        EndpointCount(
            service=service,
            cluster=cluster,
            ready=ready[service, cluster],
            registered=registered[service, cluster],
        )
        for service, cluster in sorted(registered)
    )
