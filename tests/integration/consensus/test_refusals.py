"""Strangers, forgers, garbage and damaged disks: each is refused by name while the others go on."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from structlog.testing import capture_logs

from consensus.core.membership import KIND_COMMAND, KIND_MEMBERSHIP
from consensus.core.messages import LENGTH, Append, Hello, Ping, RequestVote, encode_frame
from consensus.core.records import Entry
from federation.kernel.errors import CorruptError, IsthmusError, PreconditionError, UnavailableError
from federation.kernel.limits import FRAME_BYTES_MAX
from federation.kernel.versions import PROTOCOL_VERSION
from tests.integration.consensus.cluster import FEDERATION, Cluster, cluster_of
from tests.integration.consensus.pki import FileSecurity, TestCa
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")
STRANGERS_TERM = 1_000
BETA_HELLO = encode_frame(Hello(federation=FEDERATION, version=PROTOCOL_VERSION, member="beta"))


async def is_refused(address: str, context: ssl.SSLContext | None, data: bytes) -> bool:
    """Connect, send `data` and return whether the other side closes instead of listening on."""
    host, port = address.split(":")
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                writer.write(data)
                while await reader.read(1 << 16):
                    pass
            finally:
                writer.transport.abort()
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def no_certificate(cluster: Cluster) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cluster.directory / "pki" / "root.pem")
    return context


def of_member(cluster: Cluster, name: str) -> ssl.SSLContext:
    return cluster.ca.security(cluster.addresses[name].identity).client_context()


def of_other_ca(cluster: Cluster) -> ssl.SSLContext:
    other = TestCa(cluster.directory / "other", "other").security(cluster.addresses["beta"].identity)
    return FileSecurity(other.leaf, cluster.directory / "pki" / "root.pem").client_context()


def of_stranger(cluster: Cluster) -> ssl.SSLContext:
    return cluster.ca.security("spiffe://alpha.test/ns/shop/sa/cart").client_context()


def tls12(cluster: Cluster) -> ssl.SSLContext:
    context = of_member(cluster, "beta")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def hello(**changes: object) -> bytes:
    fields = {"federation": FEDERATION, "version": PROTOCOL_VERSION, "member": "beta"} | changes
    return encode_frame(Hello(**fields))


def append_of(command: bytes, index: int) -> bytes:
    """A leader's frame with one entry behind the founding one."""
    entries = (Entry(index, STRANGERS_TERM, command),)
    return encode_frame(
        Append(term=STRANGERS_TERM, commit_index=1, prev_index=1, prev_term=0, entries=entries)
    )


def as_beta(cluster: Cluster) -> ssl.SSLContext:
    return of_member(cluster, "beta")


class Stranger(NamedTuple):
    """Who connects, what he sends, and what the member says of it."""

    context: Callable[[Cluster], ssl.SSLContext | None]
    data: bytes
    reason: str


def in_frame(payload: bytes) -> bytes:
    return LENGTH.pack(len(payload)) + payload


STRANGERS = {
    "plain text": Stranger(lambda _cluster: None, b"GET / HTTP/1.1\r\n\r\n", "http request"),
    "no certificate": Stranger(no_certificate, BETA_HELLO, "peer did not return a certificate"),
    "wrong CA": Stranger(of_other_ca, BETA_HELLO, "unable to get local issuer certificate"),
    "right CA, unknown identity": Stranger(
        of_stranger, BETA_HELLO, "spiffe://alpha.test/ns/shop/sa/cart is not a member that alpha knows"
    ),
    "right CA, no URI at all": Stranger(
        lambda cluster: cluster.ca.security(None).client_context(), BETA_HELLO, "peer cannot be verified"
    ),
    "member claims another id": Stranger(
        lambda cluster: of_member(cluster, "gamma"), BETA_HELLO, "says that it is member beta, it is gamma"
    ),
    "TLS 1.2": Stranger(tls12, BETA_HELLO, "unsupported protocol"),
    "other federation": Stranger(
        as_beta, hello(federation="other"), "beta belongs to federation 'other', not 'test'"
    ),
    "protocol too old": Stranger(as_beta, hello(version=0), "peer beta speaks protocol 0, expected"),
    "vote before hello": Stranger(
        as_beta,
        encode_frame(RequestVote(term=STRANGERS_TERM, last_index=9, last_term=9)),
        "first frame of beta is RequestVote, expected Hello",
    ),
    "hello too long": Stranger(
        as_beta, LENGTH.pack(1 << 20), "frame of 1048576 bytes, expected at most 4096"
    ),
    "frame too long": Stranger(
        as_beta, BETA_HELLO + LENGTH.pack(FRAME_BYTES_MAX + 1), f"expected at most {FRAME_BYTES_MAX}"
    ),
    "garbage": Stranger(as_beta, BETA_HELLO + in_frame(b"\xff" * 4), "frame of 4 bytes is not a message"),
    "not UTF-8": Stranger(as_beta, in_frame(b"\x91\xa4\xff\xff\xff\xff"), "can't decode byte 0xff"),
    "nested without end": Stranger(
        as_beta,
        BETA_HELLO + in_frame(b"\x93\xa4ping\x00" + b"\x91" * 60_000),
        "maximum recursion depth exceeded",
    ),
    "pickle": Stranger(as_beta, BETA_HELLO + in_frame(b"cos\nx\n(tR."), "frame of 10 bytes is not a message"),
    "an entry of a kind that nobody writes": Stranger(
        as_beta, BETA_HELLO + append_of(b"\x7f", 2), "entry 2 has kind b'\\x7f'"
    ),
    "an entry of a membership that is none": Stranger(
        as_beta, BETA_HELLO + append_of(KIND_MEMBERSHIP + b"\xc1", 2), "log entry is not a membership change"
    ),
    "entries with a gap": Stranger(
        as_beta, BETA_HELLO + append_of(KIND_COMMAND, 3), "entry 3 of term 1000 follows entry 1 of term 0"
    ),
    "a proposal of a kind that there is not": Stranger(
        as_beta,
        BETA_HELLO + in_frame(msgspec.msgpack.encode(["propose", 1, "restore", b"", 1_000])),
        "Invalid enum value 'restore'",
    ),
    "second hello": Stranger(as_beta, BETA_HELLO + BETA_HELLO, "peer beta sent a second hello"),
}


def test_who_is_not_a_member_is_closed_and_the_members_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            alpha, address = cluster.members["alpha"].engine, cluster.addresses["alpha"].address

            async def told(name: str, stranger: Stranger) -> bool:
                refused = alpha.counters().connections_refused
                with capture_logs() as logs:
                    assert await is_refused(address, stranger.context(cluster), stranger.data), name
                    await eventually_async(
                        lambda: alpha.counters().connections_refused > refused,
                        timeout_s=60,
                        message=f"{name} is counted",
                    )
                return any(stranger.reason in str(line.get("reason")) for line in logs)

            for name, stranger in STRANGERS.items():
                # Not every refusal is written to the log: a stranger must not fill it.
                await eventually_async(
                    partial(told, name, stranger), timeout_s=60, interval_s=0.2, message=stranger.reason
                )
                await cluster.write(leader, name.encode())
            assert all(running.engine.status().term < STRANGERS_TERM for running in cluster.members.values())

    asyncio.run(scenario())


async def recorded(address: str, context: ssl.SSLContext, data: bytes) -> bytes:
    """Send `data` to a member through somebody who listens, and return what he heard."""
    heard = bytearray()
    done = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = address.split(":")
        member_reader, member = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as tasks:
            answers = tasks.create_task(_pass_on(member_reader, writer))
            while piece := await reader.read(1 << 16):
                heard.extend(piece)
                member.write(piece)
            answers.cancel()
        member.transport.abort()
        writer.transport.abort()
        done.set()

    async with await asyncio.start_server(listen, address.split(":")[0], 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(address.split(":")[0], port, ssl=context)
        writer.write(data)
        await reader.readexactly(LENGTH.size)  # Its hello: it has taken ours.
        writer.close()
        await done.wait()
    return bytes(heard)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)


def test_what_was_recorded_of_a_connection_is_refused_when_it_is_sent_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            alpha, address = cluster.members["alpha"].engine, cluster.addresses["alpha"].address
            heard = await recorded(address, as_beta(cluster), BETA_HELLO + encode_frame(Ping()))
            assert len(heard) > len(BETA_HELLO)
            refused = alpha.counters().connections_refused
            assert await is_refused(address, None, heard)
            await eventually_async(lambda: alpha.counters().connections_refused > refused, timeout_s=60)
            await cluster.write(leader, b"the others go on")

    asyncio.run(scenario())


def test_a_member_that_nobody_allowed_does_not_get_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", "beta", founding=False) as cluster:
            alpha = await cluster.start("alpha", ["alpha"])
            await cluster.write("alpha", b"secret")
            beta = await cluster.start("beta", ["alpha"])
            await eventually_async(lambda: alpha.engine.counters().connections_refused > 2, timeout_s=60)
            assert beta.machine.commands == []
            assert beta.engine.status().connected == ()

    asyncio.run(scenario())


async def end_of(cluster: Cluster, name: str) -> IsthmusError:
    """Start a member that must not start, and return why."""
    error: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            lone = Cluster(cluster.directory, tasks, cluster.addresses, cluster.ca)
            await lone.start(name, [name])
    except BaseExceptionGroup as group:
        error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, IsthmusError), "the member must not start"
    return error


def damage_journal(directory: Path) -> None:
    path = directory / "journal"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def newer_journal(directory: Path) -> None:
    path = directory / "journal"
    data = bytearray(path.read_bytes())
    data[8] = 200
    path.write_bytes(data)


def damage_snapshot(directory: Path) -> None:
    path = directory / "snapshot"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_snapshot(directory: Path) -> None:
    path = directory / "snapshot"
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        pytest.param(damage_journal, CorruptError, "is damaged at offset 9", id="journal-bit"),
        pytest.param(newer_journal, PreconditionError, "has format 200", id="journal-newer"),
        pytest.param(
            lambda directory: (directory / "journal").unlink(), CorruptError, "no journal", id="journal-gone"
        ),
        pytest.param(damage_snapshot, CorruptError, "is damaged at offset", id="snapshot-bit"),
        pytest.param(cut_snapshot, CorruptError, "cut off", id="snapshot-cut"),
        pytest.param(
            lambda directory: (directory / "snapshot").unlink(), CorruptError, "is gone", id="snapshot-gone"
        ),
    ],
)
def test_a_member_with_a_damaged_disk_refuses_to_start(
    tmp_path: Path, damage: Callable[[Path], None], error: type[IsthmusError], message: str
) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", founding=False) as cluster:
            alpha = await cluster.start("alpha", ["alpha"], snapshot_after_bytes=4_000)
            for number in range(50):
                await cluster.write("alpha", b"%d" % number * 100)
            await eventually_async(lambda: alpha.engine.status().snapshot_index > 0, timeout_s=60)
            await cluster.stop("alpha")
            damage(tmp_path / "alpha")
            failure = await end_of(cluster, "alpha")
            assert isinstance(failure, error), failure
            assert message in failure.message
            assert str(tmp_path / "alpha") in failure.message

    asyncio.run(scenario())


def test_a_directory_and_an_address_in_use_are_refused_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha") as cluster:
            in_use = await end_of(cluster, "alpha")
            assert isinstance(in_use, PreconditionError)
            assert f"directory {tmp_path / 'alpha'} is in use by process" in in_use.message
            cluster.directory = tmp_path / "elsewhere"
            taken = await end_of(cluster, "alpha")
            assert isinstance(taken, UnavailableError)
            assert cluster.addresses["alpha"].address in taken.message
            await cluster.write("alpha", b"the first one goes on")

    asyncio.run(scenario())
