"""Partitions of every shape between five members, each a process with a network of its own. Needs root.

Packets vanish without a word, as between clusters whose link is lost: no connection is refused or reset. What all
callers saw, on whichever side, must be one linearizable history.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from pathlib import Path

import msgspec
import pytest

from consensus.core.contract import MemberAddress
from tests.integration.consensus.crash_loop import REPOSITORY, prepare
from tests.integration.consensus.history_process import Call, View
from tests.simulation.history import Operation
from tests.simulation.linearizable import check_versions, search
from tests.support.networks import Star, star_of_networks
from tests.support.processes import Process, ProcessSet
from tests.support.wait import eventually

pytestmark = pytest.mark.timeout(280)

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
ADDRESSES = {name: f"10.213.7.{number}" for number, name in enumerate(NAMES, start=1)}
MODULE = "tests.integration.consensus.history_process"
WAIT_S = 60.0
CALLS = 20  # That must succeed in each state of the network.

Pairs = list[tuple[str, str]]
Shape = Callable[[str, Sequence[str]], tuple[Pairs, Sequence[str]]]


def both_ways(left: Sequence[str], right: Sequence[str]) -> Pairs:
    return [pair for one in product(left, right) for pair in (one, one[::-1])]


def symmetric(leader: str, others: Sequence[str]) -> tuple[Pairs, Sequence[str]]:
    """The leader and one follower on one side."""
    return both_ways((leader, others[0]), others[1:]), others[1:]


def leader_not_heard(leader: str, others: Sequence[str]) -> tuple[Pairs, Sequence[str]]:
    """What the leader sends is lost; it hears everybody."""
    return [(leader, other) for other in others], others


def leader_hears_nobody(leader: str, others: Sequence[str]) -> tuple[Pairs, Sequence[str]]:
    """What is sent to the leader is lost; everybody hears it."""
    return [(other, leader) for other in others], others


def ring(leader: str, others: Sequence[str]) -> tuple[Pairs, Sequence[str]]:
    """Each reaches its two neighbours only: the leader and they are a majority."""
    circle = (leader, *others)
    near = {(circle[at], circle[at - 1]) for at in range(len(circle))}
    near |= {pair[::-1] for pair in near}
    return [pair for pair in permutations(circle, 2) if pair not in near], (leader, others[0], others[-1])


def bridge(leader: str, others: Sequence[str]) -> tuple[Pairs, Sequence[str]]:
    """Two halves that do not reach each other, and one member that reaches both."""
    left, right = (leader, others[0]), others[2:]
    return both_ways(left, right), (leader, others[0], others[1])


SHAPES: tuple[Shape, ...] = (symmetric, leader_not_heard, leader_hears_nobody, ring, bridge)


class Group:
    """Five processes that write and read without pause."""

    def __init__(self, directory: Path, star: Star, processes: ProcessSet) -> None:
        self.star = star
        self.addresses = {
            name: MemberAddress(
                id=name,
                address=f"{ADDRESSES[name]}:7400",
                identity=f"spiffe://{name}.test/isthmus/{name}/controller/1",
            )
            for name in NAMES
        }
        self._directory = directory
        prepare(directory, self.addresses)
        self._running: dict[str, Process] = {}
        everybody = msgspec.json.encode(list(self.addresses.values())).decode()
        for name in NAMES:
            command = [sys.executable, "-m", MODULE, directory, name, everybody]
            self._running[name] = processes.start(name, star.networks[name].command(command), cwd=REPOSITORY)

    def view(self, name: str) -> View | None:
        path = self._directory / f"{name}.status"
        return msgspec.json.decode(path.read_bytes(), type=View) if path.exists() else None

    def leader(self) -> str | None:
        """Return the one that all take for the leader."""
        leaders = {view.leader if (view := self.view(name)) else None for name in NAMES}
        return leaders.pop() if len(leaders) == 1 else None

    def calls(self, name: str) -> list[Call]:
        path = self._directory / f"{name}.history"
        if not path.exists():
            return []
        # The last line may be cut by the end of its process.
        lines = path.read_bytes().split(b"\n")[:-1]
        newest = {call.id: call for call in (msgspec.json.decode(line, type=Call) for line in lines)}
        return list(newest.values())

    def wait_for_calls(self, names: Sequence[str]) -> None:
        """Return when callers of each of these have succeeded with more calls that began after now."""
        before = {name: {call.id for call in self.calls(name)} for name in names}

        def enough() -> bool:
            for process in self._running.values():
                process.check_running()
            return all(
                sum(call.type == "ok" and call.id not in before[name] for call in self.calls(name)) >= CALLS
                for name in names
            )

        eventually(
            enough, timeout_s=WAIT_S, interval_s=0.2, message=lambda: f"calls succeed: {self.describe()}"
        )

    def describe(self) -> str:
        return "\n".join(f"{name}: {self.view(name)}" for name in NAMES)

    def end(self) -> list[Operation]:
        """Kill everybody and return the history."""
        for process in self._running.values():
            process.kill()
        return [call.operation() for name in NAMES for call in self.calls(name)]


@pytest.fixture
def group(tmp_path: Path, processes: ProcessSet) -> Iterator[Group]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with star_of_networks(ADDRESSES) as star:
        yield Group(tmp_path, star, processes)


def test_partitions_of_every_shape_leave_one_linearizable_history(group: Group) -> None:
    group.wait_for_calls(NAMES)
    for shape in SHAPES:
        leader = eventually(group.leader, timeout_s=WAIT_S, message=group.describe)
        pairs, served = shape(leader, [name for name in NAMES if name != leader])
        group.star.cut(pairs)
        group.wait_for_calls(served)
        group.star.cut([])
        group.wait_for_calls(NAMES)
    history = group.end()
    assert check_versions(history) == []
    assert search(history) is not False
    assert len({operation.version for operation in history if operation.f == "write"}) > len(SHAPES) * CALLS
