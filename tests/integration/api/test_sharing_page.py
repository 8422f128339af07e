"""The pages about exporting a service and about services outside of the mesh, as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from certs.runtime.authority import RootAuthority
from federation.cli.main import cli
from tests.integration.controller.installation import Controller

PAGES = Path(__file__).parents[3] / "docs" / "how-to"
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "saved", "expected"),
    [
        ("export-a-service.md", ("share.yaml", "all.yaml", "take.yaml"), 16),
        ("external-services.md", ("payments.yaml", "checked.yaml"), 8),
    ],
)
def test_every_file_and_command_of_the_page_works(
    controller: Controller,
    beta: RootAuthority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    saved: tuple[str, ...],
    expected: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = iter(saved)
    commands = 0
    for kind, block in BLOCK.findall((PAGES / page).read_text()):
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
    assert (next(files, None), commands) == (None, expected)
