"""The kind Gateway: listeners at addresses, to which routes attach."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import msgspec

from kproxy.model import addresses, labels, names
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.gateway import label_selector, meta, references
from kproxy.model.kinds.kind import Collection, Kind, Policy

IP_ADDRESS = "IPAddress"
_HOSTNAME = "Hostname"
_MOST_LISTENERS = 64
_MOST_ADDRESSES = 16
_MOST_KINDS = 8
_WITHOUT_NAMES = ("TCP", "UDP")
"""Protocols whose listeners have no host name."""
_WITHOUT_TLS = ("HTTP", *_WITHOUT_NAMES)
_A_ROUTE = references.GroupKind(references.GROUP, "")


class From(StrEnum):
    """`allowedRoutes.namespaces.from`."""

    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a Gateway takes connections, and the routes that may say where these go.

    `protocol` is as given, for instance "TCP" or "HTTP". Routes of `kinds` in the namespaces that
    `allowed_from` and `selector` name may attach; without `kinds`, those of the protocol.
    """

    name: str
    port: int
    protocol: str
    allowed_from: From = From.SAME
    selector: tuple[labels.Requirement, ...] = ()
    kinds: tuple[references.GroupKind, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """An address that a Gateway asks for; the implementation chooses it if `value` is ""."""

    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """A Gateway. `has_parameters`: it refers to parameters, of which kproxy has none."""

    kind: ClassVar[str] = "Gateway"

    name: names.NamespacedName
    class_name: str
    listeners: tuple[Listener, ...]
    addresses: tuple[Address, ...] = ()
    has_parameters: bool = False
    created: str = ""
    """`metadata.creationTimestamp` (RFC 3339, UTC); "" when the source gives none."""
    generation: int = 0


class RouteNamespaces(msgspec.Struct, frozen=True, gc=False, rename={"origin": "from"}):
    """`allowedRoutes.namespaces`."""

    origin: str | None = None
    selector: label_selector.LabelSelector | None = None


class RouteGroupKind(msgspec.Struct, frozen=True, gc=False):
    """`allowedRoutes.kinds[]`."""

    group: str | None = None
    kind: str | None = None


class AllowedRoutes(msgspec.Struct, frozen=True, gc=False):
    """`listeners[].allowedRoutes`."""

    namespaces: RouteNamespaces | None = None
    kinds: tuple[RouteGroupKind, ...] | None = None


class GatewayListener(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.listeners[]`."""

    name: str | None = None
    hostname: str | None = None
    port: int | None = None
    protocol: str | None = None
    tls: dict[str, object] | None = None
    allowed_routes: AllowedRoutes | None = None


class GatewayAddress(msgspec.Struct, frozen=True, gc=False):
    """`spec.addresses[]`."""

    type: str | None = None
    value: str | None = None


class Infrastructure(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.infrastructure`."""

    parameters_ref: dict[str, object] | None = None


class GatewaySpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec` of a Gateway."""

    gateway_class_name: str | None = None
    listeners: tuple[GatewayListener, ...] | None = None
    addresses: tuple[GatewayAddress, ...] | None = None
    infrastructure: Infrastructure | None = None


class GatewayShape(msgspec.Struct, frozen=True, gc=False):
    """`gateway.networking.k8s.io/v1` and `v1beta1` Gateway."""

    metadata: meta.Metadata | None = None
    spec: GatewaySpec | None = None


def judge(
    shape: GatewayShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Gateway | None]:
    """What a Gateway says, by the rules of its CustomResourceDefinition."""
    yield
    spec = shape.spec or GatewaySpec()
    name = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    infrastructure = spec.infrastructure or Infrastructure()
    made = Gateway(
        name,
        references.object_name(spec.gateway_class_name, "spec.gatewayClassName", found),
        _listeners(spec.listeners or (), found),
        _addresses(spec.addresses or (), found),
        has_parameters=infrastructure.parameters_ref is not None,
        created=meta.created(shape.metadata),
        generation=meta.generation(shape.metadata),
    )
    return None if found.violations else made


def _listeners(given: Sequence[GatewayListener], found: findings.Findings) -> tuple[Listener, ...]:
    if not 1 <= len(given) <= _MOST_LISTENERS:
        found.violate("spec.listeners", len(given), f"must be 1 to {_MOST_LISTENERS} entries")
    made = []
    seen: set[object] = set()
    for index, each in enumerate(given[:_MOST_LISTENERS]):
        where = f"spec.listeners[{index}]"
        listener = _listener(each, where, found)
        made.append(listener)
        if listener.name in seen:
            found.violate(f"{where}.name", listener.name, "must be unique within the Gateway")
        place = listener.port, listener.protocol, each.hostname or ""
        if place in seen:
            found.violate(
                f"{where}.port", listener.port, "must be unique with its protocol and hostname"
            )
        seen |= {listener.name, place}
    return tuple(made)


def _listener(given: GatewayListener, where: str, found: findings.Findings) -> Listener:
    name = references.section_name(given.name, f"{where}.name", found)
    port = field_rules.port_number(given.port, f"{where}.port", found)
    protocol = given.protocol or ""
    if not protocol:
        found.violate(f"{where}.protocol", given.protocol, "must be given")
    if given.hostname and protocol in _WITHOUT_NAMES:
        found.violate(f"{where}.hostname", given.hostname, f"must not be given with {protocol}")
    if given.tls is not None and protocol in _WITHOUT_TLS:
        found.violate(f"{where}.tls", given.tls, f"must not be given with {protocol}")
    allowed = given.allowed_routes or AllowedRoutes()
    spaces = allowed.namespaces or RouteNamespaces()
    place = f"{where}.allowedRoutes"
    try:
        origin = From(spaces.origin or From.SAME)
    except ValueError:
        found.violate(f"{place}.namespaces.from", spaces.origin, "must be All, Selector or Same")
        origin = From.SAME
    selector: tuple[labels.Requirement, ...] = ()
    if origin is From.SELECTOR:
        where_from = f"{place}.namespaces.selector"
        if spaces.selector is None:
            found.violate(where_from, None, "must be given with from: Selector")
        else:
            selector = label_selector.requirements(spaces.selector, where_from, found)
    if len(allowed.kinds or ()) > _MOST_KINDS:
        rule = f"must be at most {_MOST_KINDS} entries"
        found.violate(f"{place}.kinds", len(allowed.kinds or ()), rule)
    kinds = [
        _route_kind(each, f"{place}.kinds[{index}]", found)
        for index, each in enumerate((allowed.kinds or ())[:_MOST_KINDS])
    ]
    return Listener(name, port, protocol, origin, selector, tuple(kinds))


def _route_kind(
    given: RouteGroupKind, where: str, found: findings.Findings
) -> references.GroupKind:
    if given.kind is None:
        found.violate(f"{where}.kind", None, "must be given")
    return references.group_kind(given.group, given.kind, _A_ROUTE, where, found)


def _addresses(given: Sequence[GatewayAddress], found: findings.Findings) -> tuple[Address, ...]:
    if len(given) > _MOST_ADDRESSES:
        rule = f"must be at most {_MOST_ADDRESSES} entries"
        found.violate("spec.addresses", len(given), rule)
    made: list[Address] = []
    for index, each in enumerate(given[:_MOST_ADDRESSES]):
        where = f"spec.addresses[{index}]"
        kind, value = each.type or IP_ADDRESS, each.value or ""
        if kind == IP_ADDRESS and value:
            parsed = addresses.parse(value)
            if parsed is None:
                found.violate(f"{where}.value", value, "must be an IP address")
            else:
                value = parsed.text
        if value and kind in (IP_ADDRESS, _HOSTNAME) and Address(kind, value) in made:
            found.violate(f"{where}.value", value, "must be unique")
        made.append(Address(kind, value))
    return tuple(made)


def _owner(gateway: Gateway) -> tuple[names.NamespacedName, ...]:
    """What is served of it is known by a name of its own."""
    return (references.of_gateway(gateway.name),)


KIND = Kind(
    name=Gateway.kind,
    collection=Collection("gateways", references.GROUP, ("v1", "v1beta1"), needed=False),
    shape=GatewayShape,
    judge=judge,
    owner=_owner,
)
