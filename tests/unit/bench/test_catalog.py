"""How the catalog's section judges growth, and that its parts run."""

import asyncio

import pytest

from bench.catalog import slope
from bench.catalog_growth import measure
from bench.catalog_watchers import measure as measure_watchers


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        pytest.param([5.0, 5.0, 5.0], 0.0, id="flat"),
        pytest.param([1.0, 10.0, 100.0], 1.0, id="proportional"),
        pytest.param([1.0, 100.0, 10_000.0], 2.0, id="quadratic"),
    ],
)
def test_a_slope_is_the_exponent_of_the_cost(costs: list[float], expected: float) -> None:
    assert slope([10, 100, 1_000], costs) == pytest.approx(expected)


def test_a_small_catalog_is_measured_whole() -> None:
    growth = measure(200, 3)
    assert growth.missed_bytes > growth.delta_bytes
    assert growth.copy_bytes > 200 * 100
    assert growth.snapshot_bytes > 200 * 100


def test_every_watch_and_follower_gets_every_change() -> None:
    watchers = asyncio.run(measure_watchers(5, endpoints=100))
    assert len(watchers.last_watch_ms) == len(watchers.last_follower_ms) > 0
