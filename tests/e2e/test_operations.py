"""docs/how-to on the members of the log: one federation grows, loses members, comes back from one, and from none.

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
REMOVE_THE_LEADER = """
```sh
# alpha
isthmus member remove delta
isthmus member add delta
until isthmus member promote delta; do sleep 1; done
isthmus doctor
```
"""
NETWORKS = tuple(f"10.0.{number}." for number in range(1, 6))


@pytest.mark.timeout(600)
def test_a_federation_grows_and_survives_the_loss_of_one_member_of_most_and_of_all(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet
) -> None:
    walk = Walkthrough(tmp_path / "m", {network: loopback() for network in NETWORKS}, processes)

    walk.follow((PAGES / "grow-1-3-5.md").read_text())
    assert "problem" not in walk.output

    # The last command of the page made delta the leader, whose log stays good while it is away.
    walk.follow(REMOVE_THE_LEADER)
    assert "problem" not in walk.output

    walk.follow((PAGES / "replace-a-member.md").read_text())
    assert "problem" not in walk.output.rpartition("LEVEL")[2]

    walk.follow((PAGES / "recover-from-lost-quorum.md").read_text())
    standing = {line.split()[0]: line.split()[2] for line in walk.output.splitlines() if "removed" in line}
    assert standing == {"gamma": "removed", "delta": "removed"}

    walk.follow((PAGES / "backup-and-restore.md").read_text())
    assert "2\n" in walk.output
    assert walk.not_run == 0
