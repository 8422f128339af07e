"""Network namespaces joined by a cable or a bridge, for tests that need rules, routes or a network of their own.

Needs root. The host's own network is not touched. A laboratory's networks are `chaos.lab.namespaces`: those have a
router, delays and a guardian, which a test of one host's rules would only pay for.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from chaos.lab import netns
from tests.support.tools import tool

_PREFIX = "isthmus-test"
_BRIDGE = "bridge"
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


class Star:
    """Networks around one bridge: each reaches each, but for what is cut."""

    def __init__(self, networks: Mapping[str, Network], addresses: Mapping[str, str]) -> None:
        self.networks = networks
        self._addresses = addresses

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """From now on no packet passes from the first to the second of each pair, and all others do; nobody is told."""
        sources: dict[str, list[str]] = {name: [] for name in self.networks}
        for source, destination in pairs:
            sources[destination].append(self._addresses[source])
        for name, network in self.networks.items():
            drop = f"ip saddr {{ {', '.join(sources[name])} }} drop;" if sources[name] else ""
            chain = f"chain input {{\ntype filter hook input priority -10;\n{drop}\n}}"
            done = network.run([tool("nft"), "-f", "-"], _replacing("cut", chain))
            assert done.returncode == 0, done.stderr


def _replacing(table: str, content: str) -> str:
    return f"table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n{content}\n}}\n"


@contextmanager
def star_of_networks(addresses: Mapping[str, str]) -> Iterator[Star]:
    """Make a network for each name with its IPv4 address, all of one /24, and a bridge; remove them at the end."""
    for pid in netns.dead_makers(_PREFIX):
        netns.remove_of(_PREFIX, pid)
    names = {name: f"{_PREFIX}-{os.getpid()}-{name}" for name in (*addresses, _BRIDGE)}
    bridge = names[_BRIDGE]
    try:
        for name in names.values():
            netns.ip("netns", "add", name)
        netns.ip_batch(bridge, "link add br0 type bridge", "link set br0 up")
        for number, (name, address) in enumerate(addresses.items()):
            netns.ip_batch(
                bridge,
                f"link add port{number} type veth peer name eth0 netns {names[name]}",
                f"link set port{number} master br0 up",
            )
            netns.ip_batch(
                names[name], f"address add {address}/24 dev eth0", "link set lo up", "link set eth0 up"
            )
        yield Star({name: Network(name=names[name]) for name in addresses}, addresses)
    finally:
        netns.remove_of(_PREFIX, str(os.getpid()))
