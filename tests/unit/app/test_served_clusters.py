"""What of the catalog's changes reaches the registries of the served clusters."""

from pathlib import Path
from typing import Any

from discovery.core.model import Change
from federation.api.registry import ClusterRegistry
from federation.app.served_clusters import Me, ServedClusters
from federation.replication.local_journal import LocalJournal
from tests.unit.discovery.builders import endpoint, founded, put_cluster

NOT_ASKED: Any = None


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
