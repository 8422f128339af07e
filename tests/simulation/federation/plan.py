"""What a seed decides about its run."""

import random

from msgspec import Struct

CLUSTERS = ("alpha", "beta", "gamma", "delta", "epsilon")


class Plan(Struct, frozen=True, kw_only=True):
    """What a seed decides about its run."""

    remote: bool  # epsilon has no controller, its home is alpha; else it is a primary.
    second: bool  # alpha has a second controller, which has no vote.
    delay_ms: float  # Between clusters, one way.
    jitter: float
    loss: float  # Of proposals, of their answers, and of promptness.
    drift: float  # Of clocks.
    chaos_s: float
    calm_s: float  # Between two faults, on average.
    exports_all: (
        bool  # Else one service is each cluster's own, and no cluster that has it can be drained unforced.
    )


def draw_plan(seed: int) -> Plan:
    """Return what `seed` means."""
    rng = random.Random(f"{seed}/plan")
    return Plan(
        remote=rng.random() < 0.4,
        second=rng.random() < 0.6,
        delay_ms=rng.choice([1.0, 20.0, 80.0]),
        jitter=rng.choice([0.2, 2.0]),
        loss=rng.choice([0.0, 0.05, 0.15]),
        drift=rng.choice([0.0, 0.05]),
        chaos_s=rng.uniform(12, 18),
        calm_s=rng.choice([0.3, 0.6]),
        exports_all=rng.random() < 0.6,
    )
