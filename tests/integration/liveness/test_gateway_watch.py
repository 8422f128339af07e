"""A gateway looks at the gateways of other clusters, and its controllers believe it before themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from discovery.core.model import EndpointPort
from federation.agent.gateway_watch import GatewayWatch
from federation.api.gateway_eyes import GatewayEyes
from federation.api.messages import ProbeTarget, ProbeTargets, Sightings
from tests.integration.liveness.test_gateway_probe import GATEWAY, Domains, served
from tests.integration.liveness.test_observer import Switch, observer_of
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import gateway, put_cluster
from tests.unit.discovery.test_verdicts import three, verdict

WAIT_S = 60.0


@asynccontextmanager
async def watching(domains: Domains) -> AsyncIterator[GatewayWatch]:
    directory: Any = SimpleNamespace(bundles=lambda: domains.beta.bundles)
    watch = GatewayWatch(directory, clock=asyncio.get_running_loop().time)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watch.run())
        try:
            yield watch
        finally:
            running.cancel()


def beta_at(port: int) -> ProbeTarget:
    return ProbeTarget(cluster="beta", trust_domain="beta.test", gateways=(("gw-1", "127.0.0.1", port),))


async def until(watch: GatewayWatch, seen: dict[str, bool]) -> None:
    await eventually_async(lambda: dict(watch.seen()) == seen, timeout_s=WAIT_S, message=f"it sees {seen}")


async def test_a_gateway_sees_who_answers_who_does_not_and_forgets_whom_nobody_names(tmp_path: Path) -> None:
    domains, switch = Domains(tmp_path), Switch()
    async with (
        served(domains.beta.leaf(GATEWAY), domains.beta, switch.answer) as server,
        watching(domains) as watch,
    ):
        turns: list[int] = []
        watch.on_turn = lambda: turns.append(1)
        assert watch.named_by("alpha-c1") == frozenset()
        watch.aim("alpha-c1", ProbeTargets(targets=(beta_at(server.port),), whole=True))
        watch.aim("alpha-c2", ProbeTargets(targets=(beta_at(server.port),), whole=True))
        assert watch.named_by("alpha-c1") == {"beta"}
        await until(watch, {"beta": True})
        switch.is_on = False
        await until(watch, {"beta": False})
        switch.is_on = True
        await until(watch, {"beta": True})
        assert len(turns) >= 3
        watch.aim("alpha-c1", ProbeTargets(targets=(ProbeTarget(cluster="beta"),)))
        assert dict(watch.seen()) == {"beta": True}  # The other controller names it still.
        watch.forget("alpha-c2")
        await until(watch, {})
        watch.aim("alpha-c1", ProbeTargets(targets=(beta_at(server.port),)))
        await until(watch, {"beta": True})


async def test_what_the_own_gateways_say_goes_before_what_the_controller_sees(tmp_path: Path) -> None:
    domains, log, switch = Domains(tmp_path), three(), Switch()
    eyes = GatewayEyes("alpha", clock=asyncio.get_running_loop().time)
    observer = observer_of(log, domains, eyes)

    async def misses(*, data_lost_by: tuple[str, ...], sight: str) -> None:
        def found() -> bool:
            held = verdict(log)
            said = () if held is None else held.data_lost_by
            return observer.minds["beta"].data.sight == sight and said == data_lost_by

        await eventually_async(found, timeout_s=WAIT_S, message=f"{sight}, missed by {data_lost_by}")

    async with served(domains.beta.leaf(GATEWAY), domains.beta, switch.answer) as server:
        port = EndpointPort(name="tls", service_port=15_443, listen_port=server.port, protocol="tcp")
        log.accept("beta", put_cluster("beta", ranges=["127.0.0.0/8"]))
        assert log.publish("beta", gateway("beta", address="127.0.0.1", ports=(port,))).code == 0
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(observer.run())
            aimed = await anext(eyes.targets())
            while not aimed.targets:
                aimed = await anext(eyes.targets())
                await asyncio.sleep(0.05)
            assert aimed.targets[0].gateways == (("gw-1", "127.0.0.1", server.port),)
            await misses(data_lost_by=(), sight="heard")
            one, two = object(), object()
            beating = tasks.create_task(beat(eyes, one, two))
            eyes.told(one, Sightings(lost=("beta",)))
            await misses(data_lost_by=("alpha",), sight="lost")  # Although the controller reaches it.
            eyes.told(two, Sightings(heard=("beta",)))
            await misses(data_lost_by=(), sight="heard")  # One gateway has a way.
            switch.is_on = False
            eyes.ended(one)
            await eventually_async(
                lambda: observer._own_data["beta"].sight == "lost",
                timeout_s=WAIT_S,
                message="unseen from here",
            )
            await misses(data_lost_by=(), sight="heard")
            beating.cancel()
            eyes.ended(two)
            await misses(data_lost_by=("alpha",), sight="lost")  # Without gateways, its own eyes count.
            running.cancel()


async def beat(eyes: GatewayEyes, *streams: object) -> None:
    """Keep the word of gateways fresh."""
    while True:
        for stream in streams:
            eyes.heard(stream)
        await asyncio.sleep(0.2)
