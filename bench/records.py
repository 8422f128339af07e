"""Figures and how they come out of measurements: pure."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

from chaos.load.records import RequestLine, nearest_rank

SpreadKind = Literal["min-max", "p10-p90"]
SLOW_MS = 100.0


class Figure(Struct, frozen=True, kw_only=True):
    """One measured number, with what it was taken from."""

    name: str
    value: float
    unit: str
    rounds: int  # Measurements that the value was taken from.
    low: float
    high: float
    spread: SpreadKind  # What `low` and `high` are.
    ratio_to: str | None = None  # Name of the figure that it is compared with.
    ratio: float | None = None


class Measured(Struct, frozen=True, kw_only=True):
    """What a section brings: its figures, and what else the reader has to know about this run."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


class Facts(Struct, frozen=True, kw_only=True):
    """Where and when a run took place."""

    date: str
    processor: str
    cores: int
    memory_gib: float
    kernel: str
    filesystem: str  # Of the journals.
    versions: tuple[tuple[str, str], ...]
    load: float  # Load average of one minute before anything ran.


class SectionRun(Struct, frozen=True, kw_only=True):
    """One section of one run; `failure` says why there are no figures."""

    name: str
    title: str
    method: str
    measured: Measured | None
    failure: str = ""
    seconds: float
    load_before: float  # Load average of one minute.
    load_after: float


class Window(Struct, frozen=True, kw_only=True):
    """What callers noticed between a fault and the end of its window."""

    requests: int
    failed: int
    retried: int
    disturbed_ms: float  # From the fault to the end of the last request that was retried, slow or failed.
    retried_ms: float  # The same of the last one that was retried.
    worst_ms: float


def quantile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that `share` of the values do not exceed (nearest rank); ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, expected at least one")
    return nearest_rank(ordered, share)


def of_rounds(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    beside: Sequence[float] = (),
    ratio_to: str | None = None,
) -> Figure:
    """Return the median of the rounds with their range.

    `beside` are the same rounds of the figure `ratio_to`: the ratio is the median of the ratios by round, so
    that what slowed a whole round down counts on both sides.
    """
    ratio = None
    if beside:
        ratio = median(ours / theirs for ours, theirs in zip(values, beside, strict=True))
    return Figure(
        name=name,
        value=median(values),
        unit=unit,
        rounds=len(values),
        low=min(values),
        high=max(values),
        spread="min-max",
        ratio_to=ratio_to,
        ratio=ratio,
    )


def of_samples(name: str, values: Sequence[float], unit: str) -> tuple[Figure, Figure]:
    """Return p50, with p10 and p90 as its spread, and p99, with the range, of single measurements."""
    count = len(values)
    return (
        Figure(
            name=f"{name} p50",
            value=quantile(values, 0.5),
            unit=unit,
            rounds=count,
            low=quantile(values, 0.1),
            high=quantile(values, 0.9),
            spread="p10-p90",
        ),
        Figure(
            name=f"{name} p99",
            value=quantile(values, 0.99),
            unit=unit,
            rounds=count,
            low=min(values),
            high=max(values),
            spread="min-max",
        ),
    )


def window(samples: Iterable[RequestLine], fault_s: float, end_s: float) -> Window:
    """Return what callers noticed of a fault until `end_s`.

    Requests count that were under way when the fault struck, or were due within the window. Times are to the
    end of a request, since its caller waited until then; 0 where nothing happened.
    """
    inside = [sample for sample in samples if sample.done_s >= fault_s and sample.due_s < end_s]
    retried = [sample for sample in inside if sample.attempts > 1]
    disturbed = [
        sample for sample in inside if sample.attempts > 1 or not sample.ok or sample.took_ms > SLOW_MS
    ]
    return Window(
        requests=len(inside),
        failed=sum(not sample.ok for sample in inside),
        retried=len(retried),
        disturbed_ms=_last_end_ms(disturbed, fault_s),
        retried_ms=_last_end_ms(retried, fault_s),
        worst_ms=max((sample.took_ms for sample in inside), default=0.0),
    )


def _last_end_ms(samples: Sequence[RequestLine], fault_s: float) -> float:
    return max(((sample.done_s - fault_s) * 1000 for sample in samples), default=0.0)
