"""A founded data directory, copied for each test: founding costs seconds."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.controller.installation import Installation
from tests.support.loopback import claim_block


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with claim_block() as block:
        installation = Installation(tmp_path_factory.mktemp("founded"), block.host(1))
        installation.found()
        yield installation


@pytest.fixture
def founded(template: Installation, tmp_path: Path) -> Installation:
    """A controller that was founded and never ran; tests use its address one after the other."""
    copy = Installation(tmp_path / "alpha", template.host)
    shutil.copytree(template.data_dir, copy.data_dir, copy_function=shutil.copy2)
    copy.data_dir.chmod(0o700)
    return copy
