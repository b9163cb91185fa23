"""What the kinds of the Gateway API share: their group, and the rules for references."""

import re
from dataclasses import dataclass

from kproxy.model import names
from kproxy.model.judging import field_rules, findings

GROUP = "gateway.networking.k8s.io"
CONTROLLER = "kproxy.io/gateway"
"""The `controllerName` of kproxy's GatewayClass, and of what it says in routes' status."""

_KIND = field_rules.NameRule(
    re.compile(r"[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?"),
    63,
    "must be a kind: at most 63 of a-z, A-Z, 0-9 and '-', a letter first",
)
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class GroupKind:
    """A kind of API objects. The core group is ""."""

    group: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


GATEWAY = GroupKind(GROUP, "Gateway")
SERVICE = GroupKind("", "Service")


def of_gateway(name: names.NamespacedName) -> names.NamespacedName:
    """What a Gateway is called among Services, in rules, logs and metrics: `gateway/NAME`.

    No Service can be called so, because names of objects have no slash.
    """
    return names.NamespacedName(name.namespace, f"{names.GATEWAY_PREFIX}{name.name}")


def group_kind(
    group: str | None,
    kind: str | None,
    default: GroupKind,
    where: str,
    found: findings.Findings,
) -> GroupKind:
    """The kind that a reference names. What it leaves out is `default`'s."""
    if group and not field_rules.DNS_SUBDOMAIN.admits(group):
        found.violate(f"{where}.group", group, field_rules.DNS_SUBDOMAIN.words)
    if kind is not None and not _KIND.admits(kind):
        found.violate(f"{where}.kind", kind, _KIND.words)
    return GroupKind(
        default.group if group is None else group, default.kind if kind is None else kind
    )


def object_name(name: str | None, where: str, found: findings.Findings) -> str:
    """The name of an object of any kind: 1 to 253 characters."""
    if not name or len(name) > _LONGEST_NAME:
        found.violate(where, name, f"must be a name of 1 to {_LONGEST_NAME} characters")
    return name or ""


def namespace(name: str | None, default: str, where: str, found: findings.Findings) -> str:
    """The namespace of an object that is referred to; `default` if none is named."""
    if name is not None and not field_rules.DNS_LABEL.admits(name):
        found.violate(where, name, field_rules.DNS_LABEL.words)
    return default if name is None else name


def section_name(name: str | None, where: str, found: findings.Findings) -> str:
    """The name of a listener."""
    if name is None or not field_rules.DNS_SUBDOMAIN.admits(name):
        found.violate(where, name, field_rules.DNS_SUBDOMAIN.words)
    return name or ""
