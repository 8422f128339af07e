"""Records of our zone in wire form (RFC 1035 section 4.1), made when the catalog changes, never per query.

A record's owner is written as a pointer to the question (0xC00C), which every answer repeats, so the bytes
do not depend on the query's id, letter case (0x20), flags or EDNS.
"""

import ipaddress
import struct
from collections.abc import Sequence

import msgspec

from discovery.core.dns_names import ORIGIN, encode_name, name_text

TYPE_A = 1
TYPE_NS = 2
TYPE_SOA = 6
TYPE_TXT = 16
TYPE_AAAA = 28
TYPE_SRV = 33
CLASS_IN = 1

HEADER_BYTES = 12
IPV4_BYTES = 4

# CoreDNS' default for names of services: a resolver between us and the caller forgets within it.
TTL_S = 5
# KEP-1645 writes this one down.
VERSION_TTL_S = 28_800

QUESTION_POINTER = b"\xc0\x0c"

_FIXED = struct.Struct(">HHIH")
_COUNTS = struct.Struct(">4H")


class CompiledAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to one (name, type): `body` follows the question."""

    body: bytes  # Answer records, then additional ones.
    counts: bytes  # The four section counts of the header for `body`.
    counts_edns: bytes  # The same with an OPT record behind `body`.
    records: tuple[bytes, ...]  # The answer records alone, to cut where not all fit.


def question_key(record_type: int) -> bytes:
    """The type and class of a question, as they stand behind its name."""
    return struct.pack(">HH", record_type, CLASS_IN)


def compile_answer(records: Sequence[bytes], additional: Sequence[bytes] = ()) -> CompiledAnswer:
    """Join records of one type and what should accompany them."""
    return CompiledAnswer(
        b"".join((*records, *additional)),
        _COUNTS.pack(1, len(records), 0, len(additional)),
        _COUNTS.pack(1, len(records), 0, len(additional) + 1),
        tuple(records),
    )


def section_counts(answers: int, authorities: int, additionals: int) -> bytes:
    """The four counts of a header that repeats its one question."""
    return _COUNTS.pack(1, answers, authorities, additionals)


def record(record_type: int, ttl_s: int, data: bytes, owner: bytes = QUESTION_POINTER) -> bytes:
    """One resource record."""
    return owner + _FIXED.pack(record_type, CLASS_IN, ttl_s, len(data)) + data


def pointer(offset: int) -> bytes:
    """A compression pointer to `offset` in the packet."""
    return struct.pack(">H", 0xC000 | offset)


def address_record(packed: bytes, owner: bytes = QUESTION_POINTER) -> bytes:
    """The A or AAAA record of an IP address of 4 or 16 bytes in network order."""
    return record(TYPE_A if len(packed) == IPV4_BYTES else TYPE_AAAA, TTL_S, packed, owner)


def srv_record(port: int, target: bytes) -> bytes:
    """An SRV record (RFC 2782); its target is never compressed, and all targets weigh the same."""
    return record(TYPE_SRV, TTL_S, struct.pack(">HHH", 0, 1, port) + target)


def txt_record(text: str, ttl_s: int) -> bytes:
    """A TXT record of one string of at most 255 bytes."""
    data = text.encode()
    return record(TYPE_TXT, ttl_s, bytes((len(data),)) + data)


def read_record(wire: bytes) -> tuple[str, int, str]:
    """The type, TTL in seconds and data, as zone files write them, of an address or SRV record made above."""
    at = len(QUESTION_POINTER)
    record_type, _, ttl_s, _ = _FIXED.unpack_from(wire, at)
    data = wire[at + _FIXED.size :]
    if record_type == TYPE_SRV:
        priority, weight, port = struct.unpack_from(">HHH", data)
        return "SRV", ttl_s, f"{priority} {weight} {port} {name_text(data[6:])}."
    return ("A" if record_type == TYPE_A else "AAAA"), ttl_s, str(ipaddress.ip_address(data))


PRIMARY_WIRE = encode_name(f"ns.dns.{ORIGIN}")
_CONTACT_WIRE = encode_name(f"hostmaster.{ORIGIN}")
_REFRESH_S, _RETRY_S, _EXPIRE_S = 7_200, 1_800, 86_400


def soa_record(serial: int, owner: bytes = QUESTION_POINTER) -> bytes:
    """The zone's SOA; its TTL and MINIMUM, and so the life of a negative answer (RFC 2308), are `TTL_S`."""
    times = struct.pack(">5I", serial, _REFRESH_S, _RETRY_S, _EXPIRE_S, TTL_S)
    return record(TYPE_SOA, TTL_S, PRIMARY_WIRE + _CONTACT_WIRE + times, owner)


def ns_record() -> bytes:
    """The zone's NS record."""
    return record(TYPE_NS, TTL_S, PRIMARY_WIRE)
