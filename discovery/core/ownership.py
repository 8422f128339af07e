"""Who may write what (invariant F3). The state machine asks here; no interface can go around it.

A proposer is the cluster of the controller that proposed a command, stamped from its certificate. It
speaks for its own cluster and for the remote clusters whose home it is, or will be. What belongs to no cluster is
written by any primary or witness that has joined.
"""

from collections.abc import Iterator
from functools import lru_cache

from discovery.core.draft import Draft
from discovery.core.drains import check_drain
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Resource, ResourceKey, unpack_resource
from discovery.core.specs import (
    FORMER_TRUST_DOMAINS_MAX,
    ClusterSpec,
    ControllerSpec,
    DrainReportSpec,
    DrainSpec,
    JoinTokenSpec,
    MemberSpec,
    ObservationSpec,
    QuotaSpec,
    RemovedClusterSpec,
)
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LimitExceededError,
    NotAllowedError,
    PreconditionError,
)
from federation.kernel.limits import CLUSTERS_MAX
from federation.kernel.versions import STRICT_SCHEMA


def cluster_key(name: str) -> ResourceKey:
    """The key of a Cluster."""
    return ResourceKey(FEDERATION_SCOPE, "Cluster", "", name)


def cluster_spec(draft: Draft, name: str) -> ClusterSpec | None:
    """The spec of a joined cluster, or None."""
    value = draft.value("resources", cluster_key(name).encode())
    return None if value is None else _read_cluster(value)


@lru_cache(maxsize=CLUSTERS_MAX)
def _read_cluster(value: bytes) -> ClusterSpec:
    """Read a packed Cluster: each batch of endpoints is judged by one, and they rarely change."""
    row = unpack_resource(value)
    spec = decode_spec("Cluster", row.spec, where=str(row.key))
    assert isinstance(spec, ClusterSpec)
    return spec


def joined(draft: Draft, name: str) -> ClusterSpec:
    """The spec of a cluster that must have joined."""
    spec = cluster_spec(draft, name)
    if spec is None:
        raise PreconditionError(f"cluster {name} has not joined the federation")
    return spec


def clusters(draft: Draft) -> dict[str, ClusterSpec]:
    """All joined clusters by name."""
    return {
        row.key.name: joined(draft, row.key.name) for row in draft.list_resources(FEDERATION_SCOPE, "Cluster")
    }


def drains(draft: Draft) -> dict[str, DrainSpec]:
    """All drains by the name of the cluster."""
    found = {}
    for row in draft.list_resources(FEDERATION_SCOPE, "Drain"):
        spec = decode_spec("Drain", row.spec, where=str(row.key))
        assert isinstance(spec, DrainSpec)
        found[row.key.name] = spec
    return found


def removed_key(name: str) -> ResourceKey:
    """The key of what is remembered of a removed cluster."""
    return ResourceKey(FEDERATION_SCOPE, "RemovedCluster", "", name)


def removed_spec(draft: Draft, name: str) -> RemovedClusterSpec | None:
    """What is remembered of a removed cluster of this name, also when another one has the name by now."""
    row = draft.resource(removed_key(name))
    if row is None:
        return None
    spec = decode_spec("RemovedCluster", row.spec, where=str(row.key))
    assert isinstance(spec, RemovedClusterSpec)
    return spec


def remembered_trust_domains(removed: RemovedClusterSpec | None) -> tuple[str, ...]:
    """The trust domains of all that had the name of a removed cluster, each once; a remote one has none of its own."""
    if removed is None:
        return ()
    own = () if removed.role == "remote" else (removed.trust_domain,)
    return tuple(dict.fromkeys((*removed.former_trust_domains, *own)))


def check_no_home(draft: Draft, name: str, then: str) -> None:
    """Raise PreconditionError while a cluster is a home, or will be one; `then` says what to do first."""
    for other, theirs in clusters(draft).items():
        coming = theirs.rehoming is not None and theirs.rehoming.state != "done"
        if theirs.home == name or (coming and theirs.rehoming is not None and theirs.rehoming.home == name):
            raise PreconditionError(f"cluster {name} is the home of cluster {other}: {then} that first")


def check_federation_writer(draft: Draft, proposer: str) -> None:
    """Raise unless the proposer is a joined primary or witness, or the one that founds the federation."""
    if draft.founding:
        return
    spec = cluster_spec(draft, proposer)
    if spec is None:
        raise NotAllowedError(
            f"cluster {proposer} has not joined the federation and may not write to its catalog"
        )
    if spec.role == "remote":
        raise NotAllowedError(
            f"cluster {proposer} is remote: only primaries and witnesses write for the federation"
        )


def check_speaks_for(draft: Draft, proposer: str, cluster: str, what: str) -> None:
    """Raise unless the proposer is `cluster` or one of its homes; `what` names the record for the message."""
    spec = joined(draft, cluster)
    if proposer != cluster and proposer not in spec.homes:
        raise NotAllowedError(f"{what} belongs to cluster {cluster}: cluster {proposer} may not change it")


def check_create(draft: Draft, proposer: str, key: ResourceKey, spec: object) -> str:
    """Return the owner of the resource that `proposer` wants to create, or raise why it may not."""
    match spec:
        case ClusterSpec():
            check_federation_writer(draft, proposer)
            _check_new_cluster(draft, proposer, key.name, spec)
            return key.name
        case ControllerSpec():
            _check_joins_or_speaks(draft, proposer, spec.cluster, key)
            _check_controller(key, spec, joined(draft, spec.cluster))
            return spec.cluster
        case MemberSpec():
            check_federation_writer(draft, proposer)
            return FEDERATION_SCOPE
        case DrainSpec():
            check_federation_writer(draft, proposer)
            check_drain(key.name, spec, clusters(draft), drains(draft))
            return FEDERATION_SCOPE
        case DrainReportSpec():
            check_speaks_for(draft, proposer, key.scope, str(key))
            if key.name not in drains(draft):
                raise PreconditionError(f"{key}: cluster {key.name} is not drained")
            return key.scope
        case QuotaSpec():
            check_federation_writer(draft, proposer)
            return FEDERATION_SCOPE
        case JoinTokenSpec():
            return _token_owner(draft, proposer, key, spec)
        case ObservationSpec():
            _check_observer(draft, proposer, key)
            return key.scope
        case RemovedClusterSpec():
            raise NotAllowedError(f"{key}: it follows from the removal of a cluster, nobody writes it")
        case _ if key.kind == "Verdict":
            raise NotAllowedError(f"{key}: a verdict follows from observations, nobody writes it")
        case _ if key.kind == "TrustDomain":
            owner = _trust_domain_owner(draft, key.name)
            _check_joins_or_speaks(draft, proposer, owner, key)
            return owner
        case _ if key.scope:
            check_speaks_for(draft, proposer, key.scope, str(key))
            return key.scope
        case _:
            if not draft.founding or next(draft.list_resources(FEDERATION_SCOPE, key.kind), None) is not None:
                raise AlreadyExistsError(f"{key}: a catalog has one {key.kind}, made when it was founded")
            return FEDERATION_SCOPE


def check_change(draft: Draft, proposer: str, key: ResourceKey, owner: str) -> None:
    """Raise unless `proposer` may change or delete a resource of `owner`."""
    if key.kind == "Verdict":
        raise NotAllowedError(f"{key}: a verdict follows from observations, nobody writes it")
    if owner == FEDERATION_SCOPE:
        check_federation_writer(draft, proposer)
    else:
        check_speaks_for(draft, proposer, owner, str(key))


def _check_observer(draft: Draft, proposer: str, key: ResourceKey) -> None:
    """An observer speaks for itself, never about itself, and has eyes of its own."""
    if proposer != key.scope:
        raise NotAllowedError(f"{key}: cluster {proposer} may not observe in the name of {key.scope}")
    if key.name == key.scope:
        raise NotAllowedError(f"{key}: a cluster does not observe itself")
    if joined(draft, key.scope).role == "remote":
        raise NotAllowedError(f"{key}: {key.scope} is remote: only primaries and witnesses observe")
    joined(draft, key.name)


def check_cluster_change(name: str, old: ClusterSpec, new: ClusterSpec) -> None:
    """Raise `AlreadyExistsError` when a cluster's spec would make it another cluster under the same name."""
    for field, before, after in (
        ("role", old.role, new.role),
        ("trust domain", old.trust_domain, new.trust_domain),
        ("home", old.home, new.home),
        ("epoch", old.epoch, new.epoch),
    ):
        if before != after:
            raise AlreadyExistsError(
                f"cluster {name} has joined with {field} {before!r}, not {after!r}: choose another name"
            )
    if old.rehoming != new.rehoming:
        raise NotAllowedError(f"cluster {name}: spec.rehoming is written by nobody: leave it out")


def _check_joins_or_speaks(draft: Draft, proposer: str, cluster: str, key: ResourceKey) -> None:
    """The write that lets a cluster join also brings what the cluster owns; afterwards it speaks for itself."""
    if cluster in draft.clusters_created:
        check_federation_writer(draft, proposer)
    else:
        check_speaks_for(draft, proposer, cluster, str(key))


def _check_epoch(draft: Draft, name: str, spec: ClusterSpec) -> None:
    """A name that was a removed cluster's is taken by the next epoch alone, once nothing is left of the last one."""
    removed = removed_spec(draft, name)
    if removed is not None and not removed.swept:
        raise PreconditionError(
            f"cluster {name} was removed, and its records are still being deleted: try again in a moment"
        )
    expected = 1 if removed is None else removed.epoch + 1
    if spec.epoch != expected:
        raise PreconditionError(f"cluster {name}: epoch is {spec.epoch}, expected {expected}")


def _check_new_cluster(draft: Draft, proposer: str, name: str, spec: ClusterSpec) -> None:
    if spec.rehoming is not None:
        raise NotAllowedError(f"cluster {name}: spec.rehoming is written by nobody: leave it out")
    _check_epoch(draft, name, spec)
    others = clusters(draft)
    if len(others) >= CLUSTERS_MAX:
        raise PreconditionError(
            f"the federation has {len(others)} clusters, at most {CLUSTERS_MAX} are allowed"
        )
    if spec.role == "remote":
        home = others.get(spec.home)
        if home is None or home.role != "primary":
            raise PreconditionError(f"cluster {name}: home {spec.home!r} is no primary of this federation")
        if spec.trust_domain != home.trust_domain:
            raise InvalidInputError(
                f"cluster {name}: trust domain is {spec.trust_domain!r}, expected its home's, {home.trust_domain!r}"
            )
        if proposer != spec.home:
            raise NotAllowedError(
                f"cluster {name}: only its home {spec.home} may let it join, not {proposer}"
            )
        return
    for other, taken in others.items():
        if taken.trust_domain == spec.trust_domain:
            raise AlreadyExistsError(
                f"cluster {name}: trust domain {spec.trust_domain} belongs to cluster {other}"
            )
    _check_not_inherited(draft, name, spec.trust_domain)


def _check_not_inherited(draft: Draft, name: str, trust_domain: str) -> None:
    """Grants name trust domains, and outlive them: nobody else takes that of a removed cluster, and is let in by them."""
    if draft.schema < STRICT_SCHEMA:
        return
    for row in draft.list_resources(FEDERATION_SCOPE, "RemovedCluster"):
        had = remembered_trust_domains(removed_spec(draft, row.key.name))
        if row.key.name == name:
            if trust_domain not in had and len(had) > FORMER_TRUST_DOMAINS_MAX:
                raise LimitExceededError(
                    f"cluster {name}: {len(had)} trust domains had this name: choose another one, or isthmus delete"
                    f" removedcluster {name}"
                )
        elif trust_domain in had:
            raise AlreadyExistsError(
                f"cluster {name}: trust domain {trust_domain} was that of cluster {row.key.name}, which was removed, and"
                f" Grants may name it still: choose another, or isthmus delete removedcluster {row.key.name}"
            )


def _trust_domain_owner(draft: Draft, trust_domain: str) -> str:
    for name, spec in clusters(draft).items():
        if spec.trust_domain == trust_domain and spec.role != "remote":
            return name
    raise PreconditionError(f"trust domain {trust_domain} belongs to no cluster that has joined")


def _check_controller(key: ResourceKey, spec: ControllerSpec, cluster: ClusterSpec) -> None:
    expected = [f"spiffe://{name}/isthmus/{spec.cluster}/controller/" for name in cluster.trust_domains]
    if not spec.identity.startswith(tuple(expected)):
        raise NotAllowedError(
            f"{key}: identity is {spec.identity[:300]!r}, expected {' or '.join(expected)}..."
        )


def check_controller_change(
    key: ResourceKey, old: ControllerSpec, new: ControllerSpec, home: ClusterSpec
) -> None:
    """Raise AlreadyExistsError for another controller under the same name: what moves changes its trust domain at most."""
    same_path = old.identity.split("/", 3)[3:] == new.identity.split("/", 3)[3:]
    moved = same_path and new.identity.startswith(tuple(f"spiffe://{name}/" for name in home.trust_domains))
    if new.cluster != old.cluster or (new.identity != old.identity and not moved):
        raise AlreadyExistsError(f"{key} is {old.identity} of cluster {old.cluster}: choose another name")


def _token_owner(draft: Draft, proposer: str, key: ResourceKey, spec: JoinTokenSpec) -> str:
    if spec.purpose == "cluster":
        check_federation_writer(draft, proposer)
        owner = proposer  # Redeemed where it was made, by the controllers that the operator trusted with it.
    else:
        # Whoever holds it gets an identity of that cluster.
        check_speaks_for(draft, proposer, spec.cluster, str(key))
        owner = spec.cluster
    for other, _ in tokens_with(draft, spec.secret_sha256):
        raise AlreadyExistsError(f"{key}: the same secret is in {other.key}: make a new one")
    return owner


def tokens_with(draft: Draft, secret_sha256: str) -> Iterator[tuple[Resource, JoinTokenSpec]]:
    """Yield the join tokens that have this secret, this draft included. Cost: that of what the draft changed."""
    known = (row for key in draft.tokens.find(secret_sha256) if (row := draft.resource(key)) is not None)
    rows = {row.key: row for row in (*known, *draft.changed_resources(FEDERATION_SCOPE, "JoinToken"))}
    for row in rows.values():
        spec = decode_spec("JoinToken", row.spec, where=str(row.key))
        assert isinstance(spec, JoinTokenSpec)
        if spec.secret_sha256 == secret_sha256:
            yield row, spec
