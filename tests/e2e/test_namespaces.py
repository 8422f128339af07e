"""The laboratory's networks: faults drop frames without a word, the host is not touched, nothing stays behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.lab.namespaces import Namespaces, remove_stale
from chaos.lab.topology import routed_topology
from tests.support.processes import ProcessSet
from tests.support.tools import tool
from tests.support.wait import eventually

CLUSTERS = routed_topology("10.77")[:2]
ALPHA, BETA = CLUSTERS
PORT = 7443
CONNECT_TIMEOUT_S = 0.5

# Makes networks and waits to be killed.
MAKER = """
import sys, time
from pathlib import Path
from chaos.lab.namespaces import Namespaces
from chaos.lab.topology import routed_topology
with Namespaces(routed_topology("10.77")[:2], ip=Path(sys.argv[1]), nft=Path(sys.argv[2])):
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


@pytest.fixture
def networks() -> Iterator[Namespaces]:
    with Namespaces(CLUSTERS, ip=tool("ip"), nft=tool("nft")) as networks:
        yield networks


def host_links() -> str:
    return subprocess.run([tool("ip"), "-o", "link"], capture_output=True, text=True, check=True).stdout


def namespaces_of(pid: int) -> list[str]:
    folder = Path("/run/netns")
    return [entry.name for entry in folder.iterdir() if f"-{pid}-" in entry.name] if folder.is_dir() else []


def connects(networks: Namespaces, source: str, address: str) -> str:
    """Return "yes", or the error's class."""
    with networks.inside(source), socket.socket() as client:
        client.settimeout(CONNECT_TIMEOUT_S)
        try:
            client.connect((address, PORT))
        except OSError as error:
            return type(error).__name__
        return "yes"


def test_a_cut_is_silent_in_both_directions_and_heals(networks: Namespaces) -> None:
    listeners = []
    for cluster in CLUSTERS:
        with networks.inside(cluster.name):
            listeners.append(socket.create_server((cluster.controller, PORT)))
    paths = [("alpha", BETA.controller), ("beta", ALPHA.controller)]

    eventually(
        lambda: [connects(networks, *path) for path in paths] == ["yes", "yes"],
        timeout_s=20,
        message="both ways are open: the first frames of a new link may be lost",
    )
    networks.cut_off("alpha")
    # Time runs out: a refusal, an unreachable host or a reset would be a word.
    assert [connects(networks, *path) for path in paths] == ["TimeoutError", "TimeoutError"]
    assert connects(networks, "alpha", ALPHA.controller) == "yes"
    networks.heal()
    assert [connects(networks, *path) for path in paths] == ["yes", "yes"]
    for listener in listeners:
        listener.close()


def test_the_host_shows_nothing_of_it_and_has_it_no_longer_afterwards() -> None:
    before = host_links()
    with Namespaces(CLUSTERS, ip=tool("ip"), nft=tool("nft")) as networks:
        assert host_links() == before
        eventually(
            lambda: connects(networks, "alpha", BETA.controller) == "ConnectionRefusedError",
            timeout_s=20,
            message="beta is reached, where nobody listens",
        )
        assert len(namespaces_of(os.getpid())) == len(CLUSTERS) + 1
    assert namespaces_of(os.getpid()) == []


def test_the_networks_of_a_laboratory_that_was_killed_are_swept_and_those_of_a_living_one_are_not(
    networks: Namespaces, processes: ProcessSet
) -> None:
    maker = processes.start("maker", [sys.executable, "-c", MAKER, tool("ip"), tool("nft")])
    maker.wait_for_log("made", timeout_s=30)
    remove_stale(tool("ip"))
    assert len(namespaces_of(maker.pid)) == len(CLUSTERS) + 1
    maker.send(signal.SIGKILL)
    maker.wait(timeout_s=10)
    maker.kill()  # Collects it: a zombie still has its pid.
    assert namespaces_of(maker.pid)

    remove_stale(tool("ip"))

    assert namespaces_of(maker.pid) == []
