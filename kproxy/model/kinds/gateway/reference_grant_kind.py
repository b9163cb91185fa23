"""The kind ReferenceGrant: who may refer to objects of its namespace from another one."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.gateway import references
from kproxy.model.kinds.kind import Collection, Kind, Policy

_MOST = 16
_NO_KIND = references.GroupKind("", "")


@dataclass(frozen=True, slots=True)
class From:
    """Objects of a kind in a namespace, which may refer to what the grant names."""

    kind: references.GroupKind
    namespace: str


@dataclass(frozen=True, slots=True)
class To:
    """What may be referred to: an object, or all of a kind if `name` is ""."""

    kind: references.GroupKind
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    """Anything in `origins` may refer to anything in `targets`, in the grant's own namespace."""

    kind: ClassVar[str] = "ReferenceGrant"

    name: names.NamespacedName
    origins: frozenset[From]
    targets: frozenset[To]

    def permits(self, origin: From, target: To) -> bool:
        """Whether it lets `origin` refer to the object `target` of the grant's namespace."""
        return origin in self.origins and (
            target in self.targets or To(target.kind) in self.targets
        )


class GrantFrom(msgspec.Struct, frozen=True, gc=False):
    """`spec.from[]`."""

    group: str | None = None
    kind: str | None = None
    namespace: str | None = None


class GrantTo(msgspec.Struct, frozen=True, gc=False):
    """`spec.to[]`."""

    group: str | None = None
    kind: str | None = None
    name: str | None = None


class ReferenceGrantSpec(msgspec.Struct, frozen=True, gc=False, rename={"origins": "from"}):
    """`spec` of a ReferenceGrant."""

    origins: tuple[GrantFrom, ...] | None = None
    to: tuple[GrantTo, ...] | None = None


class ReferenceGrantShape(msgspec.Struct, frozen=True, gc=False):
    """`gateway.networking.k8s.io/v1` and `v1beta1` ReferenceGrant."""

    metadata: objects.ObjectMeta | None = None
    spec: ReferenceGrantSpec | None = None


def judge(
    shape: ReferenceGrantShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, ReferenceGrant | None]:
    """A ReferenceGrant names 1 to 16 origins and targets."""
    yield
    spec = shape.spec or ReferenceGrantSpec()
    name = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    origins: set[From] = set()
    targets: set[To] = set()
    for field, count in (("from", len(spec.origins or ())), ("to", len(spec.to or ()))):
        if not 1 <= count <= _MOST:
            found.violate(f"spec.{field}", count, f"must be 1 to {_MOST} entries")
    for index, origin in enumerate((spec.origins or ())[:_MOST]):
        where = f"spec.from[{index}]"
        kind = _kind(origin.group, origin.kind, where, found)
        if origin.namespace is None:
            found.violate(f"{where}.namespace", None, "must be given")
        namespace = references.namespace(origin.namespace, "", f"{where}.namespace", found)
        origins.add(From(kind, namespace))
    for index, target in enumerate((spec.to or ())[:_MOST]):
        where = f"spec.to[{index}]"
        kind = _kind(target.group, target.kind, where, found)
        if target.name is not None:
            references.object_name(target.name, f"{where}.name", found)
        targets.add(To(kind, target.name or ""))
    made = ReferenceGrant(name, frozenset(origins), frozenset(targets))
    return None if found.violations else made


def _kind(
    group: str | None, kind: str | None, where: str, found: findings.Findings
) -> references.GroupKind:
    for field, value in (("group", group), ("kind", kind)):
        if value is None:
            found.violate(f"{where}.{field}", None, "must be given")
    return references.group_kind(group, kind, _NO_KIND, where, found)


def of_namespace(namespace: str) -> names.NamespacedName:
    """Under what name, which no Service can have, a Store finds the grants of a namespace."""
    return names.NamespacedName(namespace, "grants/")


def _owner(grant: ReferenceGrant) -> tuple[names.NamespacedName, ...]:
    return (of_namespace(grant.name.namespace),)


KIND = Kind(
    name=ReferenceGrant.kind,
    collection=Collection("referencegrants", references.GROUP, ("v1", "v1beta1"), needed=False),
    shape=ReferenceGrantShape,
    judge=judge,
    owner=_owner,
)
