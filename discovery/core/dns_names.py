"""Owner names of the zone `clusterset.local` (KEP-1645) and the names that queries carry.

Wire names are as in RFC 1035 section 3.1: labels with a length byte, ended by the root's zero byte.
Ours are lower case; a query's is compared after `bytes.lower`, which folds ASCII only (RFC 4343) and
leaves length bytes (at most 63) alone.
"""

from discovery.core.model import ServiceKey
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import LABEL_BYTES_MAX
from federation.kernel.names import check_label

# RFC 1035 section 3.1, length bytes and root included.
WIRE_NAME_BYTES_MAX = 255

# KEP-1645 leaves no choice of zone.
ORIGIN = "clusterset.local"


def encode_name(text: str) -> bytes:
    """Return the wire form of a name without final dot; "" is the root.

    Raises `InvalidInputError` for an empty or overlong label, an overlong name, or one that is not ASCII.
    """
    if not text:
        return b"\0"
    if not text.isascii():
        raise InvalidInputError(f"name {text[:80]!r} is not ASCII")
    labels = text.lower().encode().split(b".")
    for label in labels:
        if not 0 < len(label) <= LABEL_BYTES_MAX:
            raise InvalidInputError(
                f"name {text[:80]!r} has a label of {len(label)} bytes, expected 1 to {LABEL_BYTES_MAX}"
            )
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > WIRE_NAME_BYTES_MAX:
        raise InvalidInputError(
            f"name {text[:80]!r}... has {len(wire)} bytes on the wire, at most {WIRE_NAME_BYTES_MAX} are allowed"
        )
    return wire


ORIGIN_WIRE = encode_name(ORIGIN)
# Exists whatever is registered: a cached NXDOMAIN of it would deny every service (RFC 8020).
SERVICES_WIRE = encode_name(f"svc.{ORIGIN}")
VERSION_WIRE = encode_name(f"dns-version.{ORIGIN}")


def namespace_name(namespace: str) -> bytes:
    """NS.svc.clusterset.local: no records, exists while the namespace has a service."""
    return encode_name(f"{check_label(namespace, 'namespace')}.svc.{ORIGIN}")


def service_name(key: ServiceKey) -> bytes:
    """SVC.NS.svc.clusterset.local."""
    namespace = check_label(key.namespace, "namespace")
    return encode_name(f"{check_label(key.service, 'service')}.{namespace}.svc.{ORIGIN}")


def host_name(host: str, cluster: str, service: bytes) -> tuple[bytes, bytes]:
    """CLUSTER.SERVICE and HOST.CLUSTER.SERVICE of a service's wire name; raises `InvalidInputError`."""
    labels = (check_label(cluster, "cluster").encode(), check_label(host, "host").encode())
    parent = bytes((len(labels[0]),)) + labels[0] + service
    name = bytes((len(labels[1]),)) + labels[1] + parent
    if len(name) > WIRE_NAME_BYTES_MAX:
        raise InvalidInputError(
            f"name {host}.{cluster}... has {len(name)} bytes on the wire, at most {WIRE_NAME_BYTES_MAX} are allowed"
        )
    return parent, name


def name_text(wire: bytes) -> str:
    """The inverse of `encode_name`, for names of our own making."""
    labels, position = [], 0
    while length := wire[position]:
        labels.append(wire[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels)


def transport_name(service: bytes) -> bytes:
    """_tcp.SERVICE of a service's wire name: no records, exists while the service has a named port.

    `http` and `tcp` ports are both TCP; the catalog knows no other transport.
    """
    return b"\x04_tcp" + service


def port_name(port: str, service: bytes) -> bytes | None:
    """_PORT._tcp.SERVICE; None where the port has no name, or one that leaves no room for the underscore."""
    if not 0 < len(port) < LABEL_BYTES_MAX:
        return None
    label = b"_" + check_label(port, "port").encode()
    return bytes((len(label),)) + label + transport_name(service)


def end_of_question_name(packet: bytes, start: int) -> int | None:
    """Return where the uncompressed name at `start` ends, just behind its root.

    None if it is cut off, longer than 255 bytes, or has a compression pointer, which nothing in a query
    can have a reason for before its first name.
    """
    position = start
    while position < len(packet) and position - start < WIRE_NAME_BYTES_MAX:
        length = packet[position]
        if length == 0:
            return position + 1
        if length > LABEL_BYTES_MAX:
            return None
        position += 1 + length
    return None


def end_of_name(packet: bytes, start: int) -> int | None:
    """Return where a record's owner name ends in the packet, which may be with a pointer; None if malformed.

    The pointer is not followed: such records are only stepped over.
    """
    position = start
    while position < len(packet) and position - start < WIRE_NAME_BYTES_MAX:
        length = packet[position]
        if length >= 0xC0:
            return position + 2 if position + 2 <= len(packet) else None
        if length > LABEL_BYTES_MAX:
            return None
        position += 1 + length
        if length == 0:
            return position
    return None


def origin_offset(packet: bytes, start: int, end: int) -> int | None:
    """Return the offset in `packet` at which the well-formed name of `start` to `end` reaches our zone.

    None if the name lies outside the zone. Walks labels, because the zone's bytes may also stand inside one.
    """
    at = end - len(ORIGIN_WIRE)
    position = start
    while position < at:
        position += 1 + packet[position]
    if position != at or packet[at:end].lower() != ORIGIN_WIRE:
        return None
    return at
