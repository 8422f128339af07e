"""The two clusters that most tests here begin with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.gateways.federation import Federation
from tests.support.loopback import LoopbackBlock


@pytest.fixture
def federation(tmp_path: Path, loopback: Callable[[], LoopbackBlock]) -> Federation:
    return Federation(tmp_path, loopback())
