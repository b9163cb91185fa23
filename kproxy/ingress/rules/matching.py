"""Matching: which route of a table a request takes, as nginx decides it by our configuration."""

import re
import urllib.parse
from collections.abc import Generator, Mapping, Sequence

from kproxy.ingress import table
from kproxy.ingress.rules import patterns
from kproxy.model import steps

_PATTERNS_BETWEEN_PAUSES = 16

NO_PREFIX = ""
"""The prefix of patterns that are tried where no other prefix matches."""


def by_prefix_in_steps(
    host: table.VirtualHost,
) -> Generator[None, None, Mapping[str, Sequence[tuple[str, table.Route]]]]:
    """The patterns that are tried once a prefix is the longest that matches, by prefix.

    A pattern belongs to the longest prefix that its literal beginning begins with.
    """
    prefixes = dict(host.prefixes)
    found: dict[str, list[tuple[str, table.Route]]] = {}
    for count, (text, way) in enumerate(host.patterns, 1):
        if count % _PATTERNS_BETWEEN_PAUSES == 0:
            yield
        literal = patterns.parse(text).literal
        beginnings = (literal[:length] for length in range(len(literal), 0, -1))
        owner = next((each for each in beginnings if each in prefixes), None)
        if owner is None and "/" in prefixes:
            owner = "/"
        found.setdefault(owner or NO_PREFIX, []).append((text, way))
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
    for text, way in steps.at_once(by_prefix_in_steps(found)).get(prefix, ()):
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
