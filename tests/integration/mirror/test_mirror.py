"""A mirror beside the member of its cluster: it serves, forwards, and goes on alone."""

import signal
from pathlib import Path

import pytest

from certs.core.spiffe import parse
from certs.runtime.grpc_security import client_channel
from certs.runtime.identity import LeafIdentity
from discovery.core.commands import AcquireLease
from discovery.core.publishing import publish_lease
from federation.agent.control import sign
from federation.agent.directory import DirectoryStore
from federation.api.messages import SignRequest
from federation.api.proposer import Proposer
from federation.app.forwarding import ForwardingLog
from federation.kernel.errors import OutcomeUnknownError, UnavailableError
from tests.integration.controller.installation import BASE, CONTROL_PORT, export_policy
from tests.integration.mirror.bystanders import forwarding
from tests.integration.mirror.cluster import Federation, age_ms, connected, happens, listed, seen
from tests.support.processes import Process

POLICIES = f"{BASE}/namespaces/shop/exportpolicies"
ANY_STATE = "?resourceVersion=0"


async def test_a_write_at_a_mirror_is_the_federations_and_read_back_at_once(
    federation: Federation, tmp_path: Path
) -> None:
    mirror, _ = federation.mirror()
    at_mirror = mirror.operator()

    made = at_mirror.ok("POST", POLICIES, export_policy("by-mirror"))

    assert federation.operator().ok("GET", f"{POLICIES}/by-mirror") == made
    assert at_mirror.ok("GET", f"{POLICIES}/by-mirror") == made
    assert at_mirror.call("POST", POLICIES, export_policy("by-mirror"))[0] == 409
    assert at_mirror.ok("GET", "/v1/status?newest=true")["mirror"]["member"] == "alpha-c1"
    [told] = federation.operator().ok("GET", "/v1/doctor")["mirrors"]
    assert (told["controller"], told["ready"], told["member"]) == ("alpha-m1", True, "alpha-c1")
    # What only a member can do is refused so that the caller tries another controller.
    assert at_mirror.call("POST", "/v1/tokens", {"purpose": "cluster", "cluster": "beta"})[0] == 503

    async with forwarding(federation.token("controller"), tmp_path / "other") as log:
        await what_may_have_happened_and_what_did_not_stay_apart(federation.member_process, log)
    assert at_mirror.call("GET", f"{POLICIES}/by-mirror")[0] == 503
    assert at_mirror.ok("GET", f"{POLICIES}/by-mirror{ANY_STATE}") == made


async def what_may_have_happened_and_what_did_not_stay_apart(member: Process, log: ForwardingLog) -> None:
    """The way of a mirror's writes, with less time for each than the ten seconds of its API."""
    # One that a mirror may want, and that changes nothing: the member holds it.
    proposer = Proposer(log, cluster="alpha")
    write = AcquireLease(name=publish_lease("alpha"), holder="test", ttl_ms=1_000)
    await proposer.propose(write)
    member.send(signal.SIGSTOP)
    with pytest.raises(OutcomeUnknownError, match="may still take effect"):
        await proposer.propose(write, timeout_ms=500)
    member.kill()
    with pytest.raises(UnavailableError, match="no member can be reached"):
        await proposer.propose(write, timeout_ms=500)


async def test_without_the_member_a_mirror_registers_resolves_and_starts_again(
    federation: Federation,
) -> None:
    mirror, process = federation.mirror(lease="10m")
    at_mirror = mirror.operator()
    first = await federation.agent("a1")
    second = await federation.agent("a2")
    async with first.registered() as registrar:
        await connected(registrar, "alpha-c1", "alpha-m1")
        await happens(lambda: listed(federation.operator()) == {"a1"} and seen(at_mirror) == {first.address})
        federation.member_process.kill()
        async with second.registered() as alone:
            await connected(alone, "alpha-m1")
            await happens(lambda: seen(at_mirror) == {first.address, second.address})
            await happens(lambda: b"a2" in mirror.journal())
        # Nobody repeats what the second one said: the mirror alone has it, on its disk.
        process.kill()
        await mirror.started()

        assert mirror.readiness()[1]["member"] == ""
        await happens(lambda: seen(at_mirror) == {first.address, second.address})
        before = age_ms(at_mirror, POLICIES + ANY_STATE)
        await happens(lambda: age_ms(at_mirror, POLICIES + ANY_STATE) > before)

        async with second.registered():
            await federation.member_started()
            await happens(lambda: listed(federation.operator()) == {"a1", "a2"} == listed(at_mirror))


async def test_agents_renew_their_certificates_at_a_mirror(federation: Federation) -> None:
    mirror, _ = federation.mirror()
    agent = await federation.agent("a1")
    leaf = LeafIdentity.load(agent.identity)
    directory = DirectoryStore.open(agent.folder)
    own = str(leaf.spiffe_id)
    async with client_channel(
        f"{mirror.host}:{CONTROL_PORT}",
        leaf,
        directory.bundles()["alpha.example"],
        server=parse("spiffe://alpha.example/isthmus/alpha/controller/m1"),
    ) as channel:
        reply = await sign(channel, SignRequest(csr=leaf.create_csr(), identity=own))
    leaf.install(reply.chain)
    assert str(LeafIdentity.load(agent.identity).spiffe_id) == own
