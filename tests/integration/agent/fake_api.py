"""The enrollment part of a controller's HTTPS port: one-time tokens, real TLS with the root in the chain."""

import hashlib
import secrets
from typing import Any, Self

import msgspec
from aiohttp import web

from certs.core import spiffe
from certs.core.certificate import spki_pin
from certs.core.issuance import csr_public_key
from certs.core.token import JoinToken, format_token, token_hash
from certs.runtime.tls import server_context
from discovery.core.specs import ClusterSpec, WorkloadGroupSpec
from federation.api.messages import Directory, EnrollReply, EnrollRequest
from tests.support.pki import TestDomain

API_PORT = 7445


class FakeApi:
    """Enrolls for `cluster` at `host`; `lose_answers` drops that many connections after deciding."""

    def __init__(self, domain: TestDomain, cluster: str, host: str, directory: Directory) -> None:
        self.domain = domain
        self.cluster = cluster
        self.address = f"{host}:{API_PORT}"
        self.directory = directory
        self.identity = domain.controller(cluster, "api1")
        self.lose_answers = 0
        self.template: WorkloadGroupSpec | None = None  # Of the group `machines`.
        self.requests: list[EnrollRequest] = []
        self._tokens: dict[str, str] = {}  # Hash to purpose.
        self._claims: dict[str, str] = {}
        self.expired: set[str] = set()
        self._runner: web.AppRunner | None = None

    def token(self, purpose: Any = "agent", *, endpoints: tuple[str, ...] = (), pin: str = "") -> str:
        """Make a token, good for one key."""
        secret = secrets.token_bytes(32)
        self._tokens[token_hash(secret)] = purpose
        return format_token(
            JoinToken(
                purpose=purpose,
                secret=secret,
                federation=self.directory.federation,
                cluster=self.cluster,
                endpoints=endpoints or (self.address,),
                pin=pin or spki_pin(self.domain.root.certificate_der),
                trust_domain=self.domain.trust_domain,
            )
        )

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/v1/enroll", self._enroll)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        context = server_context(self.identity, self.domain.bundles, client="optional", send_root=True)
        host, _, port = self.address.rpartition(":")
        await web.TCPSite(self._runner, host, int(port), ssl_context=context).start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _enroll(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=EnrollRequest)
        self.requests.append(asked)
        name = token_hash(asked.secret)
        purpose = self._tokens.get(name)
        if purpose is None or purpose != asked.purpose:
            return _status(
                403, "Forbidden", "the join token is not known here: it was never created, or deleted"
            )
        if name in self.expired:
            return _status(422, "Invalid", "the join token expired")
        claimant = hashlib.sha256(csr_public_key(asked.csr)).hexdigest()
        if self._claims.setdefault(name, claimant) != claimant:
            return _status(422, "Invalid", "the join token is already used")
        reply = self._reply(asked)
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    def _reply(self, asked: EnrollRequest) -> EnrollReply:
        domain = self.domain.trust_domain
        identity = spiffe.system_id(domain, self.cluster, asked.purpose, asked.id)
        is_agent = asked.purpose == "agent"
        return EnrollReply(
            identity=str(identity),
            chain=tuple(self.domain.authority.sign_leaf(asked.csr, identity).chain_der),
            cluster=self.cluster,
            cluster_spec=ClusterSpec(role="primary", trust_domain=domain, region="r1", zone="z1"),
            directory=self.directory,
            namespace="shop" if is_agent else "",
            workload_identity=f"spiffe://{domain}/ns/shop/sa/orders" if is_agent else "",
            workload_group="" if self.template is None else "machines",
            template=self.template,
        )


def _status(status: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": status,
    }
    return web.json_response(body, status=status)
