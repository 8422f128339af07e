"""What is explained while a cluster moves to another home: what proxies accept then, of either trust domain."""

import pytest

from discovery.core.model import Endpoint, Resource
from discovery.core.policies import Policies
from gateways.core.authorization import admits
from tests.unit.discovery.builders import (
    endpoint,
    put_cluster,
    put_export,
    put_grant,
    put_trust_domain,
    resource,
)
from tests.unit.gateways.test_explain import ORDERS, OwnerFact, explained, owner, tables_of

WEB = "/ns/shop/sa/web"
STATES = ("announced", "moving", "returning", "done")
CHANGING = ("moving", "returning")


def delta(state: str) -> Resource:
    """delta, which moves from alpha to beta, or has come back there."""
    move = {
        "state": state,
        "home": "beta",
        "trustDomain": "beta.test",
        "startedBy": "admin",
        "changedMs": 1,
        "withinMs": 1_000,
    }
    return resource(put_cluster("delta", role="remote", home="alpha", rehoming=move))


def seen(caller: str, at: str, state: str, *grants: Resource) -> OwnerFact:
    rows = (delta(state), resource(put_export(at, "shop", "*")), endpoint(at), *grants)
    return owner(caller, *rows, cluster=at)


def grant(owner: str, *domains: str) -> Resource:
    return resource(put_grant(owner, "shop", "*", trustDomains=list(domains)))


@pytest.mark.parametrize("state", STATES)
def test_callers_from_a_cluster_that_moves_are_judged_by_each_identity_that_they_may_show(state: str) -> None:
    """As alpha's own they are let in, as beta's by a Grant only."""
    without, with_one = (
        seen("delta/shop/web", "alpha", state),
        seen("delta/shop/web", "alpha", state, grant("alpha", "beta.test")),
    )
    if state not in CHANGING:
        assert (without.admits_caller, without.admits_why) == (True, "every identity of alpha.test")
        assert with_one.admits_why == without.admits_why
        return
    old, new = f"spiffe://alpha.test{WEB}", f"spiffe://beta.test{WEB}"
    assert (without.admits_caller, without.admits_why) == (
        False,
        f"{old}: every identity of alpha.test; {new}: no Grant that applies names {new}",
    )
    assert (with_one.admits_caller, with_one.admits_why) == (
        True,
        f"{old}: every identity of alpha.test; {new}: by Grant grant",
    )
    assert [(one.kind, one.why) for one in with_one.policies if one.kind == "Grant"] == [
        ("Grant", f"admits {new}")
    ]


@pytest.mark.parametrize("state", STATES)
def test_a_cluster_that_moves_lets_in_whoever_is_of_either_home(state: str) -> None:
    visible = grant("delta", "alpha.test", "gamma.test")
    of_beta = seen("beta/shop/web", "delta", state, visible)
    of_alpha = seen("alpha/shop/web", "delta", state, visible)
    assert (of_alpha.admits_caller, of_alpha.admits_why) == (True, "every identity of alpha.test")
    if state == "done":
        assert of_beta.admits_caller is False
        assert of_beta.other_trust_domain == ""
    else:
        assert (of_beta.admits_caller, of_beta.admits_why) == (True, "every identity of beta.test")
        assert (of_beta.trust_domain, of_beta.other_trust_domain) == ("alpha.test", "beta.test")


@pytest.mark.parametrize(
    ("grants", "said"),
    [
        ((), "alpha.test: every identity of alpha.test; beta.test: nobody of this cluster"),
        (
            (grant("alpha", "beta.test"),),
            "alpha.test: every identity of alpha.test; beta.test: identities of Grant grant",
        ),
    ],
)
def test_of_a_whole_cluster_that_moves_each_trust_domain_is_told(
    grants: tuple[Resource, ...], said: str
) -> None:
    assert seen("delta", "alpha", "moving", *grants).admits_why == said


def test_both_identities_of_a_caller_are_named_while_it_may_show_either() -> None:
    row: Endpoint = endpoint("delta")
    found = explained("delta/shop/web", delta("moving"), row)
    assert (found.identity, found.other_identity) == (f"spiffe://alpha.test{WEB}", f"spiffe://beta.test{WEB}")
    assert explained("delta/shop/web", delta("announced"), row).other_identity == ""
    own = found.owners[0]
    assert own.admits_why == (
        f"{found.identity}: every identity of alpha.test; {found.other_identity}: every identity of beta.test"
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("at", ["alpha", "beta", "gamma", "delta"])
@pytest.mark.parametrize("granted", [(), ("alpha.test",), ("beta.test",), ("alpha.test", "beta.test")])
def test_who_is_let_in_is_what_proxies_are_told(state: str, at: str, granted: tuple[str, ...]) -> None:
    rows = [delta(state), resource(put_export(at, "shop", "*")), endpoint(at)]
    rows += [resource(put_trust_domain(f"{name}.test")) for name in ("alpha", "beta", "gamma")]
    rows += [grant(at, *granted)] if granted else []
    admission = Policies(tables_of(*rows)).admission(at, ORDERS)
    assert admission is not None
    for caller in ("alpha", "beta", "gamma", "delta"):
        found = explained(f"{caller}/shop/web", *rows)
        fact = next(one for one in found.owners if one.cluster == at)
        shown = [identity for identity in (found.identity, found.other_identity) if identity]
        assert fact.admits_caller == all(admits(admission, identity) for identity in shown)
