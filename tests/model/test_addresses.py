"""What counts as an address, and what kind of address it is (docs/faults.md S01, S02, S04)."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import addresses


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("0177.0.0.1", id="octal"),
        pytest.param("127.1", id="short"),
        pytest.param("2130706433", id="one number"),
        pytest.param("0x7f.0.0.1", id="hexadecimal"),
        pytest.param("10.0.0.1\n", id="newline"),
        pytest.param(" 10.0.0.1", id="leading space"),
        pytest.param("10.0.0.1 ", id="trailing space"),
        pytest.param("10.0.0.01", id="leading zero"),
        pytest.param("10.0.0.256", id="octet too large"),
        pytest.param("10.0.0.1/32", id="network"),
        pytest.param("fe80::1%eth0", id="zone id"),
        pytest.param("::1%1", id="numeric zone id"),
        pytest.param("fe80::1%", id="empty zone id"),
        pytest.param("[::1]", id="brackets"),
        pytest.param("10.0.0.1:80", id="port"),
        pytest.param("\u06610.0.0.1", id="digit of another script"),
        pytest.param("localhost", id="name"),
        pytest.param("None", id="None"),
        pytest.param("", id="empty"),
        pytest.param("\x00", id="NUL"),
    ],
)
def test_only_the_strict_spelling_of_an_address_is_one(text: str) -> None:
    assert addresses.parse(text) is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        pytest.param("10.0.0.1", "10.0.0.1", id="IPv4"),
        pytest.param("2001:DB8:0:0::1", "2001:db8::1", id="IPv6 is shortened and lower-cased"),
        pytest.param(
            "::ffff:10.0.0.1", "10.0.0.1", id="mapped IPv6 is the IPv4 address it reaches"
        ),
        pytest.param("::FFFF:0a00:0001", "10.0.0.1", id="mapped IPv6 in hexadecimal"),
    ],
)
def test_an_address_is_carried_in_canonical_text(text: str, canonical: str) -> None:
    address = addresses.parse(text)
    assert address is not None
    assert address.text == canonical


@pytest.mark.parametrize(
    ("text", "use"),
    [
        pytest.param("127.0.0.1", addresses.Use.LOOPBACK, id="127.0.0.1"),
        pytest.param("127.8.9.1", addresses.Use.LOOPBACK, id="elsewhere in 127/8"),
        pytest.param("::1", addresses.Use.LOOPBACK, id="::1"),
        pytest.param("::ffff:127.0.0.1", addresses.Use.LOOPBACK, id="mapped loopback"),
        pytest.param("169.254.169.254", addresses.Use.LINK_LOCAL, id="metadata service"),
        pytest.param("fe80::1", addresses.Use.LINK_LOCAL, id="fe80::1"),
        pytest.param("::ffff:169.254.0.1", addresses.Use.LINK_LOCAL, id="mapped link-local"),
        pytest.param("224.0.0.1", addresses.Use.MULTICAST, id="link-local multicast"),
        pytest.param("239.255.255.255", addresses.Use.MULTICAST, id="last multicast"),
        pytest.param("ff02::1", addresses.Use.MULTICAST, id="IPv6 multicast"),
        pytest.param("::ffff:224.0.0.1", addresses.Use.MULTICAST, id="mapped multicast"),
        pytest.param("0.0.0.0", addresses.Use.UNSPECIFIED, id="0.0.0.0"),
        pytest.param("0.1.2.3", addresses.Use.UNSPECIFIED, id="elsewhere in 0/8"),
        pytest.param("::", addresses.Use.UNSPECIFIED, id="::"),
        pytest.param("::ffff:0.0.0.0", addresses.Use.UNSPECIFIED, id="mapped unspecified"),
        pytest.param("255.255.255.255", addresses.Use.BROADCAST, id="broadcast"),
        pytest.param("10.0.0.1", addresses.Use.ORDINARY, id="private"),
        pytest.param("126.255.255.255", addresses.Use.ORDINARY, id="just below loopback"),
        pytest.param("128.0.0.0", addresses.Use.ORDINARY, id="just above loopback"),
        pytest.param("169.253.255.255", addresses.Use.ORDINARY, id="just below link-local"),
        pytest.param("169.255.0.0", addresses.Use.ORDINARY, id="just above link-local"),
        pytest.param("223.255.255.255", addresses.Use.ORDINARY, id="just below multicast"),
        pytest.param("240.0.0.0", addresses.Use.ORDINARY, id="just above multicast"),
        pytest.param("fd00::1", addresses.Use.ORDINARY, id="unique local"),
    ],
)
def test_an_address_is_judged_by_what_it_means(text: str, use: addresses.Use) -> None:
    address = addresses.parse(text)
    assert address is not None
    assert address.use is use


near_quads = st.lists(
    st.one_of(
        st.integers(0, 260).map(str), st.sampled_from(["", "00", "01", "-1", "+1", "1 ", "\u0661"])
    ),
    min_size=3,
    max_size=5,
).map(".".join)


@given(near_quads | st.text("0123456789.", max_size=16) | near_quads.map(lambda text: f"{text}\n"))
def test_a_dotted_quad_is_what_the_library_takes_for_one(text: str) -> None:
    try:
        expected = str(ipaddress.ip_address(text))
    except ValueError:
        assert addresses.parse(text) is None
    else:
        address = addresses.parse(text)
        assert address is not None
        assert address.text == expected
