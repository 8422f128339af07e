"""What must be there before a host's connections are redirected."""

import os
from pathlib import Path

import msgspec
import pytest

from federation.agent import capture
from federation.agent.config import AgentConfig, CaptureSection
from federation.kernel.errors import InvalidInputError, IsthmusError, NotFoundError, PreconditionError

CAPTURE = CaptureSection(enabled=True, users=("61001",), exempt_users=("root",))


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return AgentConfig(id="a1", data_dir=str(tmp_path), address="10.0.0.1", capture=CAPTURE)


def test_the_user_of_the_agent_is_exempt_without_being_named(config: AgentConfig) -> None:
    found = capture.capture_of(config)
    assert found.exempt_users == (os.getuid(), 0)
    assert (found.users, found.address, found.port) == ((61_001,), "127.0.0.1", 15001)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"capture": CaptureSection()}, PreconditionError, "capture.enabled is false", id="off"),
        pytest.param({"data_dir": "/nowhere/at/all"}, NotFoundError, "start the agent first", id="never-ran"),
        pytest.param(
            {"capture": CaptureSection(enabled=True, users=("no such user",))},
            InvalidInputError,
            "capture.users: this machine has no user 'no such user'",
            id="unknown-user",
        ),
    ],
)
def test_an_agent_that_cannot_take_connections_is_refused(
    config: AgentConfig, changes: dict[str, object], error: type[IsthmusError], message: str
) -> None:
    with pytest.raises(error, match=message):
        capture.capture_of(msgspec.structs.replace(config, **changes))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets as far as to look for programs")
def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(capture, "_SYSTEM_FOLDERS", str(tmp_path))
    with pytest.raises(PreconditionError, match=r"program ip .* install the package iproute2"):
        capture.show_capture()
