"""Reads a query: its question and its EDNS record, with the checks of RFC 1035, 6891 and 9619."""

import struct

import msgspec

from discovery.core.dns_names import end_of_name, end_of_question_name
from discovery.core.dns_records import HEADER_BYTES

TYPE_OPT = 41
TYPE_TSIG = 250
TYPE_IXFR = 251
TYPE_AXFR = 252
TYPE_ANY = 255

# RFC 6891 section 6.2.5; and the largest datagram that no network fragments (DNS flag day 2020).
UDP_BYTES_MIN = 512
UDP_BYTES_MAX = 1232
TCP_BYTES_MAX = 65_535

# Fixed parts of a record behind its owner's name, and of an EDNS option.
RECORD_FIXED_BYTES = 10
OPTION_FIXED_BYTES = 4

_COUNTS = struct.Struct(">4H")
_QUESTION = struct.Struct(">HH")
_FIXED = struct.Struct(">HHBBHH")  # Type, class, then for OPT: extended rcode, version, flags; length.
_OPTION = struct.Struct(">HH")
_DO = 0x8000


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What the caller's OPT record says; its options are well-formed and none changes an answer."""

    udp_bytes: int
    version: int
    dnssec_ok: bool


class Query(msgspec.Struct, frozen=True, gc=False):
    """A well-formed query; offsets count from the packet's start."""

    name_end: int
    question_type: int
    question_class: int
    edns: Edns | None

    @property
    def question_end(self) -> int:
        """Where the question ends."""
        return self.name_end + _QUESTION.size


def read_query(packet: bytes) -> Query | None:
    """Read a query of opcode QUERY; None where RFC 1035 wants FORMERR. `packet` has a whole header."""
    questions, answers, authorities, additionals = _COUNTS.unpack_from(packet, 4)
    name_end = end_of_question_name(packet, HEADER_BYTES)
    if questions != 1 or name_end is None or name_end + _QUESTION.size > len(packet):
        return None
    question_type, question_class = _QUESTION.unpack_from(packet, name_end)
    # An IXFR carries the caller's SOA (RFC 1995); no other query has records to tell.
    if answers or (authorities and question_type != TYPE_IXFR) or question_type in (TYPE_OPT, TYPE_TSIG):
        return None
    edns: Edns | None = None
    at = name_end + _QUESTION.size
    # Each record takes 11 bytes or more, so the packet's length bounds this loop, whatever the counts say.
    for number in range(authorities + additionals):
        owner_end = end_of_name(packet, at)
        if owner_end is None or owner_end + RECORD_FIXED_BYTES > len(packet):
            return None
        record_type, udp_bytes, _, version, flags, data_bytes = _FIXED.unpack_from(packet, owner_end)
        data = owner_end + RECORD_FIXED_BYTES
        if data + data_bytes > len(packet):
            return None
        if record_type == TYPE_OPT:
            misplaced = edns is not None or number < authorities or owner_end != at + 1
            if misplaced or not options_are_whole(packet, data, data + data_bytes):
                return None
            edns = Edns(udp_bytes, version, bool(flags & _DO))
        at = data + data_bytes
    return Query(name_end, question_type, question_class, edns) if at == len(packet) else None


def options_are_whole(packet: bytes, start: int, end: int) -> bool:
    """Return whether `start` to `end` is a sequence of whole EDNS options; which ones does not matter."""
    at = start
    while at + OPTION_FIXED_BYTES <= end:
        at += OPTION_FIXED_BYTES + _OPTION.unpack_from(packet, at)[1]
    return at == end
