"""What a move to another home would take from whom: found by the Grants as they are."""

import pytest

from discovery.core.commands import Put
from discovery.core.rehome_forecast import RehomeForecast, foresee
from federation.kernel.errors import NotFoundError, PreconditionError
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    put_cluster,
    put_export,
    put_grant,
    put_trust_domain,
)

OLD, NEW, OTHER = (["alpha.test"], ["beta.test"], ["gamma.test"])


def federation(*puts: Put) -> Log:
    """alpha, beta, gamma and alpha's remote delta; orders in alpha and gamma, payments in delta, all exported."""
    log = founded()
    log.accept("alpha", put_cluster("gamma"), put_trust_domain("gamma.test"))
    for owner, home in (("alpha", "alpha"), ("gamma", "gamma"), ("delta", "alpha")):
        log.accept(home, put_export(owner, "shop", "*"))
    for put in puts:
        log.accept({"delta": "alpha"}.get(put.key.scope, put.key.scope), put)
    assert log.publish("alpha", endpoint("alpha")).code == 0
    assert log.publish("gamma", endpoint("gamma")).code == 0
    assert log.publish("delta", endpoint("delta", service="payments"), proposer="alpha").code == 0
    return log


def forecast(*puts: Put) -> RehomeForecast:
    return foresee(federation(*puts).catalog.tables, "delta", "beta")


def grant(owner: str, *domains: str, **source: list[str]) -> Put:
    return put_grant(owner, "shop", "*", trustDomains=list(domains), **source)


WHOLE = (grant("alpha", "beta.test"), grant("delta", "alpha.test"))


def test_what_the_home_shares_by_its_trust_domain_needs_grants_afterwards():
    assert forecast().losses == (
        (
            "delta would no longer see shop/orders of alpha:"
            " it needs a Grant of alpha in namespace shop that names beta.test"
        ),
        (
            "alpha would no longer see shop/payments of delta:"
            " it needs a Grant of delta in namespace shop that names alpha.test"
        ),
    )


def test_with_the_grants_nothing_is_lost():
    found = forecast(*WHOLE)
    assert (found.losses, found.grants) == ((), ())
    assert (found.home, found.to, found.trust_domain, found.to_trust_domain) == (
        "alpha",
        "beta",
        "alpha.test",
        "beta.test",
    )


def test_what_others_granted_to_the_old_trust_domain_has_to_name_the_new_one():
    found = forecast(*WHOLE, grant("gamma", "alpha.test"))
    assert found.losses == (
        (
            "delta would no longer see shop/orders of gamma:"
            " it needs a Grant of gamma in namespace shop that names beta.test"
        ),
    )
    assert found.grants == ("clusters/gamma/Grant/shop/grant",)
    both = forecast(*WHOLE, grant("gamma", "alpha.test", "beta.test"))
    assert (both.losses, both.grants) == ((), ())


@pytest.mark.parametrize(
    ("after", "lost"),
    [
        pytest.param({"principals": ["spiffe://beta.test/ns/shop/sa/web"]}, (), id="the-same-workload"),
        pytest.param({"namespaces": ["shop"]}, (), id="its-namespace"),
        pytest.param({}, (), id="everybody"),
        pytest.param(
            {"principals": ["spiffe://beta.test/ns/shop/sa/cart"]},
            ("workload ns/shop/sa/web of delta could no longer call shop/orders of gamma",),
            id="another-workload",
        ),
        pytest.param(
            {"namespaces": ["bank"]},
            ("workload ns/shop/sa/web of delta could no longer call shop/orders of gamma",),
            id="another-namespace",
        ),
    ],
)
def test_grants_to_single_workloads_are_compared_by_their_names(after, lost):
    before = put_grant(
        "gamma", "shop", "*", name="web", trustDomains=OLD, principals=["spiffe://alpha.test/ns/shop/sa/web"]
    )
    found = forecast(*WHOLE, before, put_grant("gamma", "shop", "*", name="new", trustDomains=NEW, **after))
    assert tuple(loss.partition(":")[0] for loss in found.losses) == lost


def test_a_home_whose_workloads_all_could_call_loses_what_a_narrow_grant_leaves_out():
    found = forecast(grant("alpha", "beta.test"), grant("delta", "alpha.test", namespaces=["shop"]))
    assert found.losses == (
        (
            "workloads of alpha could no longer call shop/payments of delta:"
            " it needs a Grant of delta in namespace shop that names alpha.test"
        ),
    )


def test_who_sees_nothing_loses_nothing():
    assert not any("gamma" in loss for loss in forecast(*WHOLE).losses)


@pytest.mark.parametrize(
    ("cluster", "to", "error"),
    [
        ("omega", "beta", NotFoundError),
        ("beta", "alpha", PreconditionError),
        ("delta", "alpha", PreconditionError),
        ("delta", "omega", PreconditionError),
    ],
)
def test_where_a_cluster_cannot_move_nothing_is_foreseen(cluster, to, error):
    with pytest.raises(error):
        foresee(federation().catalog.tables, cluster, to)
