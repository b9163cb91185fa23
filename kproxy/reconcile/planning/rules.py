"""What one Service wants of the data plane: a pure function of its objects, computed in steps.

Work is linear in the size of the objects: endpoints are joined with ports by one pass over all
slices, and chosen by one pass over each port's endpoints. A pause comes after some 100 us.

The frontends and endpoints of a Service are bounded (`Bounds`); frontends beyond the bound are
listed with their state, not dropped. So are ports that this proxy does not serve (SCTP, headless
Services, ExternalNames, another proxy's Services).
"""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from kproxy.model import addresses, forwarding, lifetimes, names, steps
from kproxy.model.judging import load_balancer_rules
from kproxy.model.kinds import endpoints, pod_kind, service_kind, services
from kproxy.portal import budget, portal
from kproxy.reconcile.planning import absence, health_checks, placing, source_ranges, weighing

DEFAULT_MAX_PORTS = 4096
DEFAULT_MAX_ENDPOINTS = 100_000

_PORTS = 4
"""Ports planned between two pauses, where they have few endpoints: some 50 us."""

_CLUSTER_SCOPE = (forwarding.Scope.CLUSTER,)
_BOTH_SCOPES = (forwarding.Scope.CLUSTER, forwarding.Scope.LOCAL)

_NO_GROUPS: Sequence[tuple[endpoints.Endpoint, ...]] = ((),)
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


Side: TypeAlias = tuple[forwarding.Scope, addresses.Family]


class PortPlan(msgspec.Struct, frozen=True, gc=False):
    """The frontends and pools that one service port requires.

    `is_served` is false for a port that this proxy does not serve; it has no backends then.
    `found` are the endpoints of the port, of any readiness. `absent` says why there is no backend,
    by scope and family. `unused` counts the endpoints that are ready and left out because of
    `Bounds`.
    """

    rule: forwarding.Rule
    places: tuple[placing.Place, ...]
    is_served: bool = True
    found: tuple[endpoints.Endpoint, ...] = ()
    loops: frozenset[addresses.SocketAddress] = frozenset()
    absent: tuple[tuple[Side, str], ...] = ()
    unused: int = 0
    local_endpoints: tuple[tuple[addresses.Family, int], ...] | None = None
    """Addresses of ready endpoints on this node, over all ports of the Service, by family; None
    unless this port has the Service's health check."""
    weights: Mapping[addresses.SocketAddress, int] = weighing.ALL_ALIKE
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
    protocols = options.protocols & options.portal.protocols
    if reason and not ports:  # a row that stands for the Service
        ports = (services.ServicePort("", names.Protocol.TCP, 0),)
    for count, port in enumerate(ports, 1):
        if not reason and port.protocol in protocols:
            served.append(port)
        elif len(plans) < options.bounds.ports:
            only = " and ".join(sorted(protocols))
            why = reason or f"{port.protocol} is not served: only {only} are"
            plan = _unserved(service, port, why)
            plans[plan.rule.name] = plan
        if count % _STRIDE == 0:
            yield
    if reason:
        return plans
    joined = yield from _join(sources)
    policy = forwarding.Policy(
        service.strategy or options.default_strategy,
        service.affinity_seconds,
        service.lifetime,
        service.proxy_protocol,
    )
    labels = weighing.label_values(pods, service.weights)
    sites = placing.sites(service, served, options.portal, options.bounds.ports)
    shares = _shares(served, joined, options.bounds.endpoints)
    has_health_check = bool(service.health_check_node_port)
    counting = health_checks.Counting(options.node) if has_health_check else None
    for count, (port, places, share) in enumerate(zip(served, sites, shares, strict=True), 1):
        name = names.ServicePortName(service.name, port.name, port.protocol)
        groups = joined.pop((port.name, port.protocol), _NO_GROUPS)
        found = yield from endpoints.merged_in_steps(groups)
        if counting is not None:
            yield from counting.add_in_steps(found)
        own = placing.own_addresses(places)
        chosen = yield from endpoints.chosen_in_steps(found, options.node, own, options.zone)
        weight_of = weighing.ALL_ALIKE
        if service.weights is not None:
            weight_of = yield from weighing.weigh_in_steps(found, service.weights, labels)
        frontends = tuple([each.frontend for each in places])
        pools = weighing.pools(chosen, share, weight_of, _scopes(frontends))
        spared: tuple[addresses.SocketAddress, ...] = ()
        if policy.lifetime.on_removed is not lifetimes.OnEndpointRemoved.KEEP:
            spared = yield from _spared(found, pools, policy.lifetime.on_removed)
        rule = forwarding.Rule(name, frontends, policy, pools, spared)
        absent: tuple[tuple[Side, str], ...] = ()
        admitting = places
        fates = tuple(map(rule.fate, frontends))
        if service.source_ranges or fates.count(forwarding.FrontendState.BOUND) < len(fates):
            admitting = tuple(_with_admission(service, rule, each, options) for each in places)
            absent = tuple(_absences(rule, found, sources, chosen, options.node))
        plans[name] = PortPlan(
            rule,
            admitting,
            found=found,
            loops=chosen.loops,
            absent=absent,
            unused=_unused(chosen, share) if share < len(found) else 0,
            weights=weight_of,
        )
        if count % _PORTS == 0:
            yield
    if served and counting is not None:
        first = names.ServicePortName(service.name, served[0].name, served[0].protocol)
        plans[first] = _with_health_check(service, plans[first], counting, options)
    return plans


def _scopes(frontends: Sequence[forwarding.Frontend]) -> Sequence[forwarding.Scope]:
    """The scopes whose endpoints a port may use.

    An endpoint that only the other scope has is not in use: its connections are to be drained.
    """
    for each in frontends:
        if each.scope is forwarding.Scope.LOCAL:
            return _BOTH_SCOPES  # near clients, and whether others are dropped, depend on the other
    return _CLUSTER_SCOPE


def _with_health_check(
    service: services.Service, plan: PortPlan, counting: health_checks.Counting, options: Options
) -> PortPlan:
    """The plan of the Service's first port, with the places where its health is asked."""
    more = tuple(
        health_checks.frontends(service, placing.node_addresses(service, options.portal.node))
    )
    rule = replace(plan.rule, frontends=(*plan.rule.frontends, *more))
    places = tuple(placing.located(each, options.portal) for each in more)
    return replace(
        plan,
        rule=rule,
        places=(*plan.places, *places),
        local_endpoints=counting.counts(),
    )


def _shares(ports: Sequence[services.ServicePort], joined: Joined, most: int) -> Iterator[int]:
    """How many endpoints of each port may get connections, `most` in all."""
    if sum([len(group) for groups in joined.values() for group in groups]) <= most:
        return itertools.repeat(most, len(ports))
    demands = [sum(map(len, joined.get((each.name, each.protocol), ()))) for each in ports]
    return budget.shares(demands, most)


def _spared(
    found: Sequence[endpoints.Endpoint],
    pools: Sequence[forwarding.Pool],
    on_removed: lifetimes.OnEndpointRemoved,
) -> Generator[None, None, tuple[addresses.SocketAddress, ...]]:
    """Endpoints that are in no pool and whose open connections still go on.

    One that is not ready may be ready again in a moment. One that is terminating will not: its
    connections are to be drained while it still serves them, and reset only once it is gone.
    """
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
    service: services.Service, rule: forwarding.Rule, place: placing.Place, options: Options
) -> placing.Place:
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
    place = placing.Place(frontend, None, forwarding.FrontendState.NOT_SERVED, reason)
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
