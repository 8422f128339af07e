"""In CI a skip is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

ONE_TEST = """
import pytest

@pytest.mark.skip(reason="no root")
def test_skipped_by_mark(): ...

def test_skipped_inside():
    pytest.skip("no tool")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_failure():
    assert False

def test_passes(): ...
"""
WHOLE_MODULE = "import pytest\npytest.skip('no kernel module', allow_module_level=True)\n"


def run(folder: Path, *, ci: str) -> str:
    (folder / "test_one.py").write_text(ONE_TEST)
    (folder / "test_module.py").write_text(WHOLE_MODULE)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.strict_skips", "-p", "no:cacheprovider", "."],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "CI": ci, "PYTHONPATH": os.fspath(REPOSITORY), "PYTEST_ADDOPTS": ""},
    ).stdout


@pytest.mark.parametrize("ci", ["", "false"])
def test_elsewhere_a_skip_stays_a_skip(tmp_path: Path, ci: str) -> None:
    assert "1 passed, 3 skipped, 1 xfailed" in run(tmp_path, ci=ci)


def test_in_ci_a_skipped_test_fails_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --continue-on-collection-errors\n")

    output = run(tmp_path, ci="true")

    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in output
    for reason in ("no root", "no tool", "no kernel module"):
        assert reason in output
