"""Removing a cluster: gone at once for everybody, deleted in batches, remembered by name.

    joined --RemoveCluster--> removed, rows left --SweepRemoved ...--> removed --a join by a new token--> joined, epoch + 1

The Cluster row goes first: what a cluster without one has is in nobody's view, and nobody writes for it. Its rows go in
batches, so that no single entry of the log costs more than a batch. The RemovedCluster row stays: only a join of the next
epoch takes the name again, so whoever comes back with the state of before is told apart.
"""

from collections.abc import Iterator
from itertools import chain, islice

import msgspec

from discovery.core.commands import RemoveCluster, SweepRemoved
from discovery.core.draft import Draft
from discovery.core.drains import is_lost
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, EndpointKey, Resource, ResourceKey
from discovery.core.ownership import (
    check_federation_writer,
    check_no_home,
    cluster_spec,
    drains,
    remembered_trust_domains,
    removed_key,
    removed_spec,
)
from discovery.core.specs import ClusterSpec, ControllerSpec, JoinTokenSpec, MemberSpec, RemovedClusterSpec
from discovery.core.tables import endpoint_prefix
from federation.kernel.errors import (
    InvalidInputError,
    LimitExceededError,
    NotAllowedError,
    NotFoundError,
    PreconditionError,
)
from federation.kernel.names import check_label

SWEEP_ROWS_MAX = 1_000
# Names that were once a cluster's; an operator may delete the oldest.
REMOVED_MAX = 5_000


def remove(draft: Draft, proposer: str, command: RemoveCluster) -> None:
    """Take a cluster out of the federation; raises, and then the draft must be dropped, why it may not be."""
    name = command.cluster
    check_label(name, "remove: cluster")
    check_federation_writer(draft, proposer)
    spec = cluster_spec(draft, name)
    if spec is None:
        raise NotFoundError(f"cluster {name} has not joined the federation, or was removed")
    if proposer == name:
        raise NotAllowedError(f"cluster {name} does not remove itself: ask a controller of another cluster")
    check_no_home(draft, name, "move or remove")
    _check_member(draft, name)
    if not command.forced:
        _check_drained(draft, name, spec)
    for row in _federation_rows(draft, name):
        draft.remove(row.key)
    _put_tombstone(
        draft,
        name,
        RemovedClusterSpec(
            epoch=spec.epoch,
            role=spec.role,
            trust_domain=spec.trust_domain,
            removed_ms=draft.now_ms,
            removed_by=command.removed_by,
            forced=command.forced,
            former_trust_domains=remembered_trust_domains(removed_spec(draft, name)),
        ),
    )


def sweep(draft: Draft, proposer: str, command: SweepRemoved) -> None:
    """Delete up to `rows_max` rows of a removed cluster; the batch that leaves none ends the removal."""
    check_label(command.cluster, "sweep: cluster")
    check_federation_writer(draft, proposer)
    if not 1 <= command.rows_max <= SWEEP_ROWS_MAX:
        raise InvalidInputError(f"sweep: rows_max is {command.rows_max}, expected 1 to {SWEEP_ROWS_MAX}")
    found = removed_spec(draft, command.cluster)
    if found is None:
        raise NotFoundError(f"cluster {command.cluster} was not removed")
    if found.swept:
        return
    name = command.cluster
    resources: Iterator[ResourceKey | EndpointKey] = (
        ResourceKey.decode(key) for key in draft.base.resources.keys(f"{name}\0".encode())
    )
    # Without the count the last batch would look through all services for nothing.
    services = draft.base.list_services() if draft.count("endpoints", name) else ()
    endpoints: Iterator[ResourceKey | EndpointKey] = (
        EndpointKey.decode(key)
        for service in services
        for key in draft.base.endpoints.keys(endpoint_prefix(service, name))
    )
    batch = tuple(islice(chain(resources, endpoints), command.rows_max))
    for key in batch:
        draft.remove(key)
    if not draft.count("resources", name) and not draft.count("endpoints", name):
        _put_tombstone(draft, name, msgspec.structs.replace(found, swept=True))


def _check_member(draft: Draft, name: str) -> None:
    """Only the log's members know whether it votes; what an operator wants of it stands in the catalog."""
    roles = [
        one.role
        for row in draft.list_resources(FEDERATION_SCOPE, "Controller")
        if row.owner == name
        and isinstance(one := decode_spec("Controller", row.spec, where=str(row.key)), ControllerSpec)
    ]
    if all(role == "mirror" for role in roles):
        return
    row = draft.resource(ResourceKey(FEDERATION_SCOPE, "Member", "", name))
    spec = None if row is None else decode_spec("Member", row.spec, where=str(row.key))
    if not isinstance(spec, MemberSpec) or spec.standing != "removed":
        raise PreconditionError(f"cluster {name} hosts a member: isthmus member remove {name} first")


def _check_drained(draft: Draft, name: str, spec: ClusterSpec) -> None:
    if spec.role == "witness" or not draft.count("endpoints", name):
        return
    drain = drains(draft).get(name)
    if drain is None or drain.share_percent or not is_lost(drain):
        raise PreconditionError(f"cluster {name} is not drained: isthmus cluster drain {name} first")


def _federation_rows(draft: Draft, name: str) -> list[Resource]:
    """What the federation holds of a cluster: at most a few rows, and its tokens."""
    found = []
    for kind in ("Cluster", "Drain", "Member"):
        row = draft.resource(ResourceKey(FEDERATION_SCOPE, kind, "", name))
        found += [] if row is None else [row]
    for kind in ("Controller", "TrustDomain"):
        found += [row for row in draft.list_resources(FEDERATION_SCOPE, kind) if row.owner == name]
    for row in draft.list_resources(FEDERATION_SCOPE, "JoinToken"):
        token = decode_spec("JoinToken", row.spec, where=str(row.key))
        if row.owner == name or (isinstance(token, JoinTokenSpec) and token.cluster == name):
            found.append(row)
    return found


def _put_tombstone(draft: Draft, name: str, spec: RemovedClusterSpec) -> None:
    row = draft.resource(removed_key(name))
    if row is None:
        count = sum(1 for _ in draft.list_resources(FEDERATION_SCOPE, "RemovedCluster"))
        if count >= REMOVED_MAX:
            raise LimitExceededError(
                f"{count} removed clusters are remembered, at most {REMOVED_MAX} are: isthmus delete removedcluster NAME"
            )
    draft.put(
        Resource(
            key=removed_key(name),
            uid=draft.make_uid(removed_key(name)) if row is None else row.uid,
            owner=FEDERATION_SCOPE,
            revision=draft.index,
            generation=1 if row is None else row.generation + 1,
            created_ms=draft.now_ms if row is None else row.created_ms,
            spec=msgspec.json.encode(spec),
        )
    )
