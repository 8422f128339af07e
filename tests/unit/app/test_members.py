"""Who may be removed, who takes over, and what the leader does of its own accord."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from consensus.core.contract import MemberAddress, PeerStatus, Status
from discovery.core.catalog import Catalog
from discovery.core.specs import Standing
from federation.api.health import CONTACT_MS_MAX, Facts, MemberHealth
from federation.api.proposer import Proposer
from federation.app.duties import LeaderDuties
from federation.app.members import MemberDesk, check_removal, successor
from federation.kernel.errors import PreconditionError, UnavailableError
from tests.unit.api.doctor_facts import member, peer
from tests.unit.app.direct_log import DirectLog
from tests.unit.discovery.builders import founded

AWAY_MS = CONTACT_MS_MAX + 1


def facts(voters: str, *, away: str = "", leader: str = "alpha") -> Facts:
    """A federation as its leader sees it; members in `away` do not answer it."""
    names = voters.split()
    peers = tuple(
        peer(name, last_contact_ms_ago=AWAY_MS if name in away.split() else 20)
        for name in names
        if name != leader
    )
    return Facts(
        asked=leader or names[0],
        leader_id=leader or None,
        voters=tuple(names),
        members=tuple(_seen(name, leader, peers) for name in names),
    )


def _seen(name: str, leader: str, peers: tuple[PeerStatus, ...]) -> MemberHealth:
    found = member(name)
    assert found.health is not None
    changes: dict[str, Any] = (
        {"role": "leader", "peers": peers} if name == leader else {"role": "follower", "peers": ()}
    )
    return replace(found, health=replace(found.health, **changes))


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        pytest.param(facts("alpha beta gamma"), "beta", id="one-of-three"),
        pytest.param(facts("alpha beta gamma", away="beta"), "beta", id="the-dead-one"),
        pytest.param(facts("alpha beta gamma"), "alpha", id="the-leader"),
        pytest.param(facts("alpha beta"), "beta", id="one-of-two"),
        pytest.param(facts("alpha beta gamma delta epsilon", away="beta gamma"), "beta", id="two-dead-of-five"),
    ],
)  # fmt: skip
def test_a_member_may_go_while_a_majority_of_the_others_answers(seen: Facts, name: str) -> None:
    check_removal(seen, name)


@pytest.mark.parametrize(
    ("seen", "name", "message"),
    [
        pytest.param(
            facts("alpha beta gamma", away="gamma"),
            "beta",
            "2 members would be left, of which 1 answer and 2 are needed: remove those that are away first (gamma)",
            id="the-living-one-of-two",
        ),
        pytest.param(facts("alpha"), "alpha", "alpha is the only member", id="the-last"),
    ],
)  # fmt: skip
def test_a_member_without_which_nothing_could_be_decided_stays(seen: Facts, name: str, message: str) -> None:
    with pytest.raises(PreconditionError) as refused:
        check_removal(seen, name)
    assert message in refused.value.message


def test_without_a_leader_nobody_is_removed_and_the_next_step_is_named() -> None:
    with pytest.raises(UnavailableError, match="recover-from-lost-quorum"):
        check_removal(facts("alpha beta gamma", leader=""), "beta")


def test_the_member_with_the_most_of_the_log_takes_over_if_it_answers() -> None:
    seen = facts("alpha beta gamma")
    leader = seen.leader
    assert leader is not None
    peers = (
        peer("beta", match_index=90),
        peer("delta", match_index=100, is_voter=False),
        peer("gamma", match_index=95),
    )

    def led_with(*peers: PeerStatus) -> Facts:
        return replace(
            seen,
            members=tuple(
                replace(one, health=replace(one.health, peers=peers))
                if one.id == "alpha" and one.health
                else one
                for one in seen.members
            ),
        )

    assert successor(led_with(*peers)) == "gamma"
    assert successor(led_with(peers[0], peer("gamma", last_contact_ms_ago=AWAY_MS))) == "beta"
    with pytest.raises(PreconditionError, match="nobody could take over"):
        successor(led_with(peers[1]))
    seen = replace(
        seen, members=tuple(replace(one, is_witness=one.id == "gamma") for one in seen.members)
    )  # It answers no operator.
    assert successor(led_with(*peers)) == "beta"
    assert successor(led_with(peers[2])) == "gamma"


def test_a_witness_that_leads_hands_over_to_whoever_answers_with_the_most_of_the_log() -> None:
    seen = replace(facts("alpha beta gamma", leader=""), leader_id="gamma")

    def without_a_word(one: MemberHealth) -> MemberHealth:
        return replace(one, health=None, is_witness=True) if one.id == "gamma" else one

    seen = replace(seen, members=tuple(map(without_a_word, seen.members)))
    check_removal(seen, "gamma")
    assert successor(seen) == "beta"


class Changes:
    """A log of which alpha is the leader; notes the change that it is asked for."""

    def __init__(self, *, members: str, learners: str = "", connected: str = "") -> None:
        self.asked: list[tuple[str, str]] = []
        self._status = Status(
            id="alpha",
            role="leader",
            term=1,
            leader="alpha",
            commit_index=1,
            applied_index=1,
            members=tuple(members.split()),
            learners=tuple(learners.split()),
            connected=tuple(connected.split()),
            journal_bytes=0,
            snapshot_index=0,
            last_leader_contact_ms_ago=0,
        )

    def status(self) -> Status:
        return self._status

    async def add_member(self, member: MemberAddress, *, timeout_ms: int) -> None:
        self.asked.append(("add", member.id))

    async def add_learner(self, member: MemberAddress, *, timeout_ms: int) -> None:
        self.asked.append(("learner", member.id))

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        self.asked.append(("remove", member_id))


async def one_step(log: Changes, standings: dict[str, Standing]) -> list[tuple[str, str]]:
    known = tuple(
        MemberAddress(id=name, address=f"{name}:1", identity=f"spiffe://{name}")
        for name in ("alpha", "beta", "gamma")
        if standings.get(name) != "removed"
    )
    duties = LeaderDuties(
        log,  # type: ignore[arg-type]  # what is asked of it
        None,  # type: ignore[arg-type]  # nothing is proposed
        catalog=Catalog(),
        members=lambda: known,
        standings=lambda: standings,
    )
    await duties._change_member()
    return log.asked


@pytest.mark.parametrize(
    ("log", "standings", "expected"),
    [
        pytest.param(lambda: Changes(members="alpha", connected="beta"), {}, [("add", "beta")], id="joined"),
        pytest.param(lambda: Changes(members="alpha"), {}, [], id="not-there-yet"),
        pytest.param(
            lambda: Changes(members="alpha", connected="beta gamma"), {"beta": "learner"}, [("learner", "beta")], id="held-back"
        ),
        pytest.param(
            lambda: Changes(members="alpha", learners="beta", connected="beta gamma"),
            {"beta": "learner"},
            [("add", "gamma")],
            id="a-learner-waits-for-its-promotion",
        ),
        pytest.param(
            lambda: Changes(members="alpha beta gamma", connected="beta gamma"),
            {"beta": "removed"},
            [("remove", "beta")],
            id="a-removal-that-was-cut-short",
        ),
        pytest.param(
            lambda: Changes(members="alpha gamma", connected="beta gamma"), {"beta": "removed"}, [], id="removed-stays-out"
        ),
    ],
)  # fmt: skip
async def test_the_leader_takes_one_step_to_the_members_that_are_wanted(
    log: Callable[[], Changes], standings: dict[str, Standing], expected: list[tuple[str, str]]
) -> None:
    assert await one_step(log(), standings) == expected


class Busy(Changes):
    """Its leader has just begun a change by itself when it is asked for one; `makes`: what the operator asks for."""

    def __init__(self, *, makes: bool) -> None:
        super().__init__(members="alpha beta gamma")
        self._makes = makes

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        await super().remove_member(member_id, timeout_ms=timeout_ms)
        if self._makes:
            self._status = replace(self._status, members=("alpha", "gamma"))
        raise PreconditionError("another change of the members is pending: repeat this one later")


def desk_of(engine: Changes) -> MemberDesk:
    """The desk of a member of three whose log commits everything at once, but for changes of the members."""
    log = founded()

    async def seen() -> Facts:
        return facts("alpha beta gamma")

    directory: Any = None  # A voter is known without it.
    return MemberDesk(
        engine=engine,  # type: ignore[arg-type]  # what is asked of it
        proposer=Proposer(DirectLog(log), cluster="alpha"),
        catalog=log.catalog,
        directory=directory,
        facts=seen,
    )


@pytest.mark.parametrize("makes", [True, False])
async def test_a_removal_that_the_leader_made_first_is_made(makes: bool) -> None:
    engine = Busy(makes=makes)
    desk = desk_of(engine)
    if makes:
        assert "beta has no vote" in await desk.change("remove", "beta")
        wanted = "removed"
    else:
        with pytest.raises(PreconditionError, match="pending"):
            await desk.change("remove", "beta")
        wanted = "voter"
    assert desk._standing("beta") == wanted
    assert engine.asked == [("remove", "beta")]


class Outdated(Changes):
    """It names a leader that leads no longer, until it was asked twice."""

    async def transfer_leadership(self, member_id: str, *, timeout_ms: int) -> None:
        self._ask("transfer", member_id)

    async def remove_member(self, member_id: str, *, timeout_ms: int) -> None:
        self._ask("remove", member_id)

    def _ask(self, action: str, member_id: str) -> None:
        self.asked.append((action, member_id))
        if len(self.asked) < 3:
            raise UnavailableError("member gamma knows no leader")


@pytest.mark.parametrize(
    ("action", "done"), [("transfer", "beta leads"), ("remove", "beta has no vote")], ids=["transfer", "remove"]
)  # fmt: skip
async def test_a_change_asked_of_a_member_that_names_an_old_leader_finds_the_new_one(
    action: str, done: str
) -> None:
    engine = Outdated(members="alpha beta gamma")
    assert done in await desk_of(engine).change(action, "beta")
    assert engine.asked == [(action, "beta")] * 3
