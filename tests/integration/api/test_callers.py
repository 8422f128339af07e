"""Whose certificate opens the HTTPS port, and whose does not."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from certs.core.spiffe import parse
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.identity import LeafIdentity
from tests.integration.controller.installation import BASE, Caller, Controller

OPERATOR = "/isthmus/alpha/operator/admin"

Make = Callable[[Controller, Path], Path]


def honest(path: str) -> Make:
    return lambda controller, _: controller.domain.leaf(path).path


def forged(*uris: str) -> Make:
    def make(controller: Controller, folder: Path) -> Path:
        return controller.domain.forge(uris=uris).write(folder / "forged.pem")

    return make


def test_an_operator_of_the_cluster_is_let_in(controller: Controller) -> None:
    identity = controller.domain.leaf("/isthmus/alpha/operator/someone").path
    assert controller.installation.caller(identity).call("GET", "/v1/status")[0] == 200


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        pytest.param(honest("/isthmus/alpha/agent/a1"), 403, "is not an operator", id="agent"),
        pytest.param(honest("/isthmus/alpha/controller/c1"), 403, "is not an operator", id="controller"),
        pytest.param(honest("/ns/shop/sa/orders"), 403, "is not an operator", id="workload"),
        pytest.param(honest("/isthmus/beta/operator/admin"), 403, "operator of another cluster", id="other-cluster"),
        pytest.param(forged(), 401, "", id="no-uri"),
        pytest.param(
            forged(f"spiffe://alpha.example{OPERATOR}", f"spiffe://alpha.example{OPERATOR}2"), 401, "", id="two-uris"
        ),
        pytest.param(forged(f"spiffe://beta.example{OPERATOR}"), 401, "", id="name-of-another-trust-domain"),
        pytest.param(forged("https://alpha.example/admin"), 401, "", id="no-spiffe-id"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/status", f"{BASE}/clusters", "/v1/proxies"])
def test_any_other_certificate_of_our_own_authority_is_refused(
    controller: Controller, tmp_path: Path, make: Make, status: int, message: str, path: str
) -> None:
    answer = controller.installation.caller(make(controller, tmp_path)).call("GET", path)
    assert answer[0] == status, answer
    assert message in answer[1]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/apis"),
        ("GET", BASE),
        ("GET", f"{BASE}/clusters"),
        ("GET", f"{BASE}/clusters?watch=true"),
        ("POST", f"{BASE}/namespaces/shop/grants"),
        ("PUT", f"{BASE}/namespaces/shop/grants/g"),
        ("DELETE", f"{BASE}/namespaces/shop/grants/g"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/status"),
        ("GET", "/v1/endpoints"),
        ("GET", "/v1/resolve?name=a.b&from=alpha"),
        ("GET", "/v1/explain?name=a.b&from=alpha"),
        ("GET", "/v1/whatif?lose=alpha"),
        ("GET", "/v1/trace?write=1"),
        ("GET", "/v1/proxies"),
    ],
)
def test_without_a_certificate_nothing_but_entering_is_possible(
    controller: Controller, method: str, path: str
) -> None:
    status, body = controller.installation.caller(None).call(method, path, raw=b"{}")
    assert (status, body["reason"]) == (401, "Unauthorized")


@pytest.mark.parametrize(
    "path",
    [
        f"{BASE}/clusters",
        f"{BASE}/clusters/alpha",
        f"{BASE}/exportpolicies?watch=true",
        f"/clusters/beta{BASE}/namespaces/shop/grants",
        "/v1/status",
        "/v1/endpoints?cluster=beta",
        "/v1/resolve?name=a.b&from=beta",
        "/v1/explain?name=a.b&from=beta",
        "/v1/whatif?lose=beta",
        "/v1/trace?write=1",
        "/v1/proxies",
    ],
)
def test_an_operator_of_another_federated_trust_domain_is_known_and_reads_nothing(
    controller: Controller, beta: RootAuthority, tmp_path: Path, path: str
) -> None:
    authority = Authority.open(tmp_path / "authority")
    authority.enroll(beta)
    identity = LeafIdentity.load(tmp_path / "leaf")
    authority.issue_own_leaf(identity, parse("spiffe://beta.example/isthmus/beta/operator/admin"))
    status, body = controller.installation.caller(identity.path).call("GET", path)
    assert status == 403
    assert "operator of another cluster" in body["message"]


def test_a_certificate_of_a_stranger_does_not_get_past_the_handshake(controller: Controller) -> None:
    identity = controller.stranger.leaf(OPERATOR).path
    with pytest.raises((ssl.SSLError, ConnectionError)):
        controller.installation.caller(identity).call("GET", "/v1/status")


def test_the_port_speaks_nothing_older_than_tls_1_3(controller: Controller) -> None:
    caller: Caller = controller.installation.operator()
    caller._context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        caller.call("GET", "/v1/status")
