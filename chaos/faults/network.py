"""Faults of the way between clusters: silence, one-sided silence, a link that comes and goes, a slow link.

They need the networks of `chaos.lab.namespaces`. What is dropped is dropped without a word: no reset, no
unreachable host. Blocks may overlap; each undoes its own.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from msgspec import Struct

from chaos.lab.links import Link
from chaos.lab.namespaces import Namespaces
from chaos.lab.processes import STOP_TIMEOUT_S, LabError


def cut_off(networks: Namespaces, cluster: str) -> AbstractContextManager[None]:
    """Within the block no packet passes between a cluster and the others."""
    others = [other for other in networks.clusters if other != cluster]
    pairs = [(cluster, other) for other in others]
    return networks.dropping([*pairs, *((other, cluster) for other in others)])


def one_way(networks: Namespaces, source: str, destination: str) -> AbstractContextManager[None]:
    """Within the block no packet passes from `source` to `destination`; the other way is open."""
    return networks.dropping([(source, destination)])


class Flaps(Struct):
    """How often a flapping link has gone down."""

    count: int = 0


@contextmanager
def flapping(networks: Namespaces, cluster: str, up_s: float, down_s: float) -> Iterator[Flaps]:
    """Within the block a cluster is cut off for `down_s`, connected for `up_s`, and so on; connected afterwards.

    Raises LabError at the end if the link could not be changed meanwhile.
    """
    flaps = Flaps()
    stop = threading.Event()
    problems: list[Exception] = []

    def flap() -> None:
        try:
            while not stop.is_set():
                with cut_off(networks, cluster):
                    flaps.count += 1
                    stop.wait(down_s)
                stop.wait(up_s)
        except (LabError, OSError) as error:
            problems.append(error)

    thread = threading.Thread(target=flap, name=f"flapping-{cluster}", daemon=True)
    thread.start()
    try:
        yield flaps
    finally:
        stop.set()
        thread.join(STOP_TIMEOUT_S)
    if problems or thread.is_alive():
        raise LabError(f"the link of {cluster} flapped {flaps.count} times, then failed: {problems}")


@contextmanager
def slow(
    networks: Namespaces, a: str, b: str, delay_ms: float, jitter_ms: float = 0.0, loss: float = 0.0
) -> Iterator[None]:
    """Within the block the way between two clusters has this delay each way, and loses this share of packets."""
    link = Link(delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss)
    ways = ((a, b), (b, a))
    try:
        for way in ways:
            networks.change(*way, link)
        yield
    finally:
        for way in ways:
            networks.change(*way, networks.link(*way))
