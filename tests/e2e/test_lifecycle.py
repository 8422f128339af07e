"""docs/how-to on the life of a cluster: three members, one of which is drained, removed, and joins anew; then a remote moves.

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
NETWORKS = tuple(f"10.0.{number}." for number in range(1, 5))
A_REMOTE_OF_ALPHA = """
```toml
# delta: /etc/isthmus/first.toml
[cluster]
name = "delta"
role = "remote"
home = "alpha"
```

```sh
# alpha
isthmus token create --cluster delta > /etc/isthmus/delta.token
scp /etc/isthmus/delta.token delta:/etc/isthmus/join.token
```

```sh
# delta
isthmus cluster join --config /etc/isthmus/first.toml --token-file /etc/isthmus/join.token
```
"""


def clusters(walk: Walkthrough) -> list[str]:
    """What the last `isthmus cluster list` named."""
    lines = walk.output.splitlines()
    first = max(number for number, line in enumerate(lines) if line.startswith("NAME")) + 1
    return [line.split()[0] for line in lines[first:]]


@pytest.mark.timeout(300)
def test_a_cluster_is_drained_comes_back_leaves_for_good_and_joins_anew(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet
) -> None:
    walk = Walkthrough(tmp_path / "m", {network: loopback() for network in NETWORKS}, processes)
    three, _, _ = (PAGES / "grow-1-3-5.md").read_text().partition("## 3. Five")
    walk.follow(three)

    walk.follow((PAGES / "drain-a-cluster.md").read_text())
    assert "100%" in walk.output

    walk.follow((PAGES / "remove-a-cluster.md").read_text())
    assert clusters(walk) == ["alpha", "beta", "gamma"]

    walk.follow(A_REMOTE_OF_ALPHA)
    walk.follow((PAGES / "rehome-a-remote.md").read_text())
    assert clusters(walk) == ["alpha", "beta", "delta-2", "gamma"]
    assert walk.not_run == 0
