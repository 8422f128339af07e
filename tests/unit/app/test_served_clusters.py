"""What of the catalog's changes reaches the registries of the served clusters, and which clusters these are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from discovery.core.commands import RemoveCluster, SweepRemoved
from discovery.core.model import Change
from federation.api.directory import build_directory
from federation.api.registry import ClusterRegistry
from federation.app.served_clusters import Me, ServedClusters
from federation.app.traces import Tracer
from federation.replication.feed import Feed
from federation.replication.local_journal import LocalJournal
from tests.unit.discovery.builders import endpoint, founded, put_cluster

NOT_ASKED: Any = None


class Guest:
    """An agent's stream."""

    trust_domain = "alpha.test"

    def __init__(self) -> None:
        self.dismissed = False

    def dismiss(self) -> None:
        self.dismissed = True


def test_endpoints_that_may_not_be_published_are_looked_at_again_when_configuration_changes(
    tmp_path: Path,
) -> None:
    log = founded()
    served = ServedClusters(
        Me(
            name="alpha-c1",
            cluster="alpha",
            lease_ms=1_000,
            journal=LocalJournal(tmp_path, controller="alpha-c1", federation="fed-1"),
            leaf=NOT_ASKED,
            directory=NOT_ASKED,
        ),
        catalog=log.catalog,
        proposer=NOT_ASKED,
        feed=NOT_ASKED,
        tracer=NOT_ASKED,
    )
    registry = served.registries["alpha"] = ClusterRegistry(
        "alpha", catalog=log.catalog, lease_ms=1_000, clock=lambda: 0.0, changed=lambda *_: None
    )
    row = endpoint()
    heard: list[tuple[Change, ...]] = []
    log.catalog.on_change(lambda _revision, changes: heard.append(changes))
    log.accept("alpha", put_cluster("alpha", region="north"))
    registry.dirty.clear()
    served.changed(heard[-1])
    assert not registry.dirty.is_set(), "nothing waits for the rules to change"

    log.publish("alpha", row)
    served.changed(heard[-1])
    registry.published(1, log.catalog.revision, [(row.key, "is outside the cluster's ranges")])
    registry.dirty.clear()
    served.changed(heard[0])
    assert registry.dirty.is_set()

    registry.published(2, log.catalog.revision)
    log.accept("alpha", put_cluster("alpha", ranges=["10.9.0.0/16"]))
    served.changed(heard[-1])
    assert list(registry.unpublished.of("agent-1")) == [row.key]


def test_a_cluster_that_joined_again_meanwhile_is_another_one_and_its_registry_begins_anew(
    tmp_path: Path,
) -> None:
    """A controller that was cut off learns of both at once: by the name alone nothing has changed."""
    log = founded()
    directory: Any = SimpleNamespace(current=build_directory(log.catalog.tables))
    me = Me(
        name="alpha-c1",
        cluster="alpha",
        lease_ms=1_000,
        journal=LocalJournal(tmp_path, controller="alpha-c1", federation="f1"),
        leaf=NOT_ASKED,
        directory=directory,
    )
    served = ServedClusters(
        me,
        catalog=log.catalog,
        proposer=NOT_ASKED,
        feed=Feed(log.catalog, unix_ms=lambda: 0),
        tracer=Tracer(clock=lambda: 0.0, unix_ms=lambda: 0),
    )
    assert list(served.learn()) == ["alpha", "beta", "delta"]
    alpha, old = served.registries["alpha"], served.registries["delta"]
    guest = Guest()
    old.open("a1", 1, guest)
    log.accept("alpha", put_cluster("delta", role="remote", home="alpha", region="north"))
    list(served.learn())
    assert served.registries["delta"] is old

    assert log.send("alpha", RemoveCluster(cluster="delta", removed_by="admin", forced=True)).code == 0
    assert log.send("alpha", SweepRemoved(cluster="delta", rows_max=100)).code == 0
    log.accept("alpha", put_cluster("delta", role="remote", home="alpha", epoch=2))
    list(served.learn())
    new = served.registries["delta"]
    assert new is not old
    assert (old.retired, guest.dismissed, new.agents()) == (True, True, {})
    assert served.registries["alpha"] is alpha
