"""What callers did and saw, as Jepsen writes it: for checkers, and for people after a failure."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

Function = Literal["write", "cas", "read"]
End = Literal["ok", "fail", "info"]  # It happened; it did not and never will; nobody knows.


class Operation(Struct, kw_only=True):
    """One call on one register. Times are the run's; `value` is what was written or read."""

    process: int
    f: Function
    key: str
    invoke_s: float
    value: str | None = None
    expected: str | None = None  # Of a cas.
    type: End = "info"
    return_s: float = float("inf")
    version: int | None = None  # Revision that a write made or a read saw; 0: nothing was there yet.


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the history: Jepsen's invoke, ok, fail and info."""

    index: int
    time_ns: int
    process: int
    type: Literal["invoke", "ok", "fail", "info"]
    f: Function
    key: str
    value: str | tuple[str | None, str | None] | None = None
    version: int | None = None


def events(operations: Iterable[Operation]) -> list[Event]:
    """Return invocations and ends in the order of time."""
    found: list[tuple[float, int, Operation, bool]] = []
    for number, operation in enumerate(operations):
        found.append((operation.invoke_s, number, operation, True))
        found.append((operation.return_s, number, operation, False))
    found.sort(key=lambda item: (item[0], item[1], not item[3]))
    return [_event(index, time_s, op, begins) for index, (time_s, _number, op, begins) in enumerate(found)]


def _event(index: int, time_s: float, operation: Operation, begins: bool) -> Event:
    value: str | tuple[str | None, str | None] | None = operation.value
    if operation.f == "cas":
        value = (operation.expected, operation.value)
    elif operation.f == "read" and (begins or operation.type != "ok"):
        value = None
    return Event(
        index=index,
        time_ns=-1 if time_s == float("inf") else int(time_s * 1e9),
        process=operation.process,
        type="invoke" if begins else operation.type,
        f=operation.f,
        key=operation.key,
        value=value,
        version=None if begins else operation.version,
    )


def write_json_lines(path: Path, operations: Iterable[Operation]) -> None:
    """Write one JSON object for each event."""
    encoder = msgspec.json.Encoder()
    path.write_bytes(b"".join(encoder.encode(event) + b"\n" for event in events(operations)))


def write_edn(path: Path, operations: Iterable[Operation]) -> None:
    """Write the events as Jepsen's history.edn: values are [key value], as its independent registers have."""
    path.write_text("".join(f"{_edn(event)}\n" for event in events(operations)))


def _edn(event: Event) -> str:
    if isinstance(event.value, tuple):
        value = f"[{_atom(event.value[0])} {_atom(event.value[1])}]"
    else:
        value = _atom(event.value)
    return (
        f"{{:index {event.index} :time {event.time_ns} :process {event.process} :type :{event.type}"
        f" :f :{event.f} :value [{_atom(event.key)} {value}]}}"
    )


def _atom(value: str | None) -> str:
    return "nil" if value is None else msgspec.json.encode(value).decode()
