"""Paths: what a path of an Ingress matches, in the terms of `table.VirtualHost`."""

import urllib.parse
from dataclasses import dataclass

from kproxy.ingress import table
from kproxy.ingress.rules import patterns
from kproxy.model.kinds.ingress import ingresses

LONGEST = 1024
"""Bytes of a path: nginx bounds the length of a word in its configuration."""

_EXACT = ingresses.PathType.EXACT
_PREFIX = ingresses.PathType.PREFIX


@dataclass(frozen=True, slots=True)
class Matched:
    """What a path matches: one path, all that begin with a prefix, those of an expression.

    "" for what it does not use.
    """

    exact: str = ""
    prefix: str = ""
    pattern: str = ""


def read(path: ingresses.Path, policy: table.Policy) -> Matched:
    """What `path` matches. Raises ValueError with the reason, which follows "it ".

    Exact: the path. Prefix: the path, and what it is followed by after a slash; a slash at its end
    makes no difference. ImplementationSpecific: all that begins with it, as in nginx.

    It is a regular expression if the annotations ask for such (`use-regex`, or `rewrite-target`),
    the type is not Exact, and it has characters that only an expression needs.
    """
    wants_pattern = policy.has_patterns or policy.rewrite
    if wants_pattern and path.type is not _EXACT and patterns.is_special(path.path):
        return Matched(pattern=patterns.parse(path.path).text)
    decoded = _decoded(path.path)
    if path.type is _EXACT:
        return Matched(exact=decoded)
    if path.type is not _PREFIX:
        return Matched(prefix=decoded)
    whole = decoded.rstrip("/")
    return Matched(exact=whole, prefix=f"{whole}/")


def _decoded(path: str) -> str:
    """As nginx compares it: without percent-encoding."""
    try:
        text = urllib.parse.unquote_to_bytes(path).decode()
    except UnicodeError:
        raise ValueError("is not UTF-8") from None
    if len(text.encode()) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} bytes")
    if any(ord(each) < 0x20 or ord(each) == 0x7F for each in text):
        raise ValueError("contains control characters")
    return text
