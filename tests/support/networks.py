"""Two network namespaces joined by a cable, for tests that need rules, routes or a network of their own.

Needs root. The host's own network is not touched. A laboratory's networks are `chaos.lab.namespaces`: those have a
router, delays and a guardian, which a test of one host's rules would only pay for.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from chaos.lab import netns

_PREFIX = "isthmus-test"
_TIMEOUT_S = 20.0


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One network namespace. Its addresses are all of one /24, the same as its peer's."""

    name: str

    def inside(self) -> AbstractContextManager[None]:
        """Move this thread, and no other, into it for the block: sockets opened there stay there."""
        return netns.inside(self.name)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return the command that enters it and becomes `command`, under the same pid."""
        return netns.command_in(self.name, command)

    def run(self, command: Sequence[str | Path], text: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command in it to its end."""
        return subprocess.run(
            self.command(command),
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )


@contextmanager
def joined_networks(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[Network, Network]]:
    """Make two networks with these IPv4 addresses, which reach each other; remove them at the end."""
    for pid in netns.dead_makers(_PREFIX):
        netns.remove_of(_PREFIX, pid)
    networks = tuple(Network(name=f"{_PREFIX}-{os.getpid()}-{side}") for side in ("left", "right"))
    names = [network.name for network in networks]
    try:
        for name in names:
            netns.ip("netns", "add", name)
        # Both ends are born inside: no interface of ours ever shows on the host.
        netns.ip_batch(names[0], f"link add eth0 type veth peer name eth0 netns {names[1]}")
        for name, addresses in zip(names, (left, right), strict=True):
            netns.ip_batch(
                name,
                *(f"address add {address}/24 dev eth0" for address in addresses),
                "link set lo up",
                "link set eth0 up",
            )
        yield networks[0], networks[1]
    finally:
        netns.remove_of(_PREFIX, str(os.getpid()))
