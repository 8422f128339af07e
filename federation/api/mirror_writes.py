"""Which commands a mirror may have proposed: what operators write at its API, and what it says of itself.

A mirror is in other hands, and the log takes its proposals for those of its cluster. Whoever a member signs for, lets
in, or removes follows from records that members alone write: a mirror that wrote them could name itself any workload
of the trust domain, let others in, or take another cluster's vote.
"""

from typing import assert_never

from certs.core.spiffe import SystemIdentity, parse, system_identity
from discovery.core.commands import (
    AcquireLease,
    Body,
    ClaimToken,
    Delete,
    Operation,
    PublishEndpoints,
    Put,
    Write,
)
from discovery.core.kinds import KINDS, decode_spec
from discovery.core.model import ResourceKey
from discovery.core.publishing import publish_lease
from discovery.core.rules import check_resource_key
from discovery.core.specs import ControllerSpec
from discovery.core.tables import Tables
from federation.kernel.errors import NotAllowedError

# Kinds that people do not write, and mirrors do: what fails for the callers that they serve.
_REPORTED = frozenset({"DrainReport"})
# Kinds that people may delete, and mirrors may not: with it goes what keeps a removed cluster's name and trust domain from others.
_KEPT = frozenset({"RemovedCluster"})


def check_mirror_body(body: Body, mirror: SystemIdentity, tables: Tables) -> None:
    """Raise NotAllowedError for what a mirror does not propose; whose records these are is for the log to judge."""
    match body:
        case PublishEndpoints():
            pass
        case AcquireLease(name=name):
            duty = name.partition("/")[0]
            if name != publish_lease(name.partition("/")[2]):
                raise NotAllowedError(
                    f"a mirror may not hold a lease of duty {duty[:80]!r}: expected publish/CLUSTER"
                )
        case Write(operations=operations):
            for operation in operations:
                _check_operation(operation, mirror, tables)
        case _:
            raise NotAllowedError(f"a mirror may not propose a {type(body).__name__}")


def _check_operation(operation: Operation, mirror: SystemIdentity, tables: Tables) -> None:
    if isinstance(operation, ClaimToken):
        raise NotAllowedError("a mirror may not let anybody in: ask a member")
    key = operation.key
    check_resource_key(key)
    kind, reported = KINDS[key.kind], key.kind in _REPORTED
    match operation:
        case Put(status=status):
            if not (kind.writable or reported or _is_own(operation, mirror)):
                raise NotAllowedError(f"{key}: a mirror may not write {kind.plural}: ask a member")
            if status is not None:
                raise NotAllowedError(f"{key}: a mirror may not write the status of a resource")
        case Delete():
            deletable = kind.deletable and key.kind not in _KEPT
            if not (deletable or reported or _is_mirror(key, tables)):
                raise NotAllowedError(f"{key}: a mirror may not delete {kind.plural}: ask a member")
        case _:
            assert_never(operation)


def _is_own(put: Put, mirror: SystemIdentity) -> bool:
    """True when a mirror says where and who it is, as a mirror: with an address of the log's members it would be one of them."""
    if put.key != ResourceKey("", "Controller", "", f"{mirror.cluster}-{mirror.id}") or put.spec is None:
        return False
    spec = decode_spec("Controller", put.spec, where=str(put.key))
    assert isinstance(spec, ControllerSpec)
    return spec.role == "mirror" and not spec.raft and system_identity(parse(spec.identity)) == mirror


def _is_mirror(key: ResourceKey, tables: Tables) -> bool:
    row = tables.resource(key) if key.kind == "Controller" else None
    spec = None if row is None else decode_spec("Controller", row.spec, where=str(key))
    return isinstance(spec, ControllerSpec) and spec.role == "mirror"
