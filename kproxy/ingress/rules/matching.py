"""Matching: which route of a table a request takes, as nginx decides it by our configuration."""

import re
import urllib.parse
from collections.abc import Mapping, Sequence

from kproxy.ingress import table
from kproxy.ingress.rules import patterns

NO_PREFIX = ""
"""The prefix of patterns that are tried where no other prefix matches."""


def by_prefix(host: table.VirtualHost) -> Mapping[str, Sequence[tuple[str, table.Route]]]:
    """The patterns that are tried once a prefix is the longest that matches, by prefix.

    A pattern belongs to the longest prefix that its literal beginning begins with.
    """
    found: dict[str, list[tuple[str, table.Route]]] = {}
    for text, route in host.patterns:
        literal = patterns.parse(text).literal
        owner = next((each for each, _ in host.prefixes if literal.startswith(each)), None)
        if owner is None and host.prefixes and host.prefixes[-1][0] == "/":
            owner = "/"
        found.setdefault(owner or NO_PREFIX, []).append((text, route))
    return found


def route(made: table.Table, host: str, path: str) -> table.Route | None:
    """The route of a request; None if it is answered 404.

    `host` is as in the Host header; `path` as in the request line, without the query. For tests
    and to explain: it looks at one thing after the other.
    """
    found = virtual_host(made, host)
    asked = normalized(path)
    exact = dict(found.exact).get(asked)
    if exact is not None:
        return exact
    prefix, of_prefix = next(
        ((each, way) for each, way in found.prefixes if asked.startswith(each)), (NO_PREFIX, None)
    )
    for text, way in by_prefix(found).get(prefix, ()):
        if re.match(f"(?:{text})", asked, re.ASCII | re.IGNORECASE):
            return way
    return of_prefix


def virtual_host(made: table.Table, host: str) -> table.VirtualHost:
    """The virtual host of a Host header: of this name, of the wildcard, or of all others."""
    name = re.sub(r":[0-9]*$", "", host.lower()).removesuffix(".")
    hosts = {each.name: each for each in made.hosts}
    wildcard = f"*.{name.partition('.')[2]}"
    return hosts.get(name) or hosts.get(wildcard) or hosts[""]


def normalized(path: str) -> str:
    """A path as nginx compares it: decoded, slashes merged, `.` and `..` resolved."""
    decoded = urllib.parse.unquote(path, errors="replace")
    kept: list[str] = []
    parts = decoded.split("/")[1:]
    for part in parts[:-1]:
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    last = parts[-1] if parts else ""
    if last == "..":
        del kept[-1:]
    ends = "" if last in {".", ".."} else last
    return "/" + "".join(f"{part}/" for part in kept) + ends
