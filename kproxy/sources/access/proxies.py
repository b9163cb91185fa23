"""Which proxy leads to an API server: the kubeconfig's, or the environment's.

The rules are Go's, so that a process started beside kubectl takes the same way
(golang.org/x/net/http/httpproxy): HTTPS_PROXY or HTTP_PROXY by the server's scheme, upper case
first; never for the machine itself; NO_PROXY is a list of `*`, addresses, CIDRs and domains, each
but a CIDR with an optional port.
"""

import ipaddress
import re
import urllib.parse
from collections.abc import Mapping
from typing import TypeAlias

from kproxy import errors
from kproxy.sources.access import kubeconfig

SCHEMES = ("http", "https", "socks5", "socks5h")
"""Schemes of usable proxies. As in Go, socks5 leaves names to the proxy, like socks5h."""

_MAPPED_LENGTH = 96
"""Bits of the prefix ::ffff:0:0, behind which IPv6 has the addresses of IPv4."""

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(access: kubeconfig.ClusterAccess, environment: Mapping[str, str]) -> str:
    """The URL of the proxy to the server of `access`; "" without one.

    Raises ConfigError when it cannot be used.
    """
    proxy = access.proxy_url or _of_environment(access.server, environment)
    if not proxy:
        return ""
    url = kubeconfig.split_url(proxy)
    if url is None or not url.hostname:
        # Not shown: it may have a password.
        raise errors.ConfigError(
            f"the URL of the proxy to {access} has no host, or a port that is none; "
            "write it as http://HOST:PORT"
        )
    scheme, _, rest = proxy.partition("://")
    if url.scheme not in SCHEMES:
        raise errors.ConfigError(
            f"the proxy to {access} is of scheme {scheme!r}; "
            f"its URL must begin with one of {', '.join(f'{each}://' for each in SCHEMES)}"
        )
    return f"{url.scheme}://{rest}"  # in lower case, which libraries take for granted


def _of_environment(server: str, environment: Mapping[str, str]) -> str:
    url = urllib.parse.urlsplit(server)

    def named(name: str) -> str:
        return environment.get(name) or environment.get(name.lower()) or ""

    proxy = named("HTTPS_PROXY" if url.scheme == "https" else "HTTP_PROXY")
    port = url.port or (443 if url.scheme == "https" else 80)
    if not proxy or not _is_proxied((url.hostname or "").lower(), port, named("NO_PROXY")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_proxied(host: str, port: int, exceptions: str) -> bool:
    """Whether requests to `host` go through a proxy; `exceptions` is NO_PROXY."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(
        _matches(pattern.strip().lower(), host, address, port) for pattern in exceptions.split(",")
    )


def _matches(pattern: str, host: str, address: _Address | None, port: int) -> bool:
    """Whether one entry of NO_PROXY covers a server."""
    if pattern == "*":
        return True
    network = _network(pattern)
    if network is not None:
        return address is not None and address in network
    name, wanted_port = _split_port(pattern)
    if not name or wanted_port not in ("", str(port)):
        return False
    listed = _address(name)
    if listed is not None or address is not None:
        return listed == address
    if name.startswith("*."):
        name = name[1:]
    if not name.startswith("."):
        return host == name or host.endswith(f".{name}")
    return host.endswith(name)


def _split_port(pattern: str) -> tuple[str, str]:
    """An entry's host and port, "" for any. Brackets belong to an address with a port."""
    bracketed = re.fullmatch(r"\[(.*)\]:(\d*)", pattern)
    if bracketed:
        return bracketed[1], bracketed[2]
    host, colon, port = pattern.partition(":")
    return (host, port) if colon and ":" not in port else (pattern, "")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """`text` as a CIDR, None if it is none; an IPv4-mapped IPv6 CIDR becomes IPv4."""
    _, slash, length = text.partition("/")
    if not slash or not length.isdecimal():
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_LENGTH:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_LENGTH))


def _address(text: str) -> _Address | None:
    """`text` as an IP address, None if it is none; an IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
