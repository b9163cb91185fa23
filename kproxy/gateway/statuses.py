"""What the API is told of Gateways and routes: conditions, by the rules and words of its spec.

Pure: of the objects, of what attaches and resolves, and of where the proxier has opened listeners.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kproxy.gateway import attaching, planner, resolving
from kproxy.model import forwarding, names
from kproxy.model.kinds.gateway import gateway_class_kind, gateway_kind, references, routes
from kproxy.reconcile import statuses

ACCEPTED, PROGRAMMED, RESOLVED_REFS = "Accepted", "Programmed", "ResolvedRefs"
CONFLICTED = "Conflicted"

MOST_ADDRESSES = 16
"""Of a Gateway's status: the CustomResourceDefinition's bound."""

_PENDING = "Pending"

_STATES = forwarding.FrontendState
_SERVED = frozenset({_STATES.BOUND, _STATES.NO_ENDPOINTS, _STATES.DROPPED})
_LONGEST_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of an object, a listener or a route at a Gateway."""

    type: str
    is_true: bool
    reason: str
    message: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether it says that something is wrong, and not only that it is not so yet."""
        return self.is_true is (self.type == CONFLICTED) and self.reason != _PENDING


Conditions = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """A listener of a Gateway: the kinds of routes that it takes, and how many are attached."""

    name: str
    kinds: tuple[references.GroupKind, ...]
    attached: int
    conditions: Conditions

    def problems(self) -> Iterator[str]:
        """What is wrong with it, a sentence each."""
        return sentences(self.conditions)


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """The status of the GatewayClass."""

    name: names.NamespacedName
    generation: int
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The status of a Gateway. `addresses` are those at which this proxy serves it."""

    name: names.NamespacedName
    generation: int
    addresses: tuple[str, ...]
    conditions: Conditions
    listeners: tuple[ListenerStatus, ...]


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """The status of a route, for each of its references to a Gateway that this proxy serves."""

    kind: str
    name: names.NamespacedName
    generation: int
    parents: tuple[tuple[routes.Parent, Conditions], ...]


Status = ClassStatus | GatewayStatus | RouteStatus


def problems(status: Status) -> Iterator[str]:
    """What is wrong by a status, a sentence each, without the name of the object."""
    where: list[tuple[str, Conditions]] = []
    match status:
        case ClassStatus():
            where = [("", status.conditions)]
        case GatewayStatus():
            where = [("", status.conditions)]
            where += [(f"listener {each.name}: ", each.conditions) for each in status.listeners]
        case RouteStatus():
            where = [(f"at Gateway {parent.name}: ", each) for parent, each in status.parents]
    for place, conditions in where:
        for each in sentences(conditions):
            yield f"{place}{each}"


def sentences(conditions: Conditions) -> Iterator[str]:
    """What is wrong by these conditions."""
    for each in conditions:
        if each.is_problem:
            said = f": {each.message}" if each.message else ""
            yield f"{'' if each.is_true else 'not '}{each.type} ({each.reason}){said}"


FrontendsOf = Callable[[names.ServicePortName], Sequence[statuses.FrontendStatus]]


def of_class(found: gateway_class_kind.GatewayClass) -> ClassStatus:
    """The status of a GatewayClass whose controller is kproxy's."""
    if found.has_parameters:
        message = "spec.parametersRef is not supported: leave it out"
        accepted = _no(ACCEPTED, "InvalidParameters", message)
    else:
        accepted = _yes(ACCEPTED, "Accepted")
    return ClassStatus(found.name, found.generation, (accepted,))


def of_gateway(
    gateway: gateway_kind.Gateway, attached: attaching.Attached, frontends_of: FrontendsOf
) -> GatewayStatus:
    """The status of a Gateway of the class that is served."""
    listeners = []
    frontends: list[statuses.FrontendStatus] = []
    for listening in attaching.listenings(gateway):
        found = frontends_of(attaching.port_name(gateway, listening))
        frontends += found
        listeners.append(_listener(gateway, listening, attached, found))
    refusal = _refusal(gateway)
    return GatewayStatus(
        gateway.name,
        gateway.generation,
        () if refusal else tuple(_addresses(frontends)),
        tuple(_gateway_conditions(gateway, refusal, listeners, frontends)),
        tuple(listeners),
    )


def of_route(
    route: routes.Route,
    verdicts: Mapping[routes.Parent, attaching.Verdict],
    resolved: Iterable[resolving.Resolved],
) -> RouteStatus:
    """The status of a route. `verdicts` has its references to Gateways that are served."""
    refs = _resolved_refs(resolved)
    parents = [
        (parent, (_accepted_route(parent, verdicts[parent]), refs))
        for parent in route.parents
        if parent in verdicts
    ]
    return RouteStatus(route.kind, route.name, route.generation, tuple(parents))


def _yes(kind: str, reason: str) -> Condition:
    return Condition(kind, is_true=True, reason=reason)


def _no(kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, is_true=False, reason=reason, message=message[:_LONGEST_MESSAGE])


def _accepted_route(parent: routes.Parent, verdict: attaching.Verdict) -> Condition:
    message, reason = "", verdict.reason
    if reason is attaching.Reason.NO_MATCHING_PARENT:
        port = f" at port {parent.port}" if parent.port else ""
        called = f" called {parent.section}" if parent.section else ""
        message = f"Gateway {parent.name} has no listener{called}{port}"
    elif reason is attaching.Reason.NOT_ALLOWED_BY_LISTENERS:
        message = (
            f"no listener of Gateway {parent.name} that is meant takes such a route: its protocol "
            "or its allowedRoutes exclude it"
        )
    elif verdict.rivals:
        older = ", ".join(dict.fromkeys(map(str, verdict.rivals)))
        message = f"a listener sends its connections by a route that has precedence: {older}"
    is_accepted = reason is attaching.Reason.ACCEPTED
    return Condition(ACCEPTED, is_accepted, reason.value, message[:_LONGEST_MESSAGE])


def _resolved_refs(resolved: Iterable[resolving.Resolved]) -> Condition:
    broken = [each for each in resolved if each.port is None]
    if not broken:
        return _yes(RESOLVED_REFS, resolving.Reason.RESOLVED.value)
    message = "; ".join(each.why for each in broken)
    return _no(RESOLVED_REFS, broken[0].reason.value, message)


def _listener(
    gateway: gateway_kind.Gateway,
    listening: attaching.Listening,
    attached: attaching.Attached,
    found: Sequence[statuses.FrontendStatus],
) -> ListenerStatus:
    name = listening.listener.name
    return ListenerStatus(
        name,
        listening.kinds,
        attached.counts.get(name, 0),
        tuple(_listener_conditions(gateway, listening, found)),
    )


def _listener_conditions(
    gateway: gateway_kind.Gateway,
    listening: attaching.Listening,
    found: Sequence[statuses.FrontendStatus],
) -> Iterator[Condition]:
    why = planner.why_unserved(gateway, listening)
    conflicted = listening.reason is attaching.Reason.PROTOCOL_CONFLICT
    taken = [each for each in found if each.state is _STATES.COLLISION]
    if listening.reason is not attaching.Reason.ACCEPTED:
        yield _no(ACCEPTED, listening.reason.value, why)
    elif taken and len(taken) == len(found):
        yield _no(ACCEPTED, "PortUnavailable", _details(taken))
    else:
        yield _yes(ACCEPTED, "Accepted")
    if conflicted:
        yield Condition(CONFLICTED, is_true=True, reason=listening.reason.value, message=why)
    else:
        yield _no(CONFLICTED, "NoConflicts", "")
    if listening.invalid_kinds:
        listed = ", ".join(map(str, listening.invalid_kinds))
        message = f"a listener of {listening.listener.protocol} takes no {listed}"
        yield _no(RESOLVED_REFS, "InvalidRouteKinds", message)
    else:
        yield _yes(RESOLVED_REFS, "ResolvedRefs")
    failed = [each for each in found if each.state not in _SERVED]
    if why:
        yield _no(PROGRAMMED, "Invalid", why)
    elif failed or not found:
        reason = "Invalid" if taken else _PENDING
        yield _no(PROGRAMMED, reason, _details(failed) or "not opened yet")
    else:
        yield _yes(PROGRAMMED, "Programmed")


def _refusal(gateway: gateway_kind.Gateway) -> Condition | None:
    """Why a Gateway is not accepted at all."""
    others = [each.type for each in gateway.addresses if each.type != gateway_kind.IP_ADDRESS]
    if others:
        message = f"addresses of type {', '.join(others)} are not served: only IPAddress is"
        return _no(ACCEPTED, "UnsupportedAddress", message)
    if gateway.has_parameters:
        message = "spec.infrastructure.parametersRef is not supported: leave it out"
        return _no(ACCEPTED, "InvalidParameters", message)
    return None


def _gateway_conditions(
    gateway: gateway_kind.Gateway,
    refusal: Condition | None,
    listeners: Sequence[ListenerStatus],
    frontends: Sequence[statuses.FrontendStatus],
) -> Iterator[Condition]:
    bad = [each.name for each in listeners if not _is(each, ACCEPTED)]
    invalid = f"listeners that are not served: {', '.join(bad)}"[:_LONGEST_MESSAGE] if bad else ""
    if refusal is not None:
        yield refusal
    elif bad:
        yield Condition(ACCEPTED, len(bad) < len(listeners), "ListenersNotValid", invalid)
    else:
        yield _yes(ACCEPTED, "Accepted")
    refused = [each for each in frontends if each.state is _STATES.REFUSED]
    short = [each for each in frontends if each.state is _STATES.OVER_BUDGET]
    if refusal is not None or len(bad) == len(listeners):
        yield _no(PROGRAMMED, "Invalid", refusal.message if refusal else invalid)
    elif refused:
        yield _no(PROGRAMMED, "AddressNotUsable", _details(refused))
    elif short:
        yield _no(PROGRAMMED, "NoResources", _details(short))
    elif not any(_is(each, PROGRAMMED) for each in listeners):
        reason = "AddressNotUsable" if gateway.addresses else "AddressNotAssigned"
        failed = [each for each in frontends if each.state not in _SERVED]
        message = _details(failed) or "no listener is open yet"
        yield _no(PROGRAMMED, reason if failed else _PENDING, message)
    else:
        yield _yes(PROGRAMMED, "Programmed")


def _is(listener: ListenerStatus, wanted: str) -> bool:
    return any(each.type == wanted and each.is_true for each in listener.conditions)


def _addresses(frontends: Iterable[statuses.FrontendStatus]) -> Iterator[str]:
    """Where the listeners are, each address once."""
    seen: set[str] = set()
    for each in frontends:
        if each.bound is None or each.state not in _SERVED or each.bound.address in seen:
            continue
        seen.add(each.bound.address)
        yield each.bound.address
        if len(seen) == MOST_ADDRESSES:
            return


def _details(found: Iterable[statuses.FrontendStatus]) -> str:
    said = dict.fromkeys(each.detail or each.state.value for each in found)
    return "; ".join(said)
