"""An open-loop load that also logs how often each request was tried.

    python -m bench.load PLAN.json LOG.jsonl

Sends on schedule whatever comes back, never retries, writes "begun" with the first request, stops at SIGTERM. A
request's time counts from when it was due, so that a load that is itself held up hides nothing.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import aiohttp
import msgspec

from bench.records import Sample
from chaos.load.client import count_max
from chaos.load.records import Plan, Target

BEGUN = "begun"


class Load:
    """Sends one plan."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session
        self._stopped = asyncio.Event()
        self.samples: list[Sample] = []

    def stop(self) -> None:
        """Send nothing more; what is on its way is waited for."""
        self._stopped.set()

    async def run(self) -> None:
        """Send each request of the plan's one stream at its time until stopped."""
        (stream,) = self._plan.streams
        loop = asyncio.get_running_loop()
        start, start_wall = loop.time(), time.time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count_max(self._plan, stream)):
                offset = number / stream.rate_per_s
                await asyncio.sleep(max(0.0, start + offset - loop.time()))
                if self._stopped.is_set():
                    return
                target = stream.targets[number % len(stream.targets)]
                # Not more than the rate times the deadline are under way.
                tasks.create_task(self._send(target, start + offset, start_wall + offset), name="request")

    async def _send(self, target: Target, due: float, due_wall: float) -> None:
        loop = asyncio.get_running_loop()
        status, attempts, cluster = 0, 0, ""
        try:
            async with (
                asyncio.timeout_at(due + self._plan.deadline_ms / 1000),
                self._session.get(target.url, headers={"Host": target.host}) as response,
            ):
                body = await response.read()
                status = response.status
                if status == 200:
                    answer = msgspec.json.decode(body)
                    attempts, cluster = answer["attempts"], answer["cluster"]
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError):
            status = 0  # A failed request; its time is in the log.
        took_ms = (loop.time() - due) * 1000
        self.samples.append(
            Sample(due_s=due_wall, took_ms=took_ms, status=status, attempts=attempts, cluster=cluster)
        )


async def _main(plan_path: Path, log_path: Path) -> None:
    plan = msgspec.json.decode(plan_path.read_bytes(), type=Plan)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        load = Load(plan, session)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop)
        print(BEGUN, flush=True)
        await load.run()
    with log_path.open("wb") as log:
        log.writelines(msgspec.json.encode(sample) + b"\n" for sample in load.samples)


def read_log(path: Path) -> list[Sample]:
    """Read what a load logged."""
    return [msgspec.json.decode(line, type=Sample) for line in path.read_bytes().splitlines()]


if __name__ == "__main__":
    asyncio.run(_main(*map(Path, sys.argv[1:3])))
