"""The controller as a process: it starts again where it stopped, or says in one line why it cannot."""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certs.runtime.keystore import write_private
from tests.integration.controller.installation import (
    BASE,
    ISTHMUS,
    PORTS,
    Installation,
    export_policy,
)
from tests.support.processes import ProcessSet
from tests.support.wait import eventually

END_S = 60.0
STOP_S = 30.0


def last_words(installation: Installation) -> tuple[int, str]:
    """Run the controller, which has to end by itself; return its exit status and what it told the operator."""
    done = subprocess.run(
        [*ISTHMUS, "controller", "run", "--config", str(installation.config_path)],
        capture_output=True,
        text=True,
        timeout=END_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("isthmus: ")]
    assert len(told) == 1, done.stderr
    return done.returncode, told[0]


@contextlib.contextmanager
def taken(host: str, port: int) -> Iterator[None]:
    with socket.create_server((host, port)):
        yield


@pytest.mark.parametrize("name", PORTS)
def test_a_port_that_is_taken_is_named_with_its_address(founded: Installation, name: str) -> None:
    with taken(founded.host, PORTS[name]):
        code, told = last_words(founded)
    assert code == 1
    assert f"{founded.host}:{PORTS[name]}" in told
    assert "listen" in told
    assert name in told


def test_a_second_process_leaves_the_data_directory_of_the_first_alone(
    founded: Installation, processes: ProcessSet
) -> None:
    process = founded.start(processes)
    founded.wait_ready(process)
    code, told = last_words(founded)
    assert code == 1
    assert f"data_dir: {founded.data_dir} is in use by process" in told
    process.check_running()


def test_a_directory_that_was_never_founded_says_what_to_run(founded: Installation, tmp_path: Path) -> None:
    empty = Installation(tmp_path / "empty", founded.host)
    code, told = last_words(empty)
    assert code == 1
    assert "run isthmus init (a new federation) or isthmus cluster join (an existing one) first" in told


def flip(name: str, offset: int = -40) -> Callable[[Installation], str]:
    """Turn one byte of a file around."""

    def damage(installation: Installation) -> str:
        path = installation.data_dir / name
        data = bytearray(path.read_bytes())
        data[offset] ^= 0xFF
        path.write_bytes(data)
        return name

    return damage


def overwrite(name: str, content: bytes) -> Callable[[Installation], str]:
    def damage(installation: Installation) -> str:
        write_private(installation.data_dir / name, content)
        return name

    return damage


def remove(name: str) -> Callable[[Installation], str]:
    def damage(installation: Installation) -> str:
        (installation.data_dir / name).unlink()
        return name

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip("raft/journal", 30), id="journal"),
        pytest.param(overwrite("raft/journal", b""), id="journal-empty"),
        pytest.param(overwrite("raft/snapshot", b"garbage"), id="snapshot"),
        pytest.param(flip("identity/identity.pem"), id="identity"),
        pytest.param(overwrite("identity/identity.pem", b"\0" * 100), id="identity-zeros"),
        pytest.param(flip("authority/root.json"), id="root"),
        pytest.param(overwrite("authority/root.json", b"{}"), id="root-empty"),
        pytest.param(overwrite("authority/identity.pem", b"x"), id="intermediate"),
        pytest.param(overwrite("passphrase", b"another passphrase"), id="passphrase"),
        pytest.param(remove("passphrase"), id="no-passphrase"),
        pytest.param(flip("directory.json"), id="directory"),
        pytest.param(remove("directory.json"), id="no-directory"),
    ],
)
def test_a_damaged_file_is_named_and_stops_the_controller(
    founded: Installation, damage: Callable[[Installation], str]
) -> None:
    name = damage(founded)
    code, told = last_words(founded)
    assert code in (1, 3)
    expected = "root.json" if name == "passphrase" and (founded.data_dir / name).exists() else Path(name).name
    assert expected in told, told


def test_files_that_others_may_read_are_refused(founded: Installation) -> None:
    path = founded.data_dir / "authority" / "root.json"
    path.chmod(0o644)
    code, told = last_words(founded)
    assert code == 1
    assert str(path) in told
    assert "0600" in told


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "kill-9"])
def test_a_restart_keeps_every_acknowledged_write(
    founded: Installation, processes: ProcessSet, ending: signal.Signals
) -> None:
    process = founded.start(processes)
    founded.wait_ready(process)
    operator = founded.operator()
    path = f"{BASE}/namespaces/shop/exportpolicies"
    made = [operator.ok("POST", path, export_policy(f"p{number}")) for number in range(5)]
    operator.ok("DELETE", f"{path}/p3")
    before = operator.ok("GET", "/v1/status")
    process.send(ending)
    process.wait(timeout_s=STOP_S)
    process.kill()  # Its group, so that nothing of it holds the ports.

    again = founded.start(processes)
    founded.wait_ready(again)
    assert operator.ok("GET", path)["items"] == [one for one in made if one["metadata"]["name"] != "p3"]
    after = operator.ok("GET", "/v1/status")
    assert (after["federation"], after["revision"]) == (before["federation"], before["revision"])


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "sigint"])
def test_a_stop_is_orderly_also_while_somebody_watches(
    founded: Installation, processes: ProcessSet, ending: signal.Signals
) -> None:
    process = founded.start(processes)
    founded.wait_ready(process)
    watching = founded.operator().connect()
    try:
        watching.request("GET", f"{BASE}/clusters?watch=true")
        assert watching.getresponse().status == 200
        process.send(ending)
        assert process.wait(timeout_s=STOP_S) == 0
    finally:
        watching.close()
    assert "Traceback" not in process.log_path.read_text()
    assert founded.plain("/livez") == (0, b"")


def test_metrics_and_probes_answer_in_plain_http(founded: Installation, processes: ProcessSet) -> None:
    process = founded.start(processes)
    founded.wait_ready(process)
    assert founded.plain("/livez") == (200, b"ok\n")
    eventually(lambda: b"isthmus_raft_leader 1.0" in founded.plain("/metrics")[1], timeout_s=END_S)
    status, text = founded.plain("/metrics")
    assert status == 200
    for line in (
        b"isthmus_catalog_resources 4.0",
        b'isthmus_agents{cluster="alpha",phase="live"} 0.0',
    ):
        assert line in text


def test_another_root_than_the_configured_trust_domain_is_refused(founded: Installation) -> None:
    text = founded.config_path.read_text()
    founded.config_path.write_text(text.replace("alpha.example", "other.example"))
    code, told = last_words(founded)
    assert code == 1
    assert "is the root of alpha.example, the configuration says other.example" in told


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[agents]\nlease = "2s"', '[agents]\nlease = "2"', "agents.lease: '2' is not a duration"),
        ('id = "c1"', 'id = "c1"\nlisten_all = true', "unknown field `listen_all`"),
        ('id = "c1"', "id = 1", "expected `str`, got `int` - at `$.id`"),
        ('id = "c1"', "id = ", "not a TOML file"),
        ('id = "c1"', 'id = "c1"\nlog = "loud"', "log: 'loud' is not a level"),
    ],
    ids=["unit", "unknown-key", "type", "syntax", "log-level"],
)
def test_a_wrong_configuration_exits_2_and_names_the_place(
    founded: Installation, old: str, new: str, message: str
) -> None:
    text = founded.config_path.read_text()
    assert old in text
    founded.config_path.write_text(text.replace(old, new))
    code, told = last_words(founded)
    assert code == 2
    assert message in told


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    missing = Installation(tmp_path / "a", "127.108.0.1")
    missing.config_path.unlink()
    code, told = last_words(missing)
    assert code == 3
    assert str(missing.config_path) in told
