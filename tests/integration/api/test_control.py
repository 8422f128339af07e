"""Control/Register and Control/Sign over real gRPC: an agent speaks for its own endpoints and nobody else's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from certs.core.spiffe import parse
from certs.runtime.grpc_security import client_channel
from certs.runtime.identity import IdentityPem, LeafIdentity
from discovery.core.model import Endpoint, EndpointKey, EndpointPort
from federation.agent.control import receive, register, send, sign
from federation.api.health import Health
from federation.api.messages import (
    CONTROL_SERVICE,
    AgentHeartbeat,
    AgentHello,
    Declare,
    DeclareAck,
    DeclareRefused,
    DirectoryUpdate,
    ProbeTargets,
    Sightings,
    SignRequest,
    Welcome,
)
from federation.kernel.errors import (
    BadIdentityError,
    InvalidInputError,
    IsthmusError,
    NotAllowedError,
    PreconditionError,
    StaleRevisionError,
)
from federation.kernel.versions import PROTOCOL_VERSION
from tests.integration.api.joining import csr_of, enrolled
from tests.integration.controller.installation import BASE, CONTROL_PORT, Caller, Controller
from tests.support.wait import eventually_async

WAIT_S = 60.0
WORKLOAD = "spiffe://alpha.example/ns/shop/sa/shop"
replace = msgspec.structs.replace


@asynccontextmanager
async def channel_of(controller: Controller, identity: Any) -> AsyncIterator[grpc.aio.Channel]:
    host = controller.installation.host
    server = parse("spiffe://alpha.example/isthmus/alpha/controller/c1")
    async with client_channel(
        f"{host}:{CONTROL_PORT}", identity, controller.domain.bundle, server=server
    ) as channel:
        yield channel


def endpoint(controller: Controller, agent: str, name: str, **changes: Any) -> Endpoint:
    prefix = controller.installation.host.rpartition(".")[0]
    row = Endpoint(
        key=EndpointKey("shop", "orders", "alpha", name),
        address=f"{prefix}.9",
        ports=(EndpointPort(name="http", service_port=8080, listen_port=15006),),
        identity=WORKLOAD,
        ready=True,
        agent=agent,
        incarnation=1000,
        sequence=1,
    )
    return replace(row, **changes)


async def answers(call: Any, until: Callable[[Any], bool]) -> list[Any]:
    """Read messages up to the first that fits; directories are left out."""
    found: list[Any] = []
    while not found or not until(found[-1]):
        message = await receive(call)
        if not isinstance(message, DirectoryUpdate):
            found.append(message)
    return found


def is_global(number: int) -> Callable[[Any], bool]:
    return lambda one: isinstance(one, DeclareAck) and (one.number, one.level) == (number, "global")


async def hello(channel: grpc.aio.Channel, incarnation: int = 1000) -> Any:
    call = register(channel)
    await send(call, AgentHello(incarnation=incarnation))
    assert isinstance(await receive(call), Welcome)
    return call


def listed(operator: Caller) -> set[str]:
    return {one["name"] for one in operator.ok("GET", "/v1/endpoints?namespace=shop&cluster=alpha")}


async def test_a_declared_endpoint_is_acknowledged_here_then_globally_and_is_listed(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "ack")) as channel:
        call = await hello(channel)
        await send(call, Declare(number=7, put=(endpoint(controller, "ack", "ack-1"),), complete=True))
        said = await answers(call, is_global(7))
        assert [(one.number, one.level) for one in said] == [(7, "local"), (7, "global")]
        row = next(
            one for one in operator.ok("GET", "/v1/endpoints?namespace=shop") if one["name"] == "ack-1"
        )
        assert (row["identity"], row["ready"], row["agent"]) == (WORKLOAD, True, "ack")
        assert said[-1].revision <= operator.ok("GET", "/v1/status")["revision"]
        await send(
            call, Declare(number=8, remove=((EndpointKey("shop", "orders", "alpha", "ack-1"), 1000, 2),))
        )
        await answers(call, is_global(8))
        assert "ack-1" not in listed(operator)


async def test_bad_endpoints_are_refused_one_by_one_while_the_others_stand(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    good = endpoint(controller, "mix", "mix-good")
    key = good.key
    bad = {
        "of another cluster": (replace(good, key=key._replace(cluster="beta", name="b1")), "is of cluster beta"),
        "of another namespace": (replace(good, key=key._replace(namespace="bank", name="b2")), "enrolled for namespace shop"),
        "a gateway": (replace(good, key=EndpointKey("isthmus-system", "eastwest", "alpha", "b3")), "enrolled for namespace shop"),
        "of another identity": (replace(good, key=key._replace(name="b4"), identity=WORKLOAD + "2"), "has identity"),
        "of another agent": (replace(good, key=key._replace(name="b5"), agent="other"), "names agent other"),
        "outside the ranges": (replace(good, key=key._replace(name="b6"), address="10.0.0.1"), "is outside the cluster's ranges"),
        "no address": (replace(good, key=key._replace(name="b7"), address="localhost"), "is not an IP address"),
        "a long name": (replace(good, key=key._replace(name="x" * 64)), "has 64 characters, at most 63"),
        "a very long name": (replace(good, key=key._replace(name="x" * 100_000)), "has 100000 characters, at most 63"),
        "a long service": (replace(good, key=key._replace(service="s" * 64, name="b8")), "has 64 characters"),
        "no ports": (replace(good, key=key._replace(name="b9"), ports=()), "has 0 ports"),
        "a bad port": (replace(good, key=key._replace(name="b10"), ports=(EndpointPort(name="http", service_port=0, listen_port=15006),)), "service_port"),
        "a huge weight": (replace(good, key=key._replace(name="b11"), weight=10**9), "weight is 1000000000"),
        "long labels": (replace(good, key=key._replace(name="b12"), labels=(("a", "v" * 5_000),)), "at most 4096 are allowed"),
        "another incarnation": (replace(good, key=key._replace(name="b13"), incarnation=2000), "expected 'mix' at most at (1000"),
    }  # fmt: skip
    rows = (*(row for row, _ in bad.values()), good)
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "mix")) as channel:
        call = await hello(channel)
        await send(call, Declare(number=1, put=rows, complete=True))
        said = await answers(call, is_global(1))
        refused = {one.key: one.message for one in said if isinstance(one, DeclareRefused)}
        for case, (row, message) in bad.items():
            assert message in refused.get(row.key, "nothing was refused"), case
            assert len(refused[row.key]) < 2_000, case
        assert len(refused) == len(bad)
        assert "mix-good" in listed(operator)
        assert not listed(operator) & {row.key.name for row, _ in bad.values()}


async def test_endpoints_stay_through_a_broken_stream_and_go_when_the_lease_of_a_silent_agent_ends(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    identity = enrolled(controller, tmp_path / "a", "silent")
    row = endpoint(controller, "silent", "silent-1")
    lively = enrolled(controller, tmp_path / "b", "lively")
    async with channel_of(controller, identity) as channel, channel_of(controller, lively) as other:
        # Somebody else goes on: were all silent, it could be the controller that is cut off.
        beating = await hello(other)
        await send(beating, Declare(number=1, complete=True))

        async def gone() -> bool:
            await send(beating, AgentHeartbeat())
            return "silent-1" not in listed(operator)

        call = await hello(channel)
        await send(call, Declare(number=1, put=(row,), complete=True))
        await answers(call, is_global(1))
        call.cancel()
        # Back before its lease (2 s) ends, saying the same: nobody noticed.
        call = await hello(channel)
        assert "silent-1" in listed(operator)
        await send(call, Declare(number=1, put=(row,), complete=True))
        await answers(call, is_global(1))
        # Now it keeps the stream, and says nothing any more.
        await eventually_async(gone, timeout_s=WAIT_S, interval_s=0.2, message="the silent agent's row goes")
        with pytest.raises(IsthmusError, match=r"silent was silent for 2000 ms"):
            await answers(call, lambda _: False)


async def test_an_agent_that_says_nothing_new_but_lives_keeps_its_endpoints(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "calm")) as channel:
        call = await hello(channel)
        await send(call, Declare(number=1, put=(endpoint(controller, "calm", "calm-1"),), complete=True))
        await answers(call, is_global(1))
        beats = 0

        async def beat() -> bool:
            nonlocal beats
            await send(call, AgentHeartbeat())
            beats += 1
            assert "calm-1" in listed(operator)
            return beats >= 9

        # Nine beats, half a second apart: twice its lease.
        await eventually_async(beat, timeout_s=WAIT_S, interval_s=0.5)


async def test_a_newer_start_of_an_agent_silences_the_older_one(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    identity = enrolled(controller, tmp_path / "a", "twin")
    async with channel_of(controller, identity) as channel:
        old = await hello(channel, 1000)
        await send(old, Declare(number=1, put=(endpoint(controller, "twin", "twin-old"),), complete=True))
        await answers(old, is_global(1))
        new = await hello(channel, 2000)
        row = endpoint(controller, "twin", "twin-new", incarnation=2000)
        await send(new, Declare(number=1, put=(row,), complete=True))
        await answers(new, is_global(1))
        assert listed(operator) & {"twin-old", "twin-new"} == {"twin-new"}
        late = register(channel)
        await send(late, AgentHello(incarnation=1500))
        with pytest.raises(StaleRevisionError, match="incarnation 1500 is older than 2000"):
            await receive(late)


async def test_an_agent_whose_record_is_deleted_is_cut_off_at_once_and_its_neighbour_is_not(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    async with (
        channel_of(controller, enrolled(controller, tmp_path / "a", "unwanted")) as channel,
        channel_of(controller, enrolled(controller, tmp_path / "b", "welcome")) as other,
    ):
        unwanted, welcome = await hello(channel), await hello(other)
        await asyncio.to_thread(operator.ok, "DELETE", f"/clusters/alpha{BASE}/agents/agent.unwanted")
        with pytest.raises(NotAllowedError, match="unwanted was evicted: its Agent record was deleted"):
            async with asyncio.timeout(WAIT_S):
                await answers(unwanted, lambda _: False)
        await send(welcome, Declare(number=1, complete=True))
        await answers(welcome, is_global(1))
        again = register(channel)
        await send(again, AgentHello(incarnation=2000))
        with pytest.raises(NotAllowedError, match="is not enrolled, or was evicted"):
            await receive(again)


async def test_a_gateway_registers_itself_and_nothing_else(
    controller: Controller, operator: Caller, tmp_path: Path
) -> None:
    identity = enrolled(controller, tmp_path / "g", "gw", purpose="gateway")
    gateway = endpoint(
        controller,
        "gateway.gw",
        "gw",
        key=EndpointKey("isthmus-system", "eastwest", "alpha", "gw"),
        identity=str(identity.spiffe_id),
        ports=(EndpointPort(name="tls", service_port=15443, listen_port=15443, protocol="tcp"),),
    )
    workload = endpoint(controller, "gateway.gw", "sneaky", identity=str(identity.spiffe_id))
    async with channel_of(controller, identity) as channel:
        call = await hello(channel)
        await send(call, Sightings(heard=("beta",)))
        await send(call, Declare(number=1, put=(gateway, workload), complete=True))
        said = await answers(call, is_global(1))
        assert ProbeTargets(targets=(), whole=True) in said  # It has no other cluster to look at.
        refused = [one.message for one in said if isinstance(one, DeclareRefused)]
        assert refused == [
            "endpoint sneaky of shop/orders: the agent was enrolled for isthmus-system/eastwest"
        ]
        clusters = {one["name"]: one for one in operator.ok("GET", "/v1/status")["clusters"]}
        assert clusters["alpha"]["gateways"] == 1


async def first_raw(call: Any, *frames: bytes) -> None:
    for frame in frames:
        await call.write(frame)
    while await call.read() is not grpc.aio.EOF:
        pass
    status = await call.code()
    raise AssertionError(f"the stream ended with {status} and without an error")


HELLO = msgspec.msgpack.encode(AgentHello(incarnation=1))


@pytest.mark.parametrize(
    ("frames", "status", "message"),
    [
        pytest.param((b"",), "INVALID_ARGUMENT", "cannot be read", id="empty-frame"),
        pytest.param((b"\xc1\xff\x00garbage",), "INVALID_ARGUMENT", "cannot be read", id="garbage"),
        pytest.param((b"\x81\xa4type\xa5hell\xff",), "INVALID_ARGUMENT", "cannot be read", id="not-utf8"),
        pytest.param((b"\x82\xa4type\xa9heartbeat\xa1x" + b"\x91" * 20_000 + b"\x01",), "INVALID_ARGUMENT", "cannot be read", id="deep-nesting"),
        pytest.param((msgspec.msgpack.encode({"type": "mutiny"}),), "INVALID_ARGUMENT", "mutiny", id="unknown-type"),
        pytest.param((msgspec.msgpack.encode(AgentHeartbeat()),), "INVALID_ARGUMENT", "must be a hello", id="no-hello"),
        pytest.param((msgspec.msgpack.encode(AgentHello(incarnation=1, protocol=0)),), "FAILED_PRECONDITION", f"the agent speaks protocol 0, this controller {PROTOCOL_VERSION}", id="old-protocol"),
        pytest.param((HELLO, b"\xc1"), "INVALID_ARGUMENT", "cannot be read", id="garbage-after-hello"),
        pytest.param((b"x" * (9 * 1024 * 1024),), "RESOURCE_EXHAUSTED", "larger than max", id="too-large"),
    ],
)  # fmt: skip
async def test_frames_that_cannot_be_read_end_their_stream_with_a_clear_status(
    controller: Controller, tmp_path: Path, frames: tuple[bytes, ...], status: str, message: str
) -> None:
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "garbled")) as channel:
        call = channel.stream_stream(f"/{CONTROL_SERVICE}/Register")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first_raw(call, *frames)
        assert caught.value.code().name == status
        assert message in (caught.value.details() or "")


Identity = Callable[[Controller, Path], Awaitable[Any]]


async def an_agent_that_never_enrolled(controller: Controller, folder: Path) -> LeafIdentity:
    return controller.domain.agent("alpha", "ghost")


async def an_agent_that_was_evicted(controller: Controller, folder: Path) -> LeafIdentity:
    identity = enrolled(controller, folder, "evicted")
    controller.installation.operator().ok("DELETE", f"/clusters/alpha{BASE}/agents/agent.evicted")
    return identity


async def an_agent_of_another_cluster(controller: Controller, folder: Path) -> LeafIdentity:
    return controller.domain.agent("elsewhere", "a1")  # Whoever joins in other tests: not that one.


async def a_dns_process(controller: Controller, folder: Path) -> LeafIdentity:
    return enrolled(controller, folder, "d1", purpose="dns")


async def an_operator(controller: Controller, folder: Path) -> LeafIdentity:
    return LeafIdentity.load(controller.installation.context)


async def a_workload(controller: Controller, folder: Path) -> LeafIdentity:
    return controller.domain.leaf("/ns/shop/sa/shop")


async def two_names(controller: Controller, folder: Path) -> Any:
    agent = "spiffe://alpha.example/isthmus/alpha/agent/a"
    return _Pem(controller.domain.forge(uris=[f"{agent}1", f"{agent}2"]).pem())


async def a_name_of_another_domain(controller: Controller, folder: Path) -> Any:
    return _Pem(controller.domain.forge(uris=["spiffe://beta.example/isthmus/beta/agent/a1"]).pem())


class _Pem:
    """What a channel needs of an identity."""

    def __init__(self, pem: IdentityPem) -> None:
        self._pem = pem

    def pem(self) -> IdentityPem:
        return self._pem


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (an_agent_that_never_enrolled, NotAllowedError, "is not enrolled, or was evicted"),
        (an_agent_that_was_evicted, NotAllowedError, "is not enrolled, or was evicted"),
        (an_agent_of_another_cluster, NotAllowedError, "cluster elsewhere is not served here"),
        (a_dns_process, NotAllowedError, "expected an agent or a gateway"),
        (an_operator, NotAllowedError, "expected an agent or a gateway"),
        (a_workload, NotAllowedError, "expected an agent or a gateway"),
        (two_names, BadIdentityError, "URI"),
        (a_name_of_another_domain, BadIdentityError, "."),
    ],
)
async def test_only_enrolled_agents_and_gateways_of_this_cluster_register(
    controller: Controller, tmp_path: Path, make: Identity, error: type[IsthmusError], message: str
) -> None:
    async with channel_of(controller, await make(controller, tmp_path / "identity")) as channel:
        call = register(channel)
        if "enrolled" in message:
            # The others are refused before they have said a word; a word of theirs could meet the end of
            # the call, and grpc.aio would then replace the status: see certs.runtime.grpc_security.
            await send(call, AgentHello(incarnation=1))
        with pytest.raises(error, match=message):
            await receive(call)


async def test_sign_renews_the_callers_own_identity_and_its_workloads(
    controller: Controller, tmp_path: Path
) -> None:
    identity = enrolled(controller, tmp_path / "a", "renewer")
    own = str(identity.spiffe_id)
    async with channel_of(controller, identity) as channel:
        for wanted, folder in ((own, "own"), (WORKLOAD, "workload")):
            leaf = LeafIdentity.load(tmp_path / folder)
            leaf.install((await sign(channel, SignRequest(csr=leaf.create_csr(), identity=wanted))).chain)
            assert str(leaf.spiffe_id) == wanted


@pytest.mark.parametrize(
    ("identity", "error", "message"),
    [
        ("spiffe://alpha.example/ns/shop/sa/other", NotAllowedError, "may not have the identity"),
        ("spiffe://alpha.example/ns/bank/sa/shop", NotAllowedError, "may not have the identity"),
        ("spiffe://alpha.example/isthmus/alpha/agent/someone", NotAllowedError, "may not have the identity"),
        ("spiffe://alpha.example/isthmus/alpha/controller/c1", NotAllowedError, "may not have the identity"),
        ("spiffe://alpha.example/isthmus/alpha/operator/admin", NotAllowedError, "may not have the identity"),
        ("spiffe://beta.example/ns/shop/sa/shop", NotAllowedError, "may not have the identity"),
        ("nonsense", InvalidInputError, "is not a spiffe id"),
        ("spiffe://alpha.example/" + "a/" * 2_000, InvalidInputError, "longer than"),
    ],
)
async def test_sign_refuses_every_foreign_identity(
    controller: Controller, tmp_path: Path, identity: str, error: type[IsthmusError], message: str
) -> None:
    caller = enrolled(controller, tmp_path / "a", "signer")
    async with channel_of(controller, caller) as channel:
        request = SignRequest(csr=csr_of(tmp_path / "new"), identity=identity)
        with pytest.raises(error, match=message):
            await sign(channel, request)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cannot be read"),
        (b"\x82\xa3csr\xc4\x00\xa8identity\xa2\xff\xfe", "cannot be read"),
        (b"\x81\xa1x" + b"\x91" * 20_000, "cannot be read"),
        (msgspec.msgpack.encode(SignRequest(csr=b"no", identity=WORKLOAD)), "certificate request"),
    ],
    ids=["empty", "not-utf8", "deep-nesting", "no-request"],
)
async def test_sign_requests_that_cannot_be_read_are_refused(
    controller: Controller, tmp_path: Path, raw: bytes, message: str
) -> None:
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "signer")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{CONTROL_SERVICE}/Sign")(raw)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in (caught.value.details() or "")


@pytest.mark.parametrize("make", [two_names, a_name_of_another_domain])
async def test_sign_hears_nobody_whose_certificate_proves_nothing(
    controller: Controller, tmp_path: Path, make: Identity
) -> None:
    async with channel_of(controller, await make(controller, tmp_path)) as channel:
        with pytest.raises(BadIdentityError):
            await sign(channel, SignRequest(csr=csr_of(tmp_path / "new"), identity=WORKLOAD))


@pytest.mark.parametrize("make", [an_operator, an_agent_that_never_enrolled])
async def test_sign_signs_for_enrolled_processes_only(
    controller: Controller, tmp_path: Path, make: Identity
) -> None:
    async with channel_of(controller, await make(controller, tmp_path / "identity")) as channel:
        with pytest.raises(NotAllowedError):
            await sign(channel, SignRequest(csr=csr_of(tmp_path / "new"), identity=WORKLOAD))


async def test_a_hello_of_an_old_protocol_is_named(controller: Controller, tmp_path: Path) -> None:
    async with channel_of(controller, enrolled(controller, tmp_path / "a", "old")) as channel:
        call = register(channel)
        await send(call, AgentHello(incarnation=1, protocol=0))
        with pytest.raises(
            PreconditionError, match=f"the agent speaks protocol 0, this controller {PROTOCOL_VERSION}"
        ):
            await receive(call)


async def health(controller: Controller, identity: Any) -> Health:
    async with channel_of(controller, identity) as channel:
        method: Any = channel.unary_unary(f"/{CONTROL_SERVICE}/Health")
        return msgspec.msgpack.decode(await method(b""), type=Health)


async def test_a_controller_tells_another_one_how_it_is(controller: Controller) -> None:
    said = await health(controller, controller.domain.leaf("/isthmus/alpha/controller/c2"))
    assert (said.controller, said.role, said.voters, said.incarnation) == (
        "alpha-c1",
        "leader",
        ("alpha",),
        1,
    )
    assert said.commit_index <= said.last_index
    assert said.leaf_expires_ms > said.unix_ms
    assert 0 < said.disk_free_bytes <= said.disk_total_bytes


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/isthmus/alpha/agent/a1", "expected another controller"),
        ("/isthmus/alpha/operator/admin", "expected another controller"),
        ("/ns/shop/sa/orders", "expected another controller"),
        ("/isthmus/mars/controller/c1", "cluster mars, which has not joined"),
    ],
)
async def test_nobody_but_a_controller_of_the_federation_asks_how_it_is(
    controller: Controller, path: str, message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health(controller, controller.domain.leaf(path))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert message in str(refused.value.details())
