"""`systemctl` for the machines of a walkthrough: units are read and their commands run, as systemd would.

Of systemd's work only this is done: the command, credentials, the state directory, the signals of a stop, and
`Restart=` after a kill. Users and confinement are not.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from federation.kernel.units import duration_ms
from tests.support.processes import Process, ProcessSet
from tests.support.systemd_units import PROGRAM, UNITS, Unit, check_units

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_TIMEOUT_S = 90.0  # systemd's own default.


class Place(Protocol):
    """A machine, as far as services need one."""

    name: str

    def path(self, text: str) -> Path:
        """Where a file of the machine really is."""
        ...

    def real(self, text: str) -> str:
        """A text with this machine's addresses and folders."""
        ...


class Services:
    """Every process that runs on the machines of a walkthrough."""

    def __init__(self, processes: ProcessSet, *, programs: Path, environment: Mapping[str, str]) -> None:
        self._processes = processes
        self._programs = programs
        self._environment = environment
        self._running: dict[tuple[str, str], Process] = {}
        self._failed: set[tuple[str, str]] = set()  # Those that ended, and are not started again.
        self.started: set[str] = set()  # Units, of whatever machine.

    def start_command(self, machine: Place, name: str, script: str) -> Process:
        """Start a line of bash that stays."""
        return self._start(machine, name, ["bash", "-c", script])

    def systemctl(self, machine: Place, words: list[str]) -> str:
        """Do one `systemctl` command and return what it prints."""
        match words:
            case ["daemon-reload"]:
                pass
            case ["enable", "--now", *names] | ["start", *names] if names:
                for name in names:
                    self._start_unit(machine, name)
            case ["disable", "--now", *names] | ["stop", *names] if names:
                for name in names:
                    self._stop_unit(machine, name)
            case ["kill", "--signal=KILL", "--kill-whom=main", name]:
                self._process(machine, name).kill_alone()
                assert self._unit(machine, name)[0].one("Restart") == "on-failure"
                self._start_unit(machine, name)
            case ["is-failed", name]:
                code = self._process(machine, name).wait(timeout_s=STOP_TIMEOUT_S)
                assert str(code) in self._unit(machine, name)[0].one("RestartPreventExitStatus").split()
                self._failed.add((machine.name, name))
                return "failed\n"
            case ["is-active", name]:
                self._process(machine, name).check_running()
                return "active\n"
            case _:
                raise AssertionError(f"systemctl {' '.join(words)}: not known here")
        return ""

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(process.log() for process in self._running.values())

    def _process(self, machine: Place, name: str) -> Process:
        return self._running[machine.name, name]

    def _unit(self, machine: Place, name: str) -> tuple[Unit, str]:
        """Return a unit, the page's own or one of deploy/systemd, and its instance."""
        prefix, at, instance = name.partition("@")
        if at:
            return Unit(machine.real((UNITS / f"{prefix}@.service").read_text())), instance
        own = machine.path(f"/etc/systemd/system/{name}.service")
        text = own.read_text().replace("/usr/bin/python3", str(self._programs / "python3"))
        own.write_text(text)
        check_units([own])
        return Unit(text), instance

    def _start_unit(self, machine: Place, name: str) -> None:
        unit, instance = self._unit(machine, name)
        credentials = machine.path(f"/run/credentials/{name}.service")
        credentials.mkdir(parents=True, exist_ok=True)
        for credential, (source, default) in unit.credentials(instance).items():
            file = Path(source)
            (credentials / credential).write_text(file.read_text() if file.exists() else default)
        for state in unit.all("StateDirectory"):
            path = machine.path(f"/var/lib/{state.replace('%i', instance)}")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = unit.command(instance, credentials=str(credentials))
        if command[0] == PROGRAM:
            command[0] = str(self._programs / "isthmus")
        self._start(machine, name, command)
        self.started.add(name)

    def _stop_unit(self, machine: Place, name: str) -> None:
        unit, _ = self._unit(machine, name)
        if (machine.name, name) in self._failed:
            self._failed.remove((machine.name, name))
            return
        times = unit.all("TimeoutStopSec")
        process = self._process(machine, name)
        timeout_s = duration_ms(times[0]) / 1000 if times else STOP_TIMEOUT_S
        code = process.terminate(timeout_s=timeout_s)
        assert code in (0, -signal.SIGTERM), f"{process.describe_end()}\n{process.log()}"
        if unit.all("KillMode") != ["process"]:
            process.kill()  # Whatever it left behind.

    def _start(self, machine: Place, name: str, command: list[str]) -> Process:
        process = self._processes.start(
            f"{machine.name}-{name}", command, env=self._environment, cwd=REPOSITORY
        )
        self._running[machine.name, name] = process
        return process
