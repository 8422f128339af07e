"""What a run plans, what it logs, and what it reports: the figures come from these lines alone."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

# Below this share of a caller's planned rate a scenario shows nothing: it is invalid, not passed.
SENT_SHARE_MIN = 0.9


Kind = Literal["single", "chain"]


class Target(Struct, frozen=True, kw_only=True):
    """One (caller, service) pair: where to send to, and the name that it asks for."""

    caller: str
    service: str  # "chain" for a purchase through the whole shop.
    url: str
    host: str = ""  # Of the Host header; empty: as the URL says.


class Stream(Struct, frozen=True, kw_only=True):
    """Request n of a stream goes to target n mod len(targets), n / rate seconds after the start."""

    kind: Kind
    targets: tuple[Target, ...]
    rate_per_s: float


class Plan(Struct, frozen=True, kw_only=True):
    """The open-loop load of one caller: its streams side by side."""

    caller: str
    streams: tuple[Stream, ...]
    seconds_max: float  # The load ends here if nobody has stopped it before.
    deadline_ms: int = 2_000


class Sent(Struct, frozen=True, kw_only=True):
    """How a load ended."""

    planned: int  # Requests that were due until it was stopped, sent or not.


class LoadStatus(Struct, frozen=True, kw_only=True):
    """How the load of one caller is doing. Rates and quantiles are those of the last second, of single calls."""

    caller: str
    at_s: float  # Unix seconds.
    planned: int  # Requests that were due by now.
    sent: int
    failed: int
    rate_per_s: float  # Answers, failures included; the chain's too.
    failed_per_s: float
    p50_ms: float
    p99_ms: float


class RequestLine(Struct, frozen=True, kw_only=True):
    """One request of the log. Times of `due_s` are Unix seconds; `took_ms` counts from when it was due."""

    number: int  # Within its stream.
    kind: Kind
    caller: str
    service: str
    due_s: float
    sent_late_ms: float
    took_ms: float
    status: int  # 0: no answer in time.
    cluster: str = ""  # Who answered; of a chain, the last of it.
    instance: str = ""
    attempts: int = 0  # How often the caller's Envoy tried, as who was asked first was told; 0: unknown.
    hops: tuple[
        str, ...
    ] = ()  # Of a chain: "SERVICE CLUSTER/INSTANCE", in the order in which they were asked.
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


class Retries(Struct, frozen=True, kw_only=True, rename="camel"):
    """What an Envoy counted as retries (upstream_rq_retry), until two moments."""

    proxy: str
    before: int  # 0 when the Envoy that was asked then is not the one that was asked later.
    after: int


class Record(Struct, frozen=True, kw_only=True):
    """What happened in one scenario: with the request logs, all that its figures are computed from."""

    name: str
    planned: dict[str, int]  # By caller.
    retries: tuple[Retries, ...] = ()
    fault_s: float  # When the victims died, Unix seconds, as all times here.
    victims: tuple[str, ...] = ()  # The instances that died.
    services: tuple[str, ...] = ()  # Whose callers' shift counts; empty: all.
    restarted_s: float  # When the first of what died was started again.
    recovered_s: float  # When all of it served again.
    events: tuple[Event, ...]


class Result(Struct, frozen=True, kw_only=True, rename="camel"):
    """One scenario's figures. Quantiles, gaps and shift are those of single calls, where nothing else is said."""

    name: str
    planned: int
    requests: int  # That were sent, the chain's included.
    failed: int  # As above.
    retried: int  # By Envoy: tries beyond the first, in the sidecars of callers and shop.
    p50_ms: float
    p99_ms: float
    max_ms: float
    longest_gap_ms: float  # Between two successes of one (caller, service) pair, the longest.
    gaps: dict[
        str, float
    ]  # The longest of each pair, ms, by "CALLER/SERVICE"; the chain is such a service too.
    shift_ms: float  # From the fault until every pair that the victims had served was served by others.
    recovered_ms: float  # From the restart of what died until all of it served again.
    chain_requests: int
    chain_failed: int
    chain_p50_ms: float
    chain_p99_ms: float
    sent_late_ms: (
        float  # The longest that a client itself was held up: of a machine too busy, not of a proxy.
    )
    outlasted_ms: float  # From the last event until a caller's last request; negative: it was not under load.
    valid: bool  # False when a caller did not reach its rate, or its load ended before the last event.


def summarize(record: Record, lines: Sequence[RequestLine]) -> Result:
    """Compute a scenario's figures from what happened in it and its request logs."""
    singles = [line for line in lines if line.kind == "single"]
    chains = [line for line in lines if line.kind == "chain"]
    took, took_chain = (sorted(line.took_ms for line in some if line.ok) for some in (singles, chains))
    gaps = gaps_ms(lines)
    outlasted = outlasted_ms(lines, record.events, record.planned)
    return Result(
        name=record.name,
        planned=sum(record.planned.values()),
        requests=len(lines),
        failed=sum(not line.ok for line in lines),
        retried=sum(one.after - one.before for one in record.retries),
        p50_ms=quantile(took, 0.50),
        p99_ms=quantile(took, 0.99),
        max_ms=quantile(took, 1.0),
        longest_gap_ms=max((gap for pair, gap in gaps.items() if not pair.endswith("/chain")), default=0.0),
        gaps=gaps,
        shift_ms=shift_ms(
            [line for line in singles if not record.services or line.service in record.services],
            record.fault_s,
            frozenset(record.victims),
        ),
        recovered_ms=round((record.recovered_s - record.restarted_s) * 1000, 1),
        chain_requests=len(chains),
        chain_failed=sum(not line.ok for line in chains),
        chain_p50_ms=quantile(took_chain, 0.50),
        chain_p99_ms=quantile(took_chain, 0.99),
        sent_late_ms=round(max((line.sent_late_ms for line in lines), default=0.0), 1),
        outlasted_ms=outlasted,
        valid=outlasted >= 0 and reached_rate(lines, record.planned),
    )


def reached_rate(lines: Iterable[RequestLine], planned: Mapping[str, int]) -> bool:
    """True when every caller sent its share of what it had planned."""
    sent = Counter(line.caller for line in lines)
    return all(sent[caller] >= SENT_SHARE_MIN * count for caller, count in planned.items())


def gaps_ms(lines: Iterable[RequestLine]) -> dict[str, float]:
    """Return the longest time between two neighbouring successes of each "CALLER/SERVICE"."""
    done: dict[str, list[float]] = {}
    for line in lines:
        if line.ok:
            done.setdefault(f"{line.caller}/{line.service}", []).append(line.done_s)
    return {
        pair: round(
            max((later - earlier for earlier, later in pairwise(sorted(times))), default=0.0) * 1000, 1
        )
        for pair, times in sorted(done.items())
    }


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


def outlasted_ms(lines: Iterable[RequestLine], events: Sequence[Event], callers: Iterable[str]) -> float:
    """Return how long after the last event the first caller to end had its last request due; negative: before it."""
    last_due_s = dict.fromkeys(callers, 0.0)
    for line in lines:
        last_due_s[line.caller] = max(last_due_s[line.caller], line.due_s)
    first_end_s = min(last_due_s.values(), default=0.0)
    if not first_end_s:
        return -1.0  # Somebody sent nothing at all.
    return round((first_end_s - max((event.at_s for event in events), default=first_end_s)) * 1000, 1)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return `nearest_rank` of an ascending sequence to a tenth, 0 of none."""
    return round(nearest_rank(ordered, share), 1) if ordered else 0.0


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of an ascending sequence does not exceed; IndexError for none."""
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.07 * 100 is a little more than 7.
    return ordered[min(max(rank, 1), len(ordered)) - 1]
