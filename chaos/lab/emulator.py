"""Delay, jitter and loss between the clusters of a laboratory, where the kernel has no netem.

    python -m chaos.lab.emulator QUEUES < CHANGES > ANSWERS

Runs in the network namespace that routes, where iptables gives packets to queue numbers 0 to QUEUES - 1, one for each
direction of each pair of clusters. Reads changes, one JSON line each, and answers each with a line when it
holds. Ends when its input does, and so with the laboratory; packets then pass undelayed.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random

import msgspec

from chaos.lab.links import Link, Links
from chaos.lab.nfqueue import PacketQueues
from chaos.lab.processes import STOP_TIMEOUT_S, LabError

READY = b"ready\n"
_ANSWER = b"done\n"
_ANSWER_TIMEOUT_S = 20.0
_CHANGE_BYTES_MAX = 4096
_NICENESS = -10  # A packet late by a scheduler's turn is a wrong delay.


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """From now on the link with this queue is like this."""

    queue: int
    link: Link


class Emulator:
    """The laboratory's end: the process, from `start` to `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it by `command`, in a group of its own, out of reach of Ctrl-C; wait until it holds the queues."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            process_group=0,
            bufsize=0,
        )
        self._expect(READY)

    @property
    def pid(self) -> int:
        """Its process id; LabError when it was not started."""
        return self._running().pid

    def change(self, queue: int, link: Link) -> None:
        """Return when the link is like this; raises LabError when the emulator has ended."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(Change(queue=queue, link=link)) + b"\n")
        except BrokenPipeError as error:
            raise LabError(f"the emulator has ended with status {process.wait(STOP_TIMEOUT_S)}") from error
        self._expect(_ANSWER)

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        process.stdout.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise LabError("the emulator was not started")
        return self._process

    def _expect(self, answer: bytes) -> None:
        """Read one answer; raises LabError when another one comes, or none."""
        process = self._running()
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _ANSWER_TIMEOUT_S)
        got = process.stdout.read(len(answer)) if readable else b""
        if got != answer:
            raise LabError(f"the emulator said {got!r}, expected {answer!r} within {_ANSWER_TIMEOUT_S:g} s")


class _Changes:
    """The emulator's end of its input."""

    def __init__(self) -> None:
        self._text = b""

    def read(self) -> list[Change] | None:
        """Return the whole changes that have come, None at the end of the input; raises ValueError."""
        piece = os.read(sys.stdin.fileno(), _CHANGE_BYTES_MAX)
        if not piece:
            return None
        *lines, self._text = (self._text + piece).split(b"\n")
        if len(self._text) > _CHANGE_BYTES_MAX:
            raise ValueError(f"a change is longer than {_CHANGE_BYTES_MAX} bytes")
        return [msgspec.json.decode(line, type=Change) for line in lines]


def _emulate(queues: PacketQueues, links: Links) -> None:
    """Delay and lose packets until the input ends."""
    changes = _Changes()
    while True:
        due_s = links.next_due_s()
        wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
        readable, _, _ = select.select([queues, sys.stdin], [], [], wait_s)
        if queues in readable:
            now_s = time.monotonic()
            for queue, packet in queues.receive():
                if not links.take(queue, packet, now_s):
                    queues.drop(queue, packet)
        for held in links.release(time.monotonic()):
            queues.accept(held.queue, held.packet)
        if sys.stdin in readable:
            came = changes.read()
            if came is None:
                break
            for change in came:
                links.change(change.queue, change.link)
                _say(_ANSWER)
    for held in links.release(float("inf")):
        queues.accept(held.queue, held.packet)


def _say(answer: bytes) -> None:
    os.write(sys.stdout.fileno(), answer)


def main() -> None:
    """Emulate."""
    count = int(sys.argv[1])
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    with PacketQueues(count) as queues:
        _say(READY)
        _emulate(queues, Links(count, Random()))


if __name__ == "__main__":
    main()
