"""What every test may use: private addresses, processes that never outlive their test, no silent skips."""

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.support import strict_skips
from tests.support.loopback import LoopbackBlock, claim_block
from tests.support.processes import ProcessSet

# A deadline for one example measures the machine, not the code. CI repeats the same examples, so that a
# red run is the fault of the change; a developer's run looks for new ones.
hypothesis.settings.register_profile(
    "isthmus", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("isthmus")


def pytest_configure(config: pytest.Config) -> None:
    """Load our plugin for every run, whatever the arguments."""
    config.pluginmanager.register(strict_skips, "isthmus-strict-skips")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


@pytest.fixture
def loopback() -> Iterator[Callable[[], LoopbackBlock]]:
    """Return a function that claims a fresh /24 on loopback for the life of the test."""
    with ExitStack() as blocks:
        yield lambda: blocks.enter_context(claim_block())


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ProcessSet]:
    """Start processes whose logs are in the test's folder and which end with the test."""
    started = ProcessSet(tmp_path / "logs")
    try:
        yield started
    finally:
        started.close()
