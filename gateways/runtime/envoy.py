"""Runs one Envoy: start, watch, restart, drain, stop, and find again after the agent's own restart.

An Envoy outlives an agent that is killed, because traffic must (invariant F1). The next agent finds it by
its pid file and keeps it if it would start the very same one, otherwise it replaces it: a second Envoy
could not bind the first one's ports.
"""

import asyncio
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import structlog

from federation.kernel.codec import MALFORMED
from federation.kernel.errors import IsthmusError
from gateways.runtime.admin import EnvoyAdmin
from gateways.runtime.bootstrap import EnvoySettings, bootstrap, packaged_envoy

READY_POLL_S = 0.05
STOP_TIMEOUT_S = 5.0
BACKOFF_S = 0.2
BACKOFF_MAX_S = 10.0
# One that ran this long did not die of its configuration: restart it at once.
RUN_GOOD_S = 10.0
LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_TAIL_BYTES = 4 * 1024

EnvoyState: TypeAlias = Literal["stopped", "starting", "ready", "draining", "waiting"]

_log = structlog.get_logger(__name__)


class EnvoyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the Envoy does, for people."""

    state: EnvoyState
    pid: int | None
    restarts: int
    last_error: str


class _PidFile(msgspec.Struct, frozen=True, kw_only=True):
    """Which process it is (a pid alone may have been given to another) and what it was started from."""

    pid: int
    start_ticks: int
    bootstrap: str


class EnvoySupervisor:
    """Keeps one Envoy running. `run` blocks until cancelled and then stops it; `ready` is set while it is."""

    def __init__(self, settings: EnvoySettings) -> None:
        self._settings = settings
        self.admin = EnvoyAdmin(settings.admin_socket)
        self.ready = asyncio.Event()
        self._state: EnvoyState = "stopped"
        self._process: _EnvoyProcess | None = None
        self._restarts = 0
        self._last_error = ""

    @property
    def status(self) -> EnvoyStatus:
        """How it does now."""
        return EnvoyStatus(
            state=self._state,
            pid=self._process.pid if self._process else None,
            restarts=self._restarts,
            last_error=self._last_error,
        )

    async def run(self) -> None:
        """Start it, or take over the running one, and start it again whenever it ends."""
        self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        pause_s = BACKOFF_S
        try:
            while True:
                began_s = loop.time()
                await self._run_once()
                pause_s = BACKOFF_S if loop.time() - began_s > RUN_GOOD_S else min(pause_s * 2, BACKOFF_MAX_S)
                self._state = "waiting"
                self._restarts += 1
                await asyncio.sleep(pause_s)
        finally:
            self.ready.clear()
            await self._stop()

    async def drain(self) -> None:
        """Let running requests end: listeners close within `drain_s`; call it before cancelling `run`."""
        if self._process is None:
            return
        self._state = "draining"
        # Health checks fail from now on, so that callers go elsewhere before connections close.
        await self.admin.post("/healthcheck/fail")
        await self.admin.post("/drain_listeners?graceful&skip_exit")
        await asyncio.sleep(self._settings.drain_s)

    async def _run_once(self) -> None:
        """Run until the Envoy ends; never raises for what it does."""
        try:
            # Off the loop is only what may take long and leaves nothing behind when it is cancelled.
            survivor = await asyncio.to_thread(_find_survivor, self._settings)
            self._process = survivor or _start(self._settings)
        except (OSError, IsthmusError) as error:
            self._last_error = f"envoy does not start: {error}"
            _log.error("envoy does not start", proxy=self._settings.proxy.id, reason=str(error))
            return
        self._state = "starting"
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_ready(), name="envoy-ready")
            await self._process.ended()
            watching.cancel()
        self.ready.clear()
        self._process.close()
        self._process = None
        self._last_error = _last_words(self._settings.folder / "envoy.log")
        _log.error("envoy ended", proxy=self._settings.proxy.id, reason=self._last_error)

    async def _watch_ready(self) -> None:
        while not await self.admin.ready():  # noqa: ASYNC110 - the one who knows is another process
            await asyncio.sleep(READY_POLL_S)
        if self._state == "starting":
            self._state = "ready"
        self.ready.set()
        _log.info("envoy ready", proxy=self._settings.proxy.id, pid=self.status.pid)

    async def _stop(self) -> None:
        process, self._process = self._process, None
        self._state = "stopped"
        if process is None:
            return
        try:
            process.send(signal.SIGTERM)
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.ended()
        except TimeoutError:
            process.send(signal.SIGKILL)
            await process.ended()
        finally:
            process.close()
            (self._settings.folder / "envoy.pid").unlink(missing_ok=True)


class _EnvoyProcess:
    """A running Envoy, our child or not, held by a pidfd: its pid cannot come to mean another process."""

    def __init__(self, pid: int, child: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self._child = child
        self._pidfd = os.pidfd_open(pid)

    async def ended(self) -> None:
        """Return when it has ended."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(self._pidfd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._pidfd)
        if self._child is not None:
            self._child.wait()

    def await_end(self, timeout_s: float) -> None:
        """Wait on a thread until it has ended, at most `timeout_s`."""
        select.select([self._pidfd], [], [], timeout_s)

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, signal_number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)


def _find_survivor(settings: EnvoySettings) -> _EnvoyProcess | None:
    """Return the Envoy that an earlier agent left, if it is what would be started; end it if it is not."""
    wanted = bootstrap(settings).decode()
    orphan = _find(settings.folder / "envoy.pid")
    if orphan is not None:
        if orphan.bootstrap == wanted:
            _log.info("envoy of an earlier agent taken over", proxy=settings.proxy.id, pid=orphan.pid)
            return _EnvoyProcess(orphan.pid, None)
        _log.info("envoy of an earlier agent replaced", proxy=settings.proxy.id, pid=orphan.pid)
        _end(orphan.pid)
    return None


def _start(settings: EnvoySettings) -> _EnvoyProcess:
    folder, configuration = settings.folder, bootstrap(settings).decode()
    settings.admin_socket.unlink(missing_ok=True)
    (folder / "envoy.json").write_text(configuration)
    log_path = folder / "envoy.log"
    if log_path.exists() and log_path.stat().st_size > LOG_BYTES_MAX:
        log_path.replace(folder / "envoy.log.1")
    command = [
        str(settings.binary or packaged_envoy()),
        "--config-path", str(folder / "envoy.json"),
        "--concurrency", str(settings.concurrency),
        "--drain-time-s", str(settings.drain_s),
        "--log-level", settings.log_level,
        # Without it each Envoy leaves shared memory behind.
        "--disable-hot-restart",
    ]  # fmt: skip
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, cwd=folder
        )
    content = _PidFile(pid=child.pid, start_ticks=_start_ticks(child.pid) or 0, bootstrap=configuration)
    (folder / "envoy.pid").write_bytes(msgspec.json.encode(content))
    return _EnvoyProcess(child.pid, child)


def _find(path: Path) -> _PidFile | None:
    """Return the Envoy that an earlier agent left running, if the pid still means the same process."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_PidFile)
    except (FileNotFoundError, *MALFORMED):
        return None
    return content if _start_ticks(content.pid) == content.start_ticks else None


def _end(pid: int) -> None:
    process = _EnvoyProcess(pid, None)
    try:
        process.send(signal.SIGKILL)
        process.await_end(STOP_TIMEOUT_S)
    finally:
        process.close()


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), field 22); None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces; the state is field 3.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def _last_words(log_path: Path) -> str:
    """The last error or warning line that the Envoy wrote."""
    with log_path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    serious = [line for line in lines if "[critical]" in line or "[error]" in line]
    return (serious or lines or ["it left no word in its log"])[-1].strip()
