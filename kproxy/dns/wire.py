"""DNS messages on the wire: what strangers ask is read here, and answers are written.

By hand, because every stranger's datagram passes here, on the thread that also relays bytes:
dnspython takes 0.8 ms for a question and its answer, this 45 us, and 4 us if the answer is kept.
What is accepted is narrow: one question, at most one OPT record (RFC 1035, RFC 6891).

A name is bytes: its labels in wire form, each behind its length, and the root's zero.
"""

import bisect
import socket
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, TypeAlias

Name: TypeAlias = bytes


class Rcode(IntEnum):
    """What became of a question. Those above 15 need an OPT record (RFC 6891)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Type(IntEnum):
    """The types of records that are known by name here."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    HINFO = 13
    TXT = 16
    AAAA = 28
    SRV = 33
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


IN = 1
"""The Internet class. There is no other one here."""

HEADER = 12
SMALLEST_LIMIT = 512
"""Bytes of a datagram that every client takes."""
LARGEST = 65535
"""Bytes of the largest message."""
UDP_LIMIT = 1232
"""Bytes of the largest datagram that is sent: it fits into every path's packets (DNS flag day)."""

_QR, _OPCODE, _AA, _TC = 0x8000, 0x7800, 0x0400, 0x0200
_RD, _RA, _AD, _CD = 0x0100, 0x0080, 0x0020, 0x0010
_LONGEST_NAME = 255
_LONGEST_LABEL = 63
_POINTER = 0xC000
_FARTHEST = 0x3FFF
_DO = 0x8000

_ADDRESS_SIZES = (16, 28)
"""Of records whose names are pointers, which take two bytes."""
_ADDRESS_TYPES = (b"\0\1", b"\0\x1c")

_header = struct.Struct("!6H")
_pair = struct.Struct("!HH")
_fixed = struct.Struct("!HHIH")  # of a record: type, class, TTL, length of its data
_opt = struct.Struct("!BHHBBHH")  # root, type, size, extended rcode, version, flags, length


class Malformed(ValueError):  # noqa: N818  # a state of a message
    """A message that cannot be answered as asked: `rcode` says so, if anything can be said."""

    def __init__(self, rcode: Rcode) -> None:
        super().__init__(rcode.name)
        self.rcode = rcode


class Query(NamedTuple):
    """A question as it came. `name` has the client's letters, `key` is it in lower case.

    `limit` is the size of datagram that the client takes. Without an OPT record, `has_edns` is
    false. `wants_dnssec` is that record's DO bit.
    """

    id: int
    flags: int
    name: Name
    key: Name
    type: int
    class_: int
    limit: int
    has_edns: bool
    wants_dnssec: bool

    @property
    def wants_recursion(self) -> bool:
        return bool(self.flags & _RD)

    @property
    def question(self) -> bytes:
        """The question section."""
        return self.name + _pair.pack(self.type, self.class_)


class Record(NamedTuple):
    """A resource record of class IN. `data` is its data in wire form."""

    name: Name
    type: int
    ttl: int
    data: bytes


class Body(NamedTuple):
    """A response without what depends on the client: the question's letters, id, size, OPT.

    `tail` is what follows the question. `ends` are offsets in it at which each record ends, and
    `counts` how many records of each section there are: answer, authority, additional.
    """

    rcode: int
    is_authoritative: bool
    counts: tuple[int, int, int]
    tail: bytes
    ends: tuple[int, ...]


def is_answerable(packet: bytes) -> bool:
    """Whether `packet` may be answered at all: it has a header, and is no answer itself."""
    return len(packet) >= HEADER and not packet[2] & 0x80


def read(packet: bytes) -> Query:
    """The question of an answerable `packet`. Raises Malformed."""
    ident, flags, questions, answers, authorities, others = _header.unpack_from(packet)
    if flags & _OPCODE:
        raise Malformed(Rcode.NOTIMP)
    if questions != 1 or answers:
        raise Malformed(Rcode.FORMERR)
    end = _end_of_name(packet, HEADER)
    if end + 4 > len(packet):
        raise Malformed(Rcode.FORMERR)
    name = packet[HEADER:end]
    type_, class_ = _pair.unpack_from(packet, end)
    if authorities and type_ != Type.IXFR:
        raise Malformed(Rcode.FORMERR)
    limit, has_edns, wants_dnssec = SMALLEST_LIMIT, False, False
    at = end + 4
    for index in range(authorities + others):
        at, record = _skip_record(packet, at)
        if record is None:
            continue
        if has_edns or index < authorities:
            raise Malformed(Rcode.FORMERR)
        size, ttl = record
        if ttl >> 16 & 0xFF:
            raise Malformed(Rcode.BADVERS)
        has_edns, wants_dnssec = True, bool(ttl & _DO)
        limit = min(max(size, SMALLEST_LIMIT), UDP_LIMIT)
    if at != len(packet):
        raise Malformed(Rcode.FORMERR)
    return Query(ident, flags, name, name.lower(), type_, class_, limit, has_edns, wants_dnssec)


def _end_of_name(packet: bytes, at: int) -> int:
    """Where an uncompressed name that begins at `at` ends. Raises Malformed."""
    start = at
    try:
        while length := packet[at]:
            if length > _LONGEST_LABEL:
                raise Malformed(Rcode.FORMERR)
            at += length + 1
    except IndexError:
        raise Malformed(Rcode.FORMERR) from None
    if at + 1 - start > _LONGEST_NAME:
        raise Malformed(Rcode.FORMERR)
    return at + 1


def _skip_record(packet: bytes, at: int) -> tuple[int, tuple[int, int] | None]:
    """Where a record ends; the class and the TTL of an OPT record. Raises Malformed."""
    start = at
    try:
        while length := packet[at]:
            if length >= 0xC0:
                at += 1
                break
            if length > _LONGEST_LABEL:
                raise Malformed(Rcode.FORMERR)
            at += length + 1
        type_, class_, ttl, size = _fixed.unpack_from(packet, at + 1)
    except (IndexError, struct.error):
        raise Malformed(Rcode.FORMERR) from None
    end = at + 1 + _fixed.size + size
    if end > len(packet):
        raise Malformed(Rcode.FORMERR)
    if type_ != Type.OPT:
        return end, None
    if at != start or not _are_options(packet, end - size, end):
        raise Malformed(Rcode.FORMERR)
    return end, (class_, ttl)


def _are_options(packet: bytes, at: int, end: int) -> bool:
    while at + 4 <= end:
        at += 4 + _pair.unpack_from(packet, at)[1]
    return at == end


def error(packet: bytes, rcode: Rcode) -> bytes:
    """An answer to a packet that could not be read: only its id and its opcode are given back."""
    ident, flags = _pair.unpack_from(packet)
    more = _opt.pack(0, Type.OPT, UDP_LIMIT, rcode >> 4, 0, 0, 0) if rcode > 15 else b""
    kept = flags & (_OPCODE | _RD)
    return _header.pack(ident, _QR | kept | rcode & 15, 0, 0, 0, bool(more)) + more


def body(
    question: Name,
    rcode: int,
    sections: Sequence[Sequence[Record]],
    *,
    is_authoritative: bool = True,
) -> Body:
    """A response to a question for the name `question`, with names compressed."""
    at = HEADER + len(question) + 4
    known: dict[Name, int] = {}
    _remember(known, question.lower(), HEADER)
    tail = bytearray()
    ends: list[int] = []
    for record in (each for section in sections for each in section):
        tail += _compressed(record.name, known, at + len(tail))
        tail += _fixed.pack(record.type, IN, record.ttl, len(record.data)) + record.data
        ends.append(len(tail))
    answers, authorities, additional = map(len, sections)
    counts = answers, authorities, additional
    return Body(rcode, is_authoritative, counts, bytes(tail), tuple(ends))


def _compressed(name: Name, known: dict[Name, int], at: int) -> bytes:
    """`name` as it is written at offset `at`: a pointer in place of an end that came before."""
    start = 0
    while name[start]:
        found = known.get(name[start:])
        if found is not None:
            _remember(known, name, at, start)
            return name[:start] + (_POINTER | found).to_bytes(2, "big")
        start += name[start] + 1
    _remember(known, name, at)
    return name


def _remember(known: dict[Name, int], name: Name, at: int, end: int = -1) -> None:
    """Record where each end of `name`, which is written at `at`, can be pointed to."""
    start = 0
    while name[start] and start != end and at + start <= _FARTHEST:
        known.setdefault(name[start:], at + start)
        start += name[start] + 1


def has_turns(made: Body) -> bool:
    """Whether a response has several addresses of the name that was asked for.

    They can take turns at being the first, which is the one that most clients take.
    """
    answers = made.counts[0]
    if answers < 2:
        return False
    size = made.ends[0]
    are_alike = size in _ADDRESS_SIZES and made.ends[answers - 1] == size * answers
    return are_alike and made.tail[2:4] in _ADDRESS_TYPES


def turned(made: Body, by: int) -> Body:
    """A response that `has_turns`, with another address first."""
    size, answers = made.ends[0], made.counts[0]
    at, end = by % answers * size, answers * size
    return made._replace(tail=made.tail[at:end] + made.tail[:at] + made.tail[end:])


def response(query: Query, made: Body, *, limit: int = LARGEST, recurses: bool) -> bytes:
    """A message of at most `limit` bytes for `query`. Records that do not fit are left out.

    If such a record is an answer or of the authority, the message says that it was truncated.
    """
    flags = _QR | query.flags & (_RD | _CD) | made.rcode & 15
    if made.is_authoritative:
        flags |= _AA
    if recurses:
        flags |= _RA
    more = _opt_for(query, made.rcode)
    counts, tail = made.counts, made.tail
    room = limit - HEADER - len(query.name) - 4 - len(more)
    if len(tail) > room:
        fitting = bisect.bisect_right(made.ends, room)
        tail = tail[: made.ends[fitting - 1] if fitting else 0]
        answers, authorities, _ = counts
        if fitting < answers + authorities:
            flags |= _TC
        counts = (
            min(answers, fitting),
            min(max(fitting - answers, 0), authorities),
            max(fitting - answers - authorities, 0),
        )
    head = _header.pack(query.id, flags, 1, counts[0], counts[1], counts[2] + bool(more))
    return b"".join((head, query.question, tail, more))


def _opt_for(query: Query, rcode: int = Rcode.NOERROR) -> bytes:
    """The OPT record of a message about `query`: none if the client has sent none."""
    if not query.has_edns:
        return b""
    do = _DO if query.wants_dnssec else 0
    return _opt.pack(0, Type.OPT, UDP_LIMIT, rcode >> 4, 0, do, 0)


ASKED_FLAGS = _RD | _AD | _CD
"""Of a question, what other servers are asked with as well."""


def question_of(query: Query) -> bytes:
    """A message that asks another server the same. Nothing else of the client's is passed on."""
    more = _opt_for(query)
    flags = query.flags & ASKED_FLAGS
    head = _header.pack(query.id, flags, 1, 0, 0, bool(more))
    return head + query.question + more


def is_reply(reply: bytes, query: Query) -> bool:
    """Whether `reply` answers `query`: its number, and its question, but for its letters.

    A server that could not read the question may leave it out, and say that it failed.
    """
    if len(reply) < HEADER or not reply[2] & 0x80:
        return False
    ident, flags, questions, *_ = _header.unpack_from(reply)
    if ident != query.id or flags & _OPCODE:
        return False
    end = HEADER + len(query.name)
    if not questions:
        return bool(flags & 15)
    return (
        questions == 1
        and reply[HEADER:end].lower() == query.key
        and reply[end : end + 4] == query.question[-4:]
    )


def is_cut(reply: bytes) -> bool:
    """Whether an answer was cut short."""
    return bool(reply[2] & _TC >> 8)


def rcode_of(reply: bytes) -> int:
    """The response code in an answer's header."""
    return reply[3] & 15


def passed_on(reply: bytes, query: Query, *, limit: int) -> bytes:
    """Another server's reply as the answer to `query`: with its id and letters, and its size."""
    end = HEADER + len(query.name)
    if len(reply) > limit or len(reply) < end:
        rcode = Rcode.NOERROR if len(reply) > limit else Rcode.SERVFAIL
        made = response(
            query, body(query.name, rcode, ((), (), ()), is_authoritative=False), recurses=True
        )
        return made if rcode else made[:2] + bytes((made[2] | _TC >> 8,)) + made[3:]
    return query.id.to_bytes(2, "big") + reply[2:HEADER] + query.name + reply[end:]


def name_of(labels: Iterable[str]) -> Name:
    """A name of labels in ASCII. Raises ValueError for what cannot be a name."""
    parts = [label.encode("ascii") for label in labels]
    if any(not 0 < len(part) <= _LONGEST_LABEL for part in parts):
        raise ValueError("a label must have 1 to 63 letters")
    made = b"".join(bytes((len(part),)) + part for part in parts) + b"\0"
    if len(made) > _LONGEST_NAME:
        raise ValueError("a name must have at most 255 bytes")
    return made


def below(name: Name, *labels: str) -> Name:
    """The name that has these labels before `name`. Raises ValueError for what cannot be one."""
    made = name_of(labels)[:-1] + name
    if len(made) > _LONGEST_NAME:
        raise ValueError("a name must have at most 255 bytes")
    return made


def from_text(text: str) -> Name:
    """A name of text, with or without the root's dot at its end. Raises ValueError."""
    return name_of(text.removesuffix(".").split("."))


def labels_of(name: Name) -> tuple[str, ...]:
    """The labels of a name, in which letters outside of ASCII are something that no name has."""
    made = []
    at = 0
    while length := name[at]:
        made.append(name[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += length + 1
    return tuple(made)


def to_text(name: Name) -> str:
    """A name for people."""
    return ".".join(labels_of(name)) + "."


def address_data(address: str) -> tuple[Type, bytes]:
    """The type and the data of an address record."""
    if ":" in address:
        return Type.AAAA, socket.inet_pton(socket.AF_INET6, address)
    return Type.A, socket.inet_aton(address)


def srv_data(port: int, target: Name) -> bytes:
    """An SRV record's data. All are of the same priority and weight."""
    return struct.pack("!HHH", 0, 100, port) + target


def text_data(*texts: str) -> bytes:
    """The data of a TXT or HINFO record."""
    return b"".join(bytes((len(each),)) + each.encode() for each in texts)


def soa_data(server: Name, mailbox: Name, serial: int, ttl: int) -> bytes:
    """An SOA record's data; `ttl` is for how long the absence of a name may be believed."""
    return server + mailbox + struct.pack("!5I", serial, 7200, 1800, 86400, ttl)
