"""Resources as people write and read them: Kubernetes' envelope around our specs, in JSON."""

import datetime
from typing import Any

import msgspec

from discovery.core.commands import Put
from discovery.core.kinds import GROUP, KINDS, VERSION, Kind, decode_spec
from discovery.core.model import Resource, ResourceKey
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, NotAllowedError, NotFoundError
from federation.kernel.limits import RESOURCE_BYTES_MAX
from federation.kernel.names import check_label, check_name

API_VERSION = f"{GROUP}/{VERSION}"
LABELS_MAX = 64
LABEL_VALUE_CHARACTERS_MAX = 63


class Metadata(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What names an object. Fields below `labels` are ours to fill: what a client sends there is ignored."""

    name: str
    namespace: str = ""
    cluster: str = ""  # The owner of a cluster's resource; default: the cluster of the path or controller.
    labels: dict[str, str] = {}
    resource_version: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""


class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """One object."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")


_decoder = msgspec.json.Decoder(Manifest)


def kind_of_plural(plural: str) -> Kind:
    """Return the kind whose path segment is `plural`; raises NotFoundError."""
    for kind in KINDS.values():
        if kind.plural == plural:
            return kind
    known = ", ".join(sorted(kind.plural for kind in KINDS.values()))
    raise NotFoundError(f"{plural!r} is not a resource of {API_VERSION}, expected one of {known}")


def decode_manifest(body: bytes) -> Manifest:
    """Read one object; raises InvalidInputError naming the field."""
    if len(body) > RESOURCE_BYTES_MAX:
        raise InvalidInputError(f"the object has {len(body)} bytes, at most {RESOURCE_BYTES_MAX} are allowed")
    try:
        manifest = _decoder.decode(body)
    except MALFORMED as error:
        raise InvalidInputError(f"not a resource: {error}") from error
    if manifest.api_version != API_VERSION:
        raise InvalidInputError(
            f"apiVersion: {manifest.api_version!r} is not known here, expected {API_VERSION!r}"
        )
    if manifest.kind not in KINDS:
        raise InvalidInputError(f"kind: {manifest.kind!r} is not known, expected one of {', '.join(KINDS)}")
    return manifest


def to_put(manifest: Manifest, *, cluster: str, create: bool = False) -> Put:
    """Return the write that makes `manifest` so, in `cluster`'s scope where its kind lives in a cluster.

    Raises InvalidInputError for anything that its kind's schema refuses, and NotAllowedError for a
    kind that only the system writes.
    """
    kind = KINDS[manifest.kind]
    meta = manifest.metadata
    where = f"{manifest.kind} {meta.name!r}"
    if not kind.writable:
        raise NotAllowedError(f"{where}: {kind.plural} are written by joining and enrolling, not by apply")
    check_name(meta.name, f"{where}: metadata.name")
    if kind.namespaced:
        if not meta.namespace:
            raise InvalidInputError(f"{where}: metadata.namespace is missing")
        check_label(meta.namespace, f"{where}: metadata.namespace")
    elif meta.namespace:
        raise InvalidInputError(f"{where}: metadata.namespace is {meta.namespace!r}: {kind.plural} have none")
    decode_spec(manifest.kind, bytes(manifest.spec), where=where)
    return Put(
        key=ResourceKey(meta.cluster or cluster if kind.scoped else "", kind.name, meta.namespace, meta.name),
        spec=bytes(manifest.spec),
        labels=_labels(meta.labels, where),
        expected_revision=0 if create else parse_revision(meta.resource_version, where),
    )


def parse_revision(text: str, where: str) -> int | None:
    """Return the revision that a client named, or None for "any"."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 19:
        raise InvalidInputError(f"{where}: resourceVersion {text[:20]!r} is not one that this API gave out")
    return int(text)


def to_object(row: Resource) -> dict[str, Any]:
    """Return the object as clients see it, ready for JSON."""
    created = datetime.datetime.fromtimestamp(row.created_ms / 1000, tz=datetime.UTC)
    metadata: dict[str, Any] = {
        "name": row.key.name,
        "uid": row.uid,
        "resourceVersion": str(row.revision),
        "generation": row.generation,
        "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if row.key.namespace:
        metadata["namespace"] = row.key.namespace
    if row.key.scope:
        metadata["cluster"] = row.key.scope
    if row.labels:
        metadata["labels"] = dict(row.labels)
    return {
        "apiVersion": API_VERSION,
        "kind": row.key.kind,
        "metadata": metadata,
        "spec": msgspec.Raw(row.spec),
        "status": msgspec.Raw(row.status),
    }


def _labels(labels: dict[str, str], where: str) -> tuple[tuple[str, str], ...]:
    if len(labels) > LABELS_MAX:
        raise InvalidInputError(f"{where}: metadata.labels has {len(labels)} entries, at most {LABELS_MAX}")
    for key, value in labels.items():
        if not key or len(key) > 253 or len(value) > LABEL_VALUE_CHARACTERS_MAX:
            raise InvalidInputError(
                f"{where}: metadata.labels[{key[:40]!r}]: expected a key of 1 to 253 and a value of"
                f" at most {LABEL_VALUE_CHARACTERS_MAX} characters"
            )
    return tuple(sorted(labels.items()))
