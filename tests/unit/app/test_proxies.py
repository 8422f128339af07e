"""Who may ask for configuration: processes of clusters that have joined, by a trust domain of theirs."""

import pytest

from certs.core.spiffe import parse
from discovery.core.commands import AdvanceRehoming, BeginRehoming
from federation.app.proxies import proxy_peer
from federation.kernel.errors import NotAllowedError
from tests.unit.discovery.builders import Log, founded, put_token

AGENT = "isthmus/delta/agent/a1"


def moving() -> Log:
    """alpha's remote delta is on its way to beta."""
    log = founded()
    log.accept("beta", put_token("leave", "delta", "c" * 64, purpose="cluster", expires_ms=10_000))
    begin = BeginRehoming(
        cluster="delta", to="beta", secret_sha256="c" * 64, started_by="admin", within_ms=60_000
    )
    assert log.send("alpha", begin).code == 0
    return log


def is_known(log: Log, identity: str) -> bool:
    try:
        return proxy_peer(parse(identity), log.catalog.tables) == identity
    except NotAllowedError:
        return False


@pytest.mark.parametrize(
    ("identity", "known"),
    [
        pytest.param(f"spiffe://alpha.test/{AGENT}", True, id="its-cluster's"),
        pytest.param(f"spiffe://beta.test/{AGENT}", False, id="another-trust-domain"),
        pytest.param("spiffe://alpha.test/isthmus/omega/agent/a1", False, id="of-no-cluster"),
        pytest.param("spiffe://alpha.test/ns/shop/sa/shop", False, id="a-workload"),
    ],
)
def test_a_proxy_is_known_by_the_trust_domain_of_its_cluster(identity: str, known: bool) -> None:
    assert is_known(founded(), identity) is known


def test_on_the_way_between_two_homes_it_is_known_by_either_and_afterwards_by_the_new_one() -> None:
    log = moving()
    both = [f"spiffe://{domain}/{AGENT}" for domain in ("alpha.test", "beta.test", "gamma.test")]
    assert [is_known(log, one) for one in both] == [True, True, False]
    for state in ("announced", "moving"):
        assert log.send("alpha", AdvanceRehoming(cluster="delta", state=state)).code == 0
    assert [is_known(log, one) for one in both] == [False, True, False]
