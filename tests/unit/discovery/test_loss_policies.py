"""What other clusters see of a dead one's services: kept, ordered last, or withdrawn, as its owner chose."""

import pytest

from discovery.core.model import Change, Endpoint, Resource
from discovery.core.tables import Tables
from discovery.core.verdicts import verdict_key
from discovery.core.views import ViewIndex
from tests.unit.discovery.builders import endpoint, gateway, key, put, put_export, put_grant, resource
from tests.unit.discovery.test_views import ORDERS, Counted, changes, owners, tables_of

SHARED = [
    *(resource(put_export(name, "shop", "*")) for name in ("alpha", "beta", "gamma")),
    *(resource(put_grant(name, "shop", "*")) for name in ("alpha", "beta", "gamma")),
]
EVERYWHERE = [*(endpoint(name) for name in ("alpha", "beta", "gamma")), *SHARED]


def verdict(state: str = "dead", cluster: str = "beta") -> Resource:
    return resource(put(verdict_key(cluster), {"state": state, "sinceMs": 1}))


def on_loss(choice: str, *services: str, name: str = "loss", cluster: str = "beta") -> Resource:
    target = key("LossPolicy", name, scope=cluster, namespace="shop")
    return resource(put(target, {"services": list(services or ("*",)), "onLoss": choice}))


def seen(viewer: str, *rows: Resource | Endpoint) -> list[str]:
    view = ViewIndex(viewer)
    view.reset(tables_of(*EVERYWHERE, *rows))
    service = view.service(ORDERS)
    return [] if service is None else owners(service)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([], ["alpha", "beta", "gamma"], id="alive"),
        pytest.param([verdict()], ["alpha", "beta", "gamma"], id="dead-and-no-policy"),
        pytest.param([verdict(), on_loss("keep")], ["alpha", "beta", "gamma"], id="keep"),
        pytest.param([verdict(), on_loss("last-resort")], ["alpha", "gamma", "beta"], id="last-resort"),
        pytest.param([verdict(), on_loss("withdraw")], ["alpha", "gamma"], id="withdraw"),
        pytest.param([on_loss("withdraw")], ["alpha", "beta", "gamma"], id="withdraw-while-alive"),
        pytest.param([verdict("data-degraded"), on_loss("withdraw")], ["alpha", "beta", "gamma"], id="degraded"),
        pytest.param([verdict("control-lost"), on_loss("withdraw")], ["alpha", "beta", "gamma"], id="control-lost"),
        pytest.param([verdict(), on_loss("withdraw", "carts")], ["alpha", "beta", "gamma"], id="of-another-service"),
        pytest.param([verdict(), on_loss("withdraw", cluster="gamma")], ["alpha", "beta", "gamma"], id="of-another-cluster"),
        pytest.param([verdict(), on_loss("keep"), on_loss("withdraw", "orders", name="a")], ["alpha", "gamma"], id="by-name-goes-first"),
        pytest.param([verdict(), on_loss("withdraw"), on_loss("last-resort", name="a")], ["alpha", "gamma", "beta"], id="less-harm-goes-first"),
    ],
)  # fmt: skip
def test_the_owner_says_what_its_death_means_for_a_service(rows, expected):
    assert seen("alpha", *rows) == expected


def test_a_cluster_is_never_dead_to_itself():
    assert seen("beta", verdict(), on_loss("withdraw")) == ["beta", "alpha", "gamma"]
    assert seen("beta", verdict(), on_loss("last-resort")) == ["beta", "alpha", "gamma"]


def test_a_withdrawal_lifts_with_its_verdict_and_with_its_policy():
    view = ViewIndex("alpha")
    tables = tables_of(endpoint("beta"), *SHARED, on_loss("withdraw"))
    view.reset(tables)
    for row, expected in (
        (verdict(), None),
        (verdict("ok"), ["beta"]),
        (verdict(), None),
        (on_loss("keep"), ["beta"]),
        (on_loss("withdraw"), None),
    ):
        tables = tables.with_changes(changes(row), tables.revision + 1)
        assert view.update(tables, changes(row)) == {ORDERS}
        service = view.service(ORDERS)
        assert (None if service is None else owners(service)) == expected
    gone = (Change("resources", on_loss("withdraw").key.encode(), None),)
    assert view.update(tables.with_changes(gone, tables.revision + 1), gone) == {ORDERS}
    assert view.service(ORDERS) is not None


def test_a_verdict_recomputes_only_what_has_a_loss_policy_and_only_when_it_says_dead():
    rows = [endpoint("alpha", service=f"s{number}") for number in range(50)]
    rows += [endpoint("beta", service=f"s{number}") for number in range(50)]
    rows += [endpoint("beta", service=f"kept{number}", namespace="other") for number in range(50)]
    tables: Tables = tables_of(*rows, gateway("beta"), *SHARED, resource(put_export("beta", "other", "*")))
    policy = on_loss("withdraw", "s7")
    tables = tables.with_changes(changes(policy), 2)
    view = Counted("alpha")
    view.reset(tables)
    for row, computed, changed in (
        (verdict("data-degraded"), 0, 0),
        (verdict(), 50, 1),
        (resource(put(verdict_key("beta"), {"state": "dead", "sinceMs": 2})), 0, 0),
        (verdict("ok"), 50, 1),
        (verdict(cluster="alpha"), 0, 0),
    ):
        view.computed = 0
        tables = tables.with_changes(changes(row), tables.revision + 1)
        assert len(view.update(tables, changes(row))) == changed
        assert view.computed == computed
