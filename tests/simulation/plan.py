"""What a seed decides about its run, and the kinds of plans that stress one part more than the others."""

import random
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from tests.simulation.nemesis import Faults
from tests.simulation.net import Weather


class Plan(Struct, frozen=True, kw_only=True):
    """What a seed decides about its run."""

    voters: int
    spares: int
    weather: Weather
    faults: Faults
    snapshot_after_bytes: int
    padding_bytes: int
    keys: int
    drift: float
    chaos_s: float
    calm_s: float = 0.8  # Between two faults, on average.


def mixed(seed: int) -> Plan:
    """A little of everything."""
    rng = random.Random(f"{seed}/plan")
    voters = rng.choice([3, 3, 3, 5])
    spares = rng.choice([0, 0, 1])
    rough = rng.random() < 0.5
    return Plan(
        voters=voters,
        spares=spares,
        weather=Weather(
            delay_ms=rng.choice([1.0, 5.0, 20.0]),
            jitter=rng.choice([0.2, 2.0, 10.0]),
            loss=rng.choice([0.0, 0.01, 0.05]) if rough else 0.0,
            duplication=rng.choice([0.0, 0.05]) if rough else 0.0,
            lateness=rng.choice([0.0, 0.03]) if rough else 0.0,
            is_ordered=not rough or rng.random() < 0.5,
        ),
        faults=Faults(membership=4 if spares or rng.random() < 0.15 else 0),
        snapshot_after_bytes=rng.choice([4_000, 12_000, 1 << 20]),
        padding_bytes=rng.choice([0, 0, 0, 200, 8_000]),
        keys=rng.choice([1, 3, 6]),
        drift=rng.choice([0.0, 0.05, 0.2]),
        chaos_s=rng.uniform(5, 9),
    )


def disk(seed: int) -> Plan:
    """Power cuts and ends inside file operations, in quick succession."""
    faults = Faults(
        partition=2, kill=2, power_cut=8, power_cut_all=3, stop_in_file=12, pause=1, full_disk=0, reset=0
    )
    return replace(
        mixed(seed),
        faults=faults,
        calm_s=0.35,
        snapshot_after_bytes=4_000 if seed % 2 else 1 << 20,
        padding_bytes=0,
    )


def members(seed: int) -> Plan:
    """Members join and leave all the time."""
    faults = Faults(partition=4, kill=3, power_cut=3, power_cut_all=1, stop_in_file=2, pause=1, membership=12)
    return replace(mixed(seed), faults=faults, calm_s=0.4, spares=1)


def full(seed: int) -> Plan:
    """Disks fill up."""
    faults = Faults(partition=2, kill=2, power_cut=3, power_cut_all=1, stop_in_file=3, pause=1, full_disk=12)
    return replace(mixed(seed), faults=faults, calm_s=0.4)


def elections(seed: int) -> Plan:
    """Leaders come and go, and answers to the former ones arrive late."""
    plan = mixed(seed)
    faults = Faults(partition=4, isolation=10, kill=6, kill_after_vote=6, power_cut_all=2, pause=4)
    weather = replace(
        plan.weather, delay_ms=5.0, jitter=10.0, lateness=0.15, duplication=0.05, is_ordered=False
    )
    return replace(
        plan,
        voters=5,
        spares=0,
        snapshot_after_bytes=4_000,
        faults=faults,
        weather=weather,
        calm_s=0.5,
        padding_bytes=0,
    )


PLANS: dict[str, Callable[[int], Plan]] = {
    "mixed": mixed,
    "disk": disk,
    "members": members,
    "full": full,
    "elections": elections,
}


def draw_plan(name: str, seed: int) -> Plan:
    """Return what `seed` means in the plan `name`."""
    return PLANS[name](seed)
