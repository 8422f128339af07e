"""docs/how-to on the life of a cluster: three members, one of which is drained and comes back.

Each page is followed as it stands, one after the other. All members are controllers on loopback; nothing of
the data plane runs.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.loopback import LoopbackBlock
from tests.support.processes import ProcessSet
from tests.support.walkthrough import REPOSITORY, Walkthrough

PAGES = REPOSITORY / "docs" / "how-to"
NETWORKS = tuple(f"10.0.{number}." for number in range(1, 4))


@pytest.mark.timeout(300)
def test_a_cluster_is_drained_and_comes_back(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet
) -> None:
    walk = Walkthrough(tmp_path / "m", {network: loopback() for network in NETWORKS}, processes)
    three, _, _ = (PAGES / "grow-1-3-5.md").read_text().partition("## 3. Five")
    walk.follow(three)

    walk.follow((PAGES / "drain-a-cluster.md").read_text())
    assert "100%" in walk.output
    assert walk.not_run == 0
