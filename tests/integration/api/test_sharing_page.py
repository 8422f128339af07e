"""The page about exporting a service, as it stands."""

import os
import re
import subprocess
from pathlib import Path

from certs.runtime.authority import RootAuthority
from tests.integration.controller.installation import ISTHMUS, Controller

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "export-a-service.md"
BLOCK = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_file_and_command_of_the_page_works(
    controller: Controller, beta: RootAuthority, tmp_path: Path
) -> None:
    words = " ".join(f"'{word}'" for word in ISTHMUS)
    (tmp_path / "isthmus").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (tmp_path / "isthmus").chmod(0o755)
    environment = {
        **os.environ,
        "ISTHMUS_CONTEXT": str(controller.installation.context),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    text = PAGE.read_text()
    files = iter(("share.yaml", "all.yaml", "take.yaml"))
    commands = 0
    for kind, block in BLOCK.findall(text):
        if kind == "yaml":
            (tmp_path / next(files)).write_text(block)
            continue
        for line in block.splitlines():
            done = subprocess.run(
                ["bash", "-c", line],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"
            commands += 1
    assert (next(files, None), commands) == (None, 16)
