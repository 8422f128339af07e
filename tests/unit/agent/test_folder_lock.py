"""One process per data directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.agent.folder_lock import hold_folder
from federation.kernel.errors import PreconditionError


def test_a_second_process_is_refused_and_told_who_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    attempt = (
        "import sys; from pathlib import Path; from federation.agent.folder_lock import hold_folder\n"
        f"with hold_folder(Path({str(folder)!r})): pass"
    )
    with hold_folder(folder):
        second = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, timeout=60)
        assert second.returncode != 0
        assert f"is in use by process {os.getpid()}" in second.stderr
    subprocess.run([sys.executable, "-c", attempt], check=True, timeout=60)


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o755)
    with hold_folder(folder):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(PreconditionError, match="holds files of others"), hold_folder(folder):
        pass
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PreconditionError, match=r"data_dir: .*file/data cannot be used"),
        hold_folder(tmp_path / "file" / "data"),
    ):
        pass
