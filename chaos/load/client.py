"""An open-loop client: sends on schedule whatever comes back, never retries, logs one line per request.

    python -m chaos.load.client PLAN.json LOG.jsonl SENT.json

It writes "begun" when it sends the first request, and stops at SIGTERM. A request has failed when no 2xx has come within `deadline_ms` of the time at which it was to be sent,
so that a client that is itself held up cannot hide an outage (coordinated omission).
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp
import msgspec

from chaos.load.records import Plan, RequestLine, Sent, Target
from federation.kernel.codec import MALFORMED

BEGUN = "begun"
_IN_FLIGHT_MAX = 2_000


class Client:
    """Sends one plan."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session
        self._stopped = False
        self.lines: list[RequestLine] = []

    def stop(self) -> None:
        """Send nothing more; what is on its way is waited for."""
        self._stopped = True

    async def run(self) -> Sent:
        """Send each request of the plan at its time until stopped, and wait for the last answer."""
        plan = self._plan
        start_wall = time.time()
        loop = asyncio.get_running_loop()
        start = loop.time()
        planned = plan.count_max
        async with asyncio.TaskGroup() as tasks:
            running: set[asyncio.Task[None]] = set()
            for number in range(plan.count_max):
                if self._stopped:
                    planned = due(plan, loop.time() - start, number)
                    break
                offset = number / plan.rate_per_s
                await asyncio.sleep(max(0.0, start + offset - loop.time()))
                target = plan.targets[number % len(plan.targets)]
                if len(running) >= _IN_FLIGHT_MAX:
                    continue  # Not sent: the report counts it as planned, and the run as invalid.
                task = tasks.create_task(self._send(number, target, start + offset, start_wall + offset))
                running.add(task)
                task.add_done_callback(running.discard)
        return Sent(planned=planned)

    async def _send(self, number: int, target: Target, due: float, due_wall: float) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        status, cluster, instance, error = 0, "", "", ""
        try:
            async with (
                asyncio.timeout_at(due + self._plan.deadline_ms / 1000),
                self._session.get(target.url, headers={"Host": target.host}) as response,
            ):
                body = await response.read()
                status = response.status
                if status == 200:
                    answer = msgspec.json.decode(body)
                    cluster, instance = answer["cluster"], answer["instance"]
                else:
                    error = body[:200].decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError, *MALFORMED) as problem:
            status, error = 0, f"{type(problem).__name__}: {problem}"
        self.lines.append(
            RequestLine(
                number=number,
                caller=target.caller,
                service=target.service,
                due_s=due_wall,
                sent_late_ms=(sent - due) * 1000,
                took_ms=(loop.time() - due) * 1000,
                status=status,
                cluster=cluster,
                instance=instance,
                error=error,
            )
        )


def due(plan: Plan, elapsed_s: float, handled: int) -> int:
    """Return how many requests were due by now: more than were handled when the client fell behind."""
    return min(plan.count_max, max(handled, int(elapsed_s * plan.rate_per_s)))


async def _main(plan_path: Path, log_path: Path, sent_path: Path) -> None:
    plan = msgspec.json.decode(plan_path.read_bytes(), type=Plan)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        client = Client(plan, session)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.stop)
        sys.stdout.write(f"{BEGUN}\n")
        sys.stdout.flush()
        sent = await client.run()
    client.lines.sort(key=lambda line: line.number)
    with log_path.open("wb") as log:
        log.writelines(msgspec.json.encode(line) + b"\n" for line in client.lines)
    sent_path.write_bytes(msgspec.json.encode(sent))


if __name__ == "__main__":
    asyncio.run(_main(*map(Path, sys.argv[1:4])))
