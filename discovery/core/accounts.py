"""What changed when, by whom: the kept history of a service, a resource or a cluster, in words.

The catalog remembers its newest changes with what they replaced and who asked for them. That is all that is
looked at here; how far it goes back is part of the answer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from discovery.core.history import Cause
from discovery.core.kinds import KINDS
from discovery.core.model import (
    Change,
    Endpoint,
    EndpointKey,
    Resource,
    ResourceKey,
    unpack_endpoint,
    unpack_resource,
)
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError
from federation.kernel.names import check_label, check_name

VALUE_CHARS_MAX = 200  # Of a value that is shown.
FIELDS_MAX = 32  # Of one change.
_NOT_SHOWN = {"key", "incarnation", "sequence", "uid", "revision", "generation", "created_ms"}

Concerns: TypeAlias = Callable[[Change, bytes | None], bool]  # A change, and the row that it replaced.


class FieldChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One field, as JSON; "" where it was not there, or is no more."""

    field: str
    before: str
    after: str


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of one object."""

    revision: int
    at_ms: int | None  # Federation time; None: not known any more.
    proposer: str  # The cluster whose controller proposed it.
    actor: str  # Who asked for it, as far as that is known.
    object: str  # Such as ExportPolicy/shop/public, or endpoint shop/orders/orders-1.
    cluster: str  # That it lives in; "" for the federation.
    what: str  # created, changed or removed
    fields: tuple[FieldChange, ...] = ()  # Of a change; none: an agent declared the same again.


def concerns(name: str) -> Concerns:
    """Return what belongs to a name: KIND/[NAMESPACE/]NAME, a service SERVICE.NAMESPACE, or a cluster.

    Raises `InvalidInputError` for anything else.
    """
    if "/" in name:
        return _of_resource(name)
    if "." in name:
        service, _, namespace = name.partition(".")
        check_label(service, "name: service")
        check_label(namespace, "name: namespace")
        return _of_service(namespace, service)
    return _of_cluster(check_label(name, "name: cluster"))


def tell(revision: int, cause: Cause | None, position: int, change: Change) -> Event:
    """Put one change of a revision, the one at `position`, into words. Total: unreadable rows are said to be so."""
    before = cause.before[position] if cause is not None and position < len(cause.before) else None
    old, new = _row(change, before), _row(change, change.value)
    subject, cluster = _named(change)
    what = "removed" if change.value is None else "created" if before is None else "changed"
    last = new if new is not None else old
    agent = last.agent if isinstance(last, Endpoint) else ""
    return Event(
        revision=revision,
        at_ms=None if cause is None else cause.now_ms,
        proposer="" if cause is None else cause.proposer,
        actor=(cause.actor if cause is not None else "") or (f"agent {agent}" if agent else ""),
        object=subject,
        cluster=cluster,
        what=what,
        fields=_fields(old, new) if what == "changed" else (),
    )


def _of_resource(name: str) -> Concerns:
    kind_text, *rest = name.split("/")
    kind = next((one for one in KINDS.values() if kind_text.lower() in (one.name.lower(), one.plural)), None)
    if kind is None or len(rest) != 1 + kind.namespaced:
        raise InvalidInputError(
            f"name: {name[:200]!r} names nothing, expected a cluster, SERVICE.NAMESPACE, or KIND/NAME"
            " (KIND/NAMESPACE/NAME where the kind has namespaces)"
        )
    for part in rest:
        check_name(part, f"name: {kind.name}")
    wanted = (kind.name, *(rest if kind.namespaced else ("", *rest)))

    def is_it(change: Change, _before: bytes | None) -> bool:
        return change.table == "resources" and ResourceKey.decode(change.key)[1:] == wanted

    return is_it


def _of_service(namespace: str, service: str) -> Concerns:
    """Its endpoints, and the policies of its namespace that name it, or all services."""

    def is_it(change: Change, before: bytes | None) -> bool:
        if change.table == "endpoints":
            return EndpointKey.decode(change.key)[:2] == (namespace, service)
        key = ResourceKey.decode(change.key)
        if not key.scope or key.namespace != namespace:
            return False
        rows = (_row(change, before), _row(change, change.value))
        return any(isinstance(row, Resource) and _names(row, service) for row in rows)

    return is_it


def _of_cluster(name: str) -> Concerns:
    """Everything of the cluster but its endpoints: its services tell of those."""

    def is_it(change: Change, before: bytes | None) -> bool:
        if change.table == "endpoints":
            return False
        key = ResourceKey.decode(change.key)
        if name in (key.scope, key.name):
            return True
        rows = (_row(change, before), _row(change, change.value))
        return any(isinstance(row, Resource) and row.owner == name for row in rows)

    return is_it


def _names(row: Resource, service: str) -> bool:
    spec = _object(row.spec)
    services = spec.get("services", ())
    if row.key.kind == "ExternalService":
        return row.key.name == service
    return spec.get("service") == service or (
        isinstance(services, list) and (service in services or "*" in services)
    )


def _named(change: Change) -> tuple[str, str]:
    if change.table == "endpoints":
        key = EndpointKey.decode(change.key)
        return f"endpoint {key.namespace}/{key.service}/{key.name}", key.cluster
    resource = ResourceKey.decode(change.key)
    return "/".join(part for part in resource[1:] if part), resource.scope


def _row(change: Change, value: bytes | None) -> Resource | Endpoint | None:
    if value is None:
        return None
    try:
        return unpack_resource(value) if change.table == "resources" else unpack_endpoint(value)
    except MALFORMED:
        return None  # Of a newer build.


def _fields(old: Resource | Endpoint | None, new: Resource | Endpoint | None) -> tuple[FieldChange, ...]:
    before, after = _flat(old), _flat(new)
    return tuple(
        FieldChange(field=field, before=before.get(field, ""), after=after.get(field, ""))
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    )[:FIELDS_MAX]


def _flat(row: Resource | Endpoint | None) -> dict[str, str]:
    """The fields of a row as JSON texts; those of `spec` and `status` one by one."""
    if row is None:
        return {}
    flat: dict[str, Any] = {}
    for field in row.__struct_fields__:
        value = getattr(row, field)
        if field in _NOT_SHOWN:
            continue
        if isinstance(value, bytes):
            flat.update({f"{field}.{name}": inner for name, inner in _object(value).items()})
        else:
            flat[field] = dict(value) if field == "labels" else value
    return {
        name: msgspec.json.encode(msgspec.to_builtins(value)).decode()[:VALUE_CHARS_MAX]
        for name, value in flat.items()
    }


def _object(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except MALFORMED:
        return {}


def newest_first(
    history: Sequence[tuple[int, tuple[Change, ...]]], cause_of: Callable[[int], Cause | None]
) -> Iterator[tuple[int, Cause | None, int, Change]]:
    """Yield every kept change, the newest first: its revision, what made that, its place there, and itself."""
    for revision, changes in reversed(history):
        cause = cause_of(revision)
        for position in range(len(changes) - 1, -1, -1):
            yield revision, cause, position, changes[position]
