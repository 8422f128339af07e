"""The load counts what it should have sent, not what it managed to send."""

import pytest

from chaos.load.client import due
from chaos.load.records import Plan

PLAN = Plan(targets=(), rate_per_s=100, count_max=500)


@pytest.mark.parametrize(
    ("elapsed_s", "handled", "expected"),
    [
        pytest.param(1.0, 100, 100, id="on-time"),
        pytest.param(1.0, 101, 101, id="just-sent"),
        pytest.param(2.0, 50, 200, id="held-up"),
        pytest.param(60.0, 400, 500, id="never-more-than-the-plan"),
    ],
)
def test_requests_that_were_due_when_the_load_was_stopped_count_as_planned(
    elapsed_s: float, handled: int, expected: int
) -> None:
    assert due(PLAN, elapsed_s, handled) == expected
