"""Gateways as the proxier serves them: each listener is like a port of a Service of its own.

Its frontends are at the addresses that the Gateway asks for, as external IPs are, or at those of
node ports if it asks for none. Its backends are the endpoints of the Services that the route
names, by the route's weights. It is known as `gateway/NAME:LISTENER`.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kproxy.gateway import attaching, resolving, shares
from kproxy.model import addresses, forwarding, names, steps
from kproxy.model.kinds import endpoints, services
from kproxy.model.kinds.gateway import (
    gateway_class_kind,
    gateway_kind,
    namespace_kind,
    reference_grant_kind,
    references,
    routes,
    tcp_route_kind,
    udp_route_kind,
)
from kproxy.portal import budget, portal
from kproxy.reconcile.planning import placing, rules, work
from kproxy.sources import store

_ROUTES = (tcp_route_kind.KIND, udp_route_kind.KIND)
_RUN = 64
"""Routes looked at between two pauses: each may refer to 32 Gateways."""

_STATES = forwarding.FrontendState
_KINDS = forwarding.FrontendKind


class Backend(NamedTuple):
    """A backend of a route, with all that its share depends on."""

    asked: routes.Backend
    resolved: resolving.Resolved
    service: services.Service | None
    sources: tuple[endpoints.EndpointsObject, ...]

    def endpoints(self) -> tuple[tuple[endpoints.Endpoint, ...], ...]:
        """The endpoints of the port, from each object that has some."""
        port = self.resolved.port
        if port is None:
            return ()
        return tuple(each.at(port.name, port.protocol) for each in self.sources)


class Served(NamedTuple):
    """A listener with what it serves. `route` is None if none is attached."""

    listening: attaching.Listening
    route: routes.Route | None
    backends: tuple[Backend, ...]


class Gateways:
    """Reads Gateways of one class from a Store. Satisfies `work.Planner`.

    Only Gateways in `namespaces` are served, or all when that is empty.
    """

    def __init__(
        self, read: store.Store, class_name: str, namespaces: frozenset[str] = frozenset()
    ) -> None:
        self._store = read
        self._namespaces = namespaces
        self._class = gateway_class_kind.KIND.key(class_name)

    def follow(self, on_change: Callable[[], None]) -> None:
        """See `work.Planner`."""
        for kind in (gateway_class_kind.KIND, reference_grant_kind.KIND, namespace_kind.KIND):
            self._store.watch(kind, on_change)

    def everything(self) -> Iterator[names.NamespacedName]:
        """See `work.Planner`."""
        return map(references.of_gateway, tuple(self._store.all(gateway_kind.KIND)))

    def concerned(
        self, changed: Iterable[names.NamespacedName]
    ) -> Generator[None, None, set[names.NamespacedName]]:
        """See `work.Planner`."""
        found: set[names.NamespacedName] = set()
        for service in changed:
            if not service.is_of_service or not self.has_routes(service):
                continue
            for run in steps.runs(self.routes_of(service), _RUN):
                found.update(
                    references.of_gateway(parent.name)
                    for route in run
                    for parent in route.parents
                    if parent.kind == references.GATEWAY
                )
                yield
        return found

    def has_routes(self, name: names.NamespacedName) -> bool:
        """Whether any route refers to a Gateway, by its name among Services, or to a Service."""
        return any(self._store.concerns(kind, name) for kind in _ROUTES)

    def routes_of(self, name: names.NamespacedName) -> Iterator[routes.Route]:
        """The routes that refer to a Gateway, by its name among Services, or to a Service.

        Others may run while they are looked at: one that is gone meanwhile is left out.
        """
        for kind in _ROUTES:
            yield from self._store.each_of_service(kind, name)

    def gateway(self, name: names.NamespacedName) -> gateway_kind.Gateway | None:
        """The Gateway of this name among Services, if it is of the class that is served."""
        own = name.name.removeprefix(names.GATEWAY_PREFIX)
        found = self._store.get(gateway_kind.KIND, names.NamespacedName(name.namespace, own))
        return found if found is not None and self.is_ours(found) else None

    def is_ours(self, gateway: gateway_kind.Gateway) -> bool:
        """Whether a Gateway is of the class, and in a namespace, that is served.

        The GatewayClass itself may be missing, as it often is among files.
        """
        if self._namespaces and gateway.name.namespace not in self._namespaces:
            return False
        if gateway.class_name != self._class.name:
            return False
        found = self.gateway_class()
        return found is None or (
            found.controller == references.CONTROLLER and not found.has_parameters
        )

    def served(self) -> Iterator[gateway_kind.Gateway]:
        """The Gateways of the class that is served, as they are now."""
        for each in tuple(self._store.all(gateway_kind.KIND).values()):
            if self.is_ours(each):
                yield each

    def gateway_class(self) -> gateway_class_kind.GatewayClass | None:
        """The GatewayClass that is served, if there is one."""
        return self._store.get(gateway_class_kind.KIND, self._class)

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """What listeners select namespaces by."""
        known = self._store.get(namespace_kind.KIND, namespace_kind.KIND.key(namespace))
        return namespace_kind.labels_of(namespace, known)

    def resolved_in_steps(
        self, route: routes.Route
    ) -> Generator[None, None, tuple[resolving.Resolved, ...]]:
        """What becomes of the backends of a route, as things are now."""
        made = []
        for asked in route.backends:
            is_service = asked.kind == references.SERVICE
            service = self._store.service(asked.name) if is_service else None
            is_permitted = yield from resolving.permission(
                route, asked, self._grants_in(asked.name.namespace)
            )
            made.append(resolving.resolve(route, asked, service, is_permitted=is_permitted))
        return tuple(made)

    def _backends_in_steps(self, route: routes.Route) -> Generator[None, None, tuple[Backend, ...]]:
        """The backends of a route with their endpoints, as they are now."""
        resolved = yield from self.resolved_in_steps(route)
        return tuple(map(self._backend, route.backends, resolved))

    def _backend(self, asked: routes.Backend, resolved: resolving.Resolved) -> Backend:
        is_service = asked.kind == references.SERVICE
        service = self._store.service(asked.name) if is_service else None
        sources = self._store.sources(asked.name) if resolved.port is not None else ()
        return Backend(asked, resolved, service, sources)

    def _grants_in(self, namespace: str) -> Iterator[reference_grant_kind.ReferenceGrant]:
        owner = reference_grant_kind.of_namespace(namespace)
        return self._store.each_of_service(reference_grant_kind.KIND, owner)

    def read(
        self, name: names.NamespacedName, options: rules.Options
    ) -> Generator[None, None, work.Work]:
        """See `work.Planner`."""
        gateway = self.gateway(name)
        if gateway is None:
            return work.Work("", (), _nothing())
        attached = yield from attaching.attach_in_steps(
            gateway, self.routes_of(name), self.labels_of
        )
        served = []
        for listening in attaching.listenings(gateway):
            is_accepted = listening.reason is attaching.Reason.ACCEPTED
            route = attached.winners.get(listening.listener.name) if is_accepted else None
            backends: tuple[Backend, ...] = ()
            if route is not None:
                backends = yield from self._backends_in_steps(route)
            served.append(Served(listening, route, backends))
            yield
        parts = [
            part
            for _, route, backends in served
            for part in (
                route,
                *(
                    part
                    for backend in backends
                    for part in (backend.resolved.reason, backend.service, *backend.sources)
                ),
            )
        ]
        objects = (gateway, *parts)
        return work.Work(gateway.created, objects, plans_for(gateway, served, options))


def _nothing() -> Generator[None, None, rules.Plans]:
    yield from ()
    return {}


def plans_for(
    gateway: gateway_kind.Gateway, served: Sequence[Served], options: rules.Options
) -> Generator[None, None, rules.Plans]:
    """The plan of each listener of a Gateway.

    The endpoints of one Gateway, and its frontends, are bounded as those of a Service are.
    """
    demands = [sum(map(len, backend.endpoints())) for each in served for backend in each.backends]
    counted: dict[int, int] = {}
    for demand in demands:
        counted[demand] = counted.get(demand, 0) + 1
    fair = budget.Shares(counted, options.bounds.endpoints)
    room = options.bounds.ports
    plans: rules.Plans = {}
    for each in served:
        listening = each.listening
        name = attaching.port_name(gateway, listening)
        frontends = tuple(frontends_of(gateway, listening, options.portal.node))
        why = why_unserved(gateway, listening) or (
            ""
            if listening.protocol in options.protocols & options.portal.protocols
            else f"{listening.protocol} is not served"
        )
        if why:
            plans[name] = _unserved(name, frontends, why)
            yield
            continue
        places = tuple(_places(frontends, room, options))
        room = max(room - len(places), 0)
        most = [fair.next(sum(map(len, backend.endpoints()))) for backend in each.backends]
        plans[name] = yield from _plan(name, each, places, most, options)
        yield
    return plans


def frontends_of(
    gateway: gateway_kind.Gateway, listening: attaching.Listening, node: portal.Node
) -> Iterator[forwarding.Frontend]:
    """Where a listener is: at the addresses that the Gateway asks for, or at the node's."""
    port, scope, protocol = (
        listening.listener.port,
        forwarding.Scope.CLUSTER,
        listening.protocol,
    )
    asked = [each.value for each in gateway.addresses if each.value]
    for address in dict.fromkeys(asked):
        if addresses.parse(address) is None:
            continue
        yield forwarding.Frontend(
            _KINDS.EXTERNAL_IP, address, port, scope, protocol, addresses.family(address)
        )
    if not asked:
        for address in node.addresses or ("",):
            family = addresses.family(address)
            yield forwarding.Frontend(_KINDS.NODE_PORT, address, port, scope, protocol, family)


def why_unserved(gateway: gateway_kind.Gateway, listening: attaching.Listening) -> str:
    """Why a listener is not served, in a clause; "" if it is."""
    for each in gateway.addresses:
        if each.type != gateway_kind.IP_ADDRESS:
            return f"the Gateway asks for an address of type {each.type}: only IPAddress is served"
    if gateway.has_parameters:
        return "the Gateway has infrastructure.parametersRef, which is not supported"
    match listening.reason:
        case attaching.Reason.UNSUPPORTED_PROTOCOL:
            return f"protocol {listening.listener.protocol} is not served: only TCP and UDP are"
        case attaching.Reason.PROTOCOL_CONFLICT:
            return f"another listener is at port {listening.listener.port} over TCP too"
    return ""


def _places(
    frontends: Sequence[forwarding.Frontend], room: int, options: rules.Options
) -> Iterator[placing.Place]:
    for count, frontend in enumerate(frontends):
        if count < room:
            yield placing.located(frontend, options.portal)
            continue
        yield placing.Place(
            frontend,
            None,
            _STATES.OVER_BUDGET,
            f"the Gateway wants more than {options.bounds.ports} ports and addresses; "
            "raise --max-ports-per-service",
        )


def _plan(
    name: names.ServicePortName,
    served: Served,
    places: tuple[placing.Place, ...],
    most: Sequence[int],
    options: rules.Options,
) -> Generator[None, None, rules.PortPlan]:
    own = placing.own_addresses(places)
    found: list[tuple[endpoints.Endpoint, ...]] = []
    chosen: list[endpoints.Chosen] = []
    for backend in served.backends:
        merged = yield from endpoints.merged_in_steps(backend.endpoints() or ((),))
        found.append(merged)
        yield
        chosen.append(
            (yield from endpoints.chosen_in_steps(merged, options.node, own, options.zone))
        )
    families = dict.fromkeys(place.frontend.family for place in places)
    pools = []
    absent = []
    unused = 0
    for family in families:
        wanted = []
        for backend, usable, limit in zip(served.backends, chosen, most, strict=True):
            of_family = usable.families[family].cluster
            unused += max(len(of_family) - limit, 0)
            wanted.append(shares.Share(backend.asked.weight, of_family[:limit]))
        pool = yield from shares.pool_in_steps(family, wanted)
        if pool is not None:
            pools.append(pool)
        else:
            side = forwarding.Scope.CLUSTER, family
            absent.append((side, _why_absent(served, chosen, family)))
    rule = forwarding.Rule(
        name,
        tuple(place.frontend for place in places),
        forwarding.Policy(options.default_strategy),
        tuple(pools),
    )
    weights: dict[addresses.SocketAddress, int] = {}
    for pool in pools:
        for run in steps.runs(zip(pool.backends, pool.weights, strict=bool(pool.weights))):
            weights.update((backend, weight) for backend, weight in run if weight != 1)
            yield
    everything = yield from endpoints.merged_in_steps(found or ((),))
    return rules.PortPlan(
        rule,
        places,
        found=everything,
        loops=frozenset().union(*(each.loops for each in chosen)),
        absent=tuple(absent),
        unused=unused,
        weights=weights,
    )


def _why_absent(
    served: Served, chosen: Iterable[endpoints.Chosen], family: addresses.Family
) -> str:
    """Why a listener has no endpoint of a family, in a clause."""
    kind = served.listening.protocol
    if served.route is None:
        return f"no {kind}Route is attached to this listener"
    route = f"{served.route.kind} {served.route.name}"
    if not any(backend.asked.weight for backend in served.backends):
        return f"every backend of {route} has weight 0"
    reasons = []
    for backend, usable in zip(served.backends, chosen, strict=True):
        if not backend.asked.weight:
            continue
        if backend.resolved.why:
            reasons.append(backend.resolved.why)
        elif not usable.families[family].cluster:
            reasons.append(
                f"Service {backend.asked.name} has no {family} endpoint that is ready "
                f"at port {backend.asked.port}"
            )
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{route}: {reasons[0]}{others}" if reasons else f"{route} has no endpoint"


def _unserved(
    name: names.ServicePortName, frontends: Sequence[forwarding.Frontend], why: str
) -> rules.PortPlan:
    """The plan of a listener that is not served."""
    shown = tuple(frontends) or (forwarding.Frontend(_KINDS.NODE_PORT, "", 0),)
    rule = forwarding.Rule(name, shown, forwarding.Policy())
    places = tuple(placing.Place(each, None, _STATES.NOT_SERVED, why) for each in shown)
    return rules.PortPlan(rule, places, is_served=False)
