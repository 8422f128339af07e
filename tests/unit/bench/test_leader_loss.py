"""The longest gap between answered writes, in a window that begins and ends somewhere."""

import pytest

from bench.leader_loss import longest_gap_ms
from bench.writer import Paced


@pytest.mark.parametrize(
    ("acknowledged_s", "gap_ms"),
    [
        pytest.param([100.25, 100.5, 102.0, 102.75], 1500, id="between-two"),
        pytest.param([102.0, 100.25, 102.75, 100.5], 1500, id="in-any-order"),
        pytest.param([101.25, 102.5], 1250, id="before-the-first"),
        pytest.param([100.25, 100.5], 2500, id="after-the-last"),
        pytest.param([], 3000, id="never"),
        pytest.param([101.0, 103.5], 2500, id="answered-after-the-window"),
    ],
)
def test_a_gap_is_the_longest_time_without_an_answered_write(
    acknowledged_s: list[float], gap_ms: float
) -> None:
    paced = Paced(began_s=100.0, ended_s=103.0, acknowledged_s=acknowledged_s, failed=0)

    assert longest_gap_ms(paced) == gap_ms
