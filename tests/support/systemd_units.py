"""The units in deploy/systemd, read as systemd reads them, as far as they use its language."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from chaos.lab.tools import UNPACKED_TOOLS
from tests.support.tools import tool

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "deploy" / "systemd"
PROGRAM = "/opt/isthmus/bin/isthmus"


class Unit:
    """One unit file; of a key that is given twice all values are kept, in order."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, str], list[str]] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith(("#", ";")):
                continue
            if heading := re.fullmatch(r"\[(\w+)\]", line):
                section = heading[1]
                continue
            key, equals, value = line.partition("=")
            if not section or not equals or not key.isalnum():
                raise ValueError(f"line {number} is no section, assignment or comment: {line!r}")
            self._values.setdefault((section, key), []).append(value)

    def all(self, key: str, *, section: str = "Service") -> list[str]:
        """Every value of a key."""
        return self._values.get((section, key), [])

    def one(self, key: str, *, section: str = "Service") -> str:
        """The value of a key that must be there once."""
        (value,) = self.all(key, section=section)
        return value

    def command(self, instance: str, *, credentials: str) -> list[str]:
        """The command of `isthmus-NAME@instance`, whose credentials lie in the directory `credentials`.

        Only what these units use is understood: `%i`, `${CREDENTIALS_DIRECTORY}`, words without quotes.
        """
        text = self.one("ExecStart").replace("%i", instance)
        text = text.replace("${CREDENTIALS_DIRECTORY}", credentials)
        if re.search(r"[%$\"'\\;]", text):
            raise ValueError(f"ExecStart has more than this reader understands: {text}")
        return text.split()

    def credentials(self, instance: str) -> dict[str, tuple[str, str]]:
        """The credentials by name: the file that each comes from, and the text where there is no such file."""
        defaults = dict(value.split(":", 1) for value in self.all("SetCredential"))
        files = dict(value.replace("%i", instance).split(":", 1) for value in self.all("LoadCredential"))
        return {name: (file, defaults[name]) for name, file in files.items()}


def unit_paths() -> list[Path]:
    """Every unit, in order of names."""
    return sorted(UNITS.glob("*.service"))


def read_unit(name: str) -> Unit:
    """Return the unit called `name`, such as `isthmus-agent@.service`."""
    return Unit((UNITS / name).read_text())


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, with the units of the machine or, where it has none, of the unpacked package."""
    unpacked = UNPACKED_TOOLS.parent / "root" / "lib" / "systemd" / "system"
    return subprocess.run(
        [tool("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"/lib/systemd/system:{unpacked}", "SYSTEMD_COLORS": "0"},
    )


def check_units(paths: Sequence[Path]) -> None:
    """Fail with what systemd finds wrong with units; the programs that they start must be there."""
    done = analyze("verify", *paths)
    # It does not exit with an error for everything that it complains about, such as an unknown key.
    faults = [line for line in done.stderr.splitlines() if any(path.name in line for path in paths)]
    assert (done.returncode, faults) == (0, []), done.stderr
