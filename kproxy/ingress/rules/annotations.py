"""The annotations of an Ingress: how its requests are passed on, and whether it is a canary.

Their names are ingress-nginx's, with its prefix or with `kproxy.io/`, which is the stronger one.
A bad value counts as if the annotation were absent, and is said.

Annotations that put configuration into nginx are never honoured. Neither are those that protect a
service, and an Ingress that asks for such protection is not served without it.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kproxy import settings
from kproxy.ingress import table
from kproxy.ingress.rules import patterns, remarks
from kproxy.model import objects
from kproxy.model.kinds.ingress import ingresses

_Value = TypeVar("_Value")

_PROTECTION = "auth-"
"""The beginning of names that say who may come. Served without, a service would be open to all."""

_ALLOWED = ("allowlist-source-range", "whitelist-source-range")
_DENIED = ("denylist-source-range",)

_NEEDLESS = frozenset({"service-upstream"})
"""What kproxy does anyway."""

_HONOURED = frozenset(
    {
        "backend-protocol",
        "canary",
        "canary-by-cookie",
        "canary-by-header",
        "canary-by-header-pattern",
        "canary-by-header-value",
        "canary-weight",
        "canary-weight-total",
        "force-ssl-redirect",
        *_ALLOWED,
        *_DENIED,
        "proxy-body-size",
        "proxy-connect-timeout",
        "proxy-read-timeout",
        "proxy-send-timeout",
        "rewrite-target",
        "ssl-redirect",
        "use-regex",
    }
)

_UNGUARDED = "its requests are answered 503, for without it they would be let through unchecked"

_MOST_NAMED = 8
"""Annotations that one sentence names."""
_MOST_NETWORKS = 1000
_LONGEST_NAME = 64
_LONGEST_TIMEOUT = 86400
_LONGEST_REWRITE = 512
_LONGEST_HEADER_VALUE = 255
_LARGEST_TOTAL = 10_000
_SIZE = re.compile(r"[0-9]{1,9}[kKmMgG]?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9-]{1,128}", re.ASCII)
_COOKIE = re.compile(r"[A-Za-z0-9_]{1,128}", re.ASCII)
_REWRITE = re.compile(r"/(?:[!-#%-\[\]-~]|\$[1-9])*", re.ASCII)
"""Printable ASCII without a space, `\\` and `$`, but for the groups of an expression."""


class Annotations:
    """Reads the annotations of one Ingress, and remarks what is wrong with them."""

    def __init__(self, ingress: ingresses.Ingress, said: remarks.Remarks) -> None:
        self._values = _by_name(ingress)
        self._said = said

    def policy(self) -> table.Policy:
        """How its requests are passed on. Remarks what is not honoured."""
        if not self._values:
            return table.DEFAULT_POLICY
        is_refused = self._remark_others()
        allowed, are_allowed_bad = self._networks(_ALLOWED)
        denied, are_denied_bad = self._networks(_DENIED)
        default = table.DEFAULT_POLICY
        return table.Policy(
            protocol=self._read("backend-protocol", _protocol, default.protocol),
            body_size=self._read("proxy-body-size", _size, default.body_size),
            connect_timeout=self._seconds("proxy-connect-timeout", default.connect_timeout),
            send_timeout=self._seconds("proxy-send-timeout", default.send_timeout),
            read_timeout=self._seconds("proxy-read-timeout", default.read_timeout),
            rewrite=self._read("rewrite-target", _rewrite, default.rewrite),
            has_patterns=self._switch("use-regex", default=default.has_patterns),
            ssl_redirect=self._switch("ssl-redirect", default=default.ssl_redirect),
            force_ssl_redirect=self._switch(
                "force-ssl-redirect", default=default.force_ssl_redirect
            ),
            allowed=allowed,
            denied=denied,
            is_refused=is_refused or are_allowed_bad or are_denied_bad,
        )

    def canary(self) -> table.CanaryRule | None:
        """Which requests it wants, if it is a canary; all else that it says is then ignored."""
        if not self._values or not self._switch("canary", default=False):
            return None
        header = self._read("canary-by-header", _header, "")
        total = self._read("canary-weight-total", _whole(1, _LARGEST_TOTAL), 100)
        return table.CanaryRule(
            weight=self._read("canary-weight", _whole(0, total), 0),
            total=total,
            header=header,
            header_value=self._read("canary-by-header-value", _header_value, "") if header else "",
            header_pattern=self._read("canary-by-header-pattern", _header_pattern, "")
            if header
            else "",
            cookie=self._read("canary-by-cookie", _cookie, ""),
        )

    def _networks(self, keys: Sequence[str]) -> tuple[tuple[str, ...], bool]:
        """The networks that these annotations name, and whether one of them cannot be read."""
        made: list[str] = []
        for name in keys:
            found = self._values.get(name)
            if found is None:
                continue
            key, text = found
            try:
                made += _cidrs(text)
            except ValueError as error:
                said = f"annotation {key} is {objects.shown(text)} but {error}; {_UNGUARDED}"
                self._said.warn("InvalidAnnotation", said)
                return (), True
        return tuple(dict.fromkeys(made)), False

    def _seconds(self, name: str, default: int) -> int:
        return self._read(name, settings.WholeSeconds(1, _LONGEST_TIMEOUT).parse, default)

    def _switch(self, name: str, *, default: bool) -> bool:
        return self._read(name, settings.Switch().parse, default)

    def _read(self, name: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        found = self._values.get(name)
        if found is None:
            return default
        key, text = found
        try:
            return parse(text.strip())
        except ValueError as error:
            value = objects.shown(text)
            self._said.warn(
                "InvalidAnnotation", f"annotation {key} is {value} but {error}; ignored"
            )
            return default

    def _remark_others(self) -> bool:
        """Say which annotations are not honoured; whether one of them is a protection."""
        others = sorted(self._values.keys() - _HONOURED - _NEEDLESS)
        protecting = [name for name in others if name.startswith(_PROTECTION)]
        if protecting:
            text = f"asks for {_listed(protecting)}, which kproxy does not have; {_UNGUARDED}"
            self._said.warn("ProtectionNotSupported", text)
        if rest := [name for name in others if name not in protecting]:
            self._said.warn("AnnotationIgnored", f"not honoured by kproxy: {_listed(rest)}")
        return bool(protecting)


def _by_name(ingress: ingresses.Ingress) -> Mapping[str, tuple[str, str]]:
    """Key and value of each annotation, by its name without the prefix."""
    found: dict[str, tuple[str, str]] = {}
    for prefix in reversed(ingresses.PREFIXES):
        for key, value in ingress.annotations:
            if key.startswith(prefix):
                found[key.removeprefix(prefix)] = (key, value)
    return found


def _listed(found: Sequence[str]) -> str:
    shown = [name if _is_short(name) else objects.shown(name) for name in found[:_MOST_NAMED]]
    if len(found) > _MOST_NAMED:
        shown.append(f"and {len(found) - _MOST_NAMED} more")
    return ", ".join(shown)


def _is_short(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and name.isascii() and name.isprintable()


def _protocol(text: str) -> table.Protocol:
    try:
        return table.Protocol(text.upper())
    except ValueError:
        raise ValueError(f"must be one of {', '.join(table.Protocol)}") from None


def _size(text: str) -> str:
    if not _SIZE.fullmatch(text):
        raise ValueError("must be a number of bytes such as 8m, 512k or 0 for no limit")
    return text.lower()


def _cidrs(text: str) -> list[str]:
    entries = [each.strip() for each in text.split(",") if each.strip()]
    if not 1 <= len(entries) <= _MOST_NETWORKS:
        raise ValueError(f"must be 1 to {_MOST_NETWORKS} networks, with commas between them")
    try:
        return [str(ipaddress.ip_network(each, strict=False)) for each in entries]
    except ValueError:
        raise ValueError("must be networks such as 10.0.0.0/8, with commas between them") from None


def _rewrite(text: str) -> str:
    if not _REWRITE.fullmatch(text) or len(text) > _LONGEST_REWRITE:
        raise ValueError(
            'must be a path that begins with "/", of printable ASCII without spaces and \\, and '
            "with $ only in $1 to $9"
        )
    return text


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError("must be the name of a header, of letters, digits and '-'")
    return text.lower()


def _cookie(text: str) -> str:
    if not _COOKIE.fullmatch(text):
        raise ValueError("must be the name of a cookie, of letters, digits and '_'")
    return text


def _header_value(text: str) -> str:
    if not text or len(text) > _LONGEST_HEADER_VALUE or not (text.isascii() and text.isprintable()):
        raise ValueError("must be a text of at most 255 printable ASCII characters")
    return text


def _header_pattern(text: str) -> str:
    try:
        return patterns.parse(text, may_be_anchored=True).text
    except ValueError as error:
        raise ValueError(f"must be a regular expression that is supported: it {error}") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    return settings.Whole(least, most).parse
