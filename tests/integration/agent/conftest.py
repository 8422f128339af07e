"""What the agent's integration tests share: asyncio tests, a trust domain, a directory on disk."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.agent.directory import DirectoryStore, save_directory
from federation.api.messages import Directory
from tests.support.pki import TestDomain


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


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
