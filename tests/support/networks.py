"""Two network namespaces joined by a cable, for tests that need rules, routes or a network of their own.

Needs root. The host's own network is not touched. Names carry the pid of the test's process: what a killed
one left is removed by the next.
"""

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.support.tools import tool

_FOLDER = Path("/run/netns")  # Where `ip netns` keeps them.
_PREFIX = "isthmus-test"
_NAMES = re.compile(rf"{_PREFIX}-(\d+)-\w+")
_CLONE_NEWNET = 0x40000000
_TIMEOUT_S = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """One network namespace. Its addresses are all of one /24, the same as its peer's."""

    name: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread, and no other, into it for the block: sockets opened there stay there."""
        with Path("/proc/thread-self/ns/net").open("rb") as home:
            with (_FOLDER / self.name).open("rb") as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return the command that enters it and becomes `command`, under the same pid."""
        return ["nsenter", f"--net={_FOLDER / self.name}", "--", *map(str, command)]

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
    _remove_stale()
    networks = tuple(Network(name=f"{_PREFIX}-{os.getpid()}-{side}") for side in ("left", "right"))
    names = [network.name for network in networks]
    try:
        for name in names:
            _ip("netns", "add", name)
        # Both ends are born inside: no interface of ours ever shows on the host.
        _ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, addresses in zip(names, (left, right), strict=True):
            for address in addresses:
                _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                _ip("-n", name, "link", "set", link, "up")
        yield networks[0], networks[1]
    finally:
        for name in names:
            if (_FOLDER / name).exists():
                _ip("netns", "delete", name)


def _remove_stale() -> None:
    for entry in list(_FOLDER.iterdir()) if _FOLDER.is_dir() else []:
        match = _NAMES.fullmatch(entry.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _ip("netns", "delete", entry.name)


def _ip(*arguments: str) -> None:
    subprocess.run([tool("ip"), *arguments], check=True, capture_output=True, timeout=_TIMEOUT_S)


def _enter(descriptor: int) -> None:
    """setns(2) for this thread: `os.setns` came with Python 3.12."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
