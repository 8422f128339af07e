"""Moving a remote cluster to another home: one that its processes change their identities for, without a gap.

    at home --Begin--> announced --Advance--> moving --Advance--> at the new home (done)
                           |                  |    ^
                           |                  |  Resume
                           |                  v    |
                           +------Return----> returning --Advance--> at the old home (done)

A remote cluster has the trust domain of its home. So everything in it needs new certificates, from the new home. While they
are changed, identities of both trust domains are the cluster's, each judged by its own roots: rows may name either, and
callers accept either. Whom its processes may call, Grants say of each trust domain for itself. First callers learn of it, then
processes change (make before break). Both homes serve it meanwhile. Only when every endpoint shows an identity of the
new trust domain is the new home the home.

Either home leads the cluster to itself, whether the other one lives or not: the new one may resume a move that is taken back to
a home of which nothing is heard any more. Where both are gone for good, the cluster can be removed and join anew.

The row of the Cluster says all of it, so a move outlives whoever began it. What has not changed by the end may still prove
itself by its old identity to change it, for as long as such a certificate lives.
"""

import hashlib
from collections.abc import Iterator

import msgspec

from discovery.core.commands import AdvanceRehoming, BeginRehoming, ResumeRehoming, ReturnRehoming
from discovery.core.draft import Draft
from discovery.core.kinds import decode_spec
from discovery.core.model import FEDERATION_SCOPE, Endpoint, Resource, unpack_endpoint
from discovery.core.ownership import cluster_key, cluster_spec, clusters, joined
from discovery.core.specs import (
    REHOMING_TEXT_CHARS_MAX,
    REHOMING_WITHIN_MS_MAX,
    REHOMING_WITHIN_MS_MIN,
    ClusterSpec,
    ControllerSpec,
    Rehoming,
    VerdictSpec,
)
from discovery.core.tables import Tables, endpoint_prefix
from discovery.core.verdicts import verdict_key
from discovery.core.writes import claim_token, read_token
from federation.kernel.errors import InvalidInputError, NotAllowedError, NotFoundError, PreconditionError
from federation.kernel.names import check_label

# Of the first commands that may move a cluster: older builds do not know them.
SCHEMA = 2
# How long an old identity is good for a new one after the move: as long as a leaf lives.
CHANGE_LATE_MS = 24 * 3_600_000

Command = BeginRehoming | AdvanceRehoming | ReturnRehoming | ResumeRehoming


def rehome(draft: Draft, proposer: str, command: Command) -> None:
    """Apply one step; raises, and then the draft must be dropped, why it may not be taken."""
    if draft.schema < SCHEMA:
        raise PreconditionError("rehome: not every controller knows this command: finish the upgrade first")
    check_label(command.cluster, "rehome: cluster")
    spec = cluster_spec(draft, command.cluster)
    if spec is None:
        raise NotFoundError(f"cluster {command.cluster} has not joined the federation, or was removed")
    match command:
        case BeginRehoming():
            after = _begin(draft, proposer, command, spec)
        case AdvanceRehoming(cluster=cluster, state=state):
            after = _advance(draft, cluster, _under_way(proposer, cluster, spec), state, spec)
        case ReturnRehoming(cluster=cluster, reason=reason):
            after = _return(draft, cluster, _under_way(proposer, cluster, spec), reason, spec)
        case ResumeRehoming():
            after = _resume(draft, proposer, command, spec)
    row = draft.resource(cluster_key(command.cluster))
    assert isinstance(row, Resource)
    draft.put(
        msgspec.structs.replace(
            row, spec=msgspec.json.encode(after), revision=draft.index, generation=row.generation + 1
        )
    )


def is_under_way(spec: ClusterSpec) -> bool:
    """True while identities of two trust domains are the cluster's."""
    return spec.rehoming is not None and spec.rehoming.state != "done"


def is_overdue(spec: ClusterSpec, now_ms: int) -> bool:
    """True when processes have changed, or changed back, for too long without an end: the way is to be the other one."""
    move = spec.rehoming
    return (
        move is not None
        and move.state in ("moving", "returning")
        and now_ms >= move.changed_ms + move.within_ms
    )


def is_missed(verdict: VerdictSpec | None, by: str) -> bool:
    """True when a home is dead by this verdict on it, or `by` counts among those that do not hear its controllers."""
    return verdict is not None and (verdict.state == "dead" or by in verdict.control_lost_by)


def may_change(spec: ClusterSpec, trust_domain: str, now_ms: int) -> bool:
    """True when a process of the cluster that shows an identity of `trust_domain` may have one of the shown domain."""
    move = spec.rehoming
    if move is None or trust_domain not in (spec.trust_domain, move.trust_domain):
        return False
    if move.state == "done":
        return now_ms < move.changed_ms + CHANGE_LATE_MS
    return move.state != "announced"


def was_of(spec: ClusterSpec, trust_domain: str) -> bool:
    """True for the trust domains of now, and for the one that the cluster left last."""
    return trust_domain in spec.trust_domains or (
        spec.rehoming is not None and trust_domain == spec.rehoming.trust_domain
    )


def endpoints_of(tables: Tables, cluster: str) -> Iterator[Endpoint]:
    """Yield the endpoints of a cluster, its gateways among them. Cost: one search for each service of the catalog."""
    for service in tables.list_services():
        for _, value in tables.endpoints.items(endpoint_prefix(service, cluster)):
            yield unpack_endpoint(value)


def has_changed(endpoint: Endpoint, spec: ClusterSpec) -> bool:
    """True when an endpoint shows the trust domain that its cluster moves or comes back to."""
    return shows(endpoint.identity, spec)


def shows(identity: str, spec: ClusterSpec) -> bool:
    """True for an identity of the trust domain that the cluster moves or comes back to."""
    return identity.startswith(f"spiffe://{spec.shown_trust_domain}/")


def check_target(cluster: str, to: str, spec: ClusterSpec, known: dict[str, ClusterSpec]) -> ClusterSpec:
    """Return the new home's spec; raises PreconditionError when `cluster` cannot move there, whoever asks."""
    if spec.role != "remote":
        raise PreconditionError(f"cluster {cluster} is a {spec.role}: only a remote cluster has a home")
    if is_under_way(spec) and (move := spec.rehoming) is not None:
        hint = f": if {spec.home} is gone, ask {move.home} to go on" if move.state == "returning" else ""
        raise PreconditionError(
            f"cluster {cluster} is {move.state} already, between {spec.home} and {move.home}{hint}"
        )
    home = known.get(to)
    if home is None or home.role != "primary":
        raise PreconditionError(f"cluster {cluster}: new home {to!r} is no primary of this federation")
    if to == spec.home:
        raise PreconditionError(f"cluster {cluster}: {to} is its home already")
    return home


def _begin(draft: Draft, proposer: str, command: BeginRehoming, spec: ClusterSpec) -> ClusterSpec:
    name = command.cluster
    check_label(command.to, "rehome: new home")
    home = check_target(name, command.to, spec, clusters(draft))
    if proposer != spec.home:
        raise NotAllowedError(f"cluster {name}: only its home {spec.home} may let it go, not {proposer}")
    if not REHOMING_WITHIN_MS_MIN <= command.within_ms <= REHOMING_WITHIN_MS_MAX:
        raise InvalidInputError(
            f"rehome: within_ms is {command.within_ms}, expected {REHOMING_WITHIN_MS_MIN} to {REHOMING_WITHIN_MS_MAX}"
        )
    row, token = read_token(draft, command.secret_sha256, "cluster")
    if token.cluster != name or row.owner != command.to:
        raise NotAllowedError(
            f"the join token is one of {row.owner} for cluster {token.cluster}, expected one of {command.to} for {name}"
        )
    # Each move is another claimant: no leave is good twice.
    claim_token(draft, row, token, hashlib.sha256(f"rehome/{name}/{draft.index}".encode()).hexdigest())
    move = Rehoming(
        state="announced",
        home=command.to,
        trust_domain=home.trust_domain,
        started_by=command.started_by[:REHOMING_TEXT_CHARS_MAX],
        changed_ms=draft.now_ms,
        within_ms=command.within_ms,
    )
    return msgspec.structs.replace(spec, rehoming=move)


def _advance(draft: Draft, name: str, move: Rehoming, state: str, spec: ClusterSpec) -> ClusterSpec:
    if move.state != state:
        raise PreconditionError(f"cluster {name} is {move.state}, no longer {state[:20]!r}")
    if move.state == "announced":
        begun = msgspec.structs.replace(move, state="moving", changed_ms=draft.now_ms)
        return msgspec.structs.replace(spec, rehoming=begun)
    late = next((one for one in endpoints_of(draft.base, name) if not has_changed(one, spec)), None)
    if late is not None:
        raise PreconditionError(
            f"cluster {name}: endpoint {late.key.service_key}/{late.key.name} still shows {late.identity}"
        )
    for controller in draft.list_resources(FEDERATION_SCOPE, "Controller"):
        mirror = decode_spec("Controller", controller.spec, where=str(controller.key))
        assert isinstance(mirror, ControllerSpec)
        if mirror.cluster == name and not shows(mirror.identity, spec):
            raise PreconditionError(
                f"cluster {name}: controller {controller.key.name} still is {mirror.identity}"
            )
    if move.state == "returning":
        ended = msgspec.structs.replace(move, state="done", changed_ms=draft.now_ms)
        return msgspec.structs.replace(spec, rehoming=ended)
    home = joined(draft, move.home)
    left = msgspec.structs.replace(
        move, state="done", home=spec.home, trust_domain=spec.trust_domain, changed_ms=draft.now_ms
    )
    return msgspec.structs.replace(spec, home=move.home, trust_domain=home.trust_domain, rehoming=left)


def _return(draft: Draft, name: str, move: Rehoming, reason: str, spec: ClusterSpec) -> ClusterSpec:
    if move.state == "returning":
        raise PreconditionError(f"cluster {name} is returning to {spec.home} already")
    back = msgspec.structs.replace(
        move, state="returning", changed_ms=draft.now_ms, reason=reason[:REHOMING_TEXT_CHARS_MAX]
    )
    return msgspec.structs.replace(spec, rehoming=back)


def _resume(draft: Draft, proposer: str, command: ResumeRehoming, spec: ClusterSpec) -> ClusterSpec:
    name, move = command.cluster, _under_way(proposer, command.cluster, spec)
    if move.state != "returning":
        raise PreconditionError(f"cluster {name} is {move.state}, not returning: there is nothing to resume")
    if proposer != move.home:
        raise NotAllowedError(
            f"cluster {name}: only {move.home}, which it returns from, may go on with the move, not {proposer}"
        )
    if not command.forced and not is_missed(_verdict(draft, spec.home), by=proposer):
        raise PreconditionError(
            f"cluster {name} returns to {spec.home}, whose controllers are not missed: wait for its return, or force it"
        )
    again = msgspec.structs.replace(
        move, state="moving", changed_ms=draft.now_ms, reason=command.reason[:REHOMING_TEXT_CHARS_MAX]
    )
    return msgspec.structs.replace(spec, rehoming=again)


def _verdict(draft: Draft, cluster: str) -> VerdictSpec | None:
    row = draft.resource(verdict_key(cluster))
    if row is None:
        return None
    spec = decode_spec("Verdict", row.spec, where=str(row.key))
    assert isinstance(spec, VerdictSpec)
    return spec


def _under_way(proposer: str, name: str, spec: ClusterSpec) -> Rehoming:
    """Return the move that is under way, which either home may go on with."""
    move = spec.rehoming
    if move is None or move.state == "done":
        raise PreconditionError(f"cluster {name} is not moving")
    if proposer not in (spec.home, move.home):
        raise NotAllowedError(
            f"cluster {name} moves between {spec.home} and {move.home}: cluster {proposer} has no say in it"
        )
    return move
