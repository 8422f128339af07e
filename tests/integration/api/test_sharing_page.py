"""The page about exporting a service, as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from certs.runtime.authority import RootAuthority
from federation.cli.main import cli
from tests.integration.controller.installation import Controller

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "export-a-service.md"
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_file_and_command_of_the_page_works(
    controller: Controller, beta: RootAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = iter(("share.yaml", "all.yaml", "take.yaml"))
    commands = 0
    for kind, block in BLOCK.findall(PAGE.read_text()):
        if kind == "yaml":
            Path(next(files)).write_text(block)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "isthmus"
            environment = {"ISTHMUS_CONTEXT": str(controller.installation.context)}
            done = CliRunner().invoke(cli, arguments, env=environment)
            assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
            commands += 1
    assert (next(files, None), commands) == (None, 16)
