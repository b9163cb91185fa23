"""Rules that kinds share: names, ports, protocols.

They are those of kube-apiserver (`pkg/apis/core/validation/validation.go` and
k8s.io/apimachinery's validation package).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kproxy.model import names, objects
from kproxy.model.judging import findings

DEFAULT_NAMESPACE = "default"

_PROTOCOLS: Mapping[str | None, names.Protocol] = {
    None: names.Protocol.TCP,
    "": names.Protocol.TCP,
    **{protocol.value: protocol for protocol in names.Protocol},
}


@dataclass(frozen=True, slots=True)
class NameRule:
    """A syntax for names, in the words of k8s.io/apimachinery's validation package."""

    pattern: re.Pattern[str]
    longest: int
    words: str

    def admits(self, name: str) -> bool:
        """Whether `name` has this syntax."""
        return len(name) <= self.longest and self.pattern.fullmatch(name) is not None


_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
DNS_LABEL = NameRule(
    re.compile(_LABEL),
    63,
    "must be a DNS-1123 label: at most 63 of a-z, 0-9 and '-', no '-' at either end",
)
LABEL_VALUE = NameRule(
    re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"),
    63,
    "must be at most 63 of a-z, A-Z, 0-9, '-', '_' and '.', a letter or digit at both ends",
)
"""The value of a label that is not empty; the same holds for a label's key behind its prefix."""
DNS_SUBDOMAIN = NameRule(
    re.compile(rf"{_LABEL}(?:\.{_LABEL})*"),
    253,
    "must be a DNS-1123 subdomain: at most 253 of a-z, 0-9, '-' and '.'",
)
_CONTROLLER_PATH = re.compile(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")


def is_label_key(key: str) -> bool:
    """Whether `key` may be the key of a label: a name, with a DNS subdomain and `/` before it."""
    prefix, slash, name = key.rpartition("/")
    return LABEL_VALUE.admits(name) and (not slash or DNS_SUBDOMAIN.admits(prefix))


def identity(
    metadata: objects.ObjectMeta | None, rule: NameRule, found: findings.Findings
) -> names.NamespacedName:
    """The object's key; the namespace defaults to `default`, as in kubectl without a context."""
    name = _own_name(metadata, rule, found)
    namespace = (metadata.namespace if metadata else None) or DEFAULT_NAMESPACE
    if not DNS_LABEL.admits(namespace):
        found.violate("metadata.namespace", namespace, DNS_LABEL.words)
    return names.NamespacedName(namespace, name)


def name_in_cluster(
    metadata: objects.ObjectMeta | None, rule: NameRule, found: findings.Findings
) -> names.NamespacedName:
    """The key of an object that has no namespace: as if it were in `default`.

    One that it gives means nothing: kubectl asks for no namespace, and kube-apiserver removes it.
    """
    return names.NamespacedName(DEFAULT_NAMESPACE, _own_name(metadata, rule, found))


def _own_name(metadata: objects.ObjectMeta | None, rule: NameRule, found: findings.Findings) -> str:
    name = (metadata.name if metadata else None) or ""
    if not name:
        found.violate("metadata.name", None, "must be given")
    elif not rule.admits(name):
        found.violate("metadata.name", name, rule.words)
    return name


def is_controller(text: str, longest: int) -> bool:
    """Whether this can be a controller of a class: a domain, a slash and a path."""
    domain, _, path = text.partition("/")
    is_right = DNS_SUBDOMAIN.admits(domain) and _CONTROLLER_PATH.fullmatch(path) is not None
    return is_right and len(text) <= longest


def port_number(value: int | None, where: str, found: findings.Findings) -> int:
    """A port that something listens on: 1 to 65535."""
    if value is None or not 1 <= value <= 65535:
        found.violate(where, value, "must be from 1 to 65535")
    return value or 0


def port_name(name: str | None, where: str, found: findings.Findings, *, required: bool) -> str:
    """A port's name, "" when it has none, which is allowed for an only port (row 4)."""
    if name:
        if not DNS_LABEL.admits(name):
            found.violate(where, name, DNS_LABEL.words)
        return name
    if required:
        found.violate(where, None, "must be given when there is more than one port")
    return ""


def protocol(value: str | None, where: str, found: findings.Findings) -> names.Protocol:
    """A transport protocol; TCP when absent or empty. Upper case only, as in the API."""
    known = _PROTOCOLS.get(value)
    if known is None:
        found.violate(where, value, "must be TCP, UDP or SCTP")
    return known or names.Protocol.TCP
