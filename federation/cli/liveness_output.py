"""How `isthmus cluster` shows what the federation holds of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from federation.cli.output import print_table, say


def state_of(cluster: Mapping[str, Any]) -> str:
    """Return the state in one word; "held" says that damping keeps it from being dead."""
    return f"{cluster['state']}, held" if cluster["held"] else str(cluster["state"])


def since(cluster: Mapping[str, Any]) -> str:
    """Return since when, in UTC by the federation's clock; "-" where nothing was ever missed."""
    return "-" if cluster["stateSinceMs"] is None else _time(cluster["stateSinceMs"])


def observers(one: Mapping[str, Any]) -> str:
    """Return who misses what, "-" where nobody misses anything."""
    return "; ".join(_missed(one)) or "-"


def print_history(cluster: Mapping[str, Any]) -> None:
    """Print the last changes of state, newest first; nothing for a cluster that was always well."""
    changes: Sequence[Mapping[str, Any]] = cluster["history"]
    if not changes:
        return
    say("")
    print_table(
        ("since", "state", "missed by"),
        [(_time(one["atMs"]), one["state"], observers(one)) for one in reversed(changes)],
    )


def _missed(one: Mapping[str, Any]) -> Iterator[str]:
    for what, field in (("controllers", "controlLostBy"), ("gateways", "dataLostBy")):
        if by := one.get(field):
            yield f"{what} by {', '.join(by)}"


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
