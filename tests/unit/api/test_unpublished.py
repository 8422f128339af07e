"""Endpoints that the catalog has and that the rules of now refuse: their agents hear so, and hear when that is over."""

import pytest

from discovery.core.declarations import Declaration
from discovery.core.local import PUBLISH_ROWS_MAX
from discovery.core.model import Change, Endpoint, pack
from federation.api.registry import ClusterRegistry
from federation.api.unpublished import UNPUBLISHED_TOLD_MAX
from tests.unit.discovery.builders import Log, endpoint, founded, put, put_cluster
from tests.unit.discovery.builders import key as resource_key


class Session:
    """An agent's stream, and what the controller did to it."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def acknowledge_again(self) -> None:
        self.did.append("told")

    def list_again(self) -> None:
        self.did.append("asked for its list")


class World:
    """A registry of alpha that follows its log."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or founded()
        self.registry = ClusterRegistry(
            "alpha", catalog=self.log.catalog, lease_ms=15_000, clock=lambda: 0.0, changed=lambda *_: None
        )
        self.log.catalog.on_change(self._changed)
        self.session = Session()

    def _changed(self, _revision: int, changes: tuple[Change, ...]) -> None:
        self.registry.absorb(tuple(change for change in changes if change.table == "endpoints"))
        self.registry.judge()

    def declares(self, *rows: Endpoint, sequence: int = 1) -> None:
        """The whole list of agent-1."""
        self.registry.open("agent-1", 1, self.session)
        said = Declaration(agent="agent-1", incarnation=1, sequence=sequence, put=rows, complete=True)
        assert self.registry.declare(said, self.session).refused == ()

    def publishes(self, *rows: Endpoint) -> None:
        self.declares(*rows)
        for first in range(0, len(rows), PUBLISH_ROWS_MAX):
            assert self.log.publish("alpha", *rows[first : first + PUBLISH_ROWS_MAX]).code == 0
        assert self.session.did == []

    def ranges(self, *found: str) -> None:
        self.log.accept("alpha", put_cluster("alpha", ranges=list(found)))

    def told(self) -> dict[str, str]:
        """Why which endpoints are not global."""
        return {key.name: reason for key, reason in self.registry.unpublished.of("agent-1").items()}


INSIDE, OUTSIDE = endpoint(name="in", address="10.1.0.1"), endpoint(name="out", address="10.2.0.1")


def test_an_agent_is_told_when_ranges_leave_out_what_is_global_and_when_they_allow_it_again():
    world = World()
    world.publishes(INSIDE, OUTSIDE)
    world.ranges("10.1.0.0/16")
    assert world.session.did == ["told"]
    assert list(world.told()) == ["out"]
    assert (
        "callers are not sent there: address 10.2.0.1 is outside the cluster's ranges" in world.told()["out"]
    )
    world.log.accept("alpha", put_cluster("alpha", ranges=["10.1.0.0/16"], region="east"))
    assert world.session.did == ["told"]
    world.ranges("10.0.0.0/8")
    assert world.session.did == ["told", "told"]
    assert world.told() == {}


def test_an_agent_is_told_when_a_controller_comes_to_listen_where_its_endpoint_is():
    world = World()
    world.publishes(INSIDE)
    spec = {"cluster": "alpha", "role": "member", "control": "10.1.0.1:15006"}
    identity = "spiffe://alpha.test/isthmus/alpha/controller/alpha-1"
    world.log.accept("alpha", put(resource_key("Controller", "alpha-1"), spec | {"identity": identity}))
    assert world.session.did == ["told"]
    assert "is a controller's own" in world.told()["in"]


def test_a_controller_that_starts_knows_what_was_left_out_before():
    log = founded()
    log.publish("alpha", INSIDE, OUTSIDE)
    log.accept("alpha", put_cluster("alpha", ranges=["10.1.0.0/16"]))
    assert list(World(log).told()) == ["out"]


def test_a_row_that_its_agent_takes_back_is_nothing_to_tell():
    world = World()
    world.publishes(INSIDE, OUTSIDE)
    world.ranges("10.1.0.0/16")
    said = Declaration(agent="agent-1", incarnation=1, sequence=2, remove=(OUTSIDE.key,))
    world.registry.declare(said, world.session)
    assert world.told() == {}
    assert len(world.registry.unpublished) == 0


def test_a_row_that_was_published_before_the_ranges_changed_and_is_heard_of_later_is_told():
    world = World()
    world.ranges("10.1.0.0/16")
    world.registry.absorb((Change("endpoints", OUTSIDE.key.encode(), pack(OUTSIDE)),))
    assert list(world.told()) == ["out"]


@pytest.mark.parametrize(
    ("count", "did"), [(UNPUBLISHED_TOLD_MAX, "told"), (UNPUBLISHED_TOLD_MAX + 1, "asked for its list")]
)
def test_who_has_more_of_them_than_can_be_told_lists_again_and_hears_of_each(count, did):
    world = World()
    world.publishes(
        *(
            endpoint(name=f"e{number}", address=f"10.2.{number // 250}.{number % 250 + 1}")
            for number in range(count)
        )
    )
    world.ranges("10.1.0.0/16")
    assert world.session.did == [did]
