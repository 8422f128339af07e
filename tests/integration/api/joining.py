"""Join tokens, enrollments and join requests, honest and forged."""

from pathlib import Path
from typing import Any

import msgspec

from certs.core.token import JoinToken, parse_token
from certs.runtime.authority import RootAuthority
from certs.runtime.identity import LeafIdentity
from discovery.core.specs import ClusterSpec, ControllerSpec
from federation.api.joining import join_message
from federation.api.messages import EnrollReply, EnrollRequest, JoinRequest, NamedController
from federation.kernel.versions import PROTOCOL_VERSION
from tests.integration.controller.installation import Controller


def make_token(controller: Controller, *, cluster: str, purpose: str = "cluster", **more: Any) -> JoinToken:
    wanted = {"purpose": purpose, "cluster": cluster, **more}
    return parse_token(controller.installation.operator().ok("POST", "/v1/tokens", wanted)["token"])


def primary_request(root: RootAuthority, token: JoinToken, cluster: str, **changes: Any) -> JoinRequest:
    """What an honest new primary with this root would send."""
    domain = root.trust_domain
    spec = ControllerSpec(
        cluster=cluster,
        role="member",
        identity=f"spiffe://{domain}/isthmus/{cluster}/controller/c1",
        raft="127.108.0.1:7443",
        control="127.108.0.1:7444",
        api="127.108.0.1:7445",
        protocol=PROTOCOL_VERSION,
    )
    request = JoinRequest(
        secret=token.secret,
        cluster=cluster,
        spec=ClusterSpec(role="primary", trust_domain=domain),
        roots=(root.bundle().pem().decode(),),
        controller=NamedController(name=f"{cluster}-c1", spec=spec),
        proof=root.sign(join_message(token.secret, cluster)),
    )
    return msgspec.structs.replace(request, **changes)


def post_join(controller: Controller, request: JoinRequest) -> tuple[int, Any]:
    return controller.installation.caller(None).call("POST", "/v1/join", request)


def csr_of(folder: Path) -> bytes:
    """Return a request for the key in `folder`."""
    return LeafIdentity.load(folder).create_csr()


def enroll(controller: Controller, token: JoinToken, csr: bytes, **changes: Any) -> tuple[int, Any]:
    """Enroll as `a1` unless `changes` say otherwise."""
    request = EnrollRequest(secret=token.secret, purpose=token.purpose, id="a1", csr=csr)
    request = msgspec.structs.replace(request, **changes)
    return controller.installation.caller(None).call("POST", "/v1/enroll", request)


def enrolled(
    controller: Controller, folder: Path, name: str, *, purpose: str = "agent", cluster: str = "alpha"
) -> LeafIdentity:
    """Return the identity of a process that has just enrolled; agents are of namespace and account `shop`."""
    workloads = {"namespace": "shop", "serviceAccount": "shop"} if purpose == "agent" else {}
    token = make_token(controller, cluster=cluster, purpose=purpose, **workloads)
    leaf = LeafIdentity.load(folder)
    status, answer = enroll(controller, token, leaf.create_csr(), id=name)
    assert status == 200, answer
    leaf.install(msgspec.convert(answer, EnrollReply, str_keys=True).chain)
    return leaf
