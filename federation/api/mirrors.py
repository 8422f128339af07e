"""How the mirrors of a cluster are, as they say themselves, and what the doctor makes of it."""

from collections.abc import Iterator, Sequence

import msgspec

from federation.api.doctor import (
    DISK_FREE_BYTES_MIN,
    FOLLOWER_BEHIND_MS_MAX,
    LEAF_LEFT_MS_MIN,
    Finding,
    nothing_found,
    worst_first,
)
from federation.api.messages import Message
from federation.kernel.versions import PROTOCOL_VERSION

CHECK = "mirrors"


class MirrorHealth(Message, frozen=True, kw_only=True):
    """One mirror at one moment. Times are Unix milliseconds by its own clock."""

    controller: str  # CLUSTER-ID
    version: str  # Of the program.
    unix_ms: int
    started_unix_ms: int
    member: str  # The controller that it follows now; "" when none...
    error: str  # ... and why.
    revision: int  # Of its copy.
    age_ms: int | None  # How long ago that was last known to be up to date; None: never.
    missing: tuple[str, ...]  # What it does not serve yet.
    leaf_expires_ms: int
    disk_free_bytes: int
    disk_total_bytes: int
    followers: int
    proxies: int
    protocol: int = PROTOCOL_VERSION


class MirrorFound(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about one mirror that the catalog knows."""

    controller: str
    cluster: str
    address: str  # host:port of its control port.
    health: MirrorHealth | None = None
    error: str = ""  # Why there is no health.


def examine_mirrors(mirrors: Sequence[MirrorFound], *, asked: str) -> tuple[Finding, ...]:
    """Return what was found of the mirrors that `asked` asked, worst first; one `ok` when that is nothing."""
    found = [finding for mirror in mirrors for finding in _findings(mirror, asked)]
    return worst_first(found or [nothing_found(CHECK)])


def mirror_object(mirror: MirrorFound, *, revision: int) -> dict[str, object]:
    """Return what the API says of a mirror, beside a controller at `revision`."""
    health = mirror.health
    return {
        "controller": mirror.controller,
        "cluster": mirror.cluster,
        "address": mirror.address,
        "answers": health is not None,
        "ready": health is not None and not health.missing,
        "member": None if health is None else health.member,
        "revision": None if health is None else health.revision,
        "behind": None if health is None else max(0, revision - health.revision),
        "ageMs": None if health is None else health.age_ms,
        "startedUnixMs": None if health is None else health.started_unix_ms,
        "version": None if health is None else health.version,
        "followers": None if health is None else health.followers,
        "proxies": None if health is None else health.proxies,
        "error": mirror.error if health is None else health.error,
    }


def _findings(mirror: MirrorFound, asked: str) -> Iterator[Finding]:
    health, name = mirror.health, mirror.controller
    if health is None:
        yield _problem(
            mirror,
            f"mirror {name} does not answer {asked}: {mirror.error}",
            f"start it, or open its control port 7444; if it will not come back: isthmus delete controller {name}",
        )
        return
    age = "was never up to date" if health.age_ms is None else f"is {health.age_ms / 1000:.0f} s old"
    if not health.member:
        yield _problem(
            mirror,
            f"mirror {name} follows nobody, its copy {age}: {health.error or 'no member is known'}",
            "open port 7444 of the members of its cluster and home for it",
        )
    elif health.age_ms is None or health.age_ms > FOLLOWER_BEHIND_MS_MAX:
        yield _problem(
            mirror,
            f"mirror {name} follows {health.member} and its copy {age}",
            "look at the network between the two, at the mirror's processor, and whether there is a leader",
        )
    if health.missing:
        yield _problem(
            mirror,
            f"mirror {name} is not ready: {'; '.join(health.missing)}",
            "wait for its first copy of the catalog; its log says what it lacks",
        )
    left_ms = health.leaf_expires_ms - health.unix_ms
    if left_ms < LEAF_LEFT_MS_MIN:
        state = f"expires in {left_ms / 3_600_000:.1f} h" if left_ms > 0 else "has expired"
        yield _problem(
            mirror,
            f"the certificate of mirror {name} {state}",
            "renewal fails: a member of its trust domain has to be reachable; look for renewal_failed in its log",
        )
    if health.disk_free_bytes < DISK_FREE_BYTES_MIN:
        yield _problem(
            mirror,
            f"{health.disk_free_bytes >> 20} MiB of {health.disk_total_bytes >> 20} MiB are free under the data"
            f" directory of mirror {name}, expected at least {DISK_FREE_BYTES_MIN >> 20} MiB",
            "make room: a mirror without room starts from an old copy",
        )


def _problem(mirror: MirrorFound, message: str, next_step: str) -> Finding:
    return Finding(
        check=CHECK, level="problem", subject=mirror.controller, message=message, next_step=next_step
    )
