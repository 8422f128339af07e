"""What the agent's integration tests share: a trust domain, a directory on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from federation.agent.directory import DirectoryStore, save_directory
from federation.api.messages import Directory
from tests.support.pki import TestDomain


@pytest.fixture
def domain(tmp_path: Path) -> TestDomain:
    return TestDomain("alpha.example", tmp_path / "pki")


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[[Directory], DirectoryStore]:
    def make(directory: Directory) -> DirectoryStore:
        folder = tmp_path / "agent-data"
        folder.mkdir(mode=0o700, exist_ok=True)
        save_directory(folder, directory)
        return DirectoryStore.open(folder)

    return make
