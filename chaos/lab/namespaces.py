"""A network of its own for each cluster: namespaces joined by a bridge in one more namespace. Needs root.

    alpha [eth0] ---- [alpha]
    beta  [eth0] ---- [beta ] wan: one bridge, where faults are made
    ...

The host's own network is not touched. Names carry the pid of the laboratory: `Namespaces` removes its own
on exit, and first those of laboratories that died before they could.
"""

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from chaos.lab.processes import LabError
from chaos.lab.topology import ClusterPlan

_PREFIX = "isthmus-lab"
_NAMES = re.compile(rf"{_PREFIX}-(\d+)-")
_FOLDER = Path("/run/netns")  # Where `ip netns` keeps them.
_WAN = "wan"
_CLONE_NEWNET = 0x40000000
_TIMEOUT_S = 20.0


class Namespaces:
    """The networks of a laboratory's clusters; a `Place` within its `with` block, one for each process."""

    def __init__(
        self, clusters: Sequence[ClusterPlan], *, ip: Path, nft: Path, prefix_bits: int = 16
    ) -> None:
        self._clusters = tuple(clusters)
        self._ip = ip
        self._nft = nft
        self._prefix_bits = prefix_bits

    def __enter__(self) -> Self:
        """Remove what the dead left, then make the bridge and every cluster's network."""
        remove_stale(self._ip)
        try:
            self._run(self._ip, "netns", "add", _name(_WAN))
            self._in_wan("link", "add", "br0", "type", "bridge")
            self._in_wan("link", "set", "br0", "up")
            for cluster in self._clusters:
                self._add(cluster)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """Remove them; what still ran inside keeps its network until it ends."""
        self._remove()

    # -- the place ---------------------------------------------------------------------------------

    def command(self, cluster: str, command: Sequence[str]) -> list[str]:
        """Return the command that enters the cluster's network and becomes `command`, under the same pid."""
        return ["nsenter", f"--net={_FOLDER / _name(cluster)}", "--", *command]

    @contextmanager
    def inside(self, cluster: str) -> Iterator[None]:
        """Move this thread, and no other, into the cluster's network for the block."""
        with Path("/proc/thread-self/ns/net").open("rb") as home:
            with (_FOLDER / _name(cluster)).open("rb") as there:
                _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    # -- faults ------------------------------------------------------------------------------------

    def cut_off(self, cluster: str) -> None:
        """From now on no frame passes between a cluster and the others; nobody is told (a blackhole)."""
        self._nft_in_wan(
            "add table bridge faults\n"
            "add chain bridge faults forward { type filter hook forward priority 0; policy accept; }\n"
            f'add rule bridge faults forward iifname "{cluster}" drop\n'
            f'add rule bridge faults forward oifname "{cluster}" drop\n'
        )

    def heal(self) -> None:
        """Every frame passes again."""
        self._nft_in_wan("delete table bridge faults\n")

    # -- making ------------------------------------------------------------------------------------

    def _add(self, cluster: ClusterPlan) -> None:
        name = _name(cluster.name)
        self._run(self._ip, "netns", "add", name)
        # Both ends are born inside: no interface of ours ever shows on the host.
        self._in_wan("link", "add", cluster.name, "type", "veth", "peer", "name", "eth0", "netns", name)
        self._in_wan("link", "set", cluster.name, "master", "br0", "up")
        for address in cluster.addresses:
            self._run(self._ip, "-n", name, "addr", "add", f"{address}/{self._prefix_bits}", "dev", "eth0")
        for link in ("lo", "eth0"):
            self._run(self._ip, "-n", name, "link", "set", link, "up")

    def _remove(self) -> None:
        for name in (*(cluster.name for cluster in self._clusters), _WAN):
            if (_FOLDER / _name(name)).exists():
                self._run(self._ip, "netns", "delete", _name(name))

    def _in_wan(self, *arguments: str) -> None:
        self._run(self._ip, "-n", _name(_WAN), *arguments)

    def _nft_in_wan(self, rules: str) -> None:
        command = self.command(_WAN, [str(self._nft), "-f", "-"])
        _run(command, rules)

    def _run(self, program: Path, *arguments: str) -> None:
        _run([str(program), *arguments])


def remove_stale(ip: Path) -> None:
    """Remove the namespaces of laboratories whose process is dead."""
    for name in _ours():
        match = _NAMES.match(name)
        assert match is not None
        # With our own pid: of somebody who had it before us.
        if int(match[1]) == os.getpid() or not Path(f"/proc/{match[1]}").exists():
            with suppress(LabError):  # Another laboratory may sweep at the same moment.
                _run([str(ip), "netns", "delete", name])


def _ours() -> list[str]:
    if not _FOLDER.is_dir():
        return []
    return [entry.name for entry in _FOLDER.iterdir() if _NAMES.match(entry.name)]


def _name(part: str) -> str:
    return f"{_PREFIX}-{os.getpid()}-{part}"


def _enter(descriptor: int) -> None:
    """setns(2) for this thread: `os.setns` came with Python 3.12."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise LabError(f"{' '.join(command)} exited {done.returncode}: {done.stderr.strip()}")


_libc = ctypes.CDLL(None, use_errno=True)
