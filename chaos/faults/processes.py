"""Processes that die or freeze, and what undoes it."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from chaos.lab.federation import Lab
from chaos.lab.processes import STOP_TIMEOUT_S, LabProcess, family, signal_all, stopped_all, wait_until


@contextmanager
def killed(lab: Lab, names: Iterable[str]) -> Iterator[None]:
    """`kill -9` of these and all that they started, at one moment; on exit those that do not run start again.

    `names` are the laboratory's, such as `alpha/gateway`. A restart is not waited for: `Lab.wait_recovered` is.
    """
    victims = _named(lab, names)
    try:
        signal_all(victims, signal.SIGKILL)
        for victim in victims:
            victim.kill()  # Waits until nothing of it is left.
        yield
    finally:
        for victim in victims:
            if not victim.running():
                victim.start()


@contextmanager
def stopped(lab: Lab, names: Iterable[str]) -> Iterator[None]:
    """SIGSTOP of these and all that they started, their Envoys too; SIGCONT on exit.

    What is stopped closes nothing: its connections stay open and silent, as behind a link that drops packets.
    """
    victims = _named(lab, names)
    try:
        # Again until all are seen stopped: one may have started another during the sweep.
        wait_until(lambda: _stop(victims), f"{_list(victims)} stop", STOP_TIMEOUT_S)
        yield
    finally:
        signal_all(victims, signal.SIGCONT)


def _stop(victims: list[LabProcess]) -> bool:
    signal_all(victims, signal.SIGSTOP)
    return stopped_all(family(victims))


def _named(lab: Lab, names: Iterable[str]) -> list[LabProcess]:
    return [lab.processes[name] for name in names]


def _list(processes: list[LabProcess]) -> str:
    return ", ".join(process.name for process in processes)
