"""docs/how-to/two-clusters.md does what it says: every file and command of it is used as it stands."""

from collections.abc import Callable

import pytest

from tests.support.loopback import LoopbackBlock
from tests.support.processes import ProcessSet
from tests.support.walkthrough import REPOSITORY, Walkthrough

PAGE = REPOSITORY / "docs" / "how-to" / "two-clusters.md"
NETWORKS = ("10.1.0.", "10.2.0.", "10.3.0.")


@pytest.mark.timeout(400)
def test_the_page_on_two_clusters_is_true_from_its_first_command_to_its_last(
    tmp_path_factory: pytest.TempPathFactory, loopback: Callable[[], LoopbackBlock], processes: ProcessSet
) -> None:
    walk = Walkthrough(
        tmp_path_factory.mktemp("page"), {network: loopback() for network in NETWORKS}, processes
    )

    walk.follow(PAGE.read_text())

    assert (walk.compared, walk.not_run) == (2, 0)
    assert "alpha, beta, witness" in walk.output
