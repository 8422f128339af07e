"""Two controllers in one cluster: an endpoint lives while any of them hears its agent."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from certs.core.spiffe import parse
from certs.runtime.grpc_security import client_channel
from certs.runtime.identity import LeafIdentity
from federation.agent.control import RegisterCall, receive, register, send
from federation.agent.directory import DirectoryStore
from federation.api.messages import AgentHeartbeat, AgentHello, Declare, Welcome
from tests.integration.controller.installation import CONTROL_PORT
from tests.integration.mirror.bystanders import forwarding, give_lease, watching
from tests.integration.mirror.cluster import (
    Agent,
    Federation,
    connected,
    happens,
    join_remote,
    listed,
    ready,
    seen,
)


async def beat(call: RegisterCall) -> None:
    """Keep the lease, as an agent does: three times in one."""
    while True:
        await asyncio.sleep(0.5)
        await send(call, AgentHeartbeat())


@asynccontextmanager
async def heard_by(agent: Agent, host: str, controller: str) -> AsyncIterator[None]:
    """Register the agent with one controller only, for as long as the block takes."""
    async with client_channel(
        f"{host}:{CONTROL_PORT}",
        LeafIdentity.load(agent.identity),
        DirectoryStore.open(agent.folder).bundles()["alpha.example"],
        server=parse(f"spiffe://alpha.example/isthmus/alpha/controller/{controller}"),
    ) as channel:
        call = register(channel)
        await send(call, AgentHello(incarnation=1))
        assert isinstance(await receive(call), Welcome)
        await send(call, Declare(number=1, put=(agent.endpoint,), complete=True))
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(beat(call))
            yield
            beating.cancel()


async def test_what_one_controller_hears_the_other_serves_and_does_not_expire(
    federation: Federation,
) -> None:
    mirror, _ = federation.mirror()
    at_member, at_mirror = federation.operator(), mirror.operator()
    half, gone = await federation.agent("half"), await federation.agent("gone")

    async with heard_by(half, mirror.host, "m1"):
        await happens(lambda: seen(at_member) == {half.address})
        # Meanwhile a whole lease passes for one that nobody hears any more.
        async with heard_by(gone, federation.member.host, "c1"):
            both = {half.address, gone.address}
            await happens(lambda: seen(at_member) == both == seen(at_mirror))
            await happens(lambda: listed(at_member) == {"half", "gone"})
        await happens(lambda: listed(at_member) == {"half"})
        assert seen(at_member) == {half.address}
        await happens(lambda: seen(at_mirror) == {half.address})


async def test_a_controller_that_is_killed_and_comes_back_changes_nothing(federation: Federation) -> None:
    mirror, process = federation.mirror()
    at_member = federation.operator()
    agents = [await federation.agent(f"a{number}") for number in range(2)]
    async with agents[0].registered() as one, agents[1].registered() as two:
        await connected(one, "alpha-c1", "alpha-m1")
        await connected(two, "alpha-c1", "alpha-m1")
        await happens(lambda: listed(at_member) == {"a0", "a1"})
        revision = at_member.ok("GET", "/v1/status")["revision"]

        process.kill()
        await happens(lambda: "fellow_lost" in federation.member_process.log_path.read_text())
        findings = at_member.ok("GET", "/v1/doctor")["findings"]
        assert [one["subject"] for one in findings if one["check"] == "mirrors"] == ["alpha-m1"]
        await mirror.started()
        await connected(one, "alpha-c1", "alpha-m1")
        await connected(two, "alpha-c1", "alpha-m1")
        await happens(lambda: federation.member_process.log_path.read_text().count("fellow_heard") >= 2)

        assert seen(mirror.operator()) == {agent.address for agent in agents} == seen(at_member)
        assert at_member.ok("GET", "/v1/status")["revision"] == revision


async def test_when_the_one_that_publishes_is_killed_or_frozen_another_goes_on_and_nothing_flaps(
    federation: Federation, tmp_path: Path
) -> None:
    """Two clusters, so that both have one wait: the publish lease of whoever is away has to end."""
    for cluster in ("edge", "west"):
        join_remote(federation, cluster)
    (killed, dead), (frozen, asleep) = (federation.mirror(cluster=cluster) for cluster in ("edge", "west"))
    at_home, log_of_home = federation.operator(), federation.member_process.log_path
    first, second = [await federation.agent(f"{name}-1", cluster=name) for name in ("edge", "west")]

    def ready_are(*names: str) -> bool:
        return ready(at_home, "edge") | ready(at_home, "west") == set(names)

    async with forwarding(federation.token("controller"), tmp_path / "placer") as log:
        await give_lease(log, "edge", "edge-m1")
        await give_lease(log, "west", "west-m1")
    async with (
        watching(federation, tmp_path / "watcher") as watcher,
        first.registered() as one,
        second.registered() as two,
    ):
        await connected(one, "alpha-c1", "edge-m1")
        await connected(two, "alpha-c1", "west-m1")
        await happens(lambda: ready_are("edge-1", "west-1"))

        dead.kill()
        asleep.send(signal.SIGSTOP)
        one.set_ready({first.endpoint.key: False})
        two.set_ready({second.endpoint.key: False})
        await happens(ready_are)
        taken = log_of_home.read_text()
        assert all(f"publish/{cluster}" in taken for cluster in ("edge", "west"))

        asleep.send(signal.SIGCONT)
        await killed.started()
        await connected(one, "alpha-c1", "edge-m1")
        await connected(two, "alpha-c1", "west-m1")
        one.set_ready({first.endpoint.key: True})
        two.set_ready({second.endpoint.key: True})
        await happens(lambda: ready_are("edge-1", "west-1"))
        await happens(lambda: seen(killed.operator(), "edge") == {first.address})
        await happens(lambda: seen(frozen.operator(), "west") == {second.address})
        await happens(lambda: len(watcher.told) >= 6)
    assert watcher.flaps() == []


async def test_a_mirror_that_was_removed_is_nobodys_controller_any_more(federation: Federation) -> None:
    mirror, process = federation.mirror()
    agent = await federation.agent("a1")
    async with agent.registered() as registrar:
        await connected(registrar, "alpha-c1", "alpha-m1")

        federation.operator().ok("DELETE", "/apis/federation.isthmus.dev/v1alpha1/controllers/alpha-m1")

        await connected(registrar, "alpha-c1")
        assert federation.controllers() == ["alpha-c1"]
        policy = "/apis/federation.isthmus.dev/v1alpha1/namespaces/shop/exportpolicies/p"
        status, answer = mirror.operator().call("DELETE", policy)
        assert status == 403
        assert "is not enrolled as a mirror, or was evicted" in answer["message"]
        process.check_running()
