"""Is a history of registers linearizable? Two checkers that know nothing of each other.

`check_versions` trusts the revision that each write was given: it is the order, and only real time is
left to compare. `search` trusts nothing but values: Wing and Gong's search with Lowe's memory of
states (as Porcupine does it), exponential at worst, hence with a budget.
"""

from collections.abc import Iterable, Sequence

from tests.simulation.history import Operation

STEPS_MAX = 200_000  # Of one key's search.


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations of each register."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.key, []).append(operation)
    return found


def check_versions(operations: Sequence[Operation]) -> list[str]:
    """Return what contradicts the order of versions of one register."""
    wrong: list[str] = []
    writes = [op for op in operations if op.f != "read" and op.type == "ok" and op.value is not None]
    values = {op.version: op.value for op in writes}
    if len(values) != len(writes):
        wrong.append("two writes have one version")
    unknown = {op.value for op in operations if op.f != "read" and op.type == "info"}
    refused = {op.value for op in operations if op.f != "read" and op.type == "fail"}
    instants: list[tuple[float, int, int]] = []
    known = [op for op in operations if op.type == "ok" and op.version is not None]
    for number, op in enumerate(known):
        instants += [(op.invoke_s, 0, number), (op.return_s, 1, number)]
        if op.f == "read":
            wrong += _check_read(op, values, unknown, refused)
    floor = 0
    floor_at_invoke: dict[int, int] = {}
    for _time_s, is_return, number in sorted(instants):
        op = known[number]
        assert op.version is not None
        if not is_return:
            floor_at_invoke[number] = floor
            continue
        if op.version < floor_at_invoke[number] or (op.f != "read" and op.version == floor_at_invoke[number]):
            wrong.append(
                f"{op.f} of version {op.version} began after version {floor_at_invoke[number]} was seen"
            )
        floor = max(floor, op.version)
    return wrong


def _check_read(
    op: Operation, values: dict[int | None, str | None], unknown: set[str | None], refused: set[str | None]
) -> list[str]:
    if not op.version:
        return [] if op.value is None else [f"read of {op.value} without a version"]
    if op.value in refused:
        return [f"read of {op.value}, whose write was refused for certain"]
    if op.version in values:
        return [] if values[op.version] == op.value else [f"version {op.version} has two values"]
    return [] if op.value in unknown else [f"read of {op.value}, which nobody wrote"]


class _Node:
    __slots__ = ("after", "before", "bit", "op", "returns")

    def __init__(self, op: Operation | None, bit: int) -> None:
        self.op = op
        self.bit = bit
        self.returns: _Node | None = None
        self.before: _Node | None = None
        self.after: _Node | None = None


def search(operations: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> bool | None:
    """Return whether some order of one register's operations explains all values; None: gave up."""
    head = _linked(operations)
    state: str | None = None
    done = 0
    seen: set[tuple[int, str | None]] = set()
    stack: list[tuple[_Node, str | None, int]] = []
    at = head.after
    for _step in range(steps_max):
        if head.after is None:
            return True
        assert at is not None
        if at.returns is None:  # Something had to happen before this return, and nothing fits.
            if not stack:
                return False
            at, state, done = stack.pop()
            _put_back(at)
            at = at.after
            continue
        assert at.op is not None
        fits, after = _apply(state, at.op)
        key = (done | at.bit, after)
        if fits and key not in seen:
            seen.add(key)
            stack.append((at, state, done))
            state, done = after, done | at.bit
            _take_out(at)
            at = head.after
        else:
            at = at.after
    return None


def _apply(state: str | None, op: Operation) -> tuple[bool, str | None]:
    if op.f == "read":
        return state == op.value, state
    if op.f == "write":
        return True, op.value
    if op.type == "info":
        return True, op.value if state == op.expected else state
    return state == op.expected, op.value


def _linked(operations: Sequence[Operation]) -> _Node:
    """Return the head of a list of calls and returns in the order of time."""
    instants: list[tuple[float, int, _Node]] = []
    relevant = [op for op in operations if op.type == "ok" or (op.type == "info" and op.f != "read")]
    for number, op in enumerate(relevant):
        call, end = _Node(op, 1 << number), _Node(None, 0)
        call.returns = end
        instants += [(op.invoke_s, 0, call), (op.return_s, 1, end)]
    instants.sort(key=lambda item: item[:2])  # What meets at one instant overlaps: calls first.
    head = at = _Node(None, 0)
    for _time_s, _is_return, node in instants:
        at.after, node.before = node, at
        at = node
    return head


def _take_out(call: _Node) -> None:
    for node in (call, call.returns):
        assert node is not None
        assert node.before is not None
        node.before.after = node.after
        if node.after is not None:
            node.after.before = node.before


def _put_back(call: _Node) -> None:
    for node in (call.returns, call):
        assert node is not None
        assert node.before is not None
        node.before.after = node
        if node.after is not None:
            node.after.before = node
