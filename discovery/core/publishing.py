"""Changing endpoints: one `PublishEndpoints`, applied to a draft."""

from discovery.core.commands import PublishEndpoints
from discovery.core.draft import Draft
from discovery.core.leases import Lease
from discovery.core.model import unpack_origin
from discovery.core.ownership import check_speaks_for, joined
from discovery.core.rules import check_endpoint_key
from discovery.core.vetting import vet
from federation.kernel.errors import LimitExceededError, PreconditionError
from federation.kernel.limits import ENDPOINTS_PER_CLUSTER_MAX
from federation.kernel.names import check_label
from federation.kernel.versions import STRICT_SCHEMA


def publish_lease(cluster: str) -> str:
    """Name of the lease whose holder publishes the endpoints of a cluster."""
    return f"publish/{cluster}"


def publish(draft: Draft, proposer: str, command: PublishEndpoints, lease: Lease | None) -> None:
    """Apply a batch to the draft: removals first, then rows newer than those that are there.

    Repeating a batch changes nothing. Raises, and then the draft must be dropped, if the proposer may not
    speak for the cluster, if its fence is not that of the newest publish lease, or if any row is bad.
    """
    check_label(command.cluster, "publish: cluster")
    spec = joined(draft, command.cluster)
    check_speaks_for(draft, proposer, command.cluster, f"endpoint table of {command.cluster}")
    if lease is None or command.fence != lease.fence:
        newest = f"{lease.fence}, held by {lease.holder}" if lease else "none"
        raise PreconditionError(
            f"publish for {command.cluster}: fence is {command.fence}, expected that of the newest lease: {newest}"
        )
    for key, incarnation, sequence in command.remove:
        check_endpoint_key(key, command.cluster)
        encoded = key.encode()
        there = draft.value("endpoints", encoded)
        if there is not None and unpack_origin(there).version <= (incarnation, sequence):
            draft.set("endpoints", encoded, None, there)
    strict, places = draft.schema >= STRICT_SCHEMA, draft.places.of(command.cluster)
    for endpoint in command.put:
        encoded, row = vet(endpoint, command.cluster, spec, places, strict=strict)
        there = draft.value("endpoints", encoded)
        if there is None or unpack_origin(there).version < endpoint.version:
            draft.set("endpoints", encoded, row, there)
    if (count := draft.count("endpoints", command.cluster)) > ENDPOINTS_PER_CLUSTER_MAX:
        raise LimitExceededError(
            f"publish for {command.cluster}: {count} endpoints, at most {ENDPOINTS_PER_CLUSTER_MAX} are allowed"
        )
