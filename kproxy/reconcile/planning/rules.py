"""What one Service wants of the data plane: a pure function of its objects, computed in steps.

Work is linear in the size of the objects: endpoints are joined with ports by one pass over all
slices, and chosen by one pass over each port's endpoints. A pause comes after some 100 us.

The frontends and endpoints of a Service are bounded (`Bounds`); frontends beyond the bound are
listed with their state, not dropped. So are ports that this proxy does not serve (SCTP, headless
Services, ExternalNames, another proxy's Services).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from kproxy import errors
from kproxy.model import addresses, forwarding, lifetimes, names, steps
from kproxy.model.judging import load_balancer_rules
from kproxy.model.kinds import endpoints, pod_kind, service_kind, services
from kproxy.portal import budget, portal
from kproxy.reconcile.planning import absence, health_checks, source_ranges, weighing

DEFAULT_MAX_PORTS = 4096
DEFAULT_MAX_ENDPOINTS = 100_000

_STRIDE = 256
"""Endpoint ports joined between two pauses."""


class ObjectReader(Protocol):
    """What the proxier reads: the latest accepted objects. A cluster Store satisfies it."""

    def service(self, name: names.NamespacedName, /) -> services.Service | None:
        """The Service so named, if there is one."""

    def sources(self, name: names.NamespacedName, /) -> tuple[endpoints.EndpointsObject, ...]:
        """The objects that say where the Service's endpoints are."""

    def pods(self, name: names.NamespacedName, /) -> tuple[pod_kind.Pod, ...]:
        """The pods of the Service's endpoints, if it weighs them by a label; else ()."""

    def service_names(self) -> frozenset[names.NamespacedName]:
        """All Services, headless ones and those of other proxies included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one Service."""

    ports: int = DEFAULT_MAX_PORTS
    """Frontends, over all ports and addresses. ClusterIPs come first."""
    endpoints: int = DEFAULT_MAX_ENDPOINTS
    """Endpoints that get connections, counted once for each port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for all Services.

    `node` is this node's name, for the Local policies and hints, `zone` its zone, for hints.
    `protocols` are those that the data plane serves.
    """

    portal: portal.Portal
    protocols: frozenset[names.Protocol] = frozenset(names.Protocol)
    node: str = ""
    zone: str = ""
    default_strategy: services.Strategy = services.Strategy.ROUND_ROBIN
    bounds: Bounds = Bounds()


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a frontend is to be bound. Without an address, `state` and `detail` say why.

    `admitted` says which clients it takes. If it takes none although there are endpoints for them,
    `state` is DROPPED and `detail` says why.
    """

    frontend: forwarding.Frontend
    address: forwarding.PortalAddress | None
    state: forwarding.FrontendState | None = None
    detail: str = ""
    admitted: forwarding.Admission = None


Side: TypeAlias = tuple[forwarding.Scope, addresses.Family]


class PortPlan(msgspec.Struct, frozen=True, gc=False):
    """The frontends and pools that one service port requires.

    `is_served` is false for a port that this proxy does not serve; it has no backends then.
    `found` are the endpoints of the port, of any readiness. `absent` says why there is no backend,
    by scope and family. `unused` counts the endpoints that are ready and left out because of
    `Bounds`.
    """

    rule: forwarding.Rule
    places: tuple[Place, ...]
    is_served: bool = True
    found: tuple[endpoints.Endpoint, ...] = ()
    loops: frozenset[addresses.SocketAddress] = frozenset()
    absent: tuple[tuple[Side, str], ...] = ()
    unused: int = 0
    local_endpoints: tuple[tuple[addresses.Family, int], ...] | None = None
    """Addresses of ready endpoints on this node, over all ports of the Service, by family; None
    unless this port has the Service's health check."""
    weights: Mapping[addresses.SocketAddress, int] = msgspec.field(default_factory=dict)
    """The weights of endpoints that are not 1."""

    def why_absent(self, frontend: forwarding.Frontend) -> str:
        """Why no endpoint can be used for `frontend`."""
        return dict(self.absent).get((frontend.scope, frontend.family), "")


Plans: TypeAlias = dict[names.ServicePortName, PortPlan]
Joined: TypeAlias = dict[tuple[str, names.Protocol], list[tuple[endpoints.Endpoint, ...]]]


def plans_for(
    service: services.Service | None,
    sources: Sequence[endpoints.EndpointsObject],
    options: Options,
    pods: Sequence[pod_kind.Pod] = (),
) -> Generator[None, None, Plans]:
    """The plan of each service port of `service`; empty when there is no such Service.

    `pods` are those of its endpoints, if it weighs them by a label.
    """
    if service is None:
        return {}
    plans: Plans = {}
    served: list[services.ServicePort] = []
    reason = _why_unserved(service)
    ports = service.ports
    protocols = sorted(options.protocols & options.portal.protocols)
    if reason and not ports:  # a row that stands for the Service
        ports = (services.ServicePort("", names.Protocol.TCP, 0),)
    for count, port in enumerate(ports, 1):
        if not reason and port.protocol in protocols:
            served.append(port)
        elif len(plans) < options.bounds.ports:
            why = reason or f"{port.protocol} is not served: only {' and '.join(protocols)} are"
            plan = _unserved(service, port, why)
            plans[plan.rule.name] = plan
        if count % _STRIDE == 0:
            yield
    if reason:
        return plans
    joined = yield from _join(sources)
    labels = weighing.label_values(pods, service.weights)
    policy = forwarding.Policy(
        service.strategy or options.default_strategy,
        service.affinity_seconds,
        service.lifetime,
        service.proxy_protocol,
    )
    demands = []
    counted: dict[int, int] = {}
    for count, port in enumerate(served, 1):
        demand = sum(map(len, joined.get((port.name, port.protocol), ())))
        demands.append(demand)
        counted[demand] = counted.get(demand, 0) + 1
        if count % _STRIDE == 0:
            yield
    shares = budget.Shares(counted, options.bounds.endpoints)
    rooms = _rooms(service, served, options)
    has_health_check = bool(service.health_check_node_port)
    counting = health_checks.Counting(options.node) if has_health_check else None
    for port, demand, room in zip(served, demands, rooms, strict=True):
        share = shares.next(demand)
        name = names.ServicePortName(service.name, port.name, port.protocol)
        frontends, places = _places(service, port, room, options)
        groups = joined.pop((port.name, port.protocol), ())
        found = yield from endpoints.merged_in_steps(groups or ((),))
        if counting is not None:
            yield from counting.add_in_steps(found)
        chosen = yield from endpoints.chosen_in_steps(
            found,
            options.node,
            own_addresses(places),
            options.zone,
        )
        weight_of = yield from weighing.weigh_in_steps(found, service.weights, labels)
        pools = tuple(weighing.pools(chosen, share, weight_of))
        spared = yield from _spared(found, pools, policy.lifetime.on_removed)
        rule = forwarding.Rule(name, frontends, policy, pools, spared)
        plans[name] = PortPlan(
            rule,
            tuple(_with_admission(service, rule, place, options) for place in places),
            found=found,
            loops=chosen.loops,
            absent=tuple(_absences(rule, found, sources, chosen, options.node)),
            unused=_unused(chosen, share) if share < len(found) else 0,
            weights=weight_of,
        )
        yield
    if served and counting is not None:
        first = names.ServicePortName(service.name, served[0].name, served[0].protocol)
        plans[first] = _with_health_check(service, plans[first], counting, options)
    return plans


def _with_health_check(
    service: services.Service, plan: PortPlan, counting: health_checks.Counting, options: Options
) -> PortPlan:
    """The plan of the Service's first port, with the places where its health is asked."""
    more = tuple(health_checks.frontends(service, _node_addresses(service, options.portal.node)))
    rule = replace(plan.rule, frontends=(*plan.rule.frontends, *more))
    places = tuple(located(each, options.portal) for each in more)
    return replace(
        plan,
        rule=rule,
        places=(*plan.places, *places),
        local_endpoints=counting.counts(),
    )


def _spared(
    found: Sequence[endpoints.Endpoint],
    pools: Sequence[forwarding.Pool],
    on_removed: lifetimes.OnEndpointRemoved,
) -> Generator[None, None, tuple[addresses.SocketAddress, ...]]:
    """Endpoints that are in no pool and whose open connections still go on.

    One that is not ready may be ready again in a moment. One that is terminating will not: its
    connections are to be drained while it still serves them, and reset only once it is gone.
    """
    if on_removed is lifetimes.OnEndpointRemoved.KEEP:
        return ()
    is_draining = on_removed is lifetimes.OnEndpointRemoved.DRAIN
    used: set[addresses.SocketAddress] = set()
    for pool in pools:
        used.update(pool.backends)
        yield
    spared: list[addresses.SocketAddress] = []
    for run in steps.runs(found):
        spared += (
            each.backend
            for each in run
            if each.backend not in used and not (is_draining and each.terminating)
        )
        yield
    return tuple(spared)


def _with_admission(
    service: services.Service, rule: forwarding.Rule, place: Place, options: Options
) -> Place:
    """`place` with the clients that it admits. It drops all if a filter cannot hold them."""
    fate = rule.fate(place.frontend)
    if place.address is None or fate is forwarding.FrontendState.NO_ENDPOINTS:
        return place
    admitted = source_ranges.admission(service, place.frontend, fate, options.portal.node)
    if admitted is None:
        return place
    most = load_balancer_rules.MOST_SOURCE_RANGES
    if len(admitted) <= most:
        return replace(place, admitted=admitted)
    return replace(
        place,
        state=forwarding.FrontendState.DROPPED,
        detail=f"connections are dropped: {len(admitted)} networks are admitted, a filter holds "
        f"{most} at most; merge some of spec.loadBalancerSourceRanges",
        admitted=(),
    )


def _join(sources: Sequence[endpoints.EndpointsObject]) -> Generator[None, None, Joined]:
    """The endpoints by port name and protocol, never by number (docs/behaviour.md row 4)."""
    joined: Joined = {}
    count = 0
    for source in sources:
        for port in source.ports:
            joined.setdefault((port.name, port.protocol), []).append(port.endpoints)
            count += 1
            if count % _STRIDE == 0:
                yield
    return joined


def _rooms(
    service: services.Service, ports: Sequence[services.ServicePort], options: Options
) -> Iterator[int]:
    """How many frontends each port may have. All ports get a ClusterIP before any gets more."""
    most = options.bounds.ports
    extra = most - len(ports)
    for index, port in enumerate(ports):
        more = min(_wanted(service, port, options.portal.node) - 1, max(extra, 0))
        extra -= more
        yield 1 + more if index < most else 0


def _places(
    service: services.Service, port: services.ServicePort, room: int, options: Options
) -> tuple[tuple[forwarding.Frontend, ...], tuple[Place, ...]]:
    """The frontends of one port, and where each is. One more than `room` stands for all others."""
    frontends: list[forwarding.Frontend] = []
    places: list[Place] = []
    for frontend in _frontends(service, port, options.portal.node):
        frontends.append(frontend)
        if len(places) == room:
            beyond = _wanted(service, port, options.portal.node) - room
            places.append(_beyond(frontend, beyond, options.bounds.ports))
            break
        is_other = bool(places) and frontend.kind is forwarding.FrontendKind.CLUSTER_IP
        if is_other and frontend.family not in options.portal.families:
            places.append(_of_unserved_family(frontend, service))
        else:
            places.append(located(frontend, options.portal))
    return tuple(frontends), tuple(places)


def _wanted(service: services.Service, port: services.ServicePort, node: portal.Node) -> int:
    """The number of frontends that `_frontends` gives for a port."""
    others = len(service.external_ips) + len(service.load_balancer_ips)
    at_node = len(_node_addresses(service, node)) if port.node_port else 0
    return len(service.cluster_ips) + at_node + others


def _node_addresses(
    service: services.Service, node: portal.Node
) -> tuple[tuple[addresses.Family, str], ...]:
    """The node addresses for a Service's node ports, in the Service's families."""
    families = dict.fromkeys(map(addresses.family, service.cluster_ips))
    return tuple(
        (family, address)
        for family in families
        for address in [each for each in node.addresses if addresses.family(each) is family] or [""]
    )


def _of_unserved_family(frontend: forwarding.Frontend, service: services.Service) -> Place:
    """The other cluster IP of a dual-stack Service, when the portal serves one family only."""
    return Place(
        frontend,
        None,
        forwarding.FrontendState.NOT_SERVED,
        f"this portal serves no {frontend.family} addresses: clients use {service.cluster_ip}",
    )


def _beyond(frontend: forwarding.Frontend, count: int, limit: int) -> Place:
    others = f"this and {count - 1} more addresses of the port are" if count > 1 else "it is"
    return Place(
        frontend,
        None,
        forwarding.FrontendState.OVER_BUDGET,
        f"{others} not served: the Service wants more than {limit} ports and addresses; "
        "raise --max-ports-per-service",
    )


def located(frontend: forwarding.Frontend, through: portal.Portal) -> Place:
    """Where a portal binds a frontend, or why it does not."""
    at = frontend
    if frontend.kind is forwarding.FrontendKind.HEALTH_CHECK:
        at = replace(frontend, kind=forwarding.FrontendKind.NODE_PORT)
    try:
        return Place(frontend, through.locate(at))
    except errors.PortalRefusedError as error:
        return Place(frontend, None, forwarding.FrontendState.REFUSED, str(error))
    except errors.PortalUnavailableError as error:
        return Place(frontend, None, forwarding.FrontendState.UNAVAILABLE, str(error))


def own_addresses(places: Sequence[Place]) -> frozenset[addresses.SocketAddress]:
    """The service port's own frontends: an endpoint there would be dialled for ever (D14)."""
    own = set()
    for place in places:
        virtual, bound = place.frontend, place.address
        own.add(addresses.SocketAddress(virtual.address, virtual.port))
        if bound is not None and (bound.address, bound.port) not in own:
            own.add(bound.socket_address)
    return frozenset(own)


def _unused(chosen: endpoints.Chosen, share: int) -> int:
    return sum(max(len(each.cluster) - share, 0) for each in chosen.families.values())


def _absences(
    rule: forwarding.Rule,
    found: Sequence[endpoints.Endpoint],
    sources: Sequence[endpoints.EndpointsObject],
    chosen: endpoints.Chosen,
    node: str,
) -> Iterator[tuple[Side, str]]:
    for frontend in {(each.scope, each.family): each for each in rule.frontends}.values():
        fate = rule.fate(frontend)
        if fate is not forwarding.FrontendState.BOUND:
            is_dropped = fate is forwarding.FrontendState.DROPPED
            usable = chosen.families[frontend.family]
            why = absence.reason(
                rule.name,
                found,
                sources,
                chosen,
                frontend.family,
                node if is_dropped else None,
                are_of_weight_0=bool(usable.local if is_dropped else usable.cluster),
            )
            yield (frontend.scope, frontend.family), why


def _frontends(
    service: services.Service, port: services.ServicePort, node: portal.Node
) -> Iterator[forwarding.Frontend]:
    """The virtual addresses of one port, in the order they are shown."""
    kinds = forwarding.FrontendKind
    internal = _scope(service.internal_policy)
    external = _scope(service.external_policy)
    protocol = port.protocol

    def at(kind: forwarding.FrontendKind, address: str) -> forwarding.Frontend:
        scope = internal if kind is kinds.CLUSTER_IP else external
        family = addresses.family(address)
        return forwarding.Frontend(kind, address, port.port, scope, protocol, family)

    for address in service.cluster_ips:
        yield at(kinds.CLUSTER_IP, address)
    if port.node_port:
        for family, address in _node_addresses(service, node):
            yield forwarding.Frontend(
                kinds.NODE_PORT, address, port.node_port, external, protocol, family
            )
    for address in service.external_ips:
        yield at(kinds.EXTERNAL_IP, address)
    for address in service.load_balancer_ips:
        yield at(kinds.LOAD_BALANCER, address)


def _scope(policy: services.TrafficPolicy) -> forwarding.Scope:
    if policy is services.TrafficPolicy.LOCAL:
        return forwarding.Scope.LOCAL
    return forwarding.Scope.CLUSTER


def _unserved(service: services.Service, port: services.ServicePort, reason: str) -> PortPlan:
    """The plan of a port that is not for this proxy."""
    name = names.ServicePortName(service.name, port.name, port.protocol)
    kind = forwarding.FrontendKind.CLUSTER_IP
    frontend = forwarding.Frontend(
        kind,
        service.cluster_ip,
        port.port,
        protocol=port.protocol,
        family=addresses.family(service.cluster_ip),
    )
    rule = forwarding.Rule(name, (frontend,), forwarding.Policy())
    place = Place(frontend, None, forwarding.FrontendState.NOT_SERVED, reason)
    return PortPlan(rule, (place,), is_served=False)


def _why_unserved(service: services.Service) -> str:
    """Why no port of `service` is for this proxy; "" if some may be."""
    if service.type is services.ServiceType.EXTERNAL_NAME:
        return "an ExternalName is a DNS name only: no address is served"
    if service.proxied_elsewhere:
        return (
            f"it belongs to another service proxy (label {service_kind.LABEL_SERVICE_PROXY_NAME})"
        )
    if not service.cluster_ip:
        return "headless: it has no ClusterIP, and clients connect to its endpoints themselves"
    return ""
