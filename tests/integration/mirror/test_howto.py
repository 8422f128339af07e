"""docs/how-to/add-a-mirror.md does what it says: every file and command of it is used as it stands."""

from collections.abc import Callable
from pathlib import Path

from tests.support.loopback import LoopbackBlock
from tests.support.processes import ProcessSet
from tests.support.walkthrough import REPOSITORY, Walkthrough

PAGE = REPOSITORY / "docs" / "how-to" / "add-a-mirror.md"
NETWORKS = ("10.1.0.", "10.3.0.")
MEMBER = """
```toml
# alpha-1: /etc/isthmus/controller.toml
id = "c1"
data_dir = "/var/lib/isthmus/controller"

[cluster]
name = "alpha"
trust_domain = "alpha.example.org"

[listen]
raft = "10.1.0.1:7443"
control = "10.1.0.1:7444"
api = "10.1.0.1:7445"
metrics = "10.1.0.1:7446"
```

```sh
# alpha-1
isthmus init --config /etc/isthmus/controller.toml --name prod
isthmus controller run --config /etc/isthmus/controller.toml &
```
"""


def test_the_page_on_mirrors_is_true_from_its_first_command_to_its_last(
    tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet
) -> None:
    walk = Walkthrough(tmp_path / "m", {network: loopback() for network in NETWORKS}, processes)

    walk.follow(MEMBER + PAGE.read_text())

    assert walk.not_run == 0
    assert walk.output == "controller/alpha-m1 deleted\n"
