"""Logs and metrics of a process: structlog lines on stderr, and a plain HTTP port for Prometheus and probes."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from structlog.typing import Processor

from federation.api.accepting import METRICS_CONNECTIONS_MAX, listen_on, serve_http
from federation.kernel.configfile import host_port
from federation.kernel.errors import InvalidInputError, PreconditionError

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

REPEATED_AFTER_S = 10.0
LINES_REMEMBERED_MAX = 100

# What the ready function says beside yes or no, shown as JSON.
Facts = Mapping[str, object]


def set_up_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Send our log, and what libraries log, to `stream` (stderr): one JSON object a line, or for people on a terminal.

    Raises `InvalidInputError` for an unknown level.
    """
    number = LEVELS.get(level)
    if number is None:
        raise InvalidInputError(f"log: {level!r} is not a level: expected one of {', '.join(LEVELS)}")
    output = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if output.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # Loggers of modules exist before a process knows its level.
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)
    loop_log = logging.getLogger("asyncio")
    for one in [one for one in loop_log.filters if isinstance(one, OnceInAWhile)]:
        loop_log.removeFilter(one)
    loop_log.addFilter(OnceInAWhile())


class OnceInAWhile(logging.Filter):
    """Lets equal lines of a library pass once in REPEATED_AFTER_S, with how many came meanwhile.

    While no file descriptor is left, Python 3.11's loop says so a hundred times a second for each listener, each with a
    traceback: whoever opens connections could fill the disk.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}  # First line: when it passed, how many did not since.

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        line, now_s = record.getMessage().partition("\n")[0], self._clock()
        passed_s, held = self._said.get(line, (-REPEATED_AFTER_S, 0))
        if now_s - passed_s < REPEATED_AFTER_S:
            self._said[line] = (passed_s, held + 1)
            return False
        if len(self._said) >= LINES_REMEMBERED_MAX:
            self._said.clear()
        self._said[line] = (now_s, 0)
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} times more)", ()
        return True


def _to_json(value: object, **_options: object) -> str:
    """Render a line; what JSON cannot say is shown as its text, since a log line must never raise."""
    return msgspec.json.encode(value, enc_hook=repr).decode()


class MetricsEndpoint:
    """Serves /metrics, /livez and /readyz on `address` (host:port); `run` ends by cancellation.

    `ready` returns whether the process can do its work, and the reasons. /livez says only that the
    event loop turns.
    """

    def __init__(
        self, address: str, registry: CollectorRegistry, ready: Callable[[], tuple[bool, Facts]]
    ) -> None:
        self.ready = asyncio.Event()
        self._address = address
        self._registry = registry
        self._ready = ready

    async def run(self) -> None:
        """Serve; raises `PreconditionError` when the address cannot be listened on."""
        try:
            host, port = host_port(self._address, "metrics")
        except ValueError as error:
            raise InvalidInputError(str(error)) from error
        application = web.Application(client_max_size=1024)  # Nobody has to send us anything.
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            try:
                listener = listen_on(host, port)
            except OSError as error:
                raise PreconditionError(
                    f"metrics: {self._address} cannot be listened on: {error.strerror}:"
                    " stop what listens there, or choose another address"
                ) from error
            self.ready.set()
            assert runner.server is not None, "it is set up"
            await serve_http(listener, runner.server, connections_max=METRICS_CONNECTIONS_MAX)
        finally:
            await runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, facts = self._ready()
        return web.Response(
            body=msgspec.json.encode({"ready": ready, **facts}, enc_hook=repr),
            status=200 if ready else 503,
            content_type="application/json",
        )
