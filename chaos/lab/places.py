"""Where the clusters of a laboratory live: on loopback (`Loopback`), or in `chaos.lab.namespaces`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Place(Protocol):
    """How to run something in a cluster's network, and how to ask it from there."""

    def command(self, cluster: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` in the network of `cluster`."""
        ...

    def inside(self, cluster: str) -> AbstractContextManager[None]:
        """Sockets that this thread opens within the block are in the network of `cluster`."""
        ...


class Loopback:
    """All clusters share this host's loopback interface, each with addresses of its own; needs no root."""

    def command(self, _cluster: str, command: Sequence[str]) -> list[str]:
        """As it is."""
        return list(command)

    def inside(self, _cluster: str) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()
