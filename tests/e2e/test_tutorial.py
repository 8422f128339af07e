"""docs/tutorial: a reader who types what the two pages say ends with what they promise.

The second page goes on where the first one ends, and so does the test: one federation, started by the units of
deploy/systemd.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.loopback import LoopbackBlock
from tests.support.processes import ProcessSet
from tests.support.walkthrough import REPOSITORY, Walkthrough

TUTORIAL = REPOSITORY / "docs" / "tutorial"
NETWORKS = ("10.0.1.", "10.0.2.")


@pytest.mark.timeout(600)
def test_tutorial(tmp_path: Path, loopback: Callable[[], LoopbackBlock], processes: ProcessSet) -> None:
    walk = Walkthrough(tmp_path / "m", {network: loopback() for network in NETWORKS}, processes)

    walk.follow((TUTORIAL / "two-machines.md").read_text())

    assert (walk.compared, walk.not_run) == (3, 1)
    agent = (tmp_path / "logs" / "alpha-isthmus-agent@vm1.log").read_text()
    assert "taken over" in agent

    walk.follow((TUTORIAL / "vms.md").read_text())

    assert (walk.compared, walk.not_run) == (6, 1)
    kinds = {name.partition("@")[0] for name in walk.services.started if name.startswith("isthmus-")}
    units = {path.name.partition("@")[0] for path in (REPOSITORY / "deploy" / "systemd").glob("*.service")}
    # Capture needs root and has a page of its own, docs/how-to/transparent-capture.md.
    assert kinds == units - {"isthmus-capture"}


def test_what_the_installation_installs_is_there() -> None:
    page = (TUTORIAL / "two-machines.md").read_text()
    sources = re.findall(r"^install -m 0644 (\S+) ", page, re.MULTILINE)
    assert sources == [
        "deploy/systemd/*.service",
        "deploy/systemd/isthmus.sysusers.conf",
        "deploy/systemd/isthmus.tmpfiles.conf",
    ]
    assert all(list(REPOSITORY.glob(source)) for source in sources)
    assert (REPOSITORY / "requirements.lock").exists()
