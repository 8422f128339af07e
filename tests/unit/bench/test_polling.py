"""A poller tells when the wanted answer came, and how finely it looked."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from bench.polling import Poller, Seen
from chaos.lab.processes import LabError


def answer(status: int, body: bytes = b"x") -> bytes:
    return b"HTTP/1.1 %d Some\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def by(cluster: str) -> bytes:
    return answer(200, b'{"cluster": "%s"}' % cluster.encode())


async def ask(answers: Sequence[bytes], wanted: str) -> tuple[Seen, list[bytes]]:
    """Poll a sidecar that gives `answers` one after the other, then closes."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for one in answers:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(one)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        poller = Poller(*await asyncio.open_connection(host, port))
        try:
            return await poller.until("orders", wanted, start_s=time.perf_counter()), asked
        finally:
            poller.close()


def test_polling_goes_on_until_the_wanted_cluster_answers() -> None:
    answers = [answer(404, b"nobody"), answer(503, b""), by("beta"), by("alpha"), by("beta")]

    seen, asked = asyncio.run(ask(answers, "alpha"))

    assert len(asked) == 4
    assert all(b"Host: orders.shop:8080\r\n" in one for one in asked)
    assert seen.took_ms >= seen.request_ms + seen.gap_ms > 0, "the request before it was within the time too"


def test_a_sidecar_that_hangs_up_ends_the_measurement() -> None:
    with pytest.raises(LabError, match="orders"):
        asyncio.run(ask([answer(503)], "alpha"))


def test_an_answer_of_unknown_length_ends_the_measurement() -> None:
    with pytest.raises(LabError, match="content-length"):
        asyncio.run(ask([b"HTTP/1.1 200 OK\r\n\r\n"], "alpha"))
