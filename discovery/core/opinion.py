"""What one observer makes of one plane of one cluster, probe by probe, and what it may say of all.

    unknown --answer--> heard --FAILURES_MIN failures in a row, or more--> lost --SUCCESSES_MIN answers--> heard

More failures are needed while this process itself is late (Lifeguard's local health: a machine without
breath must not call its neighbours dead), and after each recent loss (a link that flaps costs the log
nothing). Times are of the observer's own monotonic clock; none of them leaves it.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from discovery.core.liveness import is_suspended
from discovery.core.specs import ObservationSpec

FAILURES_MIN = 3
SUCCESSES_MIN = 2
# Each loss within the window asks for so many more failures the next time, up to the bound.
LOSS_WINDOW_MS = 60_000
FAILURES_PER_LOSS = 2
LOSSES_COUNTED_MAX = 6
# A probe that this process began or ended so late says more about the process than about the cluster.
LATE_MS = 300
STRAIN_MAX = 6

# nothing: there is nothing to be seen, such as a cluster without gateways.
Sight = Literal["unknown", "nothing", "heard", "lost"]


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """Of one plane of one cluster."""

    sight: Sight = "unknown"
    contradictions: int = 0  # Results in a row that speak against it.
    losses_ms: tuple[int, ...] = ()  # When it was lost of late.

    def after(
        self,
        answered: bool,
        *,
        now_ms: int,
        strain: int,
        failures_min: int = FAILURES_MIN,
        successes_min: int = SUCCESSES_MIN,
    ) -> "Opinion":
        """Return the opinion after one more probe."""
        if (self.sight == "heard") if answered else (self.sight == "lost"):
            return msgspec.structs.replace(self, contradictions=0)
        losses_ms = tuple(at for at in self.losses_ms if now_ms - at < LOSS_WINDOW_MS)
        if answered:
            needed = successes_min if self.sight == "lost" else 1
        else:
            needed = failures_min + FAILURES_PER_LOSS * len(losses_ms) + strain
        contradictions = self.contradictions + 1
        if contradictions < needed:
            return msgspec.structs.replace(self, contradictions=contradictions, losses_ms=losses_ms)
        if not answered:
            losses_ms = (*losses_ms, now_ms)[-LOSSES_COUNTED_MAX:]
        return Opinion(sight="heard" if answered else "lost", losses_ms=losses_ms)


def strained(strain: int, late_ms: float) -> int:
    """Return the strain of this process after one more round, from 0 to STRAIN_MAX."""
    return min(STRAIN_MAX, strain + 1) if late_ms > LATE_MS else max(0, strain - 1)


class Mind(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of one cluster."""

    control: Opinion = Opinion()
    data: Opinion = Opinion()
    member: Opinion = Opinion()  # Where mirrors could answer instead: the member, which observes.


def data_opinion(own: Opinion, told: Collection[bool]) -> Opinion:
    """What a cluster makes of another's data path: what its own gateways see, each heard (True) or lost.

    One that hears is enough: there is a way. Without a word of any gateway what its controller sees counts; and
    where there is nothing to be seen, there is nothing.
    """
    if own.sight == "nothing" or not told:
        return own
    return Opinion(sight="heard" if any(told) else "lost")


def suspended_planes(minds: Mapping[str, Mind]) -> tuple[bool, bool]:
    """Whether control plane and data path are missed of so many that the fault must be our own."""
    planes = ([mind.control.sight for mind in minds.values()], [mind.data.sight for mind in minds.values()])
    control, data = (
        is_suspended(sights.count("lost"), sights.count("lost") + sights.count("heard")) for sights in planes
    )
    return control, data


def wanted_observation(
    mind: Mind, said: ObservationSpec | None, suspended: tuple[bool, bool]
) -> ObservationSpec | None:
    """Return the row that says what is missed of a cluster, None for no row; `said` is the row of now.

    What is unknown stays as it was said, by an earlier start of this process. While a plane is suspended,
    no loss is added in it; what has returned is taken back all the same.
    """
    before = said or ObservationSpec()
    control = _lost(mind.control, before.control_lost, suspended[0])
    data = _lost(mind.data, before.data_lost, suspended[1])
    member = not control and _lost(mind.member, before.member_lost, suspended[0])
    if not (control or data or member):
        return None
    return ObservationSpec(control_lost=control, data_lost=data, member_lost=member)


def _lost(opinion: Opinion, said: bool, suspended: bool) -> bool:
    if opinion.sight == "unknown":
        return said
    return opinion.sight == "lost" and (said or not suspended)
