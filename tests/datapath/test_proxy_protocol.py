"""PROXY headers: what is read out of bytes, and what is written; for all bytes there are."""

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kproxy.datapath import proxy_protocol
from kproxy.datapath.proxy_protocol import Ends, Header, HeaderError
from kproxy.model import addresses, lifetimes

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
"""Of version 2, as section 2.2 of the specification prints it."""

V1_CASES = [
    pytest.param(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        (("255.255.255.255", 65535), ("255.255.255.255", 65535)),
        id="the specification's longest TCP/IPv4 line",
    ),
    pytest.param(
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        (("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),) * 2,
        id="the specification's longest TCP/IPv6 line",
    ),
    pytest.param(
        b"PROXY TCP6 2001:DB8:0::1 ::1 0 443\r\n",
        (("2001:db8::1", 0), ("::1", 443)),
        id="spelt in capitals, and with port 0",
    ),
    pytest.param(
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n",
        (("192.0.2.1", 1), ("192.0.2.2", 2)),
        id="IPv4 in IPv6",
    ),
    pytest.param(b"PROXY UNKNOWN\r\n", None, id="UNKNOWN"),
    pytest.param(
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        None,
        id="UNKNOWN with anything behind it",
    ),
]


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    """A version 2 header."""
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack(">BBH", 0x20 | command, family, size) + body


IPV4_BODY = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack(">HH", 1234, 80)
IPV4_ENDS = (("192.0.2.1", 1234), ("198.51.100.2", 80))
IPV6_BODY = (
    ipaddress.ip_address("2001:db8::1").packed
    + ipaddress.ip_address("2001:db8::2").packed
    + struct.pack(">HH", 1234, 80)
)
IPV6_ENDS = (("2001:db8::1", 1234), ("2001:db8::2", 80))
TLVS = b"\x01\x00\x02h2\x04\x00\x03\x00\x00\x00\x20\x00\x05\x00\x00\x00\x00\x00"

V2_CASES = [
    pytest.param(v2(1, 0x11, IPV4_BODY), IPV4_ENDS, id="TCP over IPv4"),
    pytest.param(v2(1, 0x21, IPV6_BODY), IPV6_ENDS, id="TCP over IPv6"),
    pytest.param(v2(1, 0x11, IPV4_BODY + TLVS), IPV4_ENDS, id="TLVs, NULs in them"),
    pytest.param(v2(1, 0x21, IPV6_BODY + bytes(4000)), IPV6_ENDS, id="many bytes of TLVs"),
    pytest.param(v2(0, 0x00, b""), None, id="LOCAL"),
    pytest.param(v2(0, 0x11, IPV4_BODY), None, id="LOCAL with addresses"),
    pytest.param(v2(0, 0x31, bytes(216)), None, id="LOCAL with anything"),
    pytest.param(v2(1, 0x00, b""), None, id="PROXY, unspecified"),
    pytest.param(v2(1, 0x00, TLVS), None, id="PROXY, unspecified, TLVs"),
]


def ends(pairs: tuple[tuple[str, int], tuple[str, int]] | None) -> Ends | None:
    return Ends(*(addresses.SocketAddress(*each) for each in pairs)) if pairs else None


@pytest.mark.parametrize(("header", "expected"), [*V1_CASES, *V2_CASES])
def test_a_header_is_read_once_it_is_whole_and_no_byte_further(
    header: bytes, expected: tuple[tuple[str, int], tuple[str, int]] | None
) -> None:
    whole = Header(len(header), ends(expected))

    for cut in range(len(header)):
        assert proxy_protocol.parse(header[:cut]) is None
    assert proxy_protocol.parse(header) == whole
    for follows in (b"G", b"\r\n", b"PROXY ", header):
        assert proxy_protocol.parse(header + follows) == whole


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", "does not begin with", id="a request"),
        pytest.param(b"\x16\x03\x01", "does not begin with", id="TLS"),
        pytest.param(b"proxy TCP4", "does not begin with", id="small letters"),
        pytest.param(b"PROXY\tTCP4", "does not begin with", id="a tabulator"),
        pytest.param(b"\r\n\r\n\r\n", "does not begin with", id="empty lines"),
        pytest.param(b"PROXY TCP4 " + b"1" * 96, "longer than 107", id="a line without end"),
        pytest.param(b"PROXY UNKNOWN" + b" " * 94, "longer than 107", id="UNKNOWN without end"),
        pytest.param(b"PROXY UNKNOWNS\r\n", "version 1", id="a word like UNKNOWN"),
        pytest.param(b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "version 1", id="a protocol"),
        pytest.param(b"PROXY \r\n", "version 1", id="no protocol"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "version 1", id="a field less"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "version 1", id="a field more"),
        pytest.param(b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "version 1", id="two spaces"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "version 1", id="a space last"),
        pytest.param(b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n", "an address", id="leading zero"),
        pytest.param(b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "an address", id="three octets"),
        pytest.param(b"PROXY TCP4 ::1 ::1 1 2\r\n", "an address", id="IPv6 as IPv4"),
        pytest.param(b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", "an address", id="IPv4 as IPv6"),
        pytest.param(b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "an address", id="a zone"),
        pytest.param(b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n", "an address", id="a NUL"),
        pytest.param(b"PROXY TCP4 1.2.3.\xff 1.2.3.4 1 2\r\n", "an address", id="no ASCII"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "a port", id="a large port"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "a port", id="port, leading zero"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", "a port", id="a negative port"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n", "a port", id="LF in the line"),
        pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 2\r\n", "a port", id="no ASCII digit"),
        pytest.param(SIGNATURE + b"\x11", "version and command", id="version 1 in version 2"),
        pytest.param(SIGNATURE + b"\x22", "version and command", id="an unknown command"),
        pytest.param(v2(1, 0x31, bytes(216)), "not TCP over IP", id="a Unix socket"),
        pytest.param(v2(1, 0x12, IPV4_BODY), "not TCP over IP", id="datagrams"),
        pytest.param(v2(1, 0x41, bytes(300)), "not TCP over IP", id="an unknown family"),
        pytest.param(v2(1, 0x11, IPV4_BODY[:-1]), "too short", id="IPv4, too short"),
        pytest.param(v2(1, 0x21, IPV4_BODY), "too short", id="IPv6, too short"),
        pytest.param(v2(1, 0x11, b"", 65535), "65551 bytes", id="a length beyond the bound"),
        pytest.param(v2(0, 0x00, b"", 4081), "4097 bytes", id="LOCAL beyond the bound"),
    ],
)
def test_what_is_no_header_is_refused_as_early_as_its_bytes_allow(data: bytes, words: str) -> None:
    with pytest.raises(HeaderError, match=words):
        proxy_protocol.parse(data)


ADDRESSES = st.ip_addresses().map(str).filter(lambda text: "::ffff:" not in text)
"""Those that have no other spelling in the other family."""
ENDS = st.tuples(*[st.tuples(ADDRESSES, st.integers(0, 65535)) for _ in range(2)])


@given(ENDS, st.sampled_from(lifetimes.ProxyProtocol), st.binary(max_size=20))
def test_what_is_built_is_read_back(
    pairs: tuple[tuple[str, int], ...],
    version: lifetimes.ProxyProtocol,
    follows: bytes,
) -> None:
    has_ipv6 = any(":" in address for address, _ in pairs)
    given_ends = Ends(*(addresses.SocketAddress(*each) for each in pairs))

    header = proxy_protocol.BUILDERS[version](given_ends)

    assert proxy_protocol.parse(header + follows) == Header(len(header), given_ends)
    if version is lifetimes.ProxyProtocol.V1:
        assert header.startswith(b"PROXY TCP6 " if has_ipv6 else b"PROXY TCP4 ")
    else:
        assert header[13] == (0x21 if has_ipv6 else 0x11)
    assert len(header) <= (107 if version is lifetimes.ProxyProtocol.V1 else 52)


@given(st.binary(max_size=5000))
@example(b"")
@example(SIGNATURE)
@example(b"PROXY ")
def test_any_bytes_are_a_header_or_the_beginning_of_one_or_refused(data: bytes) -> None:
    for start in (b"", SIGNATURE, b"PROXY ", b"PROXY TCP4 ", SIGNATURE + b"\x21\x11"):
        _judge(start + data)


@given(
    st.sampled_from([*V1_CASES, *V2_CASES]).map(lambda case: case.values[0]),
    st.integers(0, 2**20),
    st.integers(0, 255),
)
def test_a_header_with_one_byte_changed_is_judged_the_same_however_it_arrives(
    header: object, position: int, value: int
) -> None:
    assert isinstance(header, bytes)
    changed = bytearray(header)
    changed[position % len(changed)] = value
    whole = bytes(changed)
    verdict = _judge(whole)

    for cut in range(len(whole)):
        partial = _judge(whole[:cut])
        if isinstance(partial, Header):
            assert partial == verdict
        elif partial is HeaderError:
            assert verdict is HeaderError


def _judge(data: bytes) -> Header | type[HeaderError] | None:
    try:
        found = proxy_protocol.parse(data)
    except HeaderError:
        return HeaderError
    if found is None:
        assert len(data) < proxy_protocol.MOST_BYTES, "no end is in sight"
    else:
        assert found.size <= min(len(data), proxy_protocol.MOST_BYTES)
    return found


def test_the_zone_of_a_link_local_client_is_left_out() -> None:
    client, frontend = addresses.SocketAddress("fe80::1%eth0", 5), addresses.SocketAddress("::1", 6)

    assert proxy_protocol.build_v1(Ends(client, frontend)) == b"PROXY TCP6 fe80::1 ::1 5 6\r\n"
