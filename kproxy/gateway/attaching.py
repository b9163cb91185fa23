"""Which routes attach to which listeners of a Gateway, and why others do not.

A route names a Gateway, or listeners of it by name and port; the listener says which kinds of
routes, from which namespaces, it takes (`allowedRoutes`). Of several routes at one listener only
the oldest gets its connections. The words of `Reason` are those of the API.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kproxy.model import labels, names, steps
from kproxy.model.kinds.gateway import (
    gateway_kind,
    references,
    routes,
    tcp_route_kind,
    udp_route_kind,
)

LabelsOf = Callable[[str], Mapping[str, str]]
"""The labels of the namespace so named."""

TCP_ROUTE = references.GroupKind(references.GROUP, tcp_route_kind.KIND.name)
UDP_ROUTE = references.GroupKind(references.GROUP, udp_route_kind.KIND.name)
_SUPPORTED = {"TCP": TCP_ROUTE, "UDP": UDP_ROUTE}
_OVER_TCP = frozenset({"TCP", "HTTP", "HTTPS", "TLS"})


class Reason(StrEnum):
    """Why a listener, or a route at a Gateway, is accepted or not."""

    ACCEPTED = "Accepted"
    UNSUPPORTED_PROTOCOL = "UnsupportedProtocol"
    PROTOCOL_CONFLICT = "ProtocolConflict"
    NO_MATCHING_PARENT = "NoMatchingParent"
    NOT_ALLOWED_BY_LISTENERS = "NotAllowedByListeners"


@dataclass(frozen=True, slots=True)
class Listening:
    """What a listener is and takes, before any route is looked at.

    `kinds` are the kinds of routes that it takes, `invalid_kinds` those that it names and that
    cannot be. `reason` is ACCEPTED, or why it is not served.
    """

    listener: gateway_kind.Listener
    reason: Reason
    kinds: tuple[references.GroupKind, ...]
    invalid_kinds: tuple[references.GroupKind, ...] = ()

    @property
    def protocol(self) -> names.Protocol:
        """The transport protocol: what is neither TCP nor UDP is over TCP."""
        is_udp = self.listener.protocol == names.Protocol.UDP
        return names.Protocol.UDP if is_udp else names.Protocol.TCP


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a route's reference to a Gateway.

    `rivals` are the routes that get the connections of listeners to which it is attached.
    """

    reason: Reason
    rivals: tuple[names.NamespacedName, ...] = ()


Reference = tuple[str, names.NamespacedName, routes.Parent]
"""A route's reference: the route's kind and name, and what it refers to."""


@dataclass(slots=True)
class Attached:
    """The routes of one Gateway: what became of each of their references to it.

    `winners` has the route that gets the connections of a listener, `counts` how many are
    attached to it, both by the listener's name.
    """

    winners: dict[str, routes.Route] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    verdicts: dict[Reference, Verdict] = field(default_factory=dict)
    places: dict[Reference, tuple[str, ...]] = field(default_factory=dict)
    """The listeners to which a reference is attached."""


def port_name(gateway: gateway_kind.Gateway, listening: Listening) -> names.ServicePortName:
    """The name by which the proxier knows a listener of a Gateway."""
    service = references.of_gateway(gateway.name)
    return names.ServicePortName(service, listening.listener.name, listening.protocol)


def listenings(gateway: gateway_kind.Gateway) -> tuple[Listening, ...]:
    """The listeners of a Gateway, in order."""
    taken: dict[int, set[str]] = {}
    for each in gateway.listeners:
        taken.setdefault(each.port, set()).add(each.protocol)
    return tuple(_listening(each, taken[each.port]) for each in gateway.listeners)


def _listening(listener: gateway_kind.Listener, at_port: set[str]) -> Listening:
    supported = _SUPPORTED.get(listener.protocol)
    reason = Reason.ACCEPTED
    if supported is None:
        reason = Reason.UNSUPPORTED_PROTOCOL
    if "TCP" in at_port and listener.protocol in _OVER_TCP and len(at_port & _OVER_TCP) > 1:
        reason = Reason.PROTOCOL_CONFLICT
    kinds = (supported,) if supported is not None else ()
    if not listener.kinds:
        return Listening(listener, reason, kinds)
    return Listening(
        listener,
        reason,
        tuple(each for each in kinds if each in listener.kinds),
        tuple(each for each in listener.kinds if each not in kinds),
    )


def attach_in_steps(
    gateway: gateway_kind.Gateway,
    found: Iterable[routes.Route],
    labels_of: LabelsOf,
    *,
    has_verdicts: bool = False,
) -> Generator[None, None, Attached]:
    """Attach the routes in `found`, of which each refers to `gateway`.

    `has_verdicts` says whether the verdicts are of interest, and not the winners alone.
    """
    attached = Attached(counts=dict.fromkeys((each.name for each in gateway.listeners), 0))
    doors = _Doors(gateway, labels_of)
    for run in steps.runs(found, max(_RUN // len(gateway.listeners), 1)):
        for route in run:
            _attach(route, gateway, doors, attached, has_verdicts=has_verdicts)
        yield
    if has_verdicts:
        yield from _name_rivals(attached)
    return attached


_STRIDE = 16
"""References whose rivals are looked for between two pauses: each may have 64 places."""

_RUN = 512
"""Routes, times listeners, that are looked at between two pauses."""


class _Doors:
    """The listeners of a Gateway that take routes of a kind from a namespace, remembered."""

    def __init__(self, gateway: gateway_kind.Gateway, labels_of: LabelsOf) -> None:
        self.all = listenings(gateway)
        self._gateway = gateway
        self._labels_of = labels_of
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def open_to(self, route: routes.Route) -> frozenset[str]:
        """The names of the listeners that take such a route."""
        key = route.kind, route.name.namespace
        found = self._known.get(key)
        if found is None:
            taking = (each.listener.name for each in self.all if self._takes(each, route))
            found = self._known[key] = frozenset(taking)
        return found

    def meant_by(self, parent: routes.Parent) -> list[str]:
        """The names of the listeners that a reference means."""
        return [each.listener.name for each in self.all if _is_meant(parent, each.listener)]

    def _takes(self, listening: Listening, route: routes.Route) -> bool:
        if references.GroupKind(references.GROUP, route.kind) not in listening.kinds:
            return False
        match listening.listener.allowed_from:
            case gateway_kind.From.ALL:
                return True
            case gateway_kind.From.SAME:
                return route.name.namespace == self._gateway.name.namespace
            case gateway_kind.From.SELECTOR:
                labelled = self._labels_of(route.name.namespace)
                return labels.match(listening.listener.selector, labelled)


def _name_rivals(attached: Attached) -> Generator[None, None, None]:
    """Say in the verdicts which routes have precedence: that is known once all are attached."""
    for run in steps.runs(attached.places.items(), _STRIDE):
        for reference, places in run:
            winners = dict.fromkeys(attached.winners[each].name for each in places)
            winners.pop(reference[1], None)
            if winners:
                attached.verdicts[reference] = Verdict(Reason.ACCEPTED, tuple(winners))
        yield


def _attach(
    route: routes.Route,
    gateway: gateway_kind.Gateway,
    doors: _Doors,
    attached: Attached,
    *,
    has_verdicts: bool,
) -> None:
    at: set[str] = set()
    allowing = doors.open_to(route)
    for parent in route.parents:
        if parent.kind != references.GATEWAY or parent.name != gateway.name:
            continue
        meant = doors.meant_by(parent)
        taken = [each for each in meant if each in allowing]
        at.update(taken)
        if has_verdicts:
            reason = Reason.ACCEPTED
            if not meant:
                reason = Reason.NO_MATCHING_PARENT
            elif not taken:
                reason = Reason.NOT_ALLOWED_BY_LISTENERS
            reference = route.kind, route.name, parent
            attached.verdicts[reference] = Verdict(reason)
            attached.places[reference] = tuple(taken)
    for name in at:
        attached.counts[name] += 1
        rival = attached.winners.get(name)
        if rival is None or route.precedence < rival.precedence:
            attached.winners[name] = route


def _is_meant(parent: routes.Parent, listener: gateway_kind.Listener) -> bool:
    return parent.section in ("", listener.name) and parent.port in (0, listener.port)
