"""Is a cluster alive? Judged by quorum, in two planes, from what the other clusters observe (invariant F2).

An `Observation` is a row of the cluster that observes: what it misses of one other cluster, in the control
plane (its controllers answer) and on the data path (its gateways answer). The verdict is computed from
these rows alone, in the state machine, so that nobody can forge one:

    ok             nobody misses anything
    control-lost   somebody does not hear its controllers
    data-degraded  somebody does not reach its gateways
    dead           in both planes, at least two observers, and more than half of those that count

Observers are the primaries and witnesses but the subject, and but those whose member was removed: they hear the log no
longer, and cannot take back what they said. Two kinds of them do not count: the silent, whose own controllers, or the
member among them, a quorum misses (their rows are old news), and in one plane those that miss more than half of all others
there, two at least: they have lost their own network (self-preservation).

A remote cluster has no controllers. Its control plane is lost when its home misses its agents, or is silent.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from discovery.core.specs import ClusterSpec, ClusterState, ObservationSpec

Plane = Literal["control", "data"]
Complaints = Mapping[str, Mapping[str, ObservationSpec]]  # By observer and subject.

# One observer may err, or be the one that is cut off.
OBSERVERS_MIN = 2
# Missing a single cluster is never a sign of having lost one's own network.
SUSPENDED_LOST_MIN = 2


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the observations say of one cluster now. Observers are sorted, and only those that count."""

    state: ClusterState
    control_lost_by: tuple[str, ...] = ()
    data_lost_by: tuple[str, ...] = ()


class Electorate:
    """All joined clusters, and what they miss of each other at one moment; the `blind` have no member that observes."""

    def __init__(
        self,
        clusters: Mapping[str, ClusterSpec],
        complaints: Complaints,
        blind: Collection[str] = frozenset(),
    ) -> None:
        self._clusters = clusters
        self._complaints = complaints
        hosts = {name for name, spec in clusters.items() if spec.role != "remote"}
        self._observers = hosts.difference(blind)
        self._suspended: dict[Plane, set[str]] = {
            plane: {name for name in self._observers if self._misses_too_much(name, plane)}
            for plane in ("control", "data")
        }
        # By anybody, in any plane.
        self.missed = {subject for rows in complaints.values() for subject in rows}
        # By all that observe, not by the silent among them only: that would turn in a circle.
        self._silent = {
            name
            for name in hosts & self.missed
            if _is_quorum(self._lost_by(name, "control"), self._voters(name, "control"))
        }
        # Mirrors answer for the cluster, and nobody takes back what its member said.
        self._mute = self._silent | {
            name
            for name in self._observers & self.missed
            if _is_quorum(self._not_heard_observing(name), self._voters(name, "control"))
        }

    def suspended(self, observer: str) -> frozenset[Plane]:
        """The planes in which an observer misses so many that it does not count."""
        return frozenset(plane for plane, names in self._suspended.items() if observer in names)

    def counts(self, observer: str) -> bool:
        """Whether what a cluster sees of things outside of all clusters is believed: it is heard, and hears others."""
        return observer in self._observers and observer not in self._mute and not self.suspended(observer)

    def judge(self, subject: str) -> Judgement:
        """Return the state of one joined cluster."""
        control, data = (self._lost_by(subject, plane) - self._mute for plane in ("control", "data"))
        data_voters = self._voters(subject, "data") - self._mute
        home = self._clusters[subject].home
        if home:
            control &= {home}
            control_is_lost = bool(control) or home in self._silent
        else:
            control_is_lost = _is_quorum(control, self._voters(subject, "control") - self._mute)
        state: ClusterState = "ok"
        if control_is_lost and _is_quorum(data, data_voters):
            state = "dead"
        elif data:
            state = "data-degraded"
        elif control or control_is_lost:
            state = "control-lost"
        return Judgement(
            state=state, control_lost_by=tuple(sorted(control)), data_lost_by=tuple(sorted(data))
        )

    def _voters(self, subject: str, plane: Plane) -> set[str]:
        return self._observers - self._suspended[plane] - {subject}

    def _lost_by(self, subject: str, plane: Plane) -> set[str]:
        return {
            observer
            for observer in self._voters(subject, plane)
            if _misses(self._complaints.get(observer, {}).get(subject), plane)
        }

    def _not_heard_observing(self, subject: str) -> set[str]:
        return {
            observer
            for observer in self._voters(subject, "control")
            if (row := self._complaints.get(observer, {}).get(subject)) is not None
            and (row.control_lost or row.member_lost)
        }

    def _misses_too_much(self, observer: str, plane: Plane) -> bool:
        rows = self._complaints.get(observer, {})
        lost = sum(_misses(row, plane) for subject, row in rows.items() if subject in self._clusters)
        return is_suspended(lost, len(self._clusters) - 1)


def is_suspended(lost: int, others: int) -> bool:
    """True when an observer misses so many of the others that the fault must be its own."""
    return lost >= SUSPENDED_LOST_MIN and 2 * lost > others


def _misses(observation: ObservationSpec | None, plane: Plane) -> bool:
    if observation is None:
        return False
    return observation.control_lost if plane == "control" else observation.data_lost


def _is_quorum(lost_by: set[str], voters: set[str]) -> bool:
    return len(lost_by) >= OBSERVERS_MIN and 2 * len(lost_by) > len(voters)
