"""The laboratory's wide-area network: delays, silent faults that undo themselves, and nothing that stays behind."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from chaos.faults.network import cut_off, flapping, one_way, slow
from chaos.lab import regions
from chaos.lab.guardian import marked
from chaos.lab.namespaces import Namespaces, remove_stale, why_not
from chaos.lab.netns import NAMESPACES
from chaos.lab.processes import LabError, kill_pid, parent_of
from chaos.lab.topology import ClusterPlan, routed_topology
from tests.support.processes import Process, ProcessSet
from tests.support.tools import tool
from tests.support.wait import eventually

CLUSTERS = routed_topology("10.77")[:2]
ALPHA, BETA = CLUSTERS
ROUND_TRIP_MS = regions.round_trip_ms(ALPHA.region, BETA.region)
PORT = 7443
SO_RCVBUFFORCE = 33
RECEIVED_BYTES = 4 << 20  # What is lost is lost on the way, not in the receiver's full buffer.
CONNECT_TIMEOUT_S = 0.5
ECHOES = 20
ECHO_TIMEOUT_S = 5.0
# What a busy machine may add to a delay: of many echoes, the median.
LATE_MS_MAX = 40.0

# Makes networks, starts a process in one that starts another out of reach of its group, and waits to be ended.
MAKER = """
import sys, time
from pathlib import Path
from chaos.lab.federation import Lab
from chaos.lab.namespaces import Namespaces
from chaos.lab.topology import routed_topology
clusters = routed_topology("10.77")[:2]
with Namespaces(clusters) as networks, Lab(clusters, Path(sys.argv[1]), print, place=networks) as lab:
    lab.run("alpha/one", "alpha", ["sh", "-c", "setsid sleep 600 & exec sleep 600"])
    print("made", flush=True)
    time.sleep(600)
"""

# What `isthmus chaos run partition` does.
RUN = """
from chaos.run import run_scenario
raise SystemExit(run_scenario("partition", report=None, work_dir=None, seconds=None, say=print))
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    assert why_not() == ""


@pytest.fixture
def networks() -> Iterator[Namespaces]:
    with Namespaces(CLUSTERS) as networks:
        yield networks


def host_links() -> str:
    return subprocess.run([tool("ip"), "-o", "link"], capture_output=True, text=True, check=True).stdout


def left_of(pid: int) -> list[str]:
    """Return what a laboratory has: namespaces, files, and processes of its networks."""
    files = Path(f"/run/isthmus-lab-{pid}")
    names = [entry.name for entry in NAMESPACES.iterdir() if f"-{pid}-" in entry.name]
    return [*names, *(str(one) for one in (files,) if one.exists()), *map(str, marked(files))]


def connects(networks: Namespaces, source: str, address: str) -> str:
    """Return "yes", or the error's class."""
    with networks.inside(source), socket.socket() as client:
        client.settimeout(CONNECT_TIMEOUT_S)
        try:
            client.connect((address, PORT))
        except OSError as error:
            return type(error).__name__
        return "yes"


@contextmanager
def listening(networks: Namespaces) -> Iterator[None]:
    listeners = []
    for cluster in CLUSTERS:
        with networks.inside(cluster.name):
            listeners.append(socket.create_server((cluster.controller, PORT)))
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()


def datagrams(networks: Namespaces, cluster: ClusterPlan) -> socket.socket:
    with networks.inside(cluster.name):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVED_BYTES)
        receiver.bind((cluster.controller, PORT))
        receiver.settimeout(ECHO_TIMEOUT_S)
        return receiver


def heard(sender: socket.socket, receiver: socket.socket, address: str) -> bool:
    receiver.settimeout(CONNECT_TIMEOUT_S)
    sender.sendto(b"hello", (address, PORT))
    try:
        return receiver.recv(100) == b"hello"
    except TimeoutError:
        return False


def echo_ms(networks: Namespaces) -> list[float]:
    """Round trips of datagrams from alpha to beta and back, one after the other."""
    took_ms = []
    with datagrams(networks, ALPHA) as alpha, datagrams(networks, BETA) as beta:

        def echo() -> None:
            for _ in range(ECHOES):
                beta.sendto(*beta.recvfrom(100))

        thread = threading.Thread(target=echo)
        thread.start()
        for number in range(ECHOES):
            began_s = time.monotonic()
            alpha.sendto(bytes([number]), (BETA.controller, PORT))
            assert alpha.recv(100) == bytes([number])
            took_ms.append((time.monotonic() - began_s) * 1000)
        thread.join()
    return took_ms


def arrived(networks: Namespaces, sent: int) -> list[int]:
    """Send numbered datagrams from alpha to beta and return those that came, in the order in which they did."""
    with datagrams(networks, ALPHA) as alpha, datagrams(networks, BETA) as beta:
        for number in range(sent):
            alpha.sendto(number.to_bytes(4, "big"), (BETA.controller, PORT))
        numbers = []
        beta.settimeout(CONNECT_TIMEOUT_S)
        while True:
            try:
                numbers.append(int.from_bytes(beta.recv(100), "big"))
            except TimeoutError:
                return numbers


def test_a_datagram_takes_the_round_trip_of_its_regions_and_not_less(networks: Namespaces) -> None:
    usual = networks.link("alpha", "beta")
    took_ms = echo_ms(networks)
    assert min(took_ms) >= ROUND_TRIP_MS - 2 * usual.jitter_ms
    assert statistics.median(took_ms) <= ROUND_TRIP_MS + LATE_MS_MAX


def test_a_slow_link_is_as_slow_as_it_is_told_and_then_as_before(networks: Namespaces) -> None:
    with slow(networks, "alpha", "beta", delay_ms=150, jitter_ms=10):
        assert min(echo_ms(networks)) >= 2 * (150 - 10)
    assert ROUND_TRIP_MS - 5 <= min(echo_ms(networks)) <= ROUND_TRIP_MS + LATE_MS_MAX


def test_a_lossy_link_loses_its_share_and_keeps_the_order(networks: Namespaces) -> None:
    with slow(networks, "alpha", "beta", delay_ms=20, jitter_ms=10, loss=0.3):
        came = arrived(networks, 1_000)
    assert 600 <= len(came) <= 800  # Five standard deviations are 72.
    assert all(earlier < later for earlier, later in pairwise(came))
    assert arrived(networks, 100) == list(range(100))


def test_packets_pass_undelayed_when_the_emulator_is_dead_and_its_end_is_told(networks: Namespaces) -> None:
    emulators = [
        pid for pid in marked(Path(f"/run/isthmus-lab-{os.getpid()}")) if b"emulator" in command_of(pid)
    ]
    assert len(emulators) == 1
    kill_pid(emulators[0])
    eventually(lambda: parent_of(emulators[0]) == 0, timeout_s=60, message="it is dead, its queues closed")
    assert min(echo_ms(networks)) < ROUND_TRIP_MS / 2
    with pytest.raises(LabError, match="emulator"), slow(networks, "alpha", "beta", delay_ms=100):
        raise AssertionError("never entered")


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_cut_is_silent_in_both_directions_and_heals(networks: Namespaces) -> None:
    paths = [("alpha", BETA.controller), ("beta", ALPHA.controller)]
    with listening(networks):
        assert [connects(networks, *path) for path in paths] == ["yes", "yes"]
        with cut_off(networks, "alpha"):
            # Time runs out: a refusal, an unreachable host or a reset would be a word.
            assert [connects(networks, *path) for path in paths] == ["TimeoutError", "TimeoutError"]
            assert connects(networks, "alpha", ALPHA.controller) == "yes"
        assert [connects(networks, *path) for path in paths] == ["yes", "yes"]


def test_one_way_is_silent_in_one_direction_only_and_faults_may_overlap(networks: Namespaces) -> None:
    with datagrams(networks, ALPHA) as alpha, datagrams(networks, BETA) as beta:
        with one_way(networks, "alpha", "beta"):
            with one_way(networks, "alpha", "beta"):
                assert not heard(alpha, beta, BETA.controller)
                assert heard(beta, alpha, ALPHA.controller)
            assert not heard(alpha, beta, BETA.controller)
        assert heard(alpha, beta, BETA.controller)


def test_a_flapping_link_goes_down_and_comes_back_and_is_up_in_the_end(networks: Namespaces) -> None:
    seen = set()
    with listening(networks), flapping(networks, "alpha", up_s=1.0, down_s=1.0) as flaps:
        eventually(
            lambda: seen.add(connects(networks, "alpha", BETA.controller)) or len(seen) == 2,
            timeout_s=60,
            message="connections both succeed and fail",
        )
        assert seen == {"yes", "TimeoutError"}
        assert flaps.count >= 1
    assert connects(networks, "alpha", BETA.controller) == "ConnectionRefusedError"


def test_a_fault_is_undone_whatever_happens_within_its_block(networks: Namespaces) -> None:
    for fault in (cut_off(networks, "alpha"), one_way(networks, "alpha", "beta")):
        with pytest.raises(ZeroDivisionError), fault:
            1 / 0  # noqa: B018
    assert connects(networks, "alpha", BETA.controller) == "ConnectionRefusedError"
    with pytest.raises(LabError, match="no way from gamma to beta"), one_way(networks, "gamma", "beta"):
        raise AssertionError("never entered")


def test_programs_resolve_by_the_dns_of_their_cluster_and_the_host_is_not_touched() -> None:
    host = Path("/etc/resolv.conf")
    before = host_links(), host.read_bytes()
    with Namespaces(CLUSTERS) as networks:
        assert (host_links(), host.read_bytes()) == before
        seen = subprocess.run(
            networks.command("beta", ["cat", str(host)]), capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert seen[:2] == [f"nameserver {BETA.dns}", f"nameserver {ALPHA.dns}"]
        assert host.read_bytes() == before[1]
    assert (host_links(), host.read_bytes()) == before
    assert left_of(os.getpid()) == []


def test_a_command_keeps_its_pid_and_says_how_it_ended(networks: Namespaces) -> None:
    child = subprocess.Popen(
        networks.command("alpha", ["sh", "-c", "echo $$; exit 7"]), stdout=subprocess.PIPE
    )
    output, _ = child.communicate(timeout=20)
    assert (int(output), child.returncode) == (child.pid, 7)


def made(processes: ProcessSet, directory: Path) -> Process:
    maker = processes.start("maker", [sys.executable, "-c", MAKER, directory])
    maker.wait_for_log("made", timeout_s=60)
    eventually(lambda: len(marked(directory)) == 2, timeout_s=60, message="the process and its child run")
    # Both clusters, the wan, the folder, the emulator.
    assert len(left_of(maker.pid)) == len(CLUSTERS) + 3
    return maker


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_stays_behind_however_a_laboratory_ends(
    ending: str, processes: ProcessSet, tmp_path: Path
) -> None:
    maker = made(processes, tmp_path)
    maker.send(signal.Signals[ending])
    eventually(
        lambda: not left_of(maker.pid) and not marked(tmp_path), timeout_s=60, message="nothing is left"
    )


def test_a_run_that_is_killed_takes_its_directory_with_it(processes: ProcessSet, tmp_path: Path) -> None:
    run = processes.start("run", [sys.executable, "-u", "-c", RUN], env={"TMPDIR": str(tmp_path)})
    run.wait_for_log("founding the federation", timeout_s=60)
    (directory,) = tmp_path.glob("isthmus-chaos-*")
    eventually(
        lambda: (directory / "alpha" / "controller.log").exists(), timeout_s=60, message="a controller runs"
    )
    run.send(signal.SIGKILL)
    eventually(
        lambda: not left_of(run.pid) and not marked(directory) and not directory.exists(),
        timeout_s=60,
        message="nothing is left",
    )


def test_what_is_left_when_the_guardian_died_too_is_swept_by_the_next_and_the_living_is_spared(
    networks: Namespaces, processes: ProcessSet, tmp_path: Path
) -> None:
    maker = made(processes, tmp_path)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if (
            f"/run/isthmus-lab-{maker.pid}\0".encode() in entry.read_bytes()
            and b"guardian" in entry.read_bytes()
        ):
            kill_pid(int(entry.parent.name))
    maker.kill_alone()
    eventually(lambda: not marked(tmp_path), timeout_s=60, message="its processes have ended")
    maker.kill()  # Collects it: a zombie still has its pid.
    assert left_of(maker.pid)
    mine = left_of(os.getpid())

    remove_stale()

    assert left_of(maker.pid) == []
    assert left_of(os.getpid()) == mine
    assert connects(networks, "alpha", BETA.controller) == "ConnectionRefusedError"
