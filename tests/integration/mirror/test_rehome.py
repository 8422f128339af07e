"""A remote cluster with a mirror moves from alpha to beta: two members, the mirror and an agent, all real; no Envoy."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from certs.core.spiffe import parse
from certs.core.token import parse_token, token_hash
from certs.runtime.identity import LeafIdentity
from federation.agent.agent import WORKLOAD_FOLDER
from federation.agent.directory import DirectoryStore
from federation.agent.enrollment import load_enrollment
from federation.agent.identity import IdentityKeeper, signer
from federation.agent.registration import Registrar
from federation.api.rehomings import Progress
from tests.integration.controller.installation import WAIT_S, Caller, Installation
from tests.integration.mirror.cluster import Agent, Federation, connected, happens, listed
from tests.integration.mirror.test_remote import join_remote
from tests.support.processes import ProcessSet
from tests.support.wait import eventually

EDGE = "/v1/clusters/edge/rehome"


def join_beta(federation: Federation, folder: Path, processes: ProcessSet) -> Installation:
    """A second primary, which runs and votes."""
    beta = Installation(folder, federation.host(), cluster="beta")
    token = federation.token("cluster", "beta")
    command = [sys.executable, "-m", "federation.cli.main", "cluster", "join", "--config", beta.config_path]
    joining = processes.start("join-beta", [*command, "--token", token])
    eventually(lambda: not joining.running(), timeout_s=WAIT_S, message=joining.log)
    assert joining.exit_code() == 0, joining.log()
    beta.wait_ready(beta.start(processes))
    eventually(
        lambda: len(federation.operator().ok("GET", "/v1/status")["raft"]["members"]) == 2, timeout_s=WAIT_S
    )
    return beta


@asynccontextmanager
async def living(agent: Agent) -> AsyncIterator[Registrar]:
    """Run what a real agent runs, but for Envoy: its streams, and the keepers of both its identities."""
    directory = DirectoryStore.open(agent.folder)
    enrollment = load_enrollment(agent.folder)
    assert enrollment is not None
    system = LeafIdentity.load(agent.identity)
    registrar = Registrar(
        [agent.endpoint], incarnation=1, cluster="edge", identity=system, directory=directory
    )
    shown = LeafIdentity.load(agent.folder / WORKLOAD_FOLDER)
    sign = signer(directory, "edge", system)
    keepers = [
        IdentityKeeper(
            leaf, parse(identity), cluster="edge", directory=directory, sign=sign, on_renewed=renewed
        )
        for leaf, identity, renewed in (
            (system, enrollment.identity, registrar.reopen),
            (
                shown,
                enrollment.workload_identity,
                lambda: registrar.set_identity(str(shown.spiffe_id)),
            ),
        )
    ]
    registrar.set_ready({agent.endpoint.key: True})
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one.run()) for one in (registrar, *keepers)]
        try:
            yield registrar
        finally:
            for task in running:
                task.cancel()


def progress(caller: Caller) -> Progress:
    return msgspec.convert(caller.ok("GET", EDGE), Progress)


def identities(caller: Caller) -> set[str]:
    rows = caller.ok("GET", "/v1/endpoints?namespace=shop&cluster=edge")
    return {row["identity"].partition("/ns/")[0] for row in rows}


def mirrors(caller: Caller) -> list[str]:
    rows = caller.ok("GET", "/apis/federation.isthmus.dev/v1alpha1/controllers")["items"]
    return [row["spec"]["identity"] for row in rows if row["spec"]["cluster"] == "edge"]


async def test_agents_and_a_mirror_change_their_identities_and_back_and_who_does_not_is_waited_for(
    federation: Federation, tmp_path: Path, processes: ProcessSet
) -> None:
    beta = join_beta(federation, tmp_path / "beta", processes)
    join_remote(federation, "edge")
    mirror, _ = federation.mirror(cluster="edge")
    at_alpha, at_beta = federation.operator(), beta.operator()
    agent = await federation.agent("e1", cluster="edge")
    stubborn = await federation.agent("e2", cluster="edge")

    async def begin() -> None:
        token = at_beta.ok("POST", "/v1/tokens", {"purpose": "cluster", "cluster": "edge"})["token"]
        secret = token_hash(parse_token(str(token)).secret)
        await asyncio.to_thread(at_alpha.ok, "POST", EDGE, {"to": "beta", "secretSha256": secret})

    async with living(agent) as registrar:
        async with stubborn.registered() as other:  # It keeps no identity: it never changes.
            await connected(registrar, "alpha-c1", "edge-m1")
            await connected(other, "alpha-c1", "edge-m1")
            await happens(lambda: listed(at_alpha, "edge") == {"e1", "e2"})
            await begin()
            await happens(lambda: progress(at_alpha).late == ("shop/orders/e2",))
            assert progress(at_alpha).state == "moving"
            assert progress(at_alpha).agents == ("e2",)
            await connected(registrar, "alpha-c1", "beta-c1", "edge-m1")

            await asyncio.to_thread(at_beta.ok, "POST", f"{EDGE}/abort")
            await happens(lambda: progress(at_alpha).state == "done")
            assert (progress(at_alpha).home, identities(at_alpha)) == ("alpha", {"spiffe://alpha.example"})
            await connected(registrar, "alpha-c1", "edge-m1")

        await happens(lambda: listed(at_alpha, "edge") == {"e1"})  # Its lease has ended.
        await begin()
        await happens(lambda: progress(at_beta).home == "beta")
        await connected(registrar, "beta-c1", "edge-m1")
        assert identities(at_beta) == {"spiffe://beta.example"}
        assert mirrors(at_beta) == ["spiffe://beta.example/isthmus/edge/controller/m1"]
        status, refused = at_alpha.call("POST", "/v1/tokens", {"purpose": "dns", "cluster": "edge"})
        assert (status, "create the token there" in str(refused)) == (422, True)

        # One that was away knows only its old home, by its old identity: it is told, and changes.
        async with living(stubborn) as late:
            await connected(late, "beta-c1", "edge-m1")
            await happens(lambda: listed(at_alpha, "edge") == {"e1", "e2"})

    held = load_enrollment(agent.folder)
    assert held is not None
    assert held.identity == "spiffe://beta.example/isthmus/edge/agent/e1"
    assert held.workload_identity == "spiffe://beta.example/ns/shop/sa/shop"
    assert mirror.readiness()[0] == 200
