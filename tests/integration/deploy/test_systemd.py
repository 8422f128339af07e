"""The units in deploy/systemd: systemd understands them, our command knows theirs, and they ask for no more rights."""

import re
from pathlib import Path

import click
import msgspec
import pytest

from federation.agent.agent import LEAVE_ACK_S
from federation.agent.capture import LISTENER_WAIT_S
from federation.agent.config import AgentConfig, GatewayConfig
from federation.cli.main import cli
from federation.kernel.units import duration_ms
from gateways.runtime.envoy import STOP_TIMEOUT_S
from tests.support.systemd_units import PROGRAM, UNITS, Unit, analyze, check_units, read_unit, unit_paths

KINDS = ("controller", "agent", "gateway", "dns")
WITH_TOKEN = ("agent", "gateway", "dns")
WITH_ENVOY = ("agent", "gateway")
EXPOSURE_MAX = 20  # Tenths of systemd's own scale, whose 10.0 is a service without any protection.

# What none of them may go without.
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallFilter": "@system-service",
    "SystemCallArchitectures": "native",
    "MemoryDenyWriteExecute": "yes",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
    "Restart": "on-failure",
}


def unit_of(kind: str) -> Unit:
    return read_unit(f"isthmus-{kind}@.service")


def seconds(text: str) -> float:
    return duration_ms(text) / 1000


def test_there_is_a_unit_for_each_process_and_for_the_capture() -> None:
    assert [path.name for path in unit_paths()] == sorted(
        f"isthmus-{kind}@.service" for kind in (*KINDS, "capture")
    )


@pytest.mark.parametrize(("key", "words"), [("ExecStart", "capture apply"), ("ExecStop", "capture remove")])
def test_the_capture_is_applied_and_removed_by_commands_that_exist(key: str, words: str) -> None:
    command = unit_of("capture").one(key)
    assert command.startswith(f"{PROGRAM} {words}")
    options = command.removeprefix(f"{PROGRAM} {words}").split()
    assert isinstance(cli.commands["capture"], click.Group)
    context = cli.commands["capture"].commands[words.split()[1]].make_context(words, options)
    if options:
        assert list(map(str, context.params["config_paths"])) == ["/etc/isthmus/agent-%i.toml"]


def test_the_capture_is_gone_before_its_agent_is_stopped_and_has_one_right_of_roots() -> None:
    unit = unit_of("capture")
    agent = "isthmus-agent@%i.service"
    assert unit.one("Requires", section="Unit") == unit.one("After", section="Unit") == agent
    assert unit.one("WantedBy", section="Install") == agent
    assert unit.one("CapabilityBoundingSet") == "CAP_NET_ADMIN"
    assert seconds(unit.one("TimeoutStartSec")) > LISTENER_WAIT_S


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_starts_a_command_that_exists_with_options_that_it_has(kind: str) -> None:
    program, *words = unit_of(kind).command("x1", credentials="/credentials")
    assert program == PROGRAM
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    context = command.make_context(kind, list(words))  # As the command reads them; nothing is started.
    assert words[0::2] == ["--config", "--token-file"][: len(words) // 2]
    assert str(context.params["config_path"]) == f"/etc/isthmus/{kind}-x1.toml"


@pytest.mark.parametrize("kind", WITH_TOKEN)
def test_a_token_comes_from_a_credential_that_may_be_gone_and_is_on_no_command_line(kind: str) -> None:
    unit = unit_of(kind)
    words = unit.command("x1", credentials="/credentials")
    assert words[-2:] == ["--token-file", "/credentials/join-token"]
    assert unit.credentials("x1") == {"join-token": (f"/etc/isthmus/{kind}-x1.token", "none")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("key", "value"), HARDENED.items(), ids=HARDENED)
def test_a_unit_is_confined(kind: str, key: str, value: str) -> None:
    assert unit_of(kind).one(key) == value


@pytest.mark.parametrize("kind", KINDS)
def test_only_dns_has_a_right_of_roots_that_of_a_low_port(kind: str) -> None:
    unit = unit_of(kind)
    rights = ["CAP_NET_BIND_SERVICE"] if kind == "dns" else []
    assert unit.one("CapabilityBoundingSet").split() == rights
    assert unit.all("AmbientCapabilities") == rights


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_own_user_and_each_instance_its_own_directory(kind: str) -> None:
    unit = unit_of(kind)
    users = re.findall(r"^u (\S+) ", (UNITS / "isthmus.sysusers.conf").read_text(), re.MULTILINE)
    assert unit.one("User") == unit.one("Group") == f"isthmus-{kind}"
    assert unit.one("User") in users
    assert unit.one("StateDirectory") == f"isthmus/{kind}-%i"


@pytest.mark.parametrize("kind", KINDS)
def test_envoy_outlives_the_process_that_runs_it_and_nothing_else_is_left_behind(kind: str) -> None:
    assert unit_of(kind).all("KillMode") == (["process"] if kind in WITH_ENVOY else [])


@pytest.mark.parametrize(("kind", "config"), [("agent", AgentConfig), ("gateway", GatewayConfig)])
def test_a_stop_has_time_for_the_drain(kind: str, config: type[AgentConfig | GatewayConfig]) -> None:
    # Not ready and withdrawn are each told to the controllers, Envoy drains between and is ended after that.
    drain = next(one.default for one in msgspec.structs.fields(config) if one.name == "drain")
    needed_s = 2 * LEAVE_ACK_S + seconds(drain) + STOP_TIMEOUT_S
    assert seconds(unit_of(kind).one("TimeoutStopSec")) >= needed_s + 10


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """The units with a program that exists here in place of ours, for systemd to look at."""
    made = []
    for path in unit_paths():
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace(PROGRAM, "/bin/true"))
        made.append(copy)
    return made


def test_systemd_finds_no_fault(copies: list[Path]) -> None:
    check_units(copies)


def test_systemd_does_complain_about_a_fault(copies: list[Path]) -> None:
    copies[0].write_text(copies[0].read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    with pytest.raises(AssertionError, match="NoNewPrivilege"):
        check_units(copies)


def test_systemd_calls_the_exposure_low(copies: list[Path]) -> None:
    processes = [copy for copy in copies if "capture" not in copy.name]  # It has to be root, for a moment.
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Overall exposure level") == len(KINDS)
