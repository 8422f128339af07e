"""A member of cluster alpha and mirrors beside it: real processes, real agents' registrations, no Envoy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.controller.installation import Installation
from tests.integration.mirror.cluster import Federation
from tests.support.loopback import claim_block
from tests.support.processes import ProcessSet


@pytest.fixture
def federation(tmp_path: Path, processes: ProcessSet) -> Iterator[Federation]:
    """Cluster alpha with its member, which runs."""
    with claim_block() as block:
        member = Installation(tmp_path / "member", block.host(1))
        member.found()
        yield Federation(tmp_path, block, member, processes)
