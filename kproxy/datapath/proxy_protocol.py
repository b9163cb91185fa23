"""The PROXY protocol, versions 1 and 2: the header by which a proxy says who its client is.

After HAProxy's `doc/proxy-protocol.txt`. Bytes in, values out: nothing here touches a socket. A
connection begins with one header, before its first own byte.
"""

import _socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kproxy.model import addresses, lifetimes

MOST_BYTES = 4096
"""Bytes of one header at most: a version 2 header says its own length, up to 65,551. Addresses
take 52 bytes, the rest is for additions (TLVs), which are skipped."""

_V1_START = b"PROXY "
_V1_MOST = 107
"""Bytes of a version 1 header at most, its CR LF included."""
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = len(_V2_START) + 4
_V2_HEAD = struct.Struct(">12sBBH")
_V2_VERSION = 2
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _TCP4, _TCP6 = 0x00, 0x11, 0x21
_FAMILY_OF_TEXT = {b"TCP4": _socket.AF_INET, b"TCP6": _socket.AF_INET6}
_V2_FAMILIES = {_TCP4: (_socket.AF_INET, 4), _TCP6: (_socket.AF_INET6, 16)}
_MAPPED = bytes(10) + b"\xff\xff"
"""Before an IPv4 address, this makes an IPv6 one of it."""


class HeaderError(Exception):
    """What came is no header, or not one that is taken here; the text says why."""


class Ends(NamedTuple):
    """The ends of the connection that a proxy forwards: its client, and where that connected."""

    source: addresses.SocketAddress
    destination: addresses.SocketAddress


class Header(NamedTuple):
    """A whole header: its length in bytes, and what it says.

    `ends` is None if it says nothing: then the connection is the proxy's own, such as a health
    check (LOCAL), or of a kind that the header cannot express (UNKNOWN).
    """

    size: int
    ends: Ends | None


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with; None while it may become one with more bytes.

    Raises HeaderError, as early as the bytes allow. `MOST_BYTES` are always enough.
    """
    if data.startswith(_V2_START):
        return _parse_v2(data)
    if data.startswith(_V1_START):
        return _parse_v1(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise HeaderError("it does not begin with a PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    """`PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` and anything, and CR LF."""
    line, end, _ = data[:_V1_MOST].partition(b"\r\n")
    if not end:
        if len(data) >= _V1_MOST:
            raise HeaderError(f"its line is longer than {_V1_MOST} bytes")
        return None
    size = len(line) + len(end)
    _, kind, *fields = line.split(b" ")
    if kind == b"UNKNOWN":
        return Header(size, None)
    family = _FAMILY_OF_TEXT.get(kind)
    if family is None or len(fields) != 4:
        raise HeaderError("its line is not as version 1 of the PROXY protocol has it")
    source, destination = (_address(family, each) for each in fields[:2])
    source_port, destination_port = map(_port, fields[2:])
    return Header(
        size,
        Ends(
            addresses.SocketAddress(source, source_port),
            addresses.SocketAddress(destination, destination_port),
        ),
    )


def _address(family: int, text: bytes) -> str:
    """The address that `text` spells, as others spell it."""
    try:
        packed = _socket.inet_pton(family, text.decode("ascii"))
    except (OSError, ValueError) as error:
        raise HeaderError("an address in its line is none of the family that it names") from error
    return _text(family, packed)


def _port(text: bytes) -> int:
    """A port in decimal digits, without a leading zero."""
    is_plain = text.isdigit() and len(text) <= 5 and (text == b"0" or not text.startswith(b"0"))
    if not is_plain or int(text) > 65535:
        raise HeaderError("a port in its line is no number from 0 to 65535")
    return int(text)


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _V2_FIXED:
        if len(data) > len(_V2_START):
            _command(data[len(_V2_START)])
        return None
    _, version_and_command, family, length = _V2_HEAD.unpack_from(data)
    command = _command(version_and_command)
    size = _V2_FIXED + length
    if size > MOST_BYTES:
        raise HeaderError(f"it is of {size} bytes, more than {MOST_BYTES}")
    if command == _LOCAL or family == _UNSPECIFIED:
        return Header(size, None) if len(data) >= size else None
    known = _V2_FAMILIES.get(family)
    if known is None:
        raise HeaderError(f"it is of a connection that is not TCP over IP (family {family:#04x})")
    address_family, width = known
    if length < 2 * width + 4:
        raise HeaderError("it is too short for its addresses")
    if len(data) < size:
        return None
    at = _V2_FIXED
    source, destination = (
        _text(address_family, data[start : start + width]) for start in (at, at + width)
    )
    source_port, destination_port = struct.unpack_from(">HH", data, at + 2 * width)
    return Header(
        size,
        Ends(
            addresses.SocketAddress(source, source_port),
            addresses.SocketAddress(destination, destination_port),
        ),
    )


def _text(family: int, packed: bytes) -> str:
    """An address in canonical form; one of IPv4 in one of IPv6 is that of IPv4 (`addresses`)."""
    if packed.startswith(_MAPPED):
        family, packed = _socket.AF_INET, packed[len(_MAPPED) :]
    return _socket.inet_ntop(family, packed)


def _command(version_and_command: int) -> int:
    version, command = divmod(version_and_command, 16)
    if version != _V2_VERSION or command not in {_LOCAL, _PROXY}:
        raise HeaderError(f"its version and command are unknown ({version_and_command:#04x})")
    return command


def build_v1(ends: Ends) -> bytes:
    """The header of version 1: a line of text."""
    (source, source_port), (destination, destination_port) = ends
    kind = "TCP4"
    if ":" in source or ":" in destination:
        kind = "TCP6"
        source, destination = map(_as_ipv6, (source, destination))
    return f"PROXY {kind} {source} {destination} {source_port} {destination_port}\r\n".encode()


def build_v2(ends: Ends) -> bytes:
    """The header of version 2: binary, without additions."""
    (source, source_port), (destination, destination_port) = ends
    is_ipv6 = ":" in source or ":" in destination
    packed = b"".join(_packed(each, is_ipv6=is_ipv6) for each in (source, destination))
    head = _V2_HEAD.pack(
        _V2_START,
        _V2_VERSION << 4 | _PROXY,
        _TCP6 if is_ipv6 else _TCP4,
        len(packed) + 4,
    )
    return head + packed + struct.pack(">HH", source_port, destination_port)


BUILDERS: Mapping[lifetimes.ProxyProtocol, Callable[[Ends], bytes]] = {
    lifetimes.ProxyProtocol.V1: build_v1,
    lifetimes.ProxyProtocol.V2: build_v2,
}
"""What makes the header of each version.

Both ends must be of one family: where they are not, because what came with a header went to an
address of the other family, the IPv4 one is given as an IPv6 one (::ffff:192.0.2.1).
"""


def _packed(address: str, *, is_ipv6: bool) -> bytes:
    if ":" in address:
        return _socket.inet_pton(_socket.AF_INET6, address.partition("%")[0])  # without its zone
    packed = _socket.inet_pton(_socket.AF_INET, address)
    return _MAPPED + packed if is_ipv6 else packed


def _as_ipv6(address: str) -> str:
    return _socket.inet_ntop(_socket.AF_INET6, _packed(address, is_ipv6=True))
