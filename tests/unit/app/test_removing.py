"""Removing a cluster: what the controller that is asked looks at, who sweeps, and how the removed one is told."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from certs.core.spiffe import parse
from consensus.core.contract import Status
from discovery.core.commands import BeginRehoming, RemoveCluster
from discovery.core.model import EndpointKey
from discovery.core.specs import MemberSpec
from federation.api.control import _why_unserved
from federation.api.proposer import Proposer
from federation.api.removals import Removal, next_epoch, read_removal
from federation.app.duties import SWEEP_ROWS, SWEEPS_PER_TURN_MAX, LeaderDuties, unswept
from federation.app.removed import RemovalWatch, check_not_removed, read_epoch, save_epoch
from federation.app.removing import RemovalDesk
from federation.kernel.errors import IsthmusError, NotFoundError, PreconditionError
from tests.unit.app.direct_log import DirectLog
from tests.unit.discovery.builders import Log, endpoint, founded, key, put, put_cluster, put_drain, put_token

ADMIN = "spiffe://alpha.test/isthmus/alpha/operator/admin"
STATUS = Status(
    id="alpha",
    role="leader",
    term=1,
    leader="alpha",
    commit_index=1,
    applied_index=1,
    last_index=1,
    snapshot_index=0,
    members=("alpha",),
    connected=(),
    journal_bytes=0,
    last_leader_contact_ms_ago=0,
)


class Desk:
    """alpha's removal desk; beta votes until its member is removed."""

    def __init__(self) -> None:
        self.log = founded()
        assert self.log.publish("beta", endpoint("beta")).code == 0
        self.status = replace(STATUS, members=("alpha", "beta"))
        self.refusal = ""
        self.desk = RemovalDesk(
            cluster="alpha",
            proposer=Proposer(DirectLog(self.log), cluster="alpha"),
            catalog=self.log.catalog,
            status=lambda: self.status,
            change_member=self.change_member,
        )

    async def change_member(self, action: str, member: str) -> str:
        if self.refusal:
            raise PreconditionError(self.refusal)
        assert action == "remove"
        self.status = replace(STATUS, members=tuple(one for one in self.status.members if one != member))
        self.log.accept("alpha", put(key("Member", member), {"standing": "removed"}))
        return "done"

    def joined(self, cluster: str) -> bool:
        return self.log.catalog.tables.resource(key("Cluster", cluster)) is not None


async def test_a_cluster_that_is_drained_and_votes_no_longer_is_removed() -> None:
    found = Desk()
    with pytest.raises(PreconditionError, match="isthmus member remove beta first"):
        await found.desk.remove("beta", ADMIN, force=False)
    await found.change_member("remove", "beta")
    with pytest.raises(PreconditionError, match="isthmus cluster drain beta first"):
        await found.desk.remove("beta", ADMIN, force=False)
    found.log.accept("alpha", put_drain("beta", 0))
    assert "was removed" in await found.desk.remove("beta", ADMIN, force=False)
    assert not found.joined("beta")
    assert read_removal(found.log.catalog.tables, "beta").removed_by == ADMIN


async def test_force_takes_the_vote_too_and_needs_no_drain() -> None:
    found = Desk()
    await found.desk.remove("beta", ADMIN, force=True)
    assert not found.joined("beta")
    assert found.status.members == ("alpha",)


async def test_where_the_members_left_could_not_decide_nothing_is_removed_even_by_force() -> None:
    found = Desk()
    found.refusal = "without beta 1 members would be left"
    with pytest.raises(PreconditionError, match="would be left"):
        await found.desk.remove("beta", ADMIN, force=True)
    assert found.joined("beta")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        pytest.param("alpha", "ask one of another cluster", id="the-own"),
        pytest.param("mars", "has not joined", id="unknown"),
        pytest.param("No Name", "No Name", id="no-name"),
    ],
)
async def test_what_cannot_be_removed_is_named_and_stays(cluster: str, message: str) -> None:
    found = Desk()
    with pytest.raises(IsthmusError, match=message):
        await found.desk.remove(cluster, ADMIN, force=True)
    assert found.joined("alpha")


async def test_a_home_keeps_its_vote_while_a_remote_needs_it() -> None:
    found = Desk()
    found.log.accept("beta", put_cluster("gamma", role="remote", home="beta", trustDomain="beta.test"))
    with pytest.raises(PreconditionError, match="home of cluster gamma"):
        await found.desk.remove("beta", ADMIN, force=True)
    assert "beta" in found.status.members


async def test_a_home_to_be_keeps_its_vote_while_a_remote_is_on_its_way() -> None:
    found = Desk()
    log = found.log
    log.accept("beta", put_token("leave", "delta", "c" * 64, purpose="cluster", expires_ms=10_000))
    move = BeginRehoming(
        cluster="delta", to="beta", secret_sha256="c" * 64, started_by="admin", within_ms=60_000
    )
    assert log.send("alpha", move).code == 0
    with pytest.raises(PreconditionError, match="home of cluster delta"):
        await found.desk.remove("beta", ADMIN, force=True)
    assert "beta" in found.status.members


async def test_a_removed_cluster_that_is_removed_again_was_removed() -> None:
    found = Desk()
    await found.desk.remove("beta", ADMIN, force=True)
    with pytest.raises(NotFoundError, match="was removed"):
        await found.desk.remove("beta", ADMIN, force=True)


def removed_log(rows: int) -> Log:
    log = founded()
    batch = [endpoint("beta", f"orders-{number}") for number in range(rows)]
    for start in range(0, rows, 100):
        assert log.publish("beta", *batch[start : start + 100]).code == 0
    log.accept("alpha", put(key("Member", "beta"), {"standing": MemberSpec(standing="removed").standing}))
    assert log.send("alpha", RemoveCluster(cluster="beta", removed_by=ADMIN, forced=True)).code == 0
    return log


async def test_the_leader_sweeps_in_batches_and_whoever_leads_next_goes_on() -> None:
    rows = SWEEP_ROWS + 50
    log = removed_log(rows)

    def duties() -> LeaderDuties:
        return LeaderDuties(
            None,  # type: ignore[arg-type]  # sweeping asks nobody but the catalog
            Proposer(DirectLog(log), cluster="alpha"),
            catalog=log.catalog,
            members=lambda: (),
            standings=dict,
        )

    assert unswept(log.catalog.tables) == ["beta"]
    before = log.index
    await duties()._sweep_removed()
    assert 2 <= log.index - before <= SWEEPS_PER_TURN_MAX
    assert unswept(log.catalog.tables) == []
    assert [one for one in log.catalog.tables.endpoints if EndpointKey.decode(one).cluster == "beta"] == []
    await duties()._sweep_removed()


def test_the_next_epoch_of_a_name() -> None:
    tables = removed_log(1).catalog.tables
    assert (next_epoch(tables, "beta"), next_epoch(tables, "gamma")) == (2, 1)


REMOVAL = Removal(epoch=2, removed_unix_ms=5, removed_by=ADMIN)


class Watch(RemovalWatch):
    """Asks somebody who answers."""

    def __init__(
        self, data_dir: Path, answer: Removal | None, *, status: Status = STATUS, log: Log | None = None
    ) -> None:
        catalog = (log or founded()).catalog
        super().__init__("beta", data_dir, catalog=catalog, directory=None, status=lambda: status)  # type: ignore[arg-type]  # nobody asks it
        self.answer = answer
        self.asked = 0

    def ask(self) -> Removal | None:
        self.asked += 1
        return self.answer


SILENCE = replace(STATUS, role="follower", last_leader_contact_ms_ago=60_000)


@pytest.mark.parametrize("epoch", [1, 2])
async def test_who_is_told_that_it_was_removed_ends_and_does_not_start_again(
    tmp_path: Path, epoch: int
) -> None:
    save_epoch(tmp_path, epoch)
    check_not_removed(tmp_path, "beta")
    with pytest.raises(NotFoundError, match="must not run any more"):
        await Watch(tmp_path, REMOVAL, status=SILENCE).run()
    with pytest.raises(NotFoundError, match="a new token and an empty data directory"):
        check_not_removed(tmp_path, "beta")


async def test_what_was_removed_before_it_joined_does_not_concern_it(tmp_path: Path) -> None:
    save_epoch(tmp_path, 3)
    watch = Watch(tmp_path, REMOVAL, status=SILENCE)
    assert await watch.look() is None
    assert watch.asked == 1
    assert read_epoch(tmp_path) == 3
    check_not_removed(tmp_path, "beta")


async def test_who_hears_a_leader_asks_nobody(tmp_path: Path) -> None:
    heard = replace(SILENCE, last_leader_contact_ms_ago=10)
    for status in (STATUS, heard):
        watch = Watch(tmp_path, REMOVAL, status=status)
        assert await watch.look() is None
        assert watch.asked == 0


async def test_who_has_the_log_reads_it_there(tmp_path: Path) -> None:
    watch = Watch(tmp_path, None, log=removed_log(1))
    found = await watch.look()
    assert found is not None
    assert (found.epoch, watch.asked) == (1, 0)


async def test_while_nobody_answers_it_goes_on(tmp_path: Path) -> None:
    assert await Watch(tmp_path, None, status=SILENCE).look() is None


def test_an_agent_of_a_removed_cluster_is_told_so() -> None:
    tables = removed_log(1).catalog.tables
    agent = parse("spiffe://beta.test/isthmus/beta/agent/a1")
    assert "was removed from the federation" in _why_unserved(tables, agent, "beta")
    assert "is not served here" in _why_unserved(tables, agent, "gamma")
