"""A fault of processes is made for all of them, with what they started, and is undone whatever happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.faults.processes import killed, stopped
from chaos.lab.federation import Lab
from chaos.lab.processes import LabProcess, family, stopped_all
from tests.support.wait import eventually

# Each starts another process, in a session of its own: no signal to a group reaches that one.
PARENT = "setsid sleep 600 & echo up; wait"
NAMES = ("alpha/one", "alpha/two")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab((), tmp_path, print)
    with lab:
        for name in NAMES:
            lab.run(name, "alpha", ["sh", "-c", PARENT])
        eventually(lambda: len(alive(lab)) == 2 * len(NAMES), timeout_s=60, message="all run")
        yield lab


def alive(lab: Lab) -> list[int]:
    return family(lab.processes.values())


def test_what_is_stopped_is_whole_and_goes_on_afterwards(lab: Lab) -> None:
    everybody = alive(lab)
    with stopped(lab, NAMES):
        assert stopped_all(everybody)
        assert alive(lab) == everybody
    eventually(lambda: not any(stopped_all([pid]) for pid in everybody), timeout_s=60, message="all go on")


def test_only_the_named_are_stopped(lab: Lab) -> None:
    with stopped(lab, NAMES[:1]):
        assert stopped_all(family([lab.processes[NAMES[0]]]))
        assert not stopped_all(family([lab.processes[NAMES[1]]]))


def test_a_failure_within_the_block_undoes_it_too(lab: Lab) -> None:
    everybody = alive(lab)
    with pytest.raises(ZeroDivisionError), stopped(lab, NAMES):
        1 / 0  # noqa: B018
    assert not stopped_all(everybody)
    with pytest.raises(ZeroDivisionError), killed(lab, NAMES):
        1 / 0  # noqa: B018
    assert all(process.running() for process in lab.processes.values())


def test_what_is_killed_is_gone_with_all_that_it_started_and_runs_again_afterwards(lab: Lab) -> None:
    before = set(alive(lab))
    with killed(lab, NAMES):
        assert not alive(lab)
    eventually(lambda: len(alive(lab)) == 2 * len(NAMES), timeout_s=60, message="all run again")
    assert before.isdisjoint(alive(lab))


def test_what_was_started_within_the_block_is_left_alone(lab: Lab) -> None:
    one: LabProcess = lab.processes[NAMES[0]]
    with killed(lab, NAMES):
        one.start()
        pid = one.pid
    assert one.pid == pid
    assert one.running()


def test_a_name_that_the_laboratory_lacks_is_refused_before_anything_is_done(lab: Lab) -> None:
    with pytest.raises(KeyError, match="nobody"), killed(lab, [NAMES[0], "alpha/nobody"]):
        raise AssertionError("never entered")
    assert lab.processes[NAMES[0]].running()
