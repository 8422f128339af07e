"""The view sees processes, controllers and loads of a laboratory, and nothing that it meets makes it raise."""

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from chaos.lab.federation import Lab
from chaos.lab.loopback import LoopbackBlock, claim_block
from chaos.lab.processes import LabProcess
from chaos.lab.topology import METRICS_PORT, demo_topology
from chaos.load.records import LoadStatus
from chaos.view.facts import ClusterFacts, ControllerAnswer
from chaos.view.source import LabSource, planned_processes
from tests.support.wait import eventually

LOAD = LoadStatus(
    caller="alpha",
    at_s=1.0,
    planned=9,
    sent=9,
    failed=0,
    rate_per_s=5.0,
    failed_per_s=0.0,
    p50_ms=1.0,
    p99_ms=2.0,
)


@pytest.fixture
def block() -> Iterator[LoopbackBlock]:
    with claim_block() as block:
        yield block


@pytest.fixture
def lab(block: LoopbackBlock, tmp_path: Path) -> Iterator[Lab]:
    """A laboratory in which nothing was started yet."""
    lab = Lab(demo_topology(block.prefix), tmp_path, lambda _text: None)
    yield lab
    for process in lab.processes.values():
        process.kill()


def run(lab: Lab, name: str) -> LabProcess:
    log_path = lab.directory / f"{name}.log"
    process = LabProcess(name, ["sleep", "600"], log_path, environment=os.environ)
    lab.processes[name] = process
    process.start()
    return process


def seen(source: LabSource, cluster: str) -> ClusterFacts:
    return next(one for one in source.facts().clusters if one.name == cluster)


class Readiness(BaseHTTPRequestHandler):
    answer = b"{}"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def controller(lab: Lab) -> Iterator[type[Readiness]]:
    """What answers as the controller of the first cluster."""

    class Handler(Readiness):
        pass

    first = next(iter(lab.clusters.values()))
    with HTTPServer((first.controller, METRICS_PORT), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


def test_processes_are_counted_while_they_run_and_while_they_are_stopped(lab: Lab) -> None:
    source = LabSource(lab)
    assert (seen(source, "alpha").running, seen(source, "alpha").planned) == (
        0,
        len(planned_processes(lab.clusters["alpha"])),
    )

    gateway, dns = run(lab, "alpha/gateway"), run(lab, "alpha/dns")
    run(lab, "alpha/alpha-late")  # Not of those that have to run.
    assert seen(source, "alpha").running == 2

    os.kill(dns.pid, signal.SIGSTOP)
    eventually(lambda: seen(source, "alpha").stopped == 1, timeout_s=60, message="one is stopped")
    gateway.kill()
    assert (seen(source, "alpha").running, seen(source, "beta").running) == (1, 0)


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        (b'{"role":"leader","leader":"alpha","revision":7}', ControllerAnswer(leader="alpha", revision=7)),
        (b'{"leader":null,"revision":7}', ControllerAnswer(leader="", revision=7)),
        (b'{"leader":[]}', None),
        (b"\xff\xfe", None),
        (b"[" * 70_000, None),
    ],
)
def test_a_controller_says_how_it_is(
    lab: Lab, controller: type[Readiness], answer: bytes, facts: ControllerAnswer | None
) -> None:
    controller.answer = answer
    run(lab, "alpha/controller")

    assert seen(LabSource(lab), "alpha").controller == facts


def test_a_controller_is_mute_when_it_missed_twice_and_at_once_when_its_process_is_gone(
    lab: Lab, controller: type[Readiness]
) -> None:
    controller.answer = b'{"leader":"alpha","revision":7}'
    process = run(lab, "alpha/controller")
    source = LabSource(lab)
    known = seen(source, "alpha").controller
    assert known is not None

    controller.answer = b""
    assert [seen(source, "alpha").controller for _ in range(2)] == [known, None]
    controller.answer = b'{"leader":"alpha","revision":7}'
    assert seen(source, "alpha").controller == known
    process.kill()
    assert seen(source, "alpha").controller is None


def test_loads_are_read_from_their_files_and_what_is_no_status_is_left_out(lab: Lab) -> None:
    (lab.directory / "one.alpha.live.json").write_bytes(msgspec.json.encode(LOAD))
    (lab.directory / "one.beta.live.json").write_bytes(b'{"caller":')
    (lab.directory / "two.delta.live.json").write_bytes(msgspec.json.encode(LOAD))

    assert LabSource(lab).loads("one", ["alpha", "beta", "delta"]) == (LOAD,)
