"""How far regions are apart: plausible round trips, as a laboratory's wide-area network has them."""

from collections.abc import Iterable
from itertools import combinations_with_replacement

from chaos.lab.links import Link

SAME_REGION_MS = 1.0
ELSEWHERE_MS = 50.0  # Between regions that the table does not know.
JITTER_SHARE = 0.03

# Round trips in milliseconds: chosen to be plausible for an ocean between, and for a site near a region; not measured.
_ROUND_TRIP_MS = {
    frozenset({"eu-west", "us-east"}): 80.0,
    frozenset({"eu-west", "onprem"}): 20.0,
    frozenset({"us-east", "onprem"}): 90.0,
}


def round_trip_ms(one: str, other: str) -> float:
    """Return the usual round trip between two regions, or within one."""
    return SAME_REGION_MS if one == other else _ROUND_TRIP_MS.get(frozenset({one, other}), ELSEWHERE_MS)


def longest_round_trip_ms(regions: Iterable[str]) -> float:
    """Return the longest usual round trip between members in these regions: what `[raft] round_trip` must cover."""
    pairs = combinations_with_replacement(sorted(set(regions)), 2)
    return max((round_trip_ms(*pair) for pair in pairs), default=SAME_REGION_MS)


def link(source: str, destination: str) -> Link:
    """Return one direction of the way between two regions."""
    delay_ms = round_trip_ms(source, destination) / 2
    return Link(delay_ms=delay_ms, jitter_ms=JITTER_SHARE * delay_ms)
