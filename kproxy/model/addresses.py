"""IP addresses of API objects: parsed strictly, and judged on what was parsed.

`ipaddress` says what an address is. It refuses the spellings by which a filter and a dial can
come to mean different places ("0177.0.0.1", "127.1", "2130706433", "10.0.0.01", surrounding
whitespace); zone ids, which it accepts, are refused here. An IPv4-mapped IPv6 address is carried
as the IPv4 address that a dial to it would reach, so that no rule has to know two spellings of
one place.

Dotted quads have a way of their own, many times as fast: at 100,000 endpoints the library takes
most of the time in which a cluster is listed. It accepts what the library accepts, letter by
letter, and a property test holds it to that.
"""

import functools
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple


class Use(StrEnum):
    """What an address is for, in words that follow "must not be"."""

    ORDINARY = "an ordinary address"
    LOOPBACK = "a loopback address"
    LINK_LOCAL = "a link-local address"
    MULTICAST = "a multicast address"
    UNSPECIFIED = "an unspecified address"
    BROADCAST = "the broadcast address"

    @property
    def is_one_host(self) -> bool:
        """Whether such an address can stand for one host, this one included."""
        return self in {Use.ORDINARY, Use.LOOPBACK, Use.LINK_LOCAL}


class Address(NamedTuple):
    """An address in canonical text, which is what gets bound and dialled, and its use.

    Kubernetes refuses all uses but the ordinary one for endpoints and external addresses
    (`ValidateNonSpecialIP`): a proxy that dials them reaches itself, its node or a whole network
    instead of a pod (CVE-2021-25737; decision 9 of docs/behaviour.md).
    """

    text: str
    use: Use


class Family(StrEnum):
    """An address family, as the API spells it in `spec.ipFamilies`."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    # Enum's own is a call in Python, in every look-up of whatever has a Family in its key.
    __hash__ = str.__hash__


def family(text: str) -> Family:
    """The family of an address in canonical text form."""
    return Family.IPV6 if ":" in text else Family.IPV4


class SocketAddress(NamedTuple):
    """An IP address in canonical text form, and a port: to listen on, or to connect to."""

    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


def parse_socket_address(text: str) -> SocketAddress | None:
    """The address and port that `text` spells as "10.0.0.1:80" or "[fd00::1]:80", or None."""
    host, colon, port = text.rpartition(":")
    address = parse(host.removeprefix("[").removesuffix("]"))
    is_bracketed = host.startswith("[") and host.endswith("]")
    if address is None or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    if is_bracketed is not (":" in host):
        return None
    return SocketAddress(address.text, int(port)) if colon else None


LONGEST_TEXT = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")


def parse(text: str) -> Address | None:
    """The address that `text` spells, or None if it is no address in the strict sense."""
    try:
        first, second, third, fourth = text.split(".")
        octets = _OCTETS[first], _OCTETS[second], _OCTETS[third], _OCTETS[fourth]
    except (ValueError, KeyError):
        return _parsed(text) if len(text) <= LONGEST_TEXT else None
    return Address(text, _use_of_ipv4(octets))


_OCTETS = {str(octet): octet for octet in range(256)}
"""Octets by their only accepted spelling."""


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    """Cached because an address comes many times: by port, by slice, by update."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6:
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is None:
            return Address(str(address), _use_of_ipv6(address))
        address = address.ipv4_mapped
    return Address(str(address), _use_of_ipv4(address.packed))


def holder(networks: Iterable[str]) -> Callable[[str], bool]:
    """What says whether an address is in one of `networks`, which are CIDRs.

    The answers for 4,096 addresses are remembered: few clients come once only.
    """
    parsed = tuple(map(ipaddress.ip_network, networks))

    def holds(text: str) -> bool:
        address = ipaddress.ip_address(text)
        return any(address in each for each in parsed)

    return functools.lru_cache(4096)(holds) if parsed else _is_in_none


def _is_in_none(_: str) -> bool:
    return False


_USE_BY_FIRST_OCTET = {
    0: Use.UNSPECIFIED,
    127: Use.LOOPBACK,
    **dict.fromkeys(range(224, 240), Use.MULTICAST),
}
_ORDINARY = Use.ORDINARY


def _use_of_ipv4(octets: Sequence[int]) -> Use:
    first, second, third, fourth = octets
    if first == 169 and second == 254:
        return Use.LINK_LOCAL
    if first == second == third == fourth == 255:
        return Use.BROADCAST
    return _USE_BY_FIRST_OCTET.get(first, _ORDINARY)


def _use_of_ipv6(address: ipaddress.IPv6Address) -> Use:
    if address.is_unspecified:
        return Use.UNSPECIFIED
    if address.is_loopback:
        return Use.LOOPBACK
    if address.is_link_local:
        return Use.LINK_LOCAL
    return Use.MULTICAST if address.is_multicast else Use.ORDINARY
