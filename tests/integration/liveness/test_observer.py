"""One observer with a real gateway to look at: what it sees and what it says, without a federation around it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from discovery.core.commands import Delete, Write
from discovery.core.model import EndpointPort
from federation.api.gateway_eyes import GatewayEyes
from federation.app.observer import Observer
from tests.integration.liveness.test_gateway_probe import GATEWAY, WELL, Domains, served
from tests.support.wait import eventually_async
from tests.unit.discovery.builders import Log, gateway, key, put_cluster
from tests.unit.discovery.test_verdicts import three, verdict

WAIT_S = 60.0


class Proposer:
    """Applies at once what alpha proposes."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def propose(self, body: Write, *, timeout_ms: int) -> None:
        assert timeout_ms > 0
        self._log.accept("alpha", *body.operations)


def observer_of(log: Log, domains: Domains, eyes: GatewayEyes | None = None) -> Observer:
    status = SimpleNamespace(leader="alpha", connected=(), members=())
    current = SimpleNamespace(controllers=())
    directory: Any = SimpleNamespace(current=current, bundles=lambda: domains.beta.bundles)
    return Observer(
        "alpha",
        catalog=log.catalog,
        engine=SimpleNamespace(status=lambda: status),  # type: ignore[arg-type]  # the parts that it reads
        proposer=Proposer(log),  # type: ignore[arg-type]  # the parts that it reads
        registries={},
        identity=SimpleNamespace(),  # type: ignore[arg-type]  # there is no controller to show it to
        directory=directory,
        verifier=domains.verifier,
        round_trip_ms=1,
        clock=asyncio.get_running_loop().time,
        eyes=eyes or GatewayEyes("alpha", clock=asyncio.get_running_loop().time),
    )


class Switch:
    """A gateway that can be broken: connections live, and nobody answers."""

    def __init__(self) -> None:
        self.is_on = True

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            if not self.is_on:
                return
            writer.write(WELL)


async def test_a_gateway_that_goes_is_missed_and_one_that_comes_back_is_not(tmp_path: Path) -> None:
    domains, log, switch = Domains(tmp_path), three(), Switch()
    observer = observer_of(log, domains)

    def sees(sight: str, state: str) -> bool:
        held = verdict(log)
        return (observer.minds["beta"].data.sight, "ok" if held is None else held.state) == (sight, state)

    async with served(domains.beta.leaf(GATEWAY), domains.beta, switch.answer) as server:
        port = EndpointPort(name="tls", service_port=15_443, listen_port=server.port, protocol="tcp")
        log.accept("beta", put_cluster("beta", ranges=["127.0.0.0/8"]))
        assert log.publish("beta", gateway("beta", address="127.0.0.1", ports=(port,))).code == 0
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(observer.run())
            await eventually_async(
                lambda: "beta" in observer.minds, timeout_s=WAIT_S, message="beta is known"
            )
            await eventually_async(lambda: sees("heard", "ok"), timeout_s=WAIT_S, message="beta answers")
            switch.is_on = False
            await eventually_async(
                lambda: sees("lost", "data-degraded"), timeout_s=WAIT_S, message="it is missed"
            )
            held = verdict(log)
            assert held is not None
            assert (held.control_lost_by, held.data_lost_by) == ((), ("alpha",))
            assert observer.minds["gamma"].data.sight == "nothing"
            switch.is_on = True
            await eventually_async(lambda: sees("heard", "ok"), timeout_s=WAIT_S, message="it is back")
            log.accept("beta", Delete(key=key("Cluster", "beta")))
            await eventually_async(
                lambda: "beta" not in observer.minds, timeout_s=WAIT_S, message="who left is not watched"
            )
            running.cancel()
