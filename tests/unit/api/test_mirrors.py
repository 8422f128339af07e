"""What the doctor says of mirrors: each problem is named with its mirror and a next step."""

from typing import Any

import pytest
from msgspec.structs import replace

from federation.api.mirrors import MirrorFound, MirrorHealth, examine_mirrors, mirror_object

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
HEALTHY = MirrorHealth(
    controller="alpha-m1",
    version="0.1.0",
    unix_ms=NOW_MS,
    started_unix_ms=NOW_MS - HOUR_MS,
    member="alpha-c1",
    error="",
    revision=90,
    age_ms=700,
    missing=(),
    leaf_expires_ms=NOW_MS + 24 * HOUR_MS,
    disk_free_bytes=1 << 34,
    disk_total_bytes=1 << 36,
    followers=2,
    proxies=3,
)
AWAY = MirrorFound(
    controller="alpha-m1", cluster="alpha", address="10.0.0.2:7444", error="connection refused"
)


def answered(**changes: Any) -> MirrorFound:
    return replace(AWAY, error="", health=replace(HEALTHY, **changes))


def test_of_mirrors_that_are_well_nothing_is_found() -> None:
    for mirrors in ((), (answered(),)):
        [finding] = examine_mirrors(mirrors, asked="alpha")
        assert (finding.check, finding.level, finding.message) == ("mirrors", "ok", "nothing found")


@pytest.mark.parametrize(
    ("mirror", "message", "step"),
    [
        pytest.param(
            AWAY, "does not answer alpha: connection refused", "isthmus delete controller", id="away"
        ),
        pytest.param(
            answered(member="", error="refused", age_ms=90_000),
            "follows nobody, its copy is 90 s old: refused",
            "open port 7444",
            id="cut off",
        ),
        pytest.param(
            answered(member="", age_ms=None),
            "follows nobody, its copy was never up to date: no member is known",
            "open port 7444",
            id="never",
        ),
        pytest.param(
            answered(age_ms=10_001),
            "follows alpha-c1 and its copy is 10 s old",
            "look at the network",
            id="behind",
        ),
        pytest.param(
            answered(missing=("api is not served yet",)), "not ready: api is not", "wait", id="not ready"
        ),
        pytest.param(
            answered(leaf_expires_ms=NOW_MS + 5 * HOUR_MS), "expires in 5.0 h", "renewal", id="certificate"
        ),
        pytest.param(answered(leaf_expires_ms=NOW_MS - 1), "has expired", "renewal", id="expired"),
        pytest.param(answered(disk_free_bytes=1 << 20), "1 MiB of", "make room", id="disk"),
    ],
)
def test_a_problem_is_named_with_its_mirror_and_a_next_step(
    mirror: MirrorFound, message: str, step: str
) -> None:
    [finding] = examine_mirrors([answered(), mirror], asked="alpha")
    assert (finding.check, finding.level, finding.subject) == ("mirrors", "problem", "alpha-m1")
    assert message in finding.message
    assert step in finding.next_step


@pytest.mark.parametrize("age_ms", [10_000, 0])
def test_a_copy_of_a_few_seconds_is_no_problem(age_ms: int) -> None:
    [finding] = examine_mirrors([answered(age_ms=age_ms)], asked="alpha")
    assert finding.level == "ok"


def test_the_api_says_how_far_a_mirror_is_behind_the_controller_that_was_asked() -> None:
    told = mirror_object(answered(), revision=93)
    assert (told["answers"], told["ready"], told["behind"], told["ageMs"]) == (True, True, 3, 700)
    assert mirror_object(answered(), revision=80)["behind"] == 0  # It is ahead of us.
    away = mirror_object(AWAY, revision=93)
    assert (away["answers"], away["ready"], away["behind"]) == (False, False, None)
    assert away["error"] == "connection refused"
