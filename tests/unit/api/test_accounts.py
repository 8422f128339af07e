"""`isthmus history`: what changed about a name, when, by whom and which field, as far as it is kept."""

import pytest

from discovery.core.commands import Command, Delete, Write, encode_command
from federation.api import accounts
from federation.api.accounts import gather
from federation.kernel.errors import InvalidInputError
from tests.unit.discovery.builders import Log, endpoint, founded, key, put, put_cluster, put_export, put_grant

OPERATOR = "spiffe://alpha.test/isthmus/alpha/operator/ann"
EXPORT = key("ExportPolicy", "export", scope="alpha", namespace="shop")


def lived() -> Log:
    """A policy is made, changed by an operator and removed; an endpoint comes, falters and goes."""
    log = founded()
    log.accept("alpha", put_export("alpha", "shop", "orders"))
    log.tick(5_000)
    body = Write(operations=(put_export("alpha", "shop", "orders", consumers=["beta"]),))
    command = Command(request_id="r", proposer="alpha", body=body, actor=OPERATOR)
    log.entry(encode_command(command))
    assert log.publish("alpha", endpoint()).code == 0
    assert log.publish("alpha", endpoint(version=(1, 2), ready=False)).code == 0
    log.tick(60_000)
    assert log.publish("alpha", remove=((endpoint().key, 9, 9),)).code == 0
    log.accept("alpha", Delete(key=EXPORT))
    return log


async def told(log: Log, name: str, since_ms: int | None = None) -> list[tuple[str, str, str]]:
    found = await gather(log.catalog, name, since_ms=since_ms)
    return [(event.what, event.object, event.actor) for event in found.events]


async def test_a_service_has_the_story_of_its_endpoints_and_of_the_policies_that_name_it() -> None:
    assert await told(lived(), "orders.shop") == [
        ("removed", "ExportPolicy/shop/export", ""),
        ("removed", "endpoint shop/orders/orders-1", "agent agent-1"),
        ("changed", "endpoint shop/orders/orders-1", "agent agent-1"),
        ("created", "endpoint shop/orders/orders-1", "agent agent-1"),
        ("changed", "ExportPolicy/shop/export", OPERATOR),
        ("created", "ExportPolicy/shop/export", ""),
    ]


async def test_a_change_names_its_fields_before_and_after_and_when_it_was_by_federation_time() -> None:
    found = await gather(lived().catalog, "orders.shop", since_ms=None)
    policy = next(event for event in found.events if event.actor == OPERATOR)
    assert [(one.field, one.before, one.after) for one in policy.fields] == [
        ("spec.consumers", '["*"]', '["beta"]')
    ]
    assert (policy.at_ms, policy.proposer, policy.cluster) == (5_000, "alpha", "alpha")
    faltered = next(event for event in found.events if event.object.startswith("endpoint") and event.fields)
    assert [(one.field, one.before, one.after) for one in faltered.fields] == [("ready", "true", "false")]


async def test_an_endpoint_that_is_declared_again_unchanged_has_no_changed_field() -> None:
    log = founded()
    log.publish("alpha", endpoint())
    log.publish("alpha", endpoint(version=(2, 1)))
    (again, _) = (await gather(log.catalog, "orders.shop", since_ms=None)).events
    assert (again.what, again.fields) == ("changed", ())


async def test_a_resource_is_found_by_its_kind_and_name_in_every_cluster() -> None:
    log = lived()
    log.accept("beta", put_export("beta", "shop", "*"))
    assert [what for what, _, _ in await told(log, "exportpolicies/shop/export")] == [
        "created",
        "removed",
        "changed",
        "created",
    ]
    assert await told(log, "grant/shop/none") == []


async def test_a_cluster_has_the_story_of_its_records_and_not_of_its_endpoints() -> None:
    log = founded()
    log.accept("beta", put_cluster("beta", region="eu"), put_grant("beta", "shop", "*"))
    log.publish("beta", endpoint("beta"))
    log.accept("alpha", put(key("Quota", "beta"), {"endpoints": 9}))
    log.accept("alpha", Delete(key=key("Cluster", "beta")))
    found = await told(log, "beta")
    assert ("changed", "Cluster/beta", "") in found
    assert ("created", "Quota/beta", "") in found
    assert {("removed", f"{one}", "") for one in ("Cluster/beta", "Controller/beta-1", "TrustDomain/beta.test", "Grant/shop/grant")} <= set(found)  # fmt: skip
    assert not [one for _, one, _ in found if one.startswith("endpoint")]


async def test_only_what_is_young_enough_is_told() -> None:
    assert [what for what, _, _ in await told(lived(), "orders.shop", since_ms=10_000)] == [
        "removed",
        "removed",
    ]


async def test_the_answer_says_how_far_back_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    log = lived()
    found = await gather(log.catalog, "orders.shop", since_ms=None)
    assert (found.begins_after, found.begins_ms, found.complete) == (0, 0, True)
    restored = Log(index=log.index)
    restored.catalog.restore(log.catalog.snapshot())
    found = await gather(restored.catalog, "orders.shop", since_ms=None)
    assert (found.begins_after, found.begins_ms, found.events) == (log.catalog.revision, None, ())
    monkeypatch.setattr(accounts, "EVENTS_LISTED_MAX", 2)
    found = await gather(log.catalog, "orders.shop", since_ms=None)
    assert (len(found.events), found.complete) == (2, False)


@pytest.mark.parametrize(
    "name", ["", "Beta", "a.b.c", "orders.", "thing/x", "grant/x", "cluster/a/b", "x/\0"]
)
async def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        await gather(founded().catalog, name, since_ms=None)
