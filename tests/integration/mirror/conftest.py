"""A member of cluster alpha and mirrors beside it: real processes, real agents' registrations, no Envoy."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.controller.installation import Installation
from tests.integration.mirror.cluster import Federation
from tests.support.loopback import LoopbackBlock, claim_block
from tests.support.processes import ProcessSet


@pytest.fixture(scope="session")
def founded_member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LoopbackBlock, Installation]]:
    """Founded once, copied for each test: that costs a second of pure work."""
    with claim_block() as block:
        member = Installation(tmp_path_factory.mktemp("member"), block.host(1))
        member.found()
        yield block, member


@pytest.fixture
def federation(
    founded_member: tuple[LoopbackBlock, Installation], tmp_path: Path, processes: ProcessSet
) -> Federation:
    """Cluster alpha with its member, which runs; tests use its addresses one after the other."""
    block, founded = founded_member
    member = Installation(tmp_path / "member", founded.host)
    shutil.copytree(founded.data_dir, member.data_dir, copy_function=shutil.copy2)
    member.data_dir.chmod(0o700)
    return Federation(tmp_path, block, member, processes)
