"""Operators who write faster than their cluster's Quota allows are told so; who reads is not."""

from tests.integration.controller.installation import export_policy
from tests.unit.api.test_rest_watch import POLICIES, serving
from tests.unit.discovery.builders import founded, key, put

BURST = 3
WRITES = 40  # More than the burst and what a slow machine earns while it writes them.


async def test_operators_that_write_too_fast_are_told_when_to_try_again() -> None:
    log = founded()
    log.accept("alpha", put(key("Quota", "alpha"), {"writesPerSecond": 1, "writesBurst": BURST}))
    async with serving(log) as (_, _, session):
        accepted, refusals = set(), []
        for number in range(WRITES):
            name = f"p{number}"
            async with session.post(POLICIES, json=export_policy(name)) as answer:
                if answer.status == 201:
                    accepted.add(name)
                else:
                    refusals.append((answer.status, (await answer.json())["message"]))

        assert len(accepted) >= BURST
        assert {status for status, _ in refusals} == {429}
        said = f"cluster alpha: more than 1 writes a second after a burst of {BURST}, by Quota/alpha spec.writesPerSecond"
        assert all(message.startswith(f"{said}: try again in") for _, message in refusals)
        async with session.get(POLICIES) as answer:
            assert {one["metadata"]["name"] for one in (await answer.json())["items"]} == accepted
