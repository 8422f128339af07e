"""A controller that was killed comes back: until it follows the log again."""

import asyncio
import time

from bench.asking import readiness
from bench.declarer import declaring
from bench.records import Measured, of_rounds
from bench.session import Session
from chaos.lab.federation import Lab
from chaos.lab.processes import LabError

TITLE = "Controller rejoin: started again until it follows"
ROUNDS = 5
MISSED = 20  # Endpoints that become global while it is away.
VICTIM, WRITER = "beta", "alpha"
TIMEOUT_S = 60.0
_POLL_S = 0.01
METHOD = f"""
In the demo's federation the controller of {VICTIM} is killed with `kill -9`; while it is away an agent of {WRITER} declares
{MISSED} endpoints, which become global with the votes of the others. Then it is started again. *Ready*: from the start of
the process until `/readyz` answers 200. *Follows*: until it also knows a leader and has applied everything that the
others have. Asked every {_POLL_S * 1000:g} ms.
"""


def measure(session: Session) -> Measured:
    """Kill and start it again ROUNDS times."""
    lab = session.lab()
    ready: list[float] = []
    follows: list[float] = []
    roles = []
    for number in range(ROUNDS):
        session.say(f"rejoin: round {number + 1} of {ROUNDS}")
        roles.append(readiness(lab.clusters[WRITER].controller).leader)
        ready_s, follows_s = _round(lab, number)
        ready.append(ready_s * 1000)
        follows.append(follows_s * 1000)
    led = sum(leader == VICTIM for leader in roles)
    return Measured(
        figures=(
            of_rounds("killed controller, started until ready", ready, "ms"),
            of_rounds("killed controller, started until it follows", follows, "ms"),
        ),
        notes=(f"The killed controller was the leader in {led} of {ROUNDS} rounds.",),
    )


def _round(lab: Lab, number: int) -> tuple[float, float]:
    process = lab.processes[f"{VICTIM}/controller"]
    process.kill()
    asyncio.run(_write(lab, number))
    wanted = readiness(lab.clusters[WRITER].controller).revision
    began_s = time.perf_counter()
    process.start()
    ready_s = 0.0
    while True:
        passed_s = time.perf_counter() - began_s
        if not process.running() or passed_s > TIMEOUT_S:
            raise LabError(f"{process.name} does not follow within {TIMEOUT_S:g} s:\n{process.tail()}")
        found = readiness(lab.clusters[VICTIM].controller)
        if found.ready:
            ready_s = ready_s or passed_s
            if found.leader and found.revision >= wanted:
                break
        time.sleep(_POLL_S)
    lab.wait_serving()
    return ready_s, passed_s


async def _write(lab: Lab, number: int) -> None:
    async with declaring(lab, WRITER) as declarer:
        rows = [declarer.endpoint(f"missed-{number}-{index}", ready=False) for index in range(MISSED)]
        await declarer.held(await declarer.put(*rows))
