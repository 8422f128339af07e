"""The redirection in the kernel: what goes to which agent, what does not, and that removing undoes it. Needs root.

An Envoy is a plain listener here, which only looks where a connection was bound for.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.agent.capture import apply_capture, capture_of
from federation.agent.config import AgentConfig
from federation.cli.session import read_config
from federation.kernel.errors import UnavailableError
from tests.support.networks import Network, joined_networks
from tests.support.tools import tool

HERE, SECOND_AGENT = "10.79.0.1", "10.79.0.2"
ELSEWHERE, EXCLUDED = "10.79.0.3", "10.79.0.4"
VIP = "241.7.7.7"
AGENT_UID, CAPTURED_UID, SECOND_UID = 61_000, 61_001, 61_002
OUTBOUND_PORT = 15001
CONNECT_TIMEOUT_S = 5.0
SO_ORIGINAL_DST = 80

# An application that knows nothing: connects as a user and says what happened.
CONNECT = f"""
import os, socket, sys
os.setuid(int(sys.argv[1]))
opened = socket.socket()
opened.settimeout({CONNECT_TIMEOUT_S})
try:
    opened.connect((sys.argv[2], int(sys.argv[3])))
    print(opened.recv(100).decode())
except OSError as error:
    print(type(error).__name__ if error.errno is None or error.errno == 111 else os.strerror(error.errno))
"""


class Host:
    """A host with two agents: the first one's users are everybody, the second one's are its own."""

    def __init__(self, network: Network, elsewhere: Network, folder: Path) -> None:
        self.network = network
        self.elsewhere = elsewhere
        self.folder = folder
        data = folder / "data"
        data.mkdir()
        os.chown(data, AGENT_UID, AGENT_UID)
        self.first = self.config("a1", HERE, f'exclude_ranges = ["{EXCLUDED}/32"]\nexclude_ports = [2222]')
        self.second = self.config("b1", SECOND_AGENT, f'users = ["{SECOND_UID}"]')

    def config(self, name: str, address: str, capture: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'id = "{name}"\ndata_dir = "{self.folder}/data"\naddress = "{address}"\n'
            f'outbound = "{address}:{OUTBOUND_PORT}"\n[capture]\nenabled = true\n{capture}\n'
        )
        return path

    def isthmus(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return self.network.run([sys.executable, "-m", "federation.cli.main", "capture", *words])

    def connect(self, uid: int, address: str, port: int) -> str:
        done = self.network.run([sys.executable, "-c", CONNECT, str(uid), address, str(port)])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("rules and routes need root")
    monkeypatch.setenv("PATH", f"{tool('nft').parent}:{os.environ['PATH']}")
    with joined_networks([HERE, SECOND_AGENT], [ELSEWHERE, EXCLUDED]) as (here, there):
        yield Host(here, there, tmp_path)


@contextmanager
def answering(network: Network, name: str, address: str, *ports: int) -> Iterator[None]:
    """Listen in a network and tell whoever connects the name, and where the connection was bound for."""
    with network.inside():
        listeners = [socket.create_server((address, port)) for port in ports]
    threads = [threading.Thread(target=_answer, args=(listener, name)) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)  # Ends the accept.
        for thread in threads:
            thread.join()


def _answer(listener: socket.socket, name: str) -> None:
    with listener:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted:
                accepted.sendall(f"{name}{_bound_for(accepted)}".encode())


def _bound_for(accepted: socket.socket) -> str:
    try:
        raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
    except OSError:  # Nobody redirected anything.
        return ""
    port, address = struct.unpack("!2xH4s8x", raw)
    bound_for = (socket.inet_ntoa(address), port)
    return "" if bound_for == accepted.getsockname() else f" {bound_for[0]}:{port}"


def test_each_users_connections_come_to_its_agent_and_what_is_exempt_goes_its_own_way(host: Host) -> None:
    expected = {
        (CAPTURED_UID, VIP, 8080): f"a1 {VIP}:8080",
        (CAPTURED_UID, ELSEWHERE, 9000): f"a1 {ELSEWHERE}:9000",
        (CAPTURED_UID, EXCLUDED, 9000): "direct",
        (CAPTURED_UID, ELSEWHERE, 2222): "direct",
        (CAPTURED_UID, HERE, 9000): "this host",
        (CAPTURED_UID, "127.0.0.1", 9000): "this host",
        (SECOND_UID, VIP, 8080): f"b1 {VIP}:8080",
        (SECOND_UID, ELSEWHERE, 2222): f"b1 {ELSEWHERE}:2222",
        (AGENT_UID, ELSEWHERE, 9000): "direct",
        # Also although something on this host listens on every address.
        (AGENT_UID, VIP, 9000): "ConnectionRefusedError",
    }
    with (
        answering(host.network, "a1", HERE, OUTBOUND_PORT),
        answering(host.network, "b1", SECOND_AGENT, OUTBOUND_PORT),
        answering(host.network, "this host", "0.0.0.0", 9000),
        answering(host.elsewhere, "direct", "0.0.0.0", 9000, 2222),
    ):
        for _ in range(2):  # A second time changes nothing.
            done = host.isthmus("apply", "--config", host.first, "--config", host.second)
            assert done.returncode == 0, done.stderr
        assert {case: host.connect(*case) for case in expected} == expected
        shown = host.isthmus("show").stdout
        assert "table inet isthmus" in shown
        assert "241.0.0.0/8" in shown.splitlines()[-1]

        assert host.isthmus("remove").returncode == 0
        assert host.connect(CAPTURED_UID, ELSEWHERE, 9000) == "direct"
        assert host.connect(CAPTURED_UID, VIP, 8080) == "Network is unreachable"
    assert host.network.run([tool("nft"), "list", "tables"]).stdout == ""
    assert host.network.run([tool("ip"), "route", "show", "241.0.0.0/8"]).stdout == ""
    assert host.isthmus("show").returncode == 3
    assert host.isthmus("remove").returncode == 0


def test_nothing_is_redirected_to_where_nobody_listens(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.agent.capture.LISTENER_WAIT_S", 0.0)
    capture = capture_of(read_config(host.first, AgentConfig))
    with host.network.inside(), pytest.raises(UnavailableError, match="nobody takes the connections"):
        apply_capture([capture])
    assert host.isthmus("show").returncode == 3


def test_a_dry_run_prints_commands_that_do_the_same(host: Host) -> None:
    script = host.isthmus("apply", "--config", host.first, "--dry-run").stdout
    assert host.isthmus("show").returncode == 3
    done = host.network.run(["sh", "-e"], script)
    assert done.returncode == 0, done.stderr
    assert host.isthmus("show").returncode == 0
    done = host.network.run(["sh", "-e"], host.isthmus("remove", "--dry-run").stdout)
    assert done.returncode == 0, done.stderr
    assert host.isthmus("show").returncode == 3
