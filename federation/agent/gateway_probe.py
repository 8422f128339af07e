"""Do the gateways of another cluster answer? Asked by the reserved name, which ends at the gateway itself.

The same question as Envoys ask (`gateways.core.clusters`), over HTTP/1.1 on a connection that is kept: an
answer costs one round trip. Whoever answers must prove to be a gateway of that cluster (invariant S1).
"""

import asyncio
import ssl

import structlog

from certs.core.bundle import Bundles
from certs.core.verifier import Verifier
from certs.runtime.tls import client_context, verify_peer
from discovery.core.view import Gateway
from federation.kernel.errors import BadIdentityError, InvalidInputError, IsthmusError
from gateways.core import names
from gateways.core.clusters import HEALTH_PATH

# So many are asked at once; where there are more and none answers, the next ones in the next round.
GATEWAYS_ASKED_MAX = 3
ANSWER_BYTES_MAX = 8 * 1024
# A certificate is judged when connecting: not for much longer than this is it believed.
CONNECTION_AGE_MAX_S = 60.0

_log = structlog.get_logger("observer")


class GatewaysProbe:
    """Asks the gateways of one cluster; `close` ends the connections."""

    def __init__(self, cluster: str, *, verifier: Verifier) -> None:
        self._cluster = cluster
        self._verifier = verifier
        self._first = 0  # Where the next round begins.
        self._connections: dict[tuple[str, int], _Connection] = {}
        self._context: tuple[Bundles, ssl.SSLContext] | None = None

    async def ask(self, gateways: tuple[Gateway, ...], bundles: Bundles, *, timeout_s: float) -> bool:
        """Return whether one of the `gateways` answers within the time.

        `bundles` are those of the cluster alone: one, or two while it moves from one home to another.
        """
        count = len(gateways)
        asked = [gateways[(self._first + offset) % count] for offset in range(min(count, GATEWAYS_ASKED_MAX))]
        self._forget({(one.address, one.port) for one in asked})
        async with asyncio.TaskGroup() as tasks:
            answers = [
                tasks.create_task(self._ask_one(one, bundles, timeout_s), name=f"observe/{self._cluster}")
                for one in asked
            ]
        answered = any(task.result() for task in answers)
        if not answered:
            self._first = (self._first + GATEWAYS_ASKED_MAX) % count
        return answered

    def close(self) -> None:
        """Close all connections."""
        self._forget(set())

    def _forget(self, wanted: set[tuple[str, int]]) -> None:
        for place in self._connections.keys() - wanted:
            self._connections.pop(place).close()

    async def _ask_one(self, gateway: Gateway, bundles: Bundles, timeout_s: float) -> bool:
        place = (gateway.address, gateway.port)
        connection = self._connections.pop(place, None)
        try:
            async with asyncio.timeout(timeout_s):
                if connection is None:
                    connection = await self._connect(gateway, bundles)
                keep = await connection.ask(self._cluster)
        except (OSError, EOFError, TimeoutError, ssl.SSLError, IsthmusError) as error:
            _log.debug("gateway_silent", gateway=gateway.name, cluster=self._cluster, reason=str(error))
            if connection is not None:
                connection.close()
            return False
        if keep:
            self._connections[place] = connection
        else:
            connection.close()
        return True

    async def _connect(self, gateway: Gateway, bundles: Bundles) -> "_Connection":
        if self._context is None or self._context[0] != bundles:
            # Only the roots of its own trust domains, and no certificate of ours: nobody asks for one.
            self._context = (bundles, client_context(None, bundles))
        reader, writer = await asyncio.open_connection(
            gateway.address,
            gateway.port,
            ssl=self._context[1],
            server_hostname=names.gateways_health_sni(self._cluster),
            limit=ANSWER_BYTES_MAX,
        )
        try:
            peer = verify_peer(writer.get_extra_info("ssl_object"), self._verifier, "server")
            expected = tuple(names.gateway_identity_prefix(domain, self._cluster) for domain in bundles)
            if not str(peer).startswith(expected):
                raise BadIdentityError(
                    f"{gateway.address}:{gateway.port} is {peer}, no gateway of {self._cluster}"
                )
        except BaseException:
            writer.transport.abort()
            raise
        return _Connection(reader, writer)


class _Connection:
    """One verified connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._until_s = asyncio.get_running_loop().time() + CONNECTION_AGE_MAX_S

    def close(self) -> None:
        """Close at once."""
        self._writer.transport.abort()

    async def ask(self, cluster: str) -> bool:
        """Ask for its health; return whether the connection can be used again. Raises unless it is well."""
        host = names.gateways_health_sni(cluster)
        self._writer.write(f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except asyncio.LimitOverrunError as error:
            raise InvalidInputError(f"the answer has more than {ANSWER_BYTES_MAX} bytes") from error
        status, *lines = head.split("\r\n")
        if status.split(" ")[1:2] != ["200"]:
            raise InvalidInputError(f"the answer is {status[:80]!r}, expected 200")
        headers = dict(line.partition(":")[::2] for line in lines)
        length = headers.get("content-length", "").strip()
        if not length.isdecimal() or int(length) > ANSWER_BYTES_MAX:
            return False  # Well, and done with: who knows where the next answer begins.
        await self._reader.readexactly(int(length))
        is_over = "close" in headers.get("connection", "")
        return not is_over and asyncio.get_running_loop().time() < self._until_s
