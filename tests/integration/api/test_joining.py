"""Joining over HTTPS: a cluster enters under its own name and root, and takes nobody else's."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from certs.core.token import JoinToken
from certs.runtime.authority import RootAuthority
from discovery.core.specs import ClusterSpec
from federation.api.joining import join_message
from federation.api.messages import JoinReply, JoinRequest
from tests.integration.api.joining import make_token, post_join, primary_request
from tests.integration.controller.installation import BASE, PORTS, Caller, Controller

replace = msgspec.structs.replace


def remote_request(token: JoinToken, cluster: str, **spec: Any) -> JoinRequest:
    wanted = {"role": "remote", "trust_domain": "alpha.example", "home": "alpha", **spec}
    return JoinRequest(secret=token.secret, cluster=cluster, spec=ClusterSpec(**wanted))


def test_a_primary_joins_and_hears_of_everybody(controller: Controller, operator: Caller) -> None:
    root = RootAuthority.create("kappa.example")
    request = primary_request(root, make_token(controller, cluster="kappa"), "kappa")
    status, answer = post_join(controller, request)
    assert status == 200, answer
    reply = msgspec.convert(answer, JoinReply, str_keys=True)
    assert {"alpha.example", "kappa.example"} <= set(reply.directory.bundles)
    assert {"alpha-c1", "kappa-c1"} <= {one.name for one in reply.directory.controllers}
    assert operator.ok("GET", f"{BASE}/clusters/kappa")["spec"]["trustDomain"] == "kappa.example"
    # The answer was lost: the same root asks again, signing anew.
    repeated = replace(request, proof=root.sign(join_message(request.secret, "kappa")))
    assert post_join(controller, repeated)[0] == 200


def test_a_remote_cluster_joins_at_its_home_without_keys(controller: Controller, operator: Caller) -> None:
    request = remote_request(make_token(controller, cluster="delta"), "delta")
    status, answer = post_join(controller, request)
    assert status == 200, answer
    assert answer["directory"]["homes"]["delta"] == "alpha"
    assert "delta" in [one["name"] for one in operator.ok("GET", "/v1/status")["clusters"]]


def test_a_refused_join_may_be_corrected_and_sent_again_with_the_same_token(
    controller: Controller, beta: RootAuthority
) -> None:
    token = make_token(controller, cluster="lambda")
    root = RootAuthority.create("lambda.example")
    wrong = primary_request(root, token, "lambda")
    wrong = replace(wrong, controller=replace(wrong.controller, name="beta-c1"))
    status, body = post_join(controller, wrong)
    assert (status, body["reason"]) == (409, "AlreadyExists")
    assert "Controller/beta-c1 exists" in body["message"]
    assert post_join(controller, primary_request(root, token, "lambda"))[0] == 200


Change = Callable[[JoinRequest, RootAuthority], JoinRequest]


def spec(**changes: Any) -> Change:
    return lambda request, _: replace(request, spec=replace(request.spec, **changes))


def controller_spec(**changes: Any) -> Change:
    def change(request: JoinRequest, _: RootAuthority) -> JoinRequest:
        named = request.controller
        return replace(request, controller=replace(named, spec=replace(named.spec, **changes)))

    return change


def fields(**changes: Any) -> Change:
    return lambda request, _: replace(request, **changes)


def root_of_another(request: JoinRequest, _: RootAuthority) -> JoinRequest:
    other = RootAuthority.create("omega.example")
    return replace(request, roots=(other.bundle().pem().decode(),))


def leaf_as_root(request: JoinRequest, root: RootAuthority) -> JoinRequest:
    del root
    return replace(request, roots=("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",))


def twice_the_root(request: JoinRequest, _: RootAuthority) -> JoinRequest:
    return replace(request, roots=(request.roots[0] + request.roots[0],))


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        pytest.param(fields(proof=b""), 401, "did not prove that it holds its root key", id="no-proof"),
        pytest.param(fields(proof=b"\x30\x06\x02\x01\x01\x02\x01\x01"), 401, "did not prove", id="wrong-proof"),
        pytest.param(root_of_another, 401, "did not prove", id="root-of-another"),
        pytest.param(leaf_as_root, 400, "no readable PEM certificate", id="garbage-root"),
        pytest.param(twice_the_root, 400, "2 certificates, expected one", id="two-certificates"),
        pytest.param(fields(roots=()), 400, "0 roots, expected one", id="no-root"),
        pytest.param(fields(controller=None), 400, "names its controller", id="no-controller"),
        pytest.param(fields(protocol=0), 422, "too old", id="old-protocol"),
        pytest.param(fields(cluster="sigma"), 403, "the token is for cluster omega, not for sigma", id="other-cluster"),
        pytest.param(fields(cluster="Omega!"), 400, "cluster: 'Omega!' is not a name", id="bad-name"),
        pytest.param(fields(secret=b"y" * 32), 403, "is not known here", id="forged-token"),
        pytest.param(spec(trust_domain="beta.example"), 400, "is not one of its own in beta.example", id="name-of-anothers-domain"),
        pytest.param(spec(trust_domain="not a domain"), 400, "is not a trust domain", id="bad-trust-domain"),
        pytest.param(spec(ranges=("10.0.0.0/99",)), 400, "is not a network", id="bad-range"),
        pytest.param(spec(home="alpha"), 400, "others have none", id="primary-with-home"),
        pytest.param(controller_spec(identity="spiffe://alpha.example/isthmus/alpha/controller/c1"), 400, "is not one of its own", id="identity-of-another"),
        pytest.param(controller_spec(identity="nonsense"), 400, "is not a spiffe id", id="bad-identity"),
        pytest.param(controller_spec(raft=""), 400, "raft: '' is not an address", id="no-raft-address"),
        pytest.param(controller_spec(control="here"), 400, "control: 'here' is not an address", id="bad-control-address"),
        pytest.param(controller_spec(role="witness"), 400, "is not that of its cluster", id="role-mismatch"),
    ],
)  # fmt: skip
def test_a_wrong_join_is_refused_and_commits_nothing(
    controller: Controller, operator: Caller, beta: RootAuthority, change: Change, status: int, message: str
) -> None:
    root = RootAuthority.create("omega.example")
    request = primary_request(root, make_token(controller, cluster="omega"), "omega")
    found, body = post_join(controller, change(request, root))
    assert found == status, body
    assert message in body["message"]
    for path in ("clusters/omega", "trustdomains/omega.example", "controllers/omega-c1"):
        assert operator.call("GET", f"{BASE}/{path}")[0] == 404


def test_a_taken_cluster_name_is_a_conflict(controller: Controller, beta: RootAuthority) -> None:
    root = RootAuthority.create("second-beta.example")
    status, body = post_join(
        controller, primary_request(root, make_token(controller, cluster="beta"), "beta")
    )
    assert (status, body["reason"]) == (409, "AlreadyExists")
    assert "Cluster/beta" in body["message"]


def test_a_taken_trust_domain_is_a_conflict(controller: Controller, beta: RootAuthority) -> None:
    root = RootAuthority.create("beta.example")
    status, body = post_join(
        controller, primary_request(root, make_token(controller, cluster="thief"), "thief")
    )
    assert (status, body["reason"]) == (409, "AlreadyExists")
    assert "trust domain beta.example belongs to cluster beta" in body["message"]


def test_a_token_joins_one_root_only(controller: Controller) -> None:
    token = make_token(controller, cluster="mu")
    assert post_join(controller, primary_request(RootAuthority.create("mu.example"), token, "mu"))[0] == 200
    status, body = post_join(controller, primary_request(RootAuthority.create("mu2.example"), token, "mu"))
    assert status == 422
    assert "was already used" in body["message"]


def test_an_agents_token_joins_no_cluster(controller: Controller) -> None:
    token = make_token(controller, cluster="alpha", purpose="agent", namespace="a", serviceAccount="b")
    request = primary_request(RootAuthority.create("alpha2.example"), token, "alpha")
    status, body = post_join(controller, request)
    assert status == 403
    assert "has purpose 'agent', not 'cluster'" in body["message"]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        pytest.param({"home": "beta"}, 422, "names beta as its home", id="other-home"),
        pytest.param(
            {"trust_domain": "own.example"}, 400, "expected its home's trust domain", id="own-domain"
        ),
    ],
)
def test_a_wrong_remote_join_is_refused(
    controller: Controller, beta: RootAuthority, changes: dict[str, Any], status: int, message: str
) -> None:
    found, body = post_join(
        controller, remote_request(make_token(controller, cluster="far"), "far", **changes)
    )
    assert found == status, body
    assert message in body["message"]


def again(root: RootAuthority, token: JoinToken, cluster: str) -> JoinRequest:
    return replace(primary_request(root, token, cluster), again=True)


def test_a_cluster_that_lost_its_log_joins_again_under_its_own_root(
    controller: Controller, beta: RootAuthority
) -> None:
    request = again(beta, make_token(controller, cluster="beta"), "beta")
    status, answer = post_join(controller, request)
    assert status == 200, answer
    assert "beta-c1" in [one["name"] for one in answer["directory"]["controllers"]]
    repeated = replace(request, proof=beta.sign(join_message(request.secret, "beta")))
    assert post_join(controller, repeated)[0] == 200


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        pytest.param(root_of_another, 401, "did not prove that it holds its root key", id="root-of-another"),
        pytest.param(fields(proof=b"x"), 401, "did not prove that it holds its root key", id="no-proof"),
        pytest.param(
            controller_spec(raft="127.108.0.9:7443"), 422, "listens at 127.108.0.1:7443 in the catalog", id="moved"
        ),
        pytest.param(
            lambda request, _: replace(request, controller=replace(request.controller, name="beta-c2")),
            422,
            "its controller is beta-c1 in the catalog, not beta-c2",
            id="other-controller",
        ),
        pytest.param(fields(controller=None), 422, "not none: keep its id", id="no-controller"),
    ],
)  # fmt: skip
def test_nobody_else_joins_again_in_its_place(
    controller: Controller, beta: RootAuthority, change: Change, status: int, message: str
) -> None:
    request = change(again(beta, make_token(controller, cluster="beta"), "beta"), beta)
    code, body = post_join(controller, request)
    assert (code, message in body["message"]) == (status, True), body


def test_a_new_root_of_the_same_trust_domain_is_not_the_one_that_joined(
    controller: Controller, beta: RootAuthority
) -> None:
    impostor = RootAuthority.create("beta.example")
    status, body = post_join(controller, again(impostor, make_token(controller, cluster="beta"), "beta"))
    assert (status, "the root is not the one of beta.example" in body["message"]) == (422, True), body


def test_a_member_that_votes_does_not_join_again_with_an_empty_log(controller: Controller) -> None:
    token = make_token(controller, cluster="alpha")
    mine = controller.installation
    request = primary_request(controller.domain.root, token, "alpha")
    addresses = {name: f"{mine.host}:{port}" for name, port in PORTS.items() if name != "metrics"}
    request = replace(
        request,
        again=True,
        controller=replace(
            request.controller, name="alpha-c1", spec=replace(request.controller.spec, **addresses)
        ),
    )
    status, body = post_join(controller, request)
    assert (status, "isthmus member remove alpha first" in body["message"]) == (422, True), body


def test_a_cluster_that_never_joined_cannot_join_again(controller: Controller) -> None:
    root = RootAuthority.create("nova.example")
    status, body = post_join(controller, again(root, make_token(controller, cluster="nova"), "nova"))
    assert (status, "leave --again out" in body["message"]) == (422, True), body
