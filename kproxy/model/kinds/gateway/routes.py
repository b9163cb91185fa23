"""TCPRoute and UDPRoute: which listeners' connections go to which Services, by which weights.

The two kinds differ in their protocol and in nothing else.
"""

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names, weighting
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.gateway import meta, references
from kproxy.model.kinds.kind import Collection, Kind, Policy

MOST_PARENTS = 32
MOST_BACKENDS = 16
_VERSIONS = ("v1", "v1alpha2")
"""v1 came with version 1.6 of the Gateway API; its experimental channel has v1alpha2 before."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a route asks to attach to: a Gateway, all its listeners or those so called and at
    that port. `section` is "" and `port` 0 for all."""

    kind: references.GroupKind
    name: names.NamespacedName
    section: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a share of a route's connections goes. `port` is that of the Service."""

    kind: references.GroupKind
    name: names.NamespacedName
    port: int
    weight: int = weighting.DEFAULT_WEIGHT


@dataclass(frozen=True, slots=True)
class Route:
    """What both kinds say."""

    kind: ClassVar[str]
    protocol: ClassVar[names.Protocol]

    name: names.NamespacedName
    parents: tuple[Parent, ...]
    backends: tuple[Backend, ...]
    created: str = ""
    """`metadata.creationTimestamp` (RFC 3339, UTC); "" when the source gives none."""
    generation: int = 0

    @property
    def precedence(self) -> tuple[str, names.NamespacedName]:
        """Of several routes at one listener the least has it: the oldest, then by name."""
        return self.created, self.name


class ParentRef(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.parentRefs[]`."""

    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    section_name: str | None = None
    port: int | None = None


class BackendRef(msgspec.Struct, frozen=True, gc=False):
    """`spec.rules[].backendRefs[]`."""

    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    port: int | None = None
    weight: int | None = None


class Rule(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.rules[]`."""

    backend_refs: tuple[BackendRef, ...] | None = None


class RouteSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec` of a route."""

    parent_refs: tuple[ParentRef, ...] | None = None
    rules: tuple[Rule, ...] | None = None


class RouteShape(msgspec.Struct, frozen=True, gc=False):
    """`gateway.networking.k8s.io/v1` and `v1alpha2` TCPRoute and UDPRoute."""

    metadata: meta.Metadata | None = None
    spec: RouteSpec | None = None


def _judge(
    made_as: type[Route], shape: RouteShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Route | None]:
    """What a route says, by the rules of its CustomResourceDefinition."""
    yield
    spec = shape.spec or RouteSpec()
    name = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    rules = spec.rules or ()
    if len(rules) != 1:
        found.violate("spec.rules", len(rules), "must be one rule")
    made = made_as(
        name,
        _parents(spec.parent_refs or (), name.namespace, found),
        _backends(rules[0].backend_refs or (), name.namespace, found) if rules else (),
        created=meta.created(shape.metadata),
        generation=meta.generation(shape.metadata),
    )
    return None if found.violations else made


def _parents(given: Sequence[ParentRef], own: str, found: findings.Findings) -> tuple[Parent, ...]:
    if len(given) > MOST_PARENTS:
        rule = f"must be at most {MOST_PARENTS} entries"
        found.violate("spec.parentRefs", len(given), rule)
    made: list[Parent] = []
    for index, each in enumerate(given[:MOST_PARENTS]):
        where = f"spec.parentRefs[{index}]"
        if each.section_name:
            references.section_name(each.section_name, f"{where}.sectionName", found)
        parent = Parent(
            references.group_kind(each.group, each.kind, references.GATEWAY, where, found),
            names.NamespacedName(
                references.namespace(each.namespace, own, f"{where}.namespace", found),
                references.object_name(each.name, f"{where}.name", found),
            ),
            each.section_name or "",
            field_rules.port_number(each.port, f"{where}.port", found) if each.port else 0,
        )
        others = [other for other in made if _object_of(other) == _object_of(parent)]
        if not all(_are_alike(other, parent) for other in others):
            found.violate(where, "another reference to the same parent", _CHOSEN_ALIKE)
        if parent in others:
            found.violate(where, "the same as another one", "must be distinct")
        made.append(parent)
    return tuple(made)


_CHOSEN_ALIKE = "must set sectionName and port where the others to this parent do, and only there"


def _object_of(parent: Parent) -> object:
    return parent.kind, parent.name


def _are_alike(one: Parent, other: Parent) -> bool:
    """Whether two references to one object can stand beside each other.

    The rules of the standard and of the experimental channel differ: what one of them admits.
    """
    if bool(one.section) is not bool(other.section):
        return False
    return one.section != other.section or bool(one.port) is bool(other.port)


def _backends(
    given: Sequence[BackendRef], own: str, found: findings.Findings
) -> tuple[Backend, ...]:
    where = "spec.rules[0].backendRefs"
    if not 1 <= len(given) <= MOST_BACKENDS:
        found.violate(where, len(given), f"must be 1 to {MOST_BACKENDS} entries")
    made = []
    for index, each in enumerate(given[:MOST_BACKENDS]):
        place = f"{where}[{index}]"
        kind = references.group_kind(each.group, each.kind, references.SERVICE, place, found)
        weight = weighting.DEFAULT_WEIGHT if each.weight is None else each.weight
        if not 0 <= weight <= weighting.MAX_WEIGHT:
            found.violate(f"{place}.weight", weight, f"must be 0 to {weighting.MAX_WEIGHT}")
        if each.port is not None or kind == references.SERVICE:
            field_rules.port_number(each.port, f"{place}.port", found)
        name = names.NamespacedName(
            references.namespace(each.namespace, own, f"{place}.namespace", found),
            references.object_name(each.name, f"{place}.name", found),
        )
        made.append(Backend(kind, name, each.port or 0, weight))
    return tuple(made)


def _owner(route: Route) -> tuple[names.NamespacedName, ...]:
    """The Gateways that it asks for, by the names that they have among Services, and the Services
    that it sends connections to."""
    gateways = (
        references.of_gateway(each.name)
        for each in route.parents
        if each.kind == references.GATEWAY
    )
    services = (each.name for each in route.backends if each.kind == references.SERVICE)
    return tuple(dict.fromkeys((*gateways, *services)))


def kind(made_as: type[Route], plural: str) -> Kind[Route]:
    """The kind whose objects are `made_as`."""
    return Kind(
        name=made_as.kind,
        collection=Collection(plural, references.GROUP, _VERSIONS, needed=False),
        shape=RouteShape,
        judge=functools.partial(_judge, made_as),
        owner=_owner,
    )
