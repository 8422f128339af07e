"""Answers one DNS packet from a compiled zone; any bytes in, at most one packet out, never an exception.

Two paths with equal results. The short one takes what resolvers send nearly always: one question, no or
one EDNS record, a name and type that we have. Everything else goes the careful way.
"""

from typing import Literal, TypeAlias

from discovery.core.dns_names import origin_offset
from discovery.core.dns_query import (
    TCP_BYTES_MAX,
    TYPE_ANY,
    TYPE_AXFR,
    TYPE_IXFR,
    UDP_BYTES_MAX,
    UDP_BYTES_MIN,
    Edns,
    Query,
    options_are_whole,
    read_query,
)
from discovery.core.dns_records import CLASS_IN, HEADER_BYTES, CompiledAnswer, pointer, section_counts
from discovery.core.dns_zone import Answers, CompiledZone

Transport: TypeAlias = Literal["udp", "tcp"]

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

# First flag byte: QR, opcode (4 bits), AA, TC, RD. The second one: RA, Z, AD, CD, rcode.
_QR, _OPCODE, _AA, _TC, _RD = 0x80, 0x78, 0x04, 0x02, 0x01

# Flags of an ordinary query (RD, AD and CD as the caller likes) and of its answer: QR, AA, RD as asked.
_FLAGS = {bytes((rd, bits)): bytes((_QR | _AA | rd, 0)) for rd in (0, _RD) for bits in (0, 0x10, 0x20, 0x30)}

_ONE_QUESTION = b"\0\1\0\0\0\0\0\0"
_ONE_QUESTION_AND_RECORD = b"\0\1\0\0\0\0\0\1"
_OPT_START = b"\0\0\x29"  # Root, type 41.
_OPT_BYTES = 11


def _opt(extended_rcode: int, *, dnssec_ok: bool) -> bytes:
    """Our OPT record: the size that we take, version 0, the caller's DO bit (RFC 3225)."""
    do = b"\x80\0" if dnssec_ok else b"\0\0"
    return _OPT_START + UDP_BYTES_MAX.to_bytes(2, "big") + bytes((extended_rcode, 0)) + do + b"\0\0"


_OPT = _opt(0, dnssec_ok=False)
_OPT_DO = _opt(0, dnssec_ok=True)


def answer(packet: bytes, zone: CompiledZone | None, *, transport: Transport) -> bytes | None:
    """Return the reply to `packet`, or None where none is due: a reply, or less than a header.

    Without a zone (nothing known yet) every well-formed query of ours gets SERVFAIL, never NXDOMAIN.
    """
    if zone is not None:
        reply = _answer_ordinary(packet, zone)
        if reply is not None:
            return reply
    return _answer_any(packet, zone, transport)


def _answer_ordinary(packet: bytes, zone: CompiledZone) -> bytes | None:
    """The short path; None where the packet needs the careful one.

    The first zero byte need not end the name. Where it does not, the bytes before it are no whole name, so
    they match nothing: names are prefix-free.
    """
    flags = _FLAGS.get(packet[2:4])
    name_end = packet.find(0, HEADER_BYTES) + 1
    answers = zone.names.get(packet[HEADER_BYTES:name_end].lower())
    if flags is None or answers is None:
        return None
    question_end = name_end + 4
    compiled = answers.get(packet[name_end:question_end])
    if compiled is None:
        return None
    counts = packet[4:HEADER_BYTES]
    if counts == _ONE_QUESTION:
        if len(packet) != question_end:
            return None
        reply = packet[:2] + flags + compiled.counts + packet[HEADER_BYTES:question_end] + compiled.body
    elif counts == _ONE_QUESTION_AND_RECORD and packet[question_end : question_end + 3] == _OPT_START:
        opt = packet[question_end:]
        if len(opt) < _OPT_BYTES or opt[6] or not _whole_options(opt):
            return None
        question = packet[HEADER_BYTES:question_end]
        own_opt = _OPT_DO if opt[7] & 0x80 else _OPT
        reply = packet[:2] + flags + compiled.counts_edns + question + compiled.body + own_opt
    else:
        return None
    # What fits everybody needs no look at sizes.
    return reply if len(reply) <= UDP_BYTES_MIN else None


def _whole_options(opt: bytes) -> bool:
    """Return whether the OPT record's length is that of the rest of the packet, and its options are whole."""
    length = opt[9] << 8 | opt[10]
    return len(opt) == _OPT_BYTES + length and (not length or options_are_whole(opt, _OPT_BYTES, len(opt)))


def _answer_any(packet: bytes, zone: CompiledZone | None, transport: Transport) -> bytes | None:
    if len(packet) < HEADER_BYTES or packet[2] & _QR:
        return None
    if packet[2] & _OPCODE:
        return _bare_reply(packet, NOTIMP)
    query = read_query(packet)
    if query is None:
        return _bare_reply(packet, FORMERR)
    if query.edns is not None and query.edns.version != 0:
        return _reply(packet, query, BADVERS)
    origin_at = origin_offset(packet, HEADER_BYTES, query.name_end)
    transfer = query.question_type in (TYPE_AXFR, TYPE_IXFR)
    if query.question_class != CLASS_IN or origin_at is None or transfer:
        return _reply(packet, query, REFUSED)
    if zone is None:
        return _reply(packet, query, SERVFAIL)
    answers = zone.names.get(packet[HEADER_BYTES : query.name_end].lower())
    compiled = _choose(answers, packet, query) if answers is not None else None
    if compiled is not None:
        return _fit(packet, query, compiled, transport)
    soa = pointer(origin_at) + zone.soa
    rcode = NXDOMAIN if answers is None else NOERROR
    return _reply(packet, query, rcode, flags=_AA, authority=(soa,))


def _choose(answers: Answers, packet: bytes, query: Query) -> CompiledAnswer | None:
    if query.question_type == TYPE_ANY:
        # RFC 8482: one of the sets will do, and ANY is nobody's amplifier.
        return next(iter(answers.values()), None)
    return answers.get(packet[query.name_end : query.question_end])


def _fit(packet: bytes, query: Query, compiled: CompiledAnswer, transport: Transport) -> bytes:
    """The whole answer; where that is too long without its additional records; else what fits, with TC."""
    limit = TCP_BYTES_MAX if transport == "tcp" else _udp_limit(query.edns)
    edns = query.edns is not None
    counts = compiled.counts_edns if edns else compiled.counts
    size = query.question_end + (_OPT_BYTES if edns else 0)
    if size + len(compiled.body) <= limit:
        return _assemble(packet, query, NOERROR, _AA, counts, compiled.body)
    fitting: list[bytes] = []
    for record in compiled.records:
        size += len(record)
        if size > limit:
            break
        fitting.append(record)
    flags = _AA if len(fitting) == len(compiled.records) else _AA | _TC
    return _reply(packet, query, NOERROR, flags=flags, records=tuple(fitting))


def _udp_limit(edns: Edns | None) -> int:
    return UDP_BYTES_MIN if edns is None else max(UDP_BYTES_MIN, min(edns.udp_bytes, UDP_BYTES_MAX))


def _bare_reply(packet: bytes, rcode: int) -> bytes:
    """A header alone, where the question cannot be trusted to be one."""
    return packet[:2] + bytes((_QR | packet[2] & (_OPCODE | _RD), rcode)) + bytes(8)


def _reply(
    packet: bytes,
    query: Query,
    rcode: int,
    *,
    flags: int = 0,
    records: tuple[bytes, ...] = (),
    authority: tuple[bytes, ...] = (),
) -> bytes:
    counts = section_counts(len(records), len(authority), 0 if query.edns is None else 1)
    return _assemble(packet, query, rcode, flags, counts, b"".join((*records, *authority)))


def _assemble(packet: bytes, query: Query, rcode: int, flags: int, counts: bytes, body: bytes) -> bytes:
    """Header, the question's own bytes (0x20), the sections, and OPT for those who sent one."""
    header = packet[:2] + bytes((_QR | flags | packet[2] & _RD, rcode & 0x0F)) + counts
    reply = header + packet[HEADER_BYTES : query.question_end] + body
    if query.edns is None:
        return reply
    return reply + _opt(rcode >> 4, dnssec_ok=query.edns.dnssec_ok)
