"""A wide-area network: a network namespace for each cluster, and one that routes between them. Needs root.

    alpha [eth0] ---- [alpha]
    beta  [eth0] ---- [beta ] wan: routes, delays (`chaos.lab.emulator`), and drops where a fault is made
    ...

The host's own network and files are not touched. Names carry the pid of the laboratory. A guardian removes everything
when the laboratory ends, however that happens.
"""

import ipaddress
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from chaos.lab import netns, regions
from chaos.lab.emulator import Emulator
from chaos.lab.guardian import Guardian, environment_of
from chaos.lab.links import Link
from chaos.lab.netns import NAMESPACES
from chaos.lab.processes import LabError
from chaos.lab.tools import tool
from chaos.lab.topology import API_PORT, CONTROL_PORT, RAFT_PORT, ClusterPlan

PREFIX = "isthmus-lab"
_RUN = Path("/run")
_WAN = "wan"
_COUNTS = "attempts"
_PROGRAMS = ("ip", "nft", "iptables-nft", "nsenter", "unshare", "mount", "sh")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")  # Of the network namespace of who writes.
_NAME_SOURCES = Path("/etc/nsswitch.conf")
_RESOLVER_OPTIONS = "options timeout:1 attempts:2\n"

# Binds files over those of the same name under /etc, in a mount namespace of its own, and becomes the command.
_BIND = 'for f in "$1"/*; do mount --bind "$f" "/etc/${f##*/}" || exit 126; done; shift; exec "$@"'


class Namespaces:
    """The networks of a laboratory's clusters; a `Place` within its `with` block, one for each process."""

    def __init__(self, clusters: Sequence[ClusterPlan]) -> None:
        self._clusters = {cluster.name: cluster for cluster in clusters}
        self._queues = {pair: queue for queue, pair in enumerate(itertools.permutations(self._clusters, 2))}
        self._files = _RUN / _name()
        self._guardian = Guardian(
            self._files, namespaces=[_name(part) for part in (*self._clusters, _WAN)], files=True
        )
        self._emulator = Emulator()
        self._faults = itertools.count(1)

    def __enter__(self) -> Self:
        """Remove what the dead left, then make every cluster's network and the way between them."""
        problem = why_not()
        if problem:
            raise LabError(problem)
        remove_stale()
        _remove(str(os.getpid()))  # Of a laboratory that had our pid: a process has one at a time.
        self._guardian.start()
        try:
            self._make()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """Remove them; what still ran inside keeps its network until it ends."""
        self._close()

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters that have a network here."""
        return tuple(self._clusters)

    # -- the place ---------------------------------------------------------------------------------

    def command(self, cluster: str, command: Sequence[str]) -> list[str]:
        """Return the command that enters the cluster's network and becomes `command`, under the same pid.

        It has a mount namespace of its own, in which names are resolved by the cluster's DNS.
        """
        return _in_network(cluster, [*_with_files(self._files / cluster), *command])

    def inside(self, cluster: str) -> AbstractContextManager[None]:
        """Move this thread, and no other, into the cluster's network for the block."""
        return netns.inside(_name(cluster))

    # -- what faults are made of -------------------------------------------------------------------

    @contextmanager
    def dropping(self, pairs: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Within the block no packet passes from the first to the second of each pair; nobody is told.

        Blocks may overlap: a packet passes when no block drops it. LabError for a cluster that there is not.
        """
        for pair in pairs:
            self._queue(pair)
        table = f"fault{next(self._faults)}"
        rules = [f'iifname "{source}" oifname "{destination}" drop' for source, destination in pairs]
        # Before the packet queues: what is lost anyhow need not be delayed.
        self._nft(_table(table, -10, rules))
        try:
            yield
        finally:
            self._nft(f"delete table inet {table}\n")

    def attempts(self) -> int:
        """Return how many connections between control planes of clusters were tried so far, repeats included."""
        listed = netns.run(_in_network(_WAN, [tool("nft"), "list", "table", "inet", _COUNTS]))
        return sum(int(count) for count in re.findall(r"packets (\d+)", listed))

    def link(self, source: str, destination: str) -> Link:
        """Return what the way from one cluster to another usually is."""
        return regions.link(self._clusters[source].region, self._clusters[destination].region)

    def change(self, source: str, destination: str, link: Link) -> None:
        """From now on the way from one cluster to another is like this. LabError for a cluster that there is not."""
        self._emulator.change(self._queue((source, destination)), link)

    def _queue(self, pair: tuple[str, str]) -> int:
        if pair not in self._queues:
            raise LabError(f"no way from {pair[0]} to {pair[1]}, expected two of {', '.join(self._clusters)}")
        return self._queues[pair]

    def _nft(self, rules: str) -> None:
        netns.run(_in_network(_WAN, [tool("nft"), "-f", "-"]), rules)

    # -- making ------------------------------------------------------------------------------------

    def _make(self) -> None:
        netns.ip("netns", "add", _name(_WAN))
        with self.inside(_WAN):
            _FORWARD.write_text("1")
        for cluster in self._clusters.values():
            self._add(cluster)
            self._write_files(cluster)
        ports = ", ".join(map(str, (RAFT_PORT, CONTROL_PORT, API_PORT)))
        rule = f"tcp dport {{ {ports} }} tcp flags & (syn | ack) == syn counter"
        self._nft(_table(_COUNTS, -20, [rule]))
        command = [sys.executable, "-m", "chaos.lab.emulator", str(len(self._queues))]
        self._emulator.start(_in_network(_WAN, command), environment_of(self._files))
        for (source, destination), queue in self._queues.items():
            self.change(source, destination, self.link(source, destination))
            self._give_to_queue(source, destination, queue)

    def _add(self, cluster: ClusterPlan) -> None:
        """Make a cluster's network. Both ends of its cable are born inside: none ever shows on the host."""
        network = ipaddress.ip_network(cluster.cidr)
        router = network[-2]
        netns.ip("netns", "add", _name(cluster.name))
        netns.ip_batch(
            _name(_WAN),
            f"link add {cluster.name} type veth peer name eth0 netns {_name(cluster.name)}",
            f"addr add {router}/{network.prefixlen} dev {cluster.name}",
            f"link set {cluster.name} up",
        )
        netns.ip_batch(
            _name(cluster.name),
            *(f"addr add {one}/{network.prefixlen} dev eth0" for one in dict.fromkeys(cluster.addresses)),
            "link set lo up",
            "link set eth0 up",
            f"route add default via {router}",
        )

    def _write_files(self, cluster: ClusterPlan) -> None:
        """What the cluster's programs see under /etc: its own DNS first, then another cluster's."""
        folder = self._files / cluster.name
        folder.mkdir(parents=True)
        others = [one for one in self._clusters.values() if one.dns and one.name != cluster.name]
        others.sort(key=lambda one: regions.round_trip_ms(cluster.region, one.region))
        asked = [address for address in (cluster.dns, *(one.dns for one in others[:1])) if address]
        lines = "".join(f"nameserver {address}\n" for address in asked)
        (folder / "resolv.conf").write_text(lines + _RESOLVER_OPTIONS)
        if _NAME_SOURCES.exists():
            # Not the host's own resolver, which may be asked over a Unix socket.
            hosts = re.sub(r"(?m)^hosts:.*$", "hosts: files dns", _NAME_SOURCES.read_text())
            (folder / _NAME_SOURCES.name).write_text(hosts)
        for file in folder.iterdir():
            file.chmod(0o644)  # For programs of every user, whatever our umask is.

    def _give_to_queue(self, source: str, destination: str, queue: int) -> None:
        """Have the emulator decide about packets; they pass when it is gone (--queue-bypass)."""
        rule = ["-A", "FORWARD", "-i", source, "-o", destination]
        target = ["-j", "NFQUEUE", "--queue-num", str(queue), "--queue-bypass"]
        netns.run(_in_network(_WAN, [tool("iptables-nft"), *rule, *target]))

    def _close(self) -> None:
        self._emulator.close()
        self._guardian.close()
        _remove(str(os.getpid()))  # Nothing, unless the guardian was killed.


def why_not() -> str:
    """Say why networks cannot be made here, or return an empty text."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        for program in _PROGRAMS:
            tool(program)
    except LabError as error:
        return str(error)
    return (
        "" if Path("/etc/resolv.conf").exists() else "no /etc/resolv.conf, expected one to put another over"
    )


def remove_stale() -> None:
    """Remove what laboratories left whose process and guardian are dead."""
    for pid in netns.dead_makers(PREFIX, (NAMESPACES, _RUN)):
        _remove(pid)


def _remove(pid: str) -> None:
    """Remove the namespaces and files of the laboratory that has or had this pid."""
    netns.remove_of(PREFIX, pid)
    shutil.rmtree(_RUN / f"{PREFIX}-{pid}", ignore_errors=True)


def _name(part: str = "") -> str:
    return f"{PREFIX}-{os.getpid()}" + (f"-{part}" if part else "")


def _in_network(part: str, command: Sequence[str | Path]) -> list[str]:
    return netns.command_in(_name(part), command)


def _with_files(folder: Path) -> list[str]:
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", _BIND, "sh", str(folder)]


def _table(name: str, priority: int, rules: Sequence[str]) -> str:
    """Return the table that has these rules for packets between clusters; the lowest priority sees them first."""
    hook = f"type filter hook forward priority {priority}; policy accept;"
    return "\n".join((f"table inet {name} {{", "chain forward {", hook, *rules, "}", "}\n"))
