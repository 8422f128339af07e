"""Changing resources: the operations of a `Write`, applied to a draft. Each checks, then changes, or raises."""

import re
from typing import assert_never

import msgspec

from discovery.core.commands import ClaimToken, Delete, Operation, Put
from discovery.core.draft import Draft
from discovery.core.external import check_observation, check_service
from discovery.core.kinds import KINDS, decode_spec
from discovery.core.model import FEDERATION_SCOPE, Resource, ResourceKey, pack
from discovery.core.ownership import (
    check_change,
    check_cluster_change,
    check_controller_change,
    check_create,
    check_federation_writer,
    check_no_home,
    check_speaks_for,
    cluster_spec,
    clusters,
    joined,
    removed_spec,
    tokens_with,
)
from discovery.core.poison import check_labels, check_resource_is_plain
from discovery.core.rules import check_resource_key, check_status
from discovery.core.specs import (
    QUOTA_RESOURCES,
    AnySpec,
    ClusterSpec,
    ControllerSpec,
    ExternalObservationSpec,
    ExternalServiceSpec,
    JoinTokenSpec,
    JoinTokenStatus,
    TrustDomainSpec,
)
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LimitExceededError,
    NotAllowedError,
    NotFoundError,
    PreconditionError,
    StaleRevisionError,
)
from federation.kernel.limits import RESOURCE_BYTES_MAX
from federation.kernel.versions import STRICT_SCHEMA, command_schema

# One cluster's resources (or the federation's own) must not fill everybody's memory, whatever its Quota says.
RESOURCES_PER_CLUSTER_MAX = QUOTA_RESOURCES
# Of each kind that stands in no cluster's scope: join tokens, controllers.
SHARED_PER_CLUSTER_MAX = 1_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def write(draft: Draft, proposer: str, operations: tuple[Operation, ...]) -> None:
    """Apply all operations to the draft; an error means that the draft must be dropped."""
    if not operations:
        raise InvalidInputError("write has no operations: expected at least one")
    if draft.founding:
        _check_founding(proposer, operations)
    for operation in operations:
        match operation:
            case Put():
                _put(draft, proposer, operation)
            case Delete():
                _delete(draft, proposer, operation)
            case ClaimToken():
                _claim(draft, proposer, operation)
            case _:
                assert_never(operation)


def _check_founding(proposer: str, operations: tuple[Operation, ...]) -> None:
    made = {operation.key for operation in operations if isinstance(operation, Put)}
    if ResourceKey(FEDERATION_SCOPE, "Cluster", "", proposer) not in made:
        raise PreconditionError(f"the catalog is empty: its first write must create cluster {proposer}")


def _put(draft: Draft, proposer: str, put: Put) -> None:
    check_resource_key(put.key)
    if draft.schema < KINDS[put.key.kind].schema:
        raise PreconditionError(f"{put.key}: not every controller knows this kind: finish the upgrade first")
    if put.key.scope:
        joined(draft, put.key.scope)
    row = draft.resource(put.key)
    _check_expected(put.key, row, put.expected_revision)
    spec = None if put.spec is None else _read_spec(put.key, put.spec)
    if row is not None and isinstance(spec, ClusterSpec) and spec.rehoming is None:
        known = joined(draft, put.key.name).rehoming
        if known is not None:  # Who says nothing of a move changes nothing of it.
            spec = msgspec.structs.replace(spec, rehoming=known)
            put = msgspec.structs.replace(put, spec=msgspec.json.encode(spec))
    if put.status is not None:
        check_status(put.status, str(put.key))
    if draft.schema >= STRICT_SCHEMA:
        _check_strictly(draft.schema, put, row, spec)
    _check_external(draft, proposer, put, spec)
    if row is None:
        after = _created(draft, proposer, put, spec)
    else:
        _check_replace(draft, proposer, row, put, spec)
        after = _replaced(draft, row, put)
        if after is row:
            return
    # What follows from observations must not keep an owner from changing what it wrote.
    written = msgspec.structs.replace(after, status=b"{}") if put.key.kind == "ExternalService" else after
    if (size := len(pack(written))) > RESOURCE_BYTES_MAX:
        raise LimitExceededError(f"{put.key} has {size} bytes, at most {RESOURCE_BYTES_MAX} are allowed")
    draft.put(after)


def _check_strictly(schema: int, put: Put, row: Resource | None, spec: AnySpec | None) -> None:
    """The rules that came with `STRICT_SCHEMA`; what an older build has let in may stay as it is."""
    if put.labels is not None:
        check_labels(put.labels, str(put.key))
    if row is None or (spec is not None and put.spec != row.spec):
        check_resource_is_plain(put.key, spec)
        if isinstance(spec, ControllerSpec) and spec.role == "mirror":
            _check_mirror(schema, put.key, spec)


def _check_mirror(schema: int, key: ResourceKey, spec: ControllerSpec) -> None:
    """Raise InvalidInputError for a mirror among the log's members, PreconditionError for one by which rules would be older ones.

    A mirror applies no commands, and is in other hands: by its word alone nobody's rules become weaker again.
    """
    if spec.raft:
        raise InvalidInputError(
            f"{key}: spec.raft is {spec.raft[:300]!r}, expected none of a mirror: it has no vote"
        )
    if command_schema((spec.protocol,)) < schema:
        raise PreconditionError(
            f"{key}: protocol {spec.protocol} is older than what this federation runs by: upgrade the mirror"
        )


def _check_external(draft: Draft, proposer: str, put: Put, spec: AnySpec | None) -> None:
    """What only the other rows can tell of external services and of what is missed of them."""
    if put.key.kind == "ExternalService" and put.status is not None:
        raise NotAllowedError(f"{put.key}: its status follows from observations, nobody writes it")
    match spec:
        case ExternalServiceSpec():
            check_service(draft, put.key, spec, clusters(draft))
        case ExternalObservationSpec():
            check_observation(draft, proposer, put.key)
        case _:
            pass


def _check_expected(key: ResourceKey, row: Resource | None, expected: int | None) -> None:
    if expected is None:
        return
    if expected == 0 and row is not None:
        raise AlreadyExistsError(f"{key} exists since revision {row.revision}")
    if expected and row is None:
        raise NotFoundError(f"{key} does not exist, expected it at revision {expected}")
    if row is not None and row.revision != expected:
        raise StaleRevisionError(f"{key} is at revision {row.revision}, not {expected}")


def _read_spec(key: ResourceKey, raw: bytes) -> AnySpec:
    if len(raw) > RESOURCE_BYTES_MAX:
        raise LimitExceededError(
            f"{key}: spec has {len(raw)} bytes, at most {RESOURCE_BYTES_MAX} are allowed"
        )
    spec = decode_spec(key.kind, raw, where=str(key))
    if isinstance(spec, JoinTokenSpec) and _SHA256.fullmatch(spec.secret_sha256) is None:
        raise InvalidInputError(f"{key}: spec.secretSha256 is not 64 hexadecimal digits")
    return spec


def _created(draft: Draft, proposer: str, put: Put, spec: AnySpec | None) -> Resource:
    if spec is None or put.spec is None:
        raise NotFoundError(f"{put.key} does not exist: give a spec to create it")
    if put.key.kind == "JoinToken" and put.status is not None:
        raise InvalidInputError(f"{put.key}: status is given, expected none: only a claim sets it")
    owner = check_create(draft, proposer, put.key, spec)
    if draft.count("resources", put.key.scope) >= RESOURCES_PER_CLUSTER_MAX:
        raise LimitExceededError(
            f"{put.key}: {put.key.scope or 'the federation'} has {RESOURCES_PER_CLUSTER_MAX} resources already"
        )
    if isinstance(spec, ClusterSpec):
        draft.clusters_created.add(put.key.name)
    elif draft.schema >= STRICT_SCHEMA and owner and not put.key.scope:
        _check_share(draft, put.key, owner)
    return Resource(
        key=put.key,
        uid=draft.make_uid(put.key),
        owner=owner,
        revision=draft.index,
        generation=1,
        created_ms=draft.now_ms,
        spec=put.spec,
        status=b"{}" if put.status is None else put.status,
        labels=_labels(put),
        created_revision=draft.index,
    )


def _check_share(draft: Draft, key: ResourceKey, owner: str) -> None:
    """Raise when one cluster would take the places that all have for what stands in no cluster's scope, as tokens do."""
    if draft.count("resources", FEDERATION_SCOPE) < SHARED_PER_CLUSTER_MAX:
        return  # Nobody can have more than that; and counting costs a look at each.
    own = sum(row.owner == owner for row in draft.list_resources(FEDERATION_SCOPE, key.kind))
    if own >= SHARED_PER_CLUSTER_MAX:
        raise LimitExceededError(
            f"{key}: cluster {owner} has {own} resources of this kind, at most {SHARED_PER_CLUSTER_MAX} are allowed"
        )


def _replaced(draft: Draft, row: Resource, put: Put) -> Resource:
    """Return the row after `put`, or the same object where nothing changes."""
    spec = row.spec if put.spec is None else put.spec
    status = row.status if put.status is None else put.status
    labels = row.labels if put.labels is None else _labels(put)
    if (spec, status, labels) == (row.spec, row.status, row.labels):
        return row
    return msgspec.structs.replace(
        row,
        spec=spec,
        status=status,
        labels=labels,
        revision=draft.index,
        generation=row.generation + (spec != row.spec),
    )


def _labels(put: Put) -> tuple[tuple[str, str], ...]:
    labels = tuple(sorted(put.labels or ()))
    if len({name for name, _ in labels}) < len(labels):
        raise InvalidInputError(f"{put.key}: a label is given twice")
    return labels


def _check_replace(draft: Draft, proposer: str, row: Resource, put: Put, spec: AnySpec | None) -> None:
    """Raise unless `proposer` may replace `row`, and the kind allows this change."""
    changed = put.spec is not None and put.spec != row.spec
    if row.key.kind == "Cluster" and not changed:
        if draft.schema < STRICT_SCHEMA:
            check_federation_writer(draft, proposer)  # What others observed of a cluster was in its status.
        else:
            check_change(draft, proposer, row.key, row.owner)
        return
    if changed and isinstance(spec, ClusterSpec):
        # Before ownership: a second cluster of the same name should hear that the name is taken.
        check_cluster_change(row.key.name, joined(draft, row.key.name), spec)
    check_change(draft, proposer, row.key, row.owner)
    if row.key.kind == "JoinToken" and (changed or put.status is not None):
        raise PreconditionError(f"{row.key} cannot be changed: delete it and make a new one")
    if not changed:
        return
    old = decode_spec(row.key.kind, row.spec, where=str(row.key))
    match spec, old:
        case TrustDomainSpec(), TrustDomainSpec() if spec.sequence <= old.sequence:
            raise StaleRevisionError(
                f"{row.key}: sequence is {spec.sequence}, expected more than {old.sequence}, that of the roots in force"
            )
        case ControllerSpec(), ControllerSpec():
            check_controller_change(row.key, old, spec, joined(draft, old.cluster))
        case _ if row.key.kind in ("Federation", "RemovedCluster"):
            raise PreconditionError(f"{row.key} never changes")
        case _:
            pass


def _delete(draft: Draft, proposer: str, delete: Delete) -> None:
    check_resource_key(delete.key)
    row = draft.resource(delete.key)
    if row is None:
        raise NotFoundError(f"{delete.key} does not exist")
    _check_expected(delete.key, row, delete.expected_revision)
    if row.key.kind == "Cluster":
        _delete_cluster(draft, proposer, row.key.name)
        return
    check_change(draft, proposer, row.key, row.owner)
    if row.key.kind == "Federation":
        raise PreconditionError(f"{row.key} cannot be deleted")
    removed = removed_spec(draft, row.key.name) if row.key.kind == "RemovedCluster" else None
    if removed is not None and not removed.swept:
        raise PreconditionError(f"{row.key}: what the cluster had is still being deleted")
    if row.key.kind == "TrustDomain" and any(
        spec.trust_domain == row.key.name for spec in clusters(draft).values()
    ):
        raise PreconditionError(f"{row.key} is in use: delete the clusters of this trust domain first")
    draft.remove(row.key)


def _delete_cluster(draft: Draft, proposer: str, name: str) -> None:
    """Remove a cluster with all that it owns.

    Its own controllers may be gone for ever, so any primary or witness may do it.
    """
    if cluster_spec(draft, proposer) is None or proposer != name:
        check_federation_writer(draft, proposer)
    check_no_home(draft, name, "move or delete")
    for kind in ("Controller", "JoinToken", "TrustDomain"):
        for row in tuple(draft.list_resources(FEDERATION_SCOPE, kind)):
            if row.owner == name:
                draft.remove(row.key)
    draft.remove_cluster(name)
    draft.remove(ResourceKey(FEDERATION_SCOPE, "Cluster", "", name))


def _claim(draft: Draft, proposer: str, claim: ClaimToken) -> None:
    row, spec = read_token(draft, claim.secret_sha256, claim.purpose)
    check_speaks_for(draft, proposer, row.owner, str(row.key))
    claim_token(draft, row, spec, claim.claimant)


def claim_token(draft: Draft, row: Resource, spec: JoinTokenSpec, claimant: str) -> None:
    """Use up a token; raises PreconditionError for one that somebody else used, or that has expired."""
    status = msgspec.json.decode(row.status, type=JoinTokenStatus)
    if status.claimed_by not in ("", claimant):
        raise PreconditionError(f"{row.key} was already used")
    if draft.now_ms >= spec.expires_ms:
        raise PreconditionError(f"{row.key} has expired: make a new one")
    if status.claimed_by:
        return
    if _SHA256.fullmatch(claimant) is None:
        raise InvalidInputError(f"{row.key}: claimant is not 64 hexadecimal digits")
    claimed = msgspec.json.encode(JoinTokenStatus(claimed_by=claimant, claimed_ms=draft.now_ms))
    draft.put(msgspec.structs.replace(row, status=claimed, revision=draft.index))


def read_token(draft: Draft, secret_sha256: str, purpose: str) -> tuple[Resource, JoinTokenSpec]:
    """Return the token of this secret and purpose; raises NotAllowedError when there is none."""
    for row, spec in tokens_with(draft, secret_sha256):
        if spec.purpose == purpose:
            return row, spec
    # One text for a token that was forged, deleted or meant for something else: nothing to learn from it.
    raise NotAllowedError(f"no join token for this {purpose[:20]} has this secret: ask for a new one")
