"""Join tokens: made by an operator, shown once, used once."""

import secrets
from typing import Literal

import msgspec

from certs.core.token import SECRET_BYTES, JoinToken, format_token, token_hash
from certs.runtime.clock import utc_now
from discovery.core.commands import Put
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.specs import JoinTokenSpec, WorkloadGroupSpec
from discovery.core.tables import Tables
from federation.api.directory import build_directory, cluster_spec, resource, resources
from federation.api.messages import Message
from federation.api.proposer import Proposer
from federation.kernel.errors import InvalidInputError, NotFoundError, PreconditionError
from federation.kernel.names import check_label, check_name

TTL_MS_DEFAULT = 600_000
TTL_MS_MAX = 7 * 86_400_000
# An expired token is kept for a day, so that a late user hears "expired" instead of "unknown".
TOKEN_KEPT_MS = 86_400_000
TOKENS_COLLECTED_MAX = 32


class TokenRequest(Message, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """POST /v1/tokens: what the operator wants to let in."""

    purpose: Literal["cluster", "agent", "gateway", "dns", "controller"]
    cluster: str  # That joins, or that the process will belong to.
    namespace: str = ""  # Agents only: of their workloads.
    service_account: str = ""
    workload_group: str = ""  # Agents only, in place of a service account: the group has it.
    ttl_ms: int = TTL_MS_DEFAULT


class TokenReply(Message, frozen=True, kw_only=True, rename="camel"):
    """The token, which nobody can read again, and the name by which it is listed."""

    token: str
    name: str
    expires_ms: int


def check_request(request: TokenRequest) -> None:
    """Raise InvalidInputError if the request makes no sense."""
    check_label(request.cluster, "cluster")
    if not 1_000 <= request.ttl_ms <= TTL_MS_MAX:
        raise InvalidInputError(f"ttl: {request.ttl_ms} ms is outside 1s to 7d (1000 to {TTL_MS_MAX} ms)")
    if request.purpose == "agent":
        if not request.namespace or not (request.service_account or request.workload_group):
            raise InvalidInputError(
                "namespace, or service account and workload group, are missing: an agent token says who its workloads are"
            )
        check_label(request.namespace, "namespace")
        if not request.workload_group:
            check_label(request.service_account, "serviceAccount")
            return
        check_name(request.workload_group, "workload_group")
        if request.service_account:
            raise InvalidInputError(
                f"serviceAccount: {request.service_account!r} is given with workload group"
                f" {request.workload_group}, which has its own: leave one of them out"
            )
    elif request.namespace or request.service_account or request.workload_group:
        raise InvalidInputError(
            "namespace, service account and workload group belong to agent tokens,"
            f" not to {request.purpose} tokens"
        )


async def create_token(
    request: TokenRequest, *, tables: Tables, now_ms: int, proposer: Proposer, cluster: str, pin: str
) -> TokenReply:
    """Commit a new token, made by a controller of `cluster` whose root has the given `pin`.

    Raises PreconditionError when a process's cluster has not joined, or is not served here.
    """
    check_request(request)
    if request.purpose != "cluster":
        spec = cluster_spec(tables, request.cluster)
        if request.cluster != cluster and spec.home != cluster:
            raise PreconditionError(
                f"{request.purpose}s of cluster {request.cluster} enroll at a controller of"
                f" {spec.home or request.cluster}: create the token there"
            )
    service_account = request.service_account
    if request.workload_group:
        group = group_key(request.cluster, request.namespace, request.workload_group)
        service_account = read_group(tables, group).service_account
    directory = build_directory(tables)
    endpoints = tuple(
        controller.spec.api
        for controller in directory.controllers
        if controller.spec.cluster == cluster and controller.spec.role == "member"  # A mirror lets nobody in.
    )
    secret = secrets.token_bytes(SECRET_BYTES)
    token = JoinToken(
        purpose=request.purpose,
        secret=secret,
        federation=directory.federation,
        cluster=request.cluster,
        endpoints=endpoints,
        pin=pin,
        trust_domain=cluster_spec(tables, cluster).trust_domain,
    )
    record = JoinTokenSpec(
        purpose=request.purpose,
        cluster=request.cluster,
        secret_sha256=token_hash(secret),
        expires_ms=(now_ms or _clock_ms()) + request.ttl_ms,
        namespace=request.namespace,
        service_account=service_account,
        workload_group=request.workload_group,
    )
    name = token_name(record.secret_sha256)
    key = ResourceKey("", "JoinToken", "", name)
    await proposer.write(Put(key=key, spec=msgspec.json.encode(record), expected_revision=0))
    return TokenReply(token=format_token(token), name=name, expires_ms=record.expires_ms)


def _clock_ms() -> int:
    """Return what the first tick of a new federation will say, to within the members' clocks.

    Until then federation time is 0, and a token that lives from there would be long expired a moment later.
    """
    return int(utc_now().timestamp() * 1000)


def group_key(cluster: str, namespace: str, name: str) -> ResourceKey:
    """The record of a workload group."""
    return ResourceKey(cluster, "WorkloadGroup", namespace, name)


def read_group(tables: Tables, key: ResourceKey) -> WorkloadGroupSpec:
    """Return a workload group; raises NotFoundError."""
    try:
        row = resource(tables, key)
    except NotFoundError as error:
        raise NotFoundError(
            f"workload group {key.namespace}/{key.name} does not exist in cluster {key.scope}: apply it first"
        ) from error
    spec = decode_spec("WorkloadGroup", row.spec, where=str(key))
    assert isinstance(spec, WorkloadGroupSpec)
    return spec


def collectable(tables: Tables, now_ms: int) -> list[ResourceKey]:
    """Return tokens that expired TOKEN_KEPT_MS ago or earlier, at most TOKENS_COLLECTED_MAX."""
    found: list[ResourceKey] = []
    for row, spec in resources(tables, "JoinToken"):
        if isinstance(spec, JoinTokenSpec) and spec.expires_ms + TOKEN_KEPT_MS <= now_ms:
            found.append(row.key)
        if len(found) >= TOKENS_COLLECTED_MAX:
            break
    return found


def token_name(secret_sha256: str) -> str:
    """The resource name of a token."""
    return secret_sha256[:32]


def find_token(tables: Tables, secret: bytes) -> JoinTokenSpec | None:
    """Return what a presented secret would let in, or None where nobody gave it out."""
    secret_sha256 = token_hash(secret)
    # Anybody may ask: the name follows from the secret, so that no search is needed.
    row = tables.resource(ResourceKey("", "JoinToken", "", token_name(secret_sha256)))
    if row is None:
        return None
    spec = decode_spec("JoinToken", row.spec, where=str(row.key))
    assert isinstance(spec, JoinTokenSpec)
    return spec if spec.secret_sha256 == secret_sha256 else None
