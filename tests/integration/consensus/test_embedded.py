"""Three members over real TLS: what callers of the engine rely on."""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import pysyncobj.pickle
import pytest

from federation.kernel.errors import (
    AlreadyExistsError,
    CorruptError,
    IsthmusError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    UnavailableError,
)
from federation.kernel.limits import COMMAND_BYTES_MAX
from tests.integration.consensus.cluster import Cluster, Journalled, Running, cluster_of
from tests.integration.consensus.pki import FileSecurity
from tests.support.wait import eventually_async

FOUNDERS = ("alpha", "beta", "gamma")


async def same_state(cluster: Cluster, *names: str) -> None:
    """Wait until the named members hold the same commands."""

    def is_same() -> bool:
        first, *others = [cluster.members[name].machine.commands for name in names]
        return all(commands == first for commands in others)

    await eventually_async(is_same, timeout_s=60, message=lambda: "states become equal")


def commands(running: Running) -> list[bytes]:
    return [command for _index, command in running.machine.commands]


def test_a_command_proposed_on_a_follower_is_in_its_own_state_on_return(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            for name in await cluster.followers():
                running = cluster.members[name]
                applied = await running.engine.propose(name.encode(), timeout_ms=10_000)
                assert (applied.index, name.encode()) in running.machine.commands
                assert applied.result == b"%d" % len(running.machine.commands)
                assert applied.term <= running.engine.status().term

    asyncio.run(scenario())


def test_writes_go_on_when_the_leader_stops_and_it_catches_up_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            old = await cluster.leader()
            await cluster.write(old, b"before")
            await cluster.stop(old)
            new = await cluster.leader()
            assert new != old
            applied = await cluster.write(new, b"between")
            await cluster.start(old, FOUNDERS)
            await same_state(cluster, *FOUNDERS)
            assert (applied.index, b"between") in cluster.members[old].machine.commands

    asyncio.run(scenario())


def test_all_members_restarted_keep_every_command(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            for number in range(20):
                await cluster.write(leader, b"%d" % number)
            term = cluster.members[leader].engine.status().term
            for name in FOUNDERS:
                await cluster.stop(name)
            for name in FOUNDERS:
                await cluster.start(name, FOUNDERS)
            await cluster.write(await cluster.leader(), b"after")
            await same_state(cluster, *FOUNDERS)
            kept = [*dict.fromkeys(commands(cluster.members["alpha"]))]  # One may have been repeated.
            assert kept == [*(b"%d" % number for number in range(20)), b"after"]
            assert cluster.members["alpha"].engine.status().term > term

    asyncio.run(scenario())


def test_a_single_member_commits_alone_and_replays_before_it_is_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha") as cluster:
            await cluster.write("alpha", b"one")
            await cluster.write("alpha", b"two")
            await cluster.stop("alpha")
            running = await cluster.start("alpha", ["alpha"])
            assert commands(running)[:1] == [b"one"]
            await cluster.write("alpha", b"three")
            assert commands(running) == [b"one", b"two", b"three"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("snapshot_after_bytes", "by_snapshot"),
    [pytest.param(1 << 24, False, id="by-log"), pytest.param(20_000, True, id="by-snapshot")],
)
def test_an_empty_member_joins_and_votes(
    tmp_path: Path, snapshot_after_bytes: int, by_snapshot: bool
) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", "beta", founding=False) as cluster:
            alpha = await cluster.start("alpha", ["alpha"], snapshot_after_bytes=snapshot_after_bytes)
            for number in range(100):
                await cluster.write("alpha", b"%d" % number * 300)
            newcomer = cluster.addresses["beta"]
            with pytest.raises(PreconditionError, match="beta is not connected"):
                await alpha.engine.add_member(newcomer, timeout_ms=1_000)
            alpha.engine.allow([newcomer])
            beta = await cluster.start("beta", ["alpha"], snapshot_after_bytes=snapshot_after_bytes)
            assert beta.engine.status().role == "joining"
            await alpha.engine.add_member(newcomer, timeout_ms=20_000)
            await eventually_async(lambda: beta.engine.status().role == "follower", timeout_s=60)
            await same_state(cluster, "alpha", "beta")
            assert (beta.engine.counters().snapshots_installed > 0) == by_snapshot
            assert alpha.engine.status().members == beta.engine.status().members == ("alpha", "beta")

            # Its vote counts: without it nothing is committed.
            await alpha.engine.add_member(newcomer, timeout_ms=5_000)
            await cluster.stop("beta")
            with pytest.raises(IsthmusError):
                await alpha.engine.propose(b"alone", timeout_ms=300)
            await cluster.start("beta", ["alpha"])
            await cluster.write("beta", b"together")
            assert cluster.members["beta"].engine.status().role != "joining"

    asyncio.run(scenario())


def test_members_are_removed_one_at_a_time_even_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            follower, other = await cluster.followers()
            engine = cluster.members[follower].engine
            with pytest.raises(NotFoundError, match="no member nobody votes"):
                await engine.remove_member("nobody", timeout_ms=10_000)
            moved = cluster.addresses[other].__class__(
                id=other, address="127.101.0.1:1", identity=cluster.addresses[other].identity
            )
            with pytest.raises(AlreadyExistsError):
                await engine.add_member(moved, timeout_ms=10_000)
            await engine.remove_member(leader, timeout_ms=10_000)
            assert set(engine.status().members) == {follower, other}
            await eventually_async(
                lambda: cluster.members[leader].engine.status().role == "joining", timeout_s=60
            )
            await cluster.stop(leader)
            await cluster.write(await cluster.leader(), b"two remain")
            rest = await cluster.leader()
            (gone,) = await cluster.followers()
            await cluster.members[rest].engine.remove_member(gone, timeout_ms=10_000)
            await cluster.stop(gone)
            await cluster.write(rest, b"one remains")
            with pytest.raises(PreconditionError, match="only member"):
                await cluster.members[rest].engine.remove_member(rest, timeout_ms=10_000)

    asyncio.run(scenario())


def test_two_changes_of_the_members_never_overlap(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            engine = cluster.members[leader].engine
            await cluster.write(leader, b"elected")
            results: list[str] = []

            async def remove(name: str) -> None:
                try:
                    await engine.remove_member(name, timeout_ms=10_000)
                except PreconditionError as error:
                    results.append(error.message)
                else:
                    results.append("removed")

            async with asyncio.TaskGroup() as tasks:
                for name in await cluster.followers():
                    tasks.create_task(remove(name))
            refused = [result for result in results if result != "removed"]
            # Two that came one after the other, on a machine that slept in between, are two changes.
            assert all(result.startswith("another change of the members is pending") for result in refused)
            assert len(engine.status().members) == 1 + len(refused)

    asyncio.run(scenario())


def test_a_read_barrier_sees_every_finished_write_and_is_shared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            for name in await cluster.followers():
                follower = cluster.members[name]
                for number in range(10):
                    applied = await cluster.write(leader, b"%d" % number)
                    index = await follower.engine.read_barrier(timeout_ms=10_000)
                    assert index >= applied.index
                    assert applied.index in [position for position, _command in follower.machine.commands]
            before = cluster.members[leader].engine.status().commit_index
            async with asyncio.TaskGroup() as tasks:
                for _ in range(200):
                    tasks.create_task(follower.engine.read_barrier(timeout_ms=10_000))
            assert cluster.members[leader].engine.status().commit_index - before < 150, (
                "many waited for the same entry"
            )

    asyncio.run(scenario())


def test_a_stale_read_says_how_old_it_may_be_and_ages_when_its_member_is_cut_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            leader = await cluster.leader()
            await cluster.write(leader, b"seen")
            follower, other = await cluster.followers()
            engine = cluster.members[follower].engine
            await eventually_async(lambda: (engine.status().state_age_ms or 10_000) < 1_000, timeout_s=60)
            await eventually_async(
                lambda: commands(cluster.members[follower]) == [b"seen"],
                timeout_s=60,
                message="fresh means seen",
            )
            for name in (leader, other):
                await cluster.stop(name)
            await eventually_async(lambda: (engine.status().state_age_ms or 0) > 2_500, timeout_s=60)
            assert commands(cluster.members[follower]) == [b"seen"]

    asyncio.run(scenario())


def test_without_a_majority_a_proposal_fails_and_says_whether_it_may_have_happened(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS, founding=False) as cluster:
            alone = await cluster.start("alpha", FOUNDERS)
            with pytest.raises(UnavailableError, match="knows no leader"):
                await alone.engine.propose(b"x", timeout_ms=1_000)
            with pytest.raises(UnavailableError):
                await alone.engine.read_barrier(timeout_ms=1_000)
            with pytest.raises(LimitExceededError, match=f"at most {COMMAND_BYTES_MAX}"):
                await alone.engine.propose(bytes(COMMAND_BYTES_MAX + 1), timeout_ms=1_000)
            await cluster.stop("alpha")
            with pytest.raises(UnavailableError, match="does not run"):
                await alone.engine.propose(b"x", timeout_ms=1_000)
            assert alone.engine.status().role == "stopped"

    asyncio.run(scenario())


def test_many_large_commands_arrive_in_one_order_everywhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, *FOUNDERS) as cluster:
            await cluster.leader()
            large = [
                b"%d " % number + bytes(COMMAND_BYTES_MAX - 10 if number % 3 else 100)
                for number in range(150)
            ]
            async with asyncio.TaskGroup() as tasks:
                for number, command in enumerate(large):
                    tasks.create_task(cluster.write(FOUNDERS[number % 3], command))
            await same_state(cluster, *FOUNDERS)
            assert set(commands(cluster.members["alpha"])) == set(large)

    asyncio.run(scenario())


class Rotating:
    """Hands out whatever leaf it was given last, and counts."""

    def __init__(self, current: FileSecurity) -> None:
        self.current = current
        self.asked = 0

    def server_context(self) -> ssl.SSLContext:
        self.asked += 1
        return self.current.server_context()

    def client_context(self) -> ssl.SSLContext:
        self.asked += 1
        return self.current.client_context()

    def verify(self, peer_chain_der: Sequence[bytes]) -> str:
        return self.current.verify(peer_chain_der)


def test_a_rotated_certificate_is_used_by_the_next_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", "beta", founding=False) as cluster:
            identity = cluster.addresses["beta"].identity
            security = Rotating(cluster.ca.security(identity))
            await cluster.start("alpha", ["alpha", "beta"])
            beta = await cluster.start("beta", ["alpha", "beta"], security=security)
            await cluster.leader()
            security.current.leaf.unlink()  # The old one cannot be loaded any more.
            security.current = cluster.ca.security(identity)
            asked = security.asked
            await cluster.stop("alpha")
            await cluster.start("alpha", ["alpha", "beta"])
            await eventually_async(lambda: beta.engine.status().connected == ("alpha",), timeout_s=60)
            await cluster.write("beta", b"over the new certificate")
            assert security.asked > asked

    asyncio.run(scenario())


def test_a_state_machine_that_raises_stops_its_member_with_the_entry_named(tmp_path: Path) -> None:
    class Poisoned(Journalled):
        def apply(self, index: int, command: bytes) -> bytes:
            if command == b"poison":
                raise ZeroDivisionError("a bug")
            return super().apply(index, command)

    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", founding=False) as cluster:
            running = await cluster.start("alpha", ["alpha"], machine=Poisoned())
            await cluster.write("alpha", b"fine")
            with pytest.raises(OutcomeUnknownError):
                await running.engine.propose(b"poison", timeout_ms=20_000)
            await asyncio.Event().wait()  # The failure of `run` cancels us.

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert caught.group_contains(CorruptError, match="state machine failed at entry")


def test_the_librarys_pickle_is_never_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("pickle was reached")

    for name in ("loads", "dumps", "load", "dump"):
        monkeypatch.setattr(pysyncobj.pickle, name, explode)

    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha", "beta", "gamma", founding=False) as cluster:
            for name in ("alpha", "beta"):
                await cluster.start(name, ["alpha", "beta"], snapshot_after_bytes=10_000)
            leader = await cluster.leader()
            for number in range(60):
                await cluster.write(leader, b"%d" % number * 100)
            newcomer = cluster.addresses["gamma"]
            for running in cluster.members.values():
                running.engine.allow([newcomer])
            gamma = await cluster.start("gamma", ["alpha", "beta"])
            await cluster.members[leader].engine.add_member(newcomer, timeout_ms=20_000)
            await cluster.write("gamma", b"from the follower")
            assert gamma.engine.counters().snapshots_installed >= 1
            await cluster.stop(leader)
            await cluster.write(await cluster.leader(), b"from the new leader")

    asyncio.run(scenario())


def test_on_applied_tells_the_newest_index_of_each_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_of(tmp_path, "alpha") as cluster:
            told: list[int] = []
            cluster.members["alpha"].engine.on_applied(told.append)
            applied = await cluster.write("alpha", b"x")
            await eventually_async(lambda: told and told[-1] >= applied.index, timeout_s=60)
            assert told == sorted(set(told))

    asyncio.run(scenario())
