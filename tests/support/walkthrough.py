"""Pages of the documentation are followed as a reader would: every file and command, block by block.

Only places are exchanged: each machine of a page becomes a folder, each of its networks a private block of
loopback addresses. `scp`, `curl` and `systemctl` are done here; everything else runs in bash.

A block of a page is fenced. Its first line says the machine, and for a file its path:

    # alpha-1: /etc/isthmus/dns.toml

Blocks of `text` are what the block of commands before them printed. A block `sh not-run` cannot be run in a
test, because it changes the machine itself; its syntax is checked.
"""

import http.client
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.loopback import LoopbackBlock
from tests.support.processes import ProcessSet
from tests.support.services import Services
from tests.support.tools import tool
from tests.support.wait import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Folders of a page's machines.
ROOTS = ("/etc/isthmus", "/etc/systemd/system", "/var/lib/isthmus", "/srv", "/mnt/safe")

# A test that is not root's cannot have port 53: pages say it, their tests use this one.
DNS_PORT = 5353

# Generous: a machine that is busy with other tests needs several seconds for each command.
COMMAND_TIMEOUT_S = 120.0


class Machine:
    """One machine of a page: a folder, the exports of its shell, and the words that mean it."""

    def __init__(self, name: str, folder: Path, replaced: Mapping[str, str]) -> None:
        self.name = name
        self.exports: list[str] = []
        self._folder = folder
        self._replaced = {**replaced, **{root: f"{folder}{root}" for root in ROOTS}}
        for root in ROOTS:
            self.path(root).mkdir(parents=True)

    def path(self, text: str) -> Path:
        """Where a file of the machine really is."""
        return Path(f"{self._folder}{text}")

    def real(self, text: str) -> str:
        """The page's text with this test's addresses and folders."""
        pattern = "|".join(re.escape(word) for word in self._replaced)
        return re.sub(pattern, lambda match: self._replaced[match[0]], text)


class Walkthrough:
    """Does what pages say; a second page goes on where the first one ended.

    `networks` are the beginnings of addresses as the pages write them, each with the block in its place.
    """

    def __init__(self, folder: Path, networks: Mapping[str, LoopbackBlock], processes: ProcessSet) -> None:
        self._folder = folder
        self._networks = {name: f"{block.prefix}." for name, block in networks.items()}
        self._machines: dict[str, Machine] = {}
        self._programs = folder / "bin"
        self._make_programs()
        environment = {"PATH": f"{self._programs}:{os.environ['PATH']}"}
        self._environment = environment
        self.services = Services(processes, programs=self._programs, environment=environment)
        self.output = ""  # Of the last block of commands.
        self.compared = 0
        self.not_run = 0

    def follow(self, page: str) -> None:
        """Use every block in its order."""
        for kind, mark, text in BLOCK.findall(page):
            first, content = text.split("\n", 1)
            name, _, path = first.removeprefix("# ").partition(": ")
            if kind == "text":
                assert self.output == text
                self.compared += 1
            elif mark == "not-run":
                subprocess.run(["bash", "-n", "-c", text], check=True)
                self.not_run += 1
            elif path:
                machine = self._machine(name)
                assert not mark
                machine.path(path).write_text(machine.real(content))
            else:
                machine = self._machine(name)
                assert (kind, mark) == ("sh", "")
                self.output = "".join(self._run(machine, line) for line in content.splitlines() if line)

    def _machine(self, name: str) -> Machine:
        if name not in self._machines:
            # 127.0.0.1 is every machine's own; here each gets another one.
            first_network = next(iter(self._networks.values()))
            own = {"127.0.0.1": f"{first_network}{200 + len(self._machines)}", ':53"': f':{DNS_PORT}"'}
            self._machines[name] = Machine(name, self._folder / name, {**self._networks, **own})
        return self._machines[name]

    def _run(self, machine: Machine, line: str) -> str:
        if line.startswith("export "):
            machine.exports.append(machine.real(line))
            return ""
        if line.startswith("scp "):
            _, source, target = line.split()
            name, path = target.split(":")
            shutil.copy(machine.path(source), self._machine(name).path(path))
            return ""
        if line.startswith("curl "):
            return _curl(machine.real(line))
        if line.startswith("systemctl "):
            return self.services.systemctl(machine, line.split()[1:])
        if line.endswith(" &"):
            name = line.split()[1].lstrip("-")
            self.services.start_command(machine, name, f"exec {machine.real(line[:-2])}")
            return ""
        return self._shell(machine, line)

    def _shell(self, machine: Machine, line: str) -> str:
        script = "\n".join(("set -eu -o pipefail", *machine.exports, machine.real(line)))
        try:
            done = subprocess.run(
                ["bash", "-c", script],
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
                env={**os.environ, **self._environment},
                cwd=REPOSITORY,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{machine.name}: still at it: {line}\n{self.services.logs()}") from error
        assert done.returncode == 0, f"{machine.name}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _make_programs(self) -> None:
        """Put programs first on the path: those of this environment, and some that must do less here."""
        self._programs.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        for name, script in (
            ("isthmus", f'exec {python} -m federation.cli.main "$@"'),
            ("python3", f'exec {python} "$@"'),
            ("dig", f'exec {shlex.quote(str(tool("dig")))} -p {DNS_PORT} "$@"'),
            # Users of the page's machines are whoever runs the test.
            ("runuser", 'test "$1" = -u && test "$3" = -- && shift 3 && exec "$@"'),
            ("chown", 'test "$#" = 2 && test -e "$2"'),
            ("install", 'test "$1 $2 $4" = "-d -o -m" && exec mkdir -p -m "$5" "$6"'),
        ):
            starter = self._programs / name
            starter.write_text(f"#!/bin/sh\n{script}\n")
            starter.chmod(0o755)


def _curl(line: str) -> str:
    """Do `curl [-H 'Host: NAME'] http://ADDRESS/` once it is answered with 200."""
    words = shlex.split(line)
    headers = {}
    if words[1] == "-H":
        headers["Host"] = words[2].removeprefix("Host: ")
    match = re.fullmatch(r"http://([\d.]+):(\d+)(/.*)", words[-1])
    assert match is not None
    assert len(words) == 2 + 2 * len(headers), line

    def answer() -> str:
        connection = http.client.HTTPConnection(match[1], int(match[2]), timeout=10.0)
        try:
            connection.request("GET", match[3], headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, f"{response.status}: {body}"
            return body
        except OSError as error:
            raise AssertionError(f"{words[-1]}: {error}") from error  # Not yet.
        finally:
            connection.close()

    return eventually(answer, timeout_s=COMMAND_TIMEOUT_S, message=line)
