"""An open-loop client: sends on schedule whatever comes back, never retries, logs one line per request.

    python -m chaos.load.client PLAN.json LOG.jsonl SENT.json LIVE.json

It writes "begun" when it sends the first request, and stops at SIGTERM. A request has failed when no 2xx has come
within `deadline_ms` of the time at which it was to be sent, so that a client that is itself held up cannot hide an
outage (coordinated omission). LIVE.json always holds its newest status, replaced as a whole.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp
import msgspec

from chaos.load.records import LoadStatus, Plan, RequestLine, Sent, Stream, Target, quantile
from chaos.shop.app import Chain, Hop
from federation.kernel.codec import MALFORMED

BEGUN = "begun"
STATUS_PERIOD_S = 0.25
_STATUS_WINDOW_S = 1.0
_IN_FLIGHT_MAX = 2_000


class Client:
    """Sends one plan."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session
        self._stopped = asyncio.Event()
        self._start = self._start_wall = 0.0  # By the loop's clock and by the wall's.
        self._stop_s = 0.0  # By the loop's clock; 0: not yet.
        self._handled = [0 for _ in plan.streams]
        self._in_flight = self._sent = self._failed = 0
        self.lines: list[RequestLine] = []  # In the order of the answers.

    def stop(self) -> None:
        """Send nothing more; what is on its way is waited for."""
        self._stop_s = self._stop_s or asyncio.get_running_loop().time()
        self._stopped.set()

    async def run(self, live_path: Path) -> Sent:
        """Send each request of the plan at its time until stopped, and wait for the last answer."""
        self._start, self._start_wall = asyncio.get_running_loop().time(), time.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report(live_path), name="load/status")
            async with asyncio.TaskGroup() as streams:
                for place, stream in enumerate(self._plan.streams):
                    streams.create_task(self._send_stream(place, stream), name=f"load/{stream.kind}")
            self.stop()
        return Sent(planned=self._due())

    async def _send_stream(self, place: int, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count_max(self._plan, stream)):
                offset = number / stream.rate_per_s
                await asyncio.sleep(max(0.0, self._start + offset - loop.time()))
                if self._stopped.is_set():
                    return
                self._handled[place] = number + 1
                if self._in_flight >= _IN_FLIGHT_MAX:
                    continue  # Not sent: the report counts it as planned, and the run as invalid.
                target = stream.targets[number % len(stream.targets)]
                tasks.create_task(self._send(number, stream, target, offset), name="request")

    def _due(self) -> int:
        """Return how many requests were due by now, or until it was stopped."""
        elapsed_s = (self._stop_s or asyncio.get_running_loop().time()) - self._start
        return sum(
            due(self._plan, stream, elapsed_s, handled)
            for stream, handled in zip(self._plan.streams, self._handled, strict=True)
        )

    async def _send(self, number: int, stream: Stream, target: Target, offset: float) -> None:
        loop = asyncio.get_running_loop()
        due_s, sent_s = self._start + offset, loop.time()
        self._sent += 1
        self._in_flight += 1
        status, error = 0, ""
        hops: tuple[Hop, ...] = ()
        try:
            async with (
                asyncio.timeout_at(due_s + self._plan.deadline_ms / 1000),
                self._session.get(
                    target.url, headers={"Host": target.host} if target.host else {}
                ) as response,
            ):
                body = await response.read()
                if response.status == 200:
                    hops = _decode_hops(body, stream)
                else:
                    error = body[:200].decode(errors="replace")
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError, *MALFORMED) as problem:
            status, error = 0, f"{type(problem).__name__}: {problem}"
        self._in_flight -= 1
        line = RequestLine(
            number=number,
            kind=stream.kind,
            caller=target.caller,
            service=target.service,
            due_s=self._start_wall + offset,
            sent_late_ms=(sent_s - due_s) * 1000,
            took_ms=(loop.time() - due_s) * 1000,
            status=status,
            cluster=hops[-1].cluster if hops else "",
            instance=hops[-1].instance if hops else "",
            attempts=hops[0].attempts if hops else 0,
            hops=tuple(f"{hop.service} {hop.cluster}/{hop.instance}" for hop in hops)
            if stream.kind == "chain"
            else (),
            error=error,
        )
        self._failed += not line.ok
        self.lines.append(line)

    async def _report(self, path: Path) -> None:
        """Keep the status on disk new, until stopped."""
        while not self._stopped.is_set():
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(self.status(time.time())))
            new.replace(path)
            await asyncio.sleep(STATUS_PERIOD_S)

    def status(self, at_s: float) -> LoadStatus:
        """Return how the load is doing."""
        recent = []
        for line in reversed(self.lines):
            if line.done_s < at_s - _STATUS_WINDOW_S:
                break
            recent.append(line)
        took = sorted(line.took_ms for line in recent if line.ok and line.kind == "single")
        return LoadStatus(
            caller=self._plan.caller,
            at_s=at_s,
            planned=self._due(),
            sent=self._sent,
            failed=self._failed,
            rate_per_s=len(recent) / _STATUS_WINDOW_S,
            failed_per_s=sum(not line.ok for line in recent) / _STATUS_WINDOW_S,
            p50_ms=quantile(took, 0.50),
            p99_ms=quantile(took, 0.99),
        )


def _decode_hops(body: bytes, stream: Stream) -> tuple[Hop, ...]:
    if stream.kind == "chain":
        return msgspec.json.decode(body, type=Chain).hops
    return (msgspec.json.decode(body, type=Hop),)


def count_max(plan: Plan, stream: Stream) -> int:
    """Return how many requests a stream has if nobody stops it."""
    return int(plan.seconds_max * stream.rate_per_s)


def due(plan: Plan, stream: Stream, elapsed_s: float, handled: int) -> int:
    """Return how many requests were due by now: more than were handled when the client fell behind."""
    return min(count_max(plan, stream), max(handled, int(elapsed_s * stream.rate_per_s)))


async def _main(plan_path: Path, log_path: Path, sent_path: Path, live_path: Path) -> None:
    plan = msgspec.json.decode(plan_path.read_bytes(), type=Plan)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        client = Client(plan, session)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.stop)
        sys.stdout.write(f"{BEGUN}\n")
        sys.stdout.flush()
        sent = await client.run(live_path)
    client.lines.sort(key=lambda line: (line.kind, line.number))
    with log_path.open("wb") as log:
        log.writelines(msgspec.json.encode(line) + b"\n" for line in client.lines)
    sent_path.write_bytes(msgspec.json.encode(sent))


if __name__ == "__main__":
    asyncio.run(_main(*map(Path, sys.argv[1:5])))
