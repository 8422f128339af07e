"""Whose clock moves federation time: a majority's, however far one member's is off."""

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from discovery.core.leases import TICK_MS_MAX
from federation.app.federation_time import FederationClock, confirmed_ms, reached_ms

NOW_MS = 1_800_000_000_000
YEAR_MS = 365 * 86_400_000
AHEAD, BEHIND = NOW_MS + YEAR_MS, NOW_MS - YEAR_MS
FIVE = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("voters", "clocks", "expected"),
    [
        pytest.param("a", {"a": NOW_MS}, NOW_MS, id="a-founder-alone"),
        pytest.param("abc", {"a": AHEAD, "b": NOW_MS, "c": NOW_MS + 3}, NOW_MS + 3, id="one-of-three-ahead"),
        pytest.param("abc", {"a": BEHIND, "b": NOW_MS, "c": NOW_MS + 3}, NOW_MS, id="one-of-three-behind"),
        pytest.param("abc", {"a": AHEAD, "b": NOW_MS}, NOW_MS, id="one-ahead-and-one-silent"),
        pytest.param("abc", {"a": BEHIND, "b": NOW_MS}, BEHIND, id="one-behind-and-one-silent-stands-still"),
        pytest.param("abc", {"a": NOW_MS}, None, id="one-of-three-alone"),
        pytest.param("abc", {"a": NOW_MS, "x": NOW_MS, "y": NOW_MS}, None, id="who-has-no-vote-does-not-count"),
        pytest.param("ab", {"a": AHEAD, "b": NOW_MS}, NOW_MS, id="the-earlier-of-two"),
        pytest.param(
            "abcde", {"a": AHEAD, "b": AHEAD, "c": NOW_MS, "d": NOW_MS, "e": NOW_MS}, NOW_MS, id="two-of-five-ahead"
        ),
        pytest.param("abcde", {"a": NOW_MS, "b": NOW_MS}, None, id="two-of-five"),
    ],
)  # fmt: skip
def test_the_middle_clock_of_a_majority_counts(
    voters: str, clocks: dict[str, int], expected: int | None
) -> None:
    assert confirmed_ms(clocks, tuple(voters)) == expected


def test_without_a_majoritys_clocks_time_goes_on_at_its_own_pace() -> None:
    steady_s = 50.0
    clock = FederationClock(lambda: steady_s)
    reached = clock.next_ms(NOW_MS, {"a": AHEAD}, FIVE)
    assert reached == NOW_MS, "its own clock is not asked"
    steady_s += 0.5
    assert clock.next_ms(reached, {"a": AHEAD}, FIVE) == NOW_MS + 500
    steady_s += 86_400
    assert clock.next_ms(reached, {"a": AHEAD}, FIVE) == NOW_MS + TICK_MS_MAX, "never by leaps"


def test_clocks_that_are_known_again_are_followed_at_once() -> None:
    clock = FederationClock(lambda: 50.0)
    clock.next_ms(1, {}, FIVE)
    assert clock.next_ms(1, dict.fromkeys(FIVE, NOW_MS), FIVE) == NOW_MS


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param([NOW_MS - 400], NOW_MS - 400, id="it-goes-on"),
        pytest.param([NOW_MS - 60_000, NOW_MS - 60_000, NOW_MS - 3], NOW_MS - 3, id="it-stood-still-while-nobody-ran"),
        pytest.param([BEHIND, BEHIND + 500], BEHIND + 500, id="this-machines-clock-is-ahead"),
        pytest.param([AHEAD, AHEAD + 500], AHEAD + 500, id="this-machines-clock-is-behind"),
    ],
)  # fmt: skip
async def test_what_may_have_stood_still_is_taken_behind_the_next_tick(
    shown: list[int], expected: int
) -> None:
    times: Iterator[int] = chain(shown, repeat(shown[-1]))
    assert await reached_ms(lambda: next(times), clock_ms=lambda: NOW_MS) == expected
