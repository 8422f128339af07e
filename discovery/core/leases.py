"""Named leases by replicated time: one holder at a time, told apart by a fence that only grows.

    free --acquire--> held --time--> expired --acquire by another--> held with a larger fence

Pure: time is the catalog's, moved by `Tick` commands only, and what passes between two ticks counts, not
what they show. So a leader whose clock is a year off ends no lease and makes none immortal, and while
nobody leads none expires. A holder whose lease expired may have its writes accepted until another one
takes over: the fence, not the time, keeps an old holder out.
"""

import msgspec

from discovery.core.commands import AcquireLease, LeaseGrant
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import NAME_BYTES_MAX

# Longer than any pause of a process that should keep its lease, short enough that a dead holder is missed.
LEASE_TTL_MS_MAX = 3_600_000
# Ticks come each half second. What is longer was a change of leaders, or of a clock.
TICK_MS_MAX = 2_000


class Lease(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Who holds a lease, since which change of holder, and until when."""

    holder: str
    fence: int
    expires_ms: int  # By `LeaseTime.now_ms`.

    def held(self, now_ms: int) -> bool:
        """True while the lease has not expired."""
        return now_ms < self.expires_ms


class LeaseTime(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Milliseconds in which somebody led; they begin anywhere and only grow."""

    now_ms: int
    ticked_ms: int  # What the last tick showed.

    def after(self, tick_ms: int) -> "LeaseTime":
        """Return the time after a tick."""
        passed_ms = min(max(0, tick_ms - self.ticked_ms), TICK_MS_MAX)
        return LeaseTime(now_ms=self.now_ms + passed_ms, ticked_ms=tick_ms)


def check_request(request: AcquireLease) -> None:
    """Raise `InvalidInputError` when the holder or the time to live is out of bounds."""
    if not 0 < len(request.holder.encode()) <= NAME_BYTES_MAX:
        raise InvalidInputError(
            f"lease {request.name}: holder has {len(request.holder)} characters, expected 1 to {NAME_BYTES_MAX}"
        )
    if not 0 < request.ttl_ms <= LEASE_TTL_MS_MAX:
        raise InvalidInputError(
            f"lease {request.name}: ttl_ms is {request.ttl_ms}, expected 1 to {LEASE_TTL_MS_MAX}"
        )


def acquire(
    lease: Lease | None, request: AcquireLease, *, now_ms: int, next_fence: int
) -> tuple[Lease, LeaseGrant]:
    """Return the lease after `request` and the answer to it.

    `next_fence` is used only when the holder changes; the caller guarantees that it is larger than every
    fence before.
    """
    expires_ms = now_ms + request.ttl_ms
    if lease is not None and lease.holder == request.holder:
        # Never shorter than promised before: an extension that was overtaken must not cut the newer one.
        after = msgspec.structs.replace(lease, expires_ms=max(lease.expires_ms, expires_ms))
    elif lease is None or not lease.held(now_ms):
        after = Lease(holder=request.holder, fence=next_fence, expires_ms=expires_ms)
    else:
        return lease, LeaseGrant(holder=lease.holder, fence=lease.fence, granted=False)
    return after, LeaseGrant(holder=after.holder, fence=after.fence, granted=True)
