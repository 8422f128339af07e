"""Letting in: join tokens become clusters, agents, gateways and DNS processes."""

import asyncio
import hashlib
from collections.abc import Callable

import msgspec
import structlog

from certs.core.issuance import controller_dns_names, csr_public_key
from certs.core.spiffe import SpiffeId, parse, system_id, system_identity, workload_id
from certs.core.token import token_hash
from certs.runtime.authority import Authority, IssuedCertificate
from discovery.core.catalog import Catalog
from discovery.core.commands import ClaimToken, Put
from discovery.core.join_forecast import Forecast, Newcomer, foresee_join
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey, pack, unpack_resource
from discovery.core.rehoming import may_change, was_of
from discovery.core.specs import (
    AgentSpec,
    ClusterSpec,
    ControllerSpec,
    JoinTokenSpec,
    JoinTokenStatus,
    WorkloadGroupSpec,
)
from federation.api.directory import build_directory, cluster_spec
from federation.api.joining import check_proof, check_same, forecast_records, primary_records
from federation.api.messages import (
    EnrollReply,
    EnrollRequest,
    ForecastRequest,
    JoinReply,
    JoinRequest,
)
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.api.removals import next_epoch
from federation.api.sign_pace import SignPace
from federation.api.tokens import find_token, group_key, read_group, token_name
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    PreconditionError,
)
from federation.kernel.names import check_label
from federation.kernel.versions import PROTOCOL_VERSION, speaks

# A member's own leaf is its own authority's; a "controller" that asks is a mirror.
SIGNED_FOR = frozenset({"agent", "gateway", "dns", "controller"})
SERVICES_FORESEEN_MAX = 1_000

_log = structlog.get_logger("admission")


class Admission:
    """Claims tokens by quorum first and signs afterwards: a token admits one key, whatever crashes."""

    def __init__(
        self,
        *,
        cluster: str,
        catalog: Catalog,
        proposer: Proposer,
        authority: Authority,
        voters: Callable[[], tuple[str, ...]],
        now_ms: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._now_ms = now_ms  # Federation time.
        self._voters = voters
        self._catalog = catalog
        self._proposer = proposer
        self._authority = authority

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Give an agent, gateway, DNS process or mirror its identity; the same key may repeat a lost call.

        Raises NotAllowedError for a token that nobody gave out or that is for something else,
        PreconditionError for one that is used or expired, or whose workload group is another one by now.
        """
        _check_protocol(request.protocol)
        check_label(request.id, "id")
        token = self._token(request.secret, request.purpose)
        if token.purpose == "cluster":
            raise NotAllowedError("the join token is for a cluster: use isthmus cluster join")
        claimant = hashlib.sha256(csr_public_key(request.csr)).hexdigest()
        spec = cluster_spec(self._catalog.tables, token.cluster)
        if token.cluster != self._cluster and spec.home != self._cluster:
            raise PreconditionError(
                f"cluster {token.cluster} is served by {spec.home or token.cluster}, not by {self._cluster}"
            )
        if token.purpose == "controller":
            self._check_mirror_name(token.cluster, request.id)
        # Before the claim: a token must not be lost on a group that is gone.
        template = self._template(token)
        agent = AgentSpec(
            role=token.purpose,
            namespace=token.namespace,
            service_account=token.service_account,
            workload_group=token.workload_group,
        )
        await self._proposer.write(
            ClaimToken(secret_sha256=token.secret_sha256, purpose=token.purpose, claimant=claimant),
            self._record(agent_key(token.cluster, token.purpose, request.id), agent),
        )
        identity = system_id(spec.trust_domain, token.cluster, token.purpose, request.id)
        issued = await asyncio.to_thread(sign_process, self._authority, request.csr, identity)
        _log.info("enrolled", identity=str(identity), token=token.secret_sha256[:12])
        return EnrollReply(
            identity=str(identity),
            chain=tuple(issued.chain_der),
            cluster=token.cluster,
            cluster_spec=spec,
            directory=build_directory(self._catalog.tables),
            namespace=token.namespace,
            workload_identity=str(workload_id(spec.trust_domain, token.namespace, token.service_account))
            if token.namespace
            else "",
            workload_group=token.workload_group,
            template=template,
        )

    async def join(self, request: JoinRequest) -> JoinReply:
        """Let a cluster into the federation. Its records are committed before the answer.

        Raises AlreadyExistsError for a name or trust domain that is taken.
        """
        _check_protocol(request.protocol)
        check_label(request.cluster, "cluster")
        token = self._token(request.secret, "cluster")
        if token.cluster != request.cluster:
            raise NotAllowedError(f"the token is for cluster {token.cluster}, not for {request.cluster}")
        if request.again:
            return await self._join_again(request, token)
        spec = msgspec.structs.replace(request.spec, epoch=next_epoch(self._catalog.tables, request.cluster))
        puts = [
            Put(
                key=ResourceKey("", "Cluster", "", request.cluster),
                spec=msgspec.json.encode(spec),
                expected_revision=0,
            )
        ]
        if request.spec.role == "remote":
            self._check_remote(request)
            claimant = hashlib.sha256(request.cluster.encode()).hexdigest()
        else:
            claimant = check_proof(request)
            puts += primary_records(request)
        claim = ClaimToken(secret_sha256=token.secret_sha256, purpose="cluster", claimant=claimant)
        try:
            outcome = await self._proposer.write(claim, *puts)
        except AlreadyExistsError as error:
            if not self._is_joined(claim, puts):
                raise AlreadyExistsError(
                    f"{error.message}; a cluster that lost its log comes back with isthmus cluster join --again"
                ) from error
            revision = self._catalog.revision  # The same key repeats a call whose answer was lost.
        else:
            revision = outcome.revision
            _log.info("cluster_joined", cluster=request.cluster, role=request.spec.role, revision=revision)
        return JoinReply(directory=build_directory(self._catalog.tables), revision=revision, epoch=spec.epoch)

    async def forecast(self, request: ForecastRequest) -> Forecast:
        """Return what a join would change and what stands in its way, as far as this controller knows.

        Raises as `join` for a token that nobody gave out for this cluster; one that was used or has expired is a conflict.
        """
        _check_protocol(request.protocol)
        check_label(request.cluster, "cluster")
        if len(request.services) > SERVICES_FORESEEN_MAX:
            raise InvalidInputError(
                f"{len(request.services)} services are named, at most {SERVICES_FORESEEN_MAX} are allowed"
            )
        token = self._token(request.secret, "cluster")
        if token.cluster != request.cluster:
            raise NotAllowedError(f"the token is for cluster {token.cluster}, not for {request.cluster}")
        tables = self._catalog.tables
        spec = msgspec.structs.replace(request.spec, epoch=next_epoch(tables, request.cluster))
        controllers = (
            () if request.controller is None else ((request.controller.name, request.controller.spec),)
        )
        newcomer = Newcomer(
            cluster=request.cluster, spec=spec, controllers=controllers, services=request.services
        )
        found = foresee_join(
            tables,
            newcomer,
            forecast_records(request.cluster, spec, request.controller),
            proposer=self._cluster,
            now_ms=self._now_ms(),
        )
        unusable = self._unusable(token)
        return msgspec.structs.replace(found, conflicts=(*unusable, *found.conflicts))

    def _unusable(self, token: JoinTokenSpec) -> list[str]:
        row = self._catalog.tables.resource(ResourceKey("", "JoinToken", "", token_name(token.secret_sha256)))
        if row is None:
            return ["the join token was deleted: make a new one"]
        if msgspec.json.decode(row.status, type=JoinTokenStatus).claimed_by:
            return ["the join token was already used: make a new one"]
        if self._now_ms() >= token.expires_ms:
            return ["the join token has expired: make a new one"]
        return []

    async def _join_again(self, request: JoinRequest, token: JoinTokenSpec) -> JoinReply:
        """Let a cluster back in that proves its root, with a controller whose log is gone or of no use.

        It gets the directory of now, and its log from the leader. Its records stay as they are. Raises
        PreconditionError while it votes: a member that forgot its votes must not.
        """
        claimant = check_proof(request)
        tables = self._catalog.tables
        try:
            epoch = cluster_spec(tables, request.cluster).epoch
        except NotFoundError as error:
            if next_epoch(tables, request.cluster) > 1:
                raise PreconditionError(
                    f"cluster {request.cluster} was removed: join with an empty data directory, and leave --again out"
                ) from error
            raise PreconditionError(
                f"cluster {request.cluster} never joined, or did so after the backup that was restored:"
                " leave --again out"
            ) from error
        check_same(request, build_directory(tables))
        await self._proposer.barrier()
        if request.cluster in self._voters():
            raise PreconditionError(
                f"member {request.cluster} votes still, and must not vote with an empty log:"
                f" isthmus member remove {request.cluster} first"
            )
        outcome = await self._proposer.write(
            ClaimToken(secret_sha256=token.secret_sha256, purpose="cluster", claimant=claimant)
        )
        _log.info("cluster_joined_again", cluster=request.cluster, revision=outcome.revision)
        return JoinReply(
            directory=build_directory(self._catalog.tables), revision=outcome.revision, epoch=epoch
        )

    def _token(self, secret: bytes, purpose: str) -> JoinTokenSpec:
        token = find_token(self._catalog.tables, secret)
        if token is None or token.secret_sha256 != token_hash(secret):
            raise NotAllowedError("the join token is not known here: it was never created, or deleted")
        if token.purpose != purpose:
            raise NotAllowedError(f"the join token has purpose {token.purpose!r}, not {purpose[:20]!r}")
        return token

    def _template(self, token: JoinTokenSpec) -> WorkloadGroupSpec | None:
        """Return what the token's workload group says now; its service account is the token's, or none enters."""
        if not token.workload_group:
            return None
        name = f"{token.namespace}/{token.workload_group}"
        try:
            group = read_group(
                self._catalog.tables, group_key(token.cluster, token.namespace, token.workload_group)
            )
        except NotFoundError as error:
            raise PreconditionError(f"workload group {name} of the join token no longer exists") from error
        if group.service_account != token.service_account:
            raise PreconditionError(
                f"the join token is for service account {token.service_account}, its workload group {name}"
                f" has {group.service_account} by now: make a new token"
            )
        return group

    def _record(self, key: ResourceKey, agent: AgentSpec) -> Put:
        """Return the write of an enrollment. A second one may replace a process, never what it stands for."""
        row = self._catalog.tables.resource(key)
        if row is not None and _stands_for(read_agent(pack(row))) != _stands_for(agent):
            raise AlreadyExistsError(
                f"{key} is enrolled for another namespace or service account: choose another id, or delete it first"
            )
        return Put(
            key=key, spec=msgspec.json.encode(agent), expected_revision=0 if row is None else row.revision
        )

    def _is_joined(self, claim: ClaimToken, puts: list[Put]) -> bool:
        """True when this very claim, by the same key, has made these records before."""
        tables = self._catalog.tables
        token = tables.resource(ResourceKey("", "JoinToken", "", token_name(claim.secret_sha256)))
        rows = [tables.resource(put.key) for put in puts]
        return (
            token is not None
            and msgspec.json.decode(token.status, type=JoinTokenStatus).claimed_by == claim.claimant
            and all(row is not None and row.spec == put.spec for row, put in zip(rows, puts, strict=True))
        )

    def _check_mirror_name(self, cluster: str, name: str) -> None:
        """Raise AlreadyExistsError for the id of a member or witness: they would be one to everybody."""
        row = self._catalog.tables.resource(ResourceKey("", "Controller", "", f"{cluster}-{name}"))
        if row is None:
            return
        spec = decode_spec("Controller", row.spec, where=str(row.key))
        assert isinstance(spec, ControllerSpec)
        if spec.role != "mirror":
            raise AlreadyExistsError(
                f"id {name}: controller {row.key.name} is a {spec.role}: choose another id for a mirror"
            )

    def _check_remote(self, request: JoinRequest) -> None:
        if request.spec.home != self._cluster:
            raise PreconditionError(
                f"cluster {request.cluster} names {request.spec.home} as its home: join with a token of a controller of {request.spec.home}"
            )
        own = cluster_spec(self._catalog.tables, self._cluster).trust_domain
        if request.spec.trust_domain != own or request.roots or request.controller is not None:
            raise InvalidInputError(
                f"remote cluster {request.cluster}: expected its home's trust domain {own}, no roots and no controller"
            )


class Signer:
    """Signs further leaves for whoever enrolled; needs no quorum (12 h of its outage are survived)."""

    def __init__(self, *, catalog: CatalogReader, authority: Authority, now_ms: Callable[[], int]) -> None:
        self._catalog = catalog
        self._authority = authority
        self._now_ms = now_ms  # Federation time.
        self._pace = SignPace()

    async def sign(self, caller: SpiffeId, csr: bytes, identity: str) -> tuple[tuple[bytes, ...], int]:
        """Return a new chain for `identity` and its end (Unix ms): the caller's own, or its workloads'."""
        system = system_identity(caller)
        if system is None or system.role not in SIGNED_FOR:
            raise NotAllowedError(f"{caller} may not ask for certificates")
        wanted, domain = parse(identity), self._authority.trust_domain
        spec = self._catalog.tables.cluster(system.cluster)
        if caller.trust_domain != domain:
            caller = self._after_move(caller, spec)
        elif spec is not None and domain not in spec.trust_domains:
            raise NotAllowedError(
                f"{caller}: cluster {system.cluster} has left trust domain {domain}: ask its home {spec.home}"
            )
        key = agent_key(system.cluster, system.role, system.id)
        value = self._catalog.tables.resources.get(key.encode())
        if value is None:
            raise NotAllowedError(f"{caller} is not enrolled, or was evicted")
        if wanted != caller and wanted != self._workload(caller, value):
            raise NotAllowedError(f"{caller} may not have the identity {wanted}")
        self._pace.count(caller)
        issued = await asyncio.to_thread(sign_process, self._authority, csr, wanted)
        return tuple(issued.chain_der), int(issued.not_after.timestamp() * 1000)

    async def sign_asked(
        self, peer: SpiffeId, csr: bytes, identity: str, asked_by: str
    ) -> tuple[tuple[bytes, ...], int]:
        """Sign for `peer`, or, where `peer` is a mirror, for the process that asked it.

        A mirror asks for processes that it serves: of its own cluster and of remote ones whose home that is,
        and for no controller.
        """
        if not asked_by:
            return await self.sign(peer, csr, identity)
        caller = parse(asked_by)
        system, mirror = system_identity(caller), system_identity(peer)
        tables = self._catalog.tables
        spec = None if system is None else tables.cluster(system.cluster)
        if mirror is None or mirror.role != "controller" or not self._vouches(peer, caller, spec):
            raise NotAllowedError(f"{peer} may not ask for certificates of others")
        if agent_key(mirror.cluster, "controller", mirror.id).encode() not in tables.resources:
            raise NotAllowedError(f"{peer} is not enrolled as a mirror, or was evicted")
        if system is None or system.role == "controller":
            raise NotAllowedError(f"{peer} may not ask for a certificate of {caller}")
        if spec is None or mirror.cluster not in (system.cluster, *spec.homes):
            raise NotAllowedError(f"{peer} does not serve cluster {system.cluster}, of which {caller} is")
        return await self.sign(caller, csr, identity)

    def _vouches(self, peer: SpiffeId, caller: SpiffeId, spec: ClusterSpec | None) -> bool:
        """True when a mirror and the process that asked it are of one trust domain.

        Or when the mirror is of ours, and the process of one that its cluster comes from: it has not changed yet. Nobody of
        another trust domain gets identities of ours by a mirror's word.
        """
        if peer.trust_domain == caller.trust_domain:
            return True
        ours = peer.trust_domain == self._authority.trust_domain
        return ours and spec is not None and was_of(spec, caller.trust_domain)

    def _after_move(self, caller: SpiffeId, spec: ClusterSpec | None) -> SpiffeId:
        """Return the caller's identity in our trust domain, if its cluster moves to it; raises NotAllowedError."""
        domain = self._authority.trust_domain
        if (
            spec is None
            or spec.shown_trust_domain != domain
            or not may_change(spec, caller.trust_domain, self._now_ms())
        ):
            raise NotAllowedError(f"{caller}: this controller signs for {domain} only")
        return msgspec.structs.replace(caller, trust_domain=domain)

    @staticmethod
    def _workload(caller: SpiffeId, value: bytes) -> SpiffeId | None:
        spec = read_agent(value)
        if not spec.namespace:
            return None
        return workload_id(caller.trust_domain, spec.namespace, spec.service_account)


def sign_process(authority: Authority, csr: bytes, identity: SpiffeId) -> IssuedCertificate:
    """Certify a process; a mirror's certificate carries the names by which gRPC clients know a controller."""
    return authority.sign_leaf(csr, identity, dns=controller_dns_names(identity))


def agent_key(cluster: str, role: str, agent: str) -> ResourceKey:
    """The record of one enrolled process."""
    return ResourceKey(cluster, "Agent", "", f"{role}.{agent}")


def _stands_for(agent: AgentSpec) -> tuple[str, str, str]:
    """What its certificates say; the group that described its workloads may change."""
    return agent.role, agent.namespace, agent.service_account


def read_agent(value: bytes) -> AgentSpec:
    """Return the spec in a packed Agent row."""
    row = unpack_resource(value)
    spec = decode_spec("Agent", row.spec, where=str(row.key))
    assert isinstance(spec, AgentSpec)
    return spec


def _check_protocol(version: int) -> None:
    if not speaks(version):
        raise PreconditionError(
            f"protocol version {version} is too old, this controller speaks {PROTOCOL_VERSION}"
        )
