"""What a run plans, what it logs, and what it reports: the figures come from these lines alone."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

# Below this share of its planned rate a scenario shows nothing: it is invalid, not passed.
SENT_SHARE_MIN = 0.9


class Target(Struct, frozen=True, kw_only=True):
    """One (caller, service) pair: the caller's sidecar, and the name that it asks for."""

    caller: str
    service: str
    url: str
    host: str


class Plan(Struct, frozen=True, kw_only=True):
    """An open-loop load: request n goes to target n mod len(targets), n / rate seconds after the start."""

    targets: tuple[Target, ...]
    rate_per_s: float
    count_max: int  # The load ends here if nobody has stopped it before.
    deadline_ms: int = 2_000


class Sent(Struct, frozen=True, kw_only=True):
    """How a load ended."""

    planned: int  # Requests that were due until it was stopped, sent or not.


class RequestLine(Struct, frozen=True, kw_only=True):
    """One request of the log. Times of `due_s` are Unix seconds; `took_ms` counts from when it was due."""

    number: int
    caller: str
    service: str
    due_s: float
    sent_late_ms: float
    took_ms: float
    status: int  # 0: no answer in time.
    cluster: str = ""  # Who answered.
    instance: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """True for a 2xx in time."""
        return 200 <= self.status < 300

    @property
    def done_s(self) -> float:
        """When the answer came, Unix seconds."""
        return self.due_s + self.took_ms / 1000


class Event(Struct, frozen=True, kw_only=True):
    """Something that was done or seen during a scenario, in Unix seconds."""

    at_s: float
    text: str


class Record(Struct, frozen=True, kw_only=True):
    """What happened in one scenario: with the request log, all that its figures are computed from."""

    name: str
    planned: int
    fault_s: float  # When the victims died, Unix seconds, as all times here.
    victims: tuple[str, ...] = ()  # The instances that died.
    services: tuple[str, ...] = ()  # Whose callers' shift counts; empty: all.
    restarted_s: float  # When the first of what died was started again.
    recovered_s: float  # When all of it served again.
    events: tuple[Event, ...]


class Result(Struct, frozen=True, kw_only=True):
    """One scenario's figures."""

    name: str
    planned: int
    requests: int  # That were sent.
    failed: int
    longest_gap_ms: float  # Between two successes of one (caller, service) pair, the longest.
    shift_ms: float  # From the fault until every pair that the victims had served was served by others.
    recovered_ms: float  # From the restart of what died until all of it served again.
    p50_ms: float
    p99_ms: float
    max_ms: float
    sent_late_ms: (
        float  # The longest that the client itself was held up: of a machine too busy, not of a proxy.
    )
    outlasted_ms: float  # From the last event until the last request; negative: it was not under load.

    @property
    def valid(self) -> bool:
        """False when the load did not reach its rate, or ended before the last event."""
        return self.requests >= SENT_SHARE_MIN * self.planned and self.outlasted_ms >= 0


def summarize(record: Record, lines: Sequence[RequestLine]) -> Result:
    """Compute a scenario's figures from what happened in it and its request log."""
    took = sorted(line.took_ms for line in lines if line.ok)
    affected = [line for line in lines if not record.services or line.service in record.services]
    return Result(
        name=record.name,
        planned=record.planned,
        requests=len(lines),
        failed=sum(not line.ok for line in lines),
        longest_gap_ms=longest_gap_ms(lines),
        shift_ms=shift_ms(affected, record.fault_s, frozenset(record.victims)),
        recovered_ms=round((record.recovered_s - record.restarted_s) * 1000, 1),
        p50_ms=quantile(took, 0.50),
        p99_ms=quantile(took, 0.99),
        max_ms=quantile(took, 1.0),
        sent_late_ms=round(max((line.sent_late_ms for line in lines), default=0.0), 1),
        outlasted_ms=outlasted_ms(lines, record.events),
    )


def longest_gap_ms(lines: Iterable[RequestLine]) -> float:
    """Return the longest time between two neighbouring successes of one (caller, service) pair."""
    done: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        if line.ok:
            done.setdefault((line.caller, line.service), []).append(line.done_s)
    gaps = [later - earlier for times in done.values() for earlier, later in pairwise(sorted(times))]
    return round(max(gaps, default=0.0) * 1000, 1)


def shift_ms(lines: Iterable[RequestLine], fault_s: float, victims: frozenset[str]) -> float:
    """Return how long after the fault the last affected pair got its first answer from somebody else.

    Affected is a pair of which a victim answered the last request before the fault. 0 where none was.
    """
    last_before: dict[tuple[str, str], RequestLine] = {}
    first_after: dict[tuple[str, str], float] = {}
    for line in sorted(lines, key=lambda line: line.due_s):
        pair = (line.caller, line.service)
        if line.due_s < fault_s:
            if line.ok and line.done_s < fault_s:
                last_before[pair] = line
        elif line.ok and line.instance not in victims:
            first_after[pair] = min(first_after.get(pair, line.done_s), line.done_s)
    shifts = [
        first_after[pair] - fault_s
        for pair, line in last_before.items()
        if line.instance in victims and pair in first_after
    ]
    return round(max(shifts, default=0.0) * 1000, 1)


def outlasted_ms(lines: Sequence[RequestLine], events: Sequence[Event]) -> float:
    """Return how long after the last event the last request was due; negative when it was due before."""
    if not lines or not events:
        return 0.0 if lines else -1.0
    last_due_s = max(line.due_s for line in lines)
    return round((last_due_s - max(event.at_s for event in events)) * 1000, 1)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of an ascending sequence does not exceed (nearest rank)."""
    if not ordered:
        return 0.0
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.07 * 100 is a little more than 7.
    return round(ordered[max(rank, 1) - 1], 1)
