"""Observation while clusters cannot reach each other: who can call what, terms, endpoints, connection attempts."""

import threading
import time
from collections.abc import Iterable
from typing import Any, Self

import msgspec

from chaos.lab.federation import Lab
from chaos.lab.namespaces import Namespaces, why_not
from chaos.lab.processes import LabError, wait_until
from chaos.load.dns_watch import Check
from federation.cli.session import Session

CONVERGE_TIMEOUT_S = 60.0
_LOOK_PERIOD_S = 0.2


class Raft(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller says of its Raft."""

    role: str
    leader: str | None
    term: int


def networks_of(lab: Lab) -> Namespaces:
    """Return the networks in which a laboratory lives; raises LabError when it has none of its own."""
    if not isinstance(lab.place, Namespaces):
        raise LabError(
            f"this scenario needs network namespaces: {why_not() or 'the laboratory is on loopback'}"
        )
    return lab.place


def services_by_caller(lab: Lab, alone: Iterable[str]) -> dict[str, list[str]]:
    """Return what each cluster can call all the time, when those in `alone` are cut off, one after the other.

    A caller calls what has an instance on its own side of each cut.
    """
    clusters = lab.serving()
    found = {}
    for caller in clusters:
        sides = [{one.name for one in clusters if (one.name == cut) == (caller.name == cut)} for cut in alone]
        reachable = [
            {service for one in clusters if one.name in side for service in one.services} for side in sides
        ]
        found[caller.name] = sorted(set.intersection(*reachable))
    return found


def raft_of(lab: Lab, cluster: str) -> Raft:
    """Ask a controller how its Raft is."""
    with lab.place.inside(cluster):
        return msgspec.convert(session_of(lab, cluster).get("/v1/status")["raft"], Raft)


def terms(lab: Lab) -> dict[str, int]:
    """Return the term of each controller."""
    return {name: raft_of(lab, name).term for name in members(lab)}


def members(lab: Lab) -> list[str]:
    """Return the clusters that have a controller."""
    return [cluster.name for cluster in lab.clusters.values() if cluster.controller]


class EndpointWatch:
    """Looks at every controller's endpoints again and again, and keeps those that never vanished.

    `watched` are the clusters whose controllers are asked: by default all.
    """

    def __init__(self, lab: Lab, watched: Iterable[str] = ()) -> None:
        self._lab = lab
        self._sessions = {cluster: session_of(lab, cluster) for cluster in watched or members(lab)}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(cluster,), name=f"endpoints-{cluster}", daemon=True)
            for cluster in self._sessions
        ]
        self._looks = dict.fromkeys(self._sessions, 0)
        self._before = {cluster: self.look(cluster) for cluster in self._sessions}
        self._always = dict(self._before)
        self._problems: list[str] = []

    def look(self, cluster: str) -> set[str]:
        """Return the endpoints that a controller has now."""
        with self._lab.place.inside(cluster):
            rows: list[dict[str, Any]] = self._sessions[cluster].get("/v1/endpoints")
        return {f"{row['cluster']}/{row['service']}/{row['name']}" for row in rows}

    def __enter__(self) -> Self:
        """Begin to look."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Look no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def checks(self, new: Iterable[str] = ()) -> list[Check]:
        """Wait until every controller has the same endpoints, then say whether they are the old ones and `new`."""
        began_s = time.monotonic()
        equal = True
        try:
            wait_until(
                lambda: len({frozenset(self.look(cluster)) for cluster in self._sessions}) == 1,
                "every controller has the same endpoints",
                CONVERGE_TIMEOUT_S,
            )
        except LabError:
            equal = False
        took_ms = (time.monotonic() - began_s) * 1000
        after = {cluster: self.look(cluster) for cluster in self._sessions}
        missing = {cluster: (self._before[cluster] | set(new)) - found for cluster, found in after.items()}
        vanished = {cluster: self._before[cluster] - always for cluster, always in self._always.items()}
        looks = ", ".join(f"{cluster} {count}" for cluster, count in self._looks.items())
        return [
            Check(
                name="endpoints are equal everywhere after healing",
                passed=equal,
                detail=f"after {took_ms:.0f} ms: { {cluster: len(found) for cluster, found in after.items()} }",
            ),
            Check(
                name="no endpoint is missing after healing",
                passed=not any(missing.values()),
                detail=f"missing: {_named(missing)}",
            ),
            Check(
                name="no endpoint vanished even for a moment",
                passed=not any(vanished.values()) and all(self._looks.values()) and not self._problems,
                detail=f"vanished: {_named(vanished)}; looks: {looks}{''.join(self._problems)}",
            ),
        ]

    def _run(self, cluster: str) -> None:
        while not self._stop.wait(_LOOK_PERIOD_S):
            try:
                self._always[cluster] &= self.look(cluster)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and nothing was seen
                self._problems.append(f"; {cluster}: {error}")
                return
            self._looks[cluster] += 1


def session_of(lab: Lab, cluster: str) -> Session:
    """A session with the controller of a cluster, as its operator."""
    return Session(str(lab.data_dir(cluster, "controller") / "operator"))


def _named(found: dict[str, set[str]]) -> str:
    return (
        ", ".join(f"{one} at {cluster}" for cluster, some in found.items() for one in sorted(some)) or "none"
    )
