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
A_COPY_FROM_BEFORE = """
```sh
# beta
cp -a /var/lib/isthmus/controller-c1 /srv/from-before
rm /srv/from-before/removed.json
```
"""
THE_COPY_STARTS_IN_VAIN = """
```sh
# beta
systemctl stop isthmus-controller@c1
mv /var/lib/isthmus/controller-c1 /srv/of-now
mv /srv/from-before /var/lib/isthmus/controller-c1
(isthmus controller run --config /etc/isthmus/controller-c1.toml 2>&1 || true) | grep 'was removed from the federation'
rm -r /var/lib/isthmus/controller-c1
mv /srv/of-now /var/lib/isthmus/controller-c1
systemctl start isthmus-controller@c1
```

```sh
# alpha
until isthmus member list -o json | grep -c '"answers": true' | grep 3; do sleep 1; done
isthmus cluster list
```
"""
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
(umask 077; isthmus token create --cluster delta > /etc/isthmus/delta.token)
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

    removal, heading, return_ = (PAGES / "remove-a-cluster.md").read_text().partition("## 4. ")
    assert heading
    walk.follow(removal + A_COPY_FROM_BEFORE + return_)
    assert clusters(walk) == ["alpha", "beta", "gamma"]
    walk.follow(THE_COPY_STARTS_IN_VAIN)
    assert clusters(walk) == ["alpha", "beta", "gamma"]

    walk.follow(A_REMOTE_OF_ALPHA)
    walk.follow((PAGES / "rehome-a-remote.md").read_text())
    assert clusters(walk) == ["alpha", "beta", "delta", "gamma"]
    (delta,) = (line.split() for line in walk.output.splitlines() if line.startswith("delta "))
    assert {"beta", "beta.example.org"} <= set(delta)
    assert walk.not_run == 0
