"""The catalog as it grows, and under a steady load of changes."""

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from bench.catalog_growth import BEHIND, CHANGES, Growth
from bench.catalog_load import CLUSTERS, Loaded
from bench.catalog_members import CatalogTrio
from bench.catalog_watchers import Watchers
from bench.records import Figure, Measured, of_rounds, of_samples, quantile
from bench.session import Session
from chaos.lab.guardian import Guardian, environment_of
from discovery.core.views import ENDPOINTS_MEMOISED_MAX
from federation.kernel.limits import EVENTS_KEPT_MAX

TITLE = "Catalog: growth, and a steady load"
SIZES = (1_000, 10_000, 100_000, 300_000)
LONG_SIZE = 1_000_000  # With --long.
MANY_CLUSTERS, MANY_SIZE = 100, 100_000
FEW_CLUSTERS = 10
CHANGES_PER_S = 1_000
LOAD_S, LONG_LOAD_S = 10.0, 60.0
NORMAL_PER_S, NOISE = 10, 100  # Of each cluster; how many times that the noisy one changes.
NOISE_ROUNDS, NOISE_S = 4, 5.0
# Clusters are given to the controllers by turns, the leader's first.
NOISY = {"a cluster at the leader": CLUSTERS[9], "one at another member": CLUSTERS[8]}
WATCHES = 5_000
CHILD_TIMEOUT_S = 300.0
METHOD = f"""
*Growth*: each size in a process of its own, without Raft: the state machine is filled by the commands that publishers
use, ten endpoints a service, over {FEW_CLUSTERS} clusters (over {MANY_CLUSTERS} where it says so). Memory is RSS after
less RSS before, so freed memory that Python kept counts; the follower's is that of its copy and its view. One change is
one endpoint in one entry of the log, the median of {CHANGES}; *followed* is decoding, copy and view together. *Catch-up* is a
follower that missed {BEHIND:,} entries; *copy* one that has nothing, without its view, which is computed behind it. The
codec is in all of these, the wire in none. *Slope* is the exponent of the cost over the size, by least squares of the
logarithms: 0 is flat, 1 is proportional. *Load*: three members, each a process with the catalog and a follower, journals on
one disk; agents of {len(CLUSTERS)} clusters, which belong to the members by turns, declare changes of single endpoints to
their controllers, whose publishers commit them.
*Global* is from a declaration until its publisher acknowledges it, *mirror lag* from a declaration until a follower's view at
any member has it, behind the codec. *Noise*: each cluster changes {NORMAL_PER_S} times a second, none in step with another; by turns,
{NOISE_ROUNDS} rounds of {NOISE_S:g} s each: nobody is noisy; one cluster changes {NOISE} times as often; and nobody does, but processes that have nothing to do
with the federation take as much more of the cores as that cost the members. The others' p99 until global are compared by round. *Watches* and *followers* are
tasks of one process that changes its catalog now and then; what is written to a network is not in it.
"""

AnswerT = TypeVar("AnswerT")


def measure(session: Session) -> Measured:
    """Grow, watch, load."""
    session.say(f"catalog: {', '.join(f'{size:,}' for size in SIZES)} endpoints")
    growths = [_child("bench.catalog_growth", Growth, str(size), str(FEW_CLUSTERS)) for size in SIZES]
    many = []
    for size in (MANY_SIZE, LONG_SIZE) if session.long else (MANY_SIZE,):
        session.say(f"catalog: {size:,} endpoints of {MANY_CLUSTERS} clusters")
        many.append(_child("bench.catalog_growth", Growth, str(size), str(MANY_CLUSTERS)))
    session.say("catalog: watches")
    watchers = _child("bench.catalog_watchers", Watchers, str(WATCHES))
    figures = [*_growth_figures(growths, many), *_watch_figures(watchers)]
    figures += _load_figures(session)
    return Measured(figures=tuple(figures), notes=_notes(many[-1] if session.long else growths[-1], session))


def _child(module: str, answer: type[AnswerT], *arguments: str) -> AnswerT:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, timeout=CHILD_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr.decode().strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=answer)


# What a size cost: name, unit, and where in `Growth`.
_COSTS: dict[str, tuple[str, Callable[[Growth], float]]] = {
    "one change applied": ("us", lambda one: one.apply_us),
    "one change followed": ("us", lambda one: one.follow_us),
    "one change sent to a follower": ("bytes", lambda one: one.delta_bytes),
    "snapshot written": ("ms", lambda one: one.snapshot_s * 1000),
    "restart from a snapshot": ("ms", lambda one: one.restore_s * 1000),
    "copy of a new follower": ("ms", lambda one: one.copy_s * 1000),
    "view of a new follower": ("ms", lambda one: one.view_s * 1000),
    "catch-up": ("ms", lambda one: one.missed_s * 1000),
    "catch-up, sent": ("KiB", lambda one: one.missed_bytes / 1024),
}


def _growth_figures(growths: Sequence[Growth], many: Sequence[Growth]) -> list[Figure]:
    figures = []
    for name, (unit, cost) in _COSTS.items():
        costs = [cost(growth) for growth in growths]
        for growth, value in zip(growths, costs, strict=True):
            figures.append(of_rounds(f"{name}, {growth.endpoints:,} endpoints", [value], unit))
        figures += [
            of_rounds(f"{name}, {one.endpoints:,} endpoints of {one.clusters} clusters", [cost(one)], unit)
            for one in many
        ]
        steepness = slope([growth.endpoints for growth in growths], costs)
        figures.append(of_rounds(f"{name}, slope", [steepness], "exponent"))
    for growth in (*growths[-2:], *many):
        of = f"{growth.endpoints:,} endpoints of {growth.clusters} clusters"
        figures += [
            of_rounds(f"state machine, {of}", [growth.machine_bytes], "bytes an endpoint"),
            of_rounds(f"follower's copy and view, {of}", [growth.projection_bytes], "bytes an endpoint"),
        ]
    return figures


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of a power law through the points, by least squares of logarithms."""
    xs, ys = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread


def _watch_figures(watchers: Watchers) -> list[Figure]:
    watches, followers = f"{watchers.watches:,} watches", f"{watchers.followers:,} followers"
    return [
        *of_samples(f"a change until the last of {watches} has it", watchers.last_watch_ms, "ms"),
        of_rounds(f"CPU of one change with {watches}", [watchers.watch_cpu_ms], "ms"),
        *of_samples(f"a change until the last of {followers} has it", watchers.last_follower_ms, "ms"),
        of_rounds(f"CPU of one change with {followers}", [watchers.follower_cpu_ms], "ms"),
    ]


def _load_figures(session: Session) -> list[Figure]:
    directory = session.directory / "catalog"
    guardian = Guardian(directory)
    guardian.start()
    block = session.claim_block()
    trio = CatalogTrio(
        directory / "load", [block.host(number) for number in (11, 12, 13)], environment_of(directory)
    )
    try:
        trio.found()
        seconds = LONG_LOAD_S if session.long else LOAD_S
        session.say(f"catalog: {CHANGES_PER_S:,} changes a second for {seconds:g} s")
        loaded, lags_ms = trio.load(dict.fromkeys(CLUSTERS, CHANGES_PER_S / len(CLUSTERS)), seconds)
        took_ms = [took for cluster in loaded.took_ms.values() for took in cluster]
        of = f"{CHANGES_PER_S:,} changes a second for {seconds:g} s"
        figures = [
            of_rounds(f"{of}, done", [len(took_ms) / loaded.elapsed_s], "changes/s"),
            *of_samples(f"{of}, global", took_ms, "ms"),
            *of_samples(f"{of}, mirror lag", lags_ms, "ms"),
        ]
        return figures + _noise_figures(session, trio)
    finally:
        trio.end()
        guardian.close()


def _noise_figures(session: Session, trio: CatalogTrio) -> list[Figure]:
    normal = dict.fromkeys(CLUSTERS, float(NORMAL_PER_S))
    p99_ms: dict[str, list[float]] = {}
    for number in range(NOISE_ROUNDS):
        session.say(f"catalog: noise, round {number + 1} of {NOISE_ROUNDS}")
        before_s = trio.cpu_s()
        p99_ms.setdefault("without noise", []).append(_others_p99(trio, normal))
        quiet_s = _since(before_s, trio)
        for whose, name in NOISY.items():
            before_s = trio.cpu_s()
            rates = normal | {name: float(NORMAL_PER_S * NOISE)}
            p99_ms.setdefault(f"{whose} at {NOISE} times its rate", []).append(_others_p99(trio, rates))
            noisy_s = _since(before_s, trio)
        # As much more CPU as the last one took, in other processes that have nothing to do with the federation.
        more = [max(0.0, noisy - quiet) / NOISE_S for noisy, quiet in zip(noisy_s, quiet_s, strict=True)]
        with _burning(more):
            p99_ms.setdefault("as much CPU taken by others", []).append(_others_p99(trio, normal))
    first, *rest = p99_ms
    name = "others' p99 until global"
    return [
        of_rounds(f"{name}, {first}", p99_ms[first], "ms"),
        *(
            of_rounds(f"{name}, {one}", p99_ms[one], "ms", beside=p99_ms[first], ratio_to=f"{name}, {first}")
            for one in rest
        ),
    ]


def _since(before_s: Sequence[float], trio: CatalogTrio) -> list[float]:
    return [after - before for before, after in zip(before_s, trio.cpu_s(), strict=True)]


@contextlib.contextmanager
def _burning(shares: Sequence[float]) -> Iterator[None]:
    """Keep processes that take these shares of a core."""
    command = [sys.executable, "-m", "bench.burner"]
    burners = [subprocess.Popen([*command, str(share), str(NOISE_S)]) for share in shares]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _others_p99(trio: CatalogTrio, per_s: Mapping[str, float]) -> float:
    loaded: Loaded = trio.load(per_s, NOISE_S)[0]
    others = [
        took for name, cluster in loaded.took_ms.items() if name not in NOISY.values() for took in cluster
    ]
    return quantile(others, 0.99)


def _notes(largest: Growth, session: Session) -> tuple[str, ...]:
    size_mib, copy_mib = largest.snapshot_bytes / 2**20, largest.copy_bytes / 2**20
    sizes = (
        f"The snapshot of {largest.endpoints:,} endpoints has {size_mib:.0f} MiB; a follower without a copy is sent"
        f" {copy_mib:.0f} MiB."
    )
    small = (
        f"Memory at small sizes is not shown: a view remembers up to {ENDPOINTS_MEMOISED_MAX:,} endpoints decoded, a"
        f" catalog its last {EVENTS_KEPT_MAX:,} changes and outcomes, whatever the size."
    )
    notes = [sizes, small]
    if not session.long:
        notes.append(
            f"`python -m bench --long catalog` adds {LONG_SIZE:,} endpoints of {MANY_CLUSTERS} clusters, and loads for {LONG_LOAD_S:g} s."
        )
    return tuple(notes)
