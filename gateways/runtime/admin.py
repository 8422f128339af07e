"""Envoy's admin interface over its Unix socket."""

import asyncio
from pathlib import Path

import aiohttp
import msgspec

from federation.kernel.errors import InvalidInputError, UnavailableError

REQUEST_TIMEOUT_S = 5.0
# `/stats/prometheus` of a proxy with a thousand clusters has 20 MB.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
# sockaddr_un holds 108 bytes with its closing NUL.
SOCKET_PATH_BYTES_MAX = 107


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin interface answered."""

    status: int
    body: str


class EnvoyAdmin:
    """Asks one Envoy. Every call raises UnavailableError when nobody answers."""

    def __init__(self, path: Path) -> None:
        check_socket_path(path)
        self._path = path

    async def get(self, target: str) -> Answer:
        """Ask for `target`, such as `/ready`."""
        return await self._ask("GET", target)

    async def post(self, target: str) -> Answer:
        """Order `target`, such as `/drain_listeners?graceful`."""
        return await self._ask("POST", target)

    async def ready(self) -> bool:
        """Whether it answers and has its first configuration."""
        try:
            return (await self.get("/ready")).status == 200
        except UnavailableError:
            return False

    async def counters(self, pattern: str) -> dict[str, int]:
        """The counters and gauges whose name matches a regular expression."""
        return await self.counters_at(f"/stats?filter={pattern}")

    async def counters_at(self, target: str) -> dict[str, int]:
        """The counters and gauges in the answer to `target`, a `/stats` with conditions."""
        answer = await self.get(target)
        pairs = (line.rpartition(": ") for line in answer.body.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def _ask(self, method: str, target: str) -> Answer:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await self._exchange(method, target)
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise UnavailableError(
                f"envoy admin at {self._path}: {method} {target}: {error or type(error).__name__}"
            ) from error

    async def _exchange(self, method: str, target: str) -> Answer:
        # A connection for each question: the Envoy behind the socket may be another one by the next.
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path))) as session,
            session.request(method, f"http://envoy{target}") as response,
        ):
            body = bytearray()
            async for block in response.content.iter_any():
                body += block
                if len(body) > ANSWER_BYTES_MAX:
                    raise UnavailableError(
                        f"envoy admin at {self._path}: {method} {target}: more than {ANSWER_BYTES_MAX} bytes"
                    )
            return Answer(status=response.status, body=body.decode(errors="replace"))


def check_socket_path(path: Path) -> None:
    """Raise InvalidInputError when `path` is too long for a Unix socket."""
    size_bytes = len(str(path).encode())
    if size_bytes > SOCKET_PATH_BYTES_MAX:
        raise InvalidInputError(
            f"{path} has {size_bytes} bytes, a unix socket's path at most {SOCKET_PATH_BYTES_MAX}:"
            " choose a shorter data directory"
        )
