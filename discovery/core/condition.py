"""What is told of an object in `status.conditions`, in Kubernetes' shape."""

import datetime
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

PROBLEMS_NAMED_MAX = 5
MESSAGE_CHARS_MAX = 1_000
_LAST_S = 253_402_300_799  # The end of the year 9999: later times have no such text.

ConditionType: TypeAlias = Literal["Conflict", "ResolvedRefs", "Accepted"]
ConditionStatus: TypeAlias = Literal["True", "False"]


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One condition, as Kubernetes writes it."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


_HEALED: dict[ConditionType, tuple[ConditionStatus, str]] = {
    "Conflict": ("False", "NoConflict"),
    "ResolvedRefs": ("True", "Resolved"),
    "Accepted": ("True", "Accepted"),
}


def merge(
    known: Iterable[Condition], wanted: Iterable[Condition], *, generation: int, now_ms: int
) -> tuple[Condition, ...]:
    """Return what is told now. What is over is told as healed; a time changes with its status."""
    before = {one.type: one for one in known}
    after: dict[ConditionType, Condition] = {}
    for kind, old in before.items():
        status, reason = _HEALED[kind]
        after[kind] = msgspec.structs.replace(old, status=status, reason=reason, message="")
    after |= {one.type: one for one in wanted}
    now = _text(now_ms)
    for kind, one in after.items():
        old_one = before.get(kind)
        since = old_one.last_transition_time if old_one is not None and old_one.status == one.status else now
        after[kind] = msgspec.structs.replace(one, observed_generation=generation, last_transition_time=since)
    return tuple(after.values())


def listed(problems: list[str]) -> str:
    """The problems as one message, the first of them if there are many."""
    shown = "; ".join(problems[:PROBLEMS_NAMED_MAX])
    more = len(problems) - PROBLEMS_NAMED_MAX
    text = f"{shown}; and {more} more" if more > 0 else shown
    return text[:MESSAGE_CHARS_MAX]


def _text(now_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(min(max(0, now_ms // 1000), _LAST_S), tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
