"""What the proxy is doing, as the plain data of `kproxy get … -o json`.

The shapes are an interface: scripts and tests rely on them. Views are made in steps, so that a
caller that shows ten thousand of them can let others run in between: a step without a view is None.
"""

import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

import kproxy
from kproxy import metrics
from kproxy.model import admission, forwarding, labels, lifetimes, names, steps, weighting
from kproxy.ops.views import observed
from kproxy.reconcile import statuses
from kproxy.reconcile.planning import rules

MOST_UNREAD_NAMED = 4
"""Most collections that a warning names as unread; with `--namespace` there are two for each."""

AFFINITY_SHOWN = 10_000
"""Clients shown for each service port and scope: those that came last."""

View: TypeAlias = dict[str, object]
Views: TypeAlias = Iterator[View | None]
"""Views in steps; None is a step that has not completed one."""

Plans: TypeAlias = Iterable[rules.PortPlan | None]
"""Plans in steps; None is a step without one."""

_RUN = 64
"""Endpoints of a view that are read in one step: some 500 us."""

_PASSED_OVER = 256
"""Plans that are looked at and left out in one step: some 200 us."""


def select(
    seen: observed.Observed,
    namespace: str = "",
    name: str = "",
    selector: Sequence[labels.Requirement] = (),
) -> Iterator[rules.PortPlan | None]:
    """The plans of the service ports of that Service or namespace, in steps; "" means any.

    `selector` narrows them to Services with such labels. Listeners of Gateways are not among them.
    """

    def is_wanted(service: names.NamespacedName) -> bool:
        if namespace not in ("", service.namespace) or name not in ("", service.name):
            return False
        if not selector:
            return service.is_of_service
        known = seen.source.store.service(service)
        return known is not None and labels.match(selector, dict(known.labels))

    if namespace and name:
        candidates = seen.proxier.of_service(names.NamespacedName(namespace, name))
    else:
        candidates = seen.proxier.known()
    yield from wanted(candidates, is_wanted)


def wanted(
    plans: Iterable[rules.PortPlan], is_wanted: Callable[[names.NamespacedName], bool]
) -> Iterator[rules.PortPlan | None]:
    """The plans of what is wanted by its name among Services, in steps."""
    for count, plan in enumerate(plans, 1):
        if is_wanted(plan.rule.name.service):
            yield plan
        elif count % _PASSED_OVER == 0:
            yield None


def warning(seen: observed.Observed, now: float) -> str:
    """A sentence about all views, such as that the API server is away; "" if there is none.

    `now` is on the monotonic clock.
    """
    if not seen.source.has_synced:
        return "not every Service and endpoint has been read yet"
    unread = metrics.unread(seen.source.counters(), now)
    if not unread:
        return ""
    shown, seconds = sorted(unread), max(unread.values())
    if len(shown) > MOST_UNREAD_NAMED:
        shown[MOST_UNREAD_NAMED:] = [f"{len(shown) - MOST_UNREAD_NAMED} more"]
    what = " and ".join(shown)
    return (
        f"{what} could not be read for {seconds:.0f} s: this is the last known state, "
        "which goes on being served; the log of the proxy says why"
    )


def in_order(plans: Plans) -> Generator[None, None, list[rules.PortPlan]]:
    """The plans by namespace, Service and port, in steps."""
    found: list[rules.PortPlan] = []
    for run in steps.runs(plans):
        found += filter(None, run)
        yield
    return (yield from steps.sorted_in_steps(found, operator.attrgetter("rule.name")))


def service_views(seen: observed.Observed, plans: Plans) -> Views:
    """The ready file: a view for each service port."""
    for plan in plans:
        yield (yield from service_view(seen, plan)) if plan is not None else None


def served_views(seen: observed.Observed, plans: Plans) -> Views:
    """`kproxy get services`: as `service_views`, with fields of the Service itself."""
    for plan in plans:
        if plan is None:
            yield None
            continue
        view = yield from service_view(seen, plan)
        service = seen.source.store.service(plan.rule.name.service)
        yield {
            **view,
            "labels": dict(service.labels) if service else {},
            "filled_in": list(service.filled_in) if service else [],
            "created": (service.created if service else "") or None,
            "cluster_ips": list(service.cluster_ips) if service else [],
            "load_balancer_source_ranges": list(service.source_ranges) if service else [],
            "health_check_node_port": (service.health_check_node_port if service else 0) or None,
            "internal_traffic_policy": service.internal_policy.value if service else None,
            "external_traffic_policy": service.external_policy.value if service else None,
            **_asked_for_connections(plan.rule.policy),
        }


def _asked_for_connections(policy: forwarding.Policy) -> View:
    """What the annotations of a Service ask for its connections; None for what they do not."""
    lifetime, version = policy.lifetime, policy.proxy_protocol
    has_age = lifetime.max_age is not None
    is_drained = lifetime.on_removed is lifetimes.OnEndpointRemoved.DRAIN
    return {
        "proxy_protocol": version.value if version else None,
        "max_connection_age_seconds": lifetime.max_age,
        "max_connection_age_grace_seconds": lifetime.age_grace if has_age else None,
        "on_endpoint_removed": lifetime.on_removed.value,
        "drain_seconds": lifetime.drain if is_drained else None,
    }


def endpoint_views(seen: observed.Observed, plans: Plans) -> Views:
    """`kproxy get endpoints`: a view for each endpoint of each service port."""
    for plan in plans:
        yield None
        if plan is None:
            continue
        for view in _endpoints(seen, plan):
            yield {**_identity(plan.rule, "service"), **view}


def affinity_views(seen: observed.Observed, plans: Plans) -> Views:
    """`kproxy get affinity`: a view for each client that is bound to an endpoint."""
    for plan in plans:
        yield None
        if plan is None:
            continue
        rule = plan.rule
        for binding in seen.plane.affinity(rule.name, AFFINITY_SHOWN):
            yield {
                **_identity(rule, "service"),
                "scope": binding.scope.value,
                "client": binding.client,
                "backend_address": binding.backend.address,
                "backend_port": binding.backend.port,
                "expires_in_seconds": round(binding.seconds_left, 3),
            }


def connection_views(
    seen: observed.Observed,
    plans: Plans,
    gone: Callable[[names.NamespacedName], bool] = lambda _: False,
) -> Views:
    """`kproxy get connections`: a view for each open connection of these service ports.

    A Service that is gone has no rule, but its connections go on. They are shown too if `gone` is
    true of the Service.
    """
    chosen: set[names.NamespacedName] = set()
    for run in steps.runs(plans):
        chosen.update(plan.rule.name.service for plan in run if plan is not None)
        yield None
    present: set[names.NamespacedName] = set()
    for in_force in steps.runs(seen.proxier.in_force()):
        present.update(rule.name.service for rule in in_force)
        yield None

    def is_asked_for(name: names.ServicePortName) -> bool:
        service = name.service
        return service in chosen or (service not in present and gone(service))

    for view in seen.plane.connections(is_asked_for):
        if view is None:
            yield None
            continue
        name = view.service
        yield {
            "namespace": name.service.namespace,
            "service": name.service.name,
            "port_name": name.port,
            "protocol": name.protocol.value,
            "client_address": view.client,
            "client_port": view.client_port,
            "frontend_address": view.frontend.address,
            "frontend_port": view.frontend.port,
            "backend_address": view.backend.address if view.backend else None,
            "backend_port": view.backend.port if view.backend else None,
            "state": view.state,
            "age_seconds": round(view.age, 3),
            "bytes_from_client": view.bytes_from_client,
            "bytes_from_backend": view.bytes_from_backend,
        }


def has_connections(
    seen: observed.Observed, is_asked_for: Callable[[names.NamespacedName], bool]
) -> Generator[None, None, bool]:
    """Whether a connection of such a Service is open, in steps."""
    for view in seen.plane.connections(lambda port: is_asked_for(port.service)):
        if view is not None:
            return True
        yield
    return False


class Counted:
    """Services, their ports, and their frontends by state."""

    def __init__(self) -> None:
        self.services: set[names.NamespacedName] = set()
        self.ports = 0
        self.states: Counter[str] = Counter()

    def counting(self, seen: observed.Observed) -> Iterator[None]:
        """Count what is known, a service port at each step."""
        for plan in seen.proxier.known():
            self.ports += 1
            if plan.rule.name.service.is_of_service:
                self.services.add(plan.rule.name.service)
            found = seen.proxier.frontends(plan.rule.name)
            self.states.update(frontend.state.value for frontend in found)
            yield


def proxy_view(seen: observed.Observed, counted: Counted, now: float) -> View:
    """`kproxy status`: the proxy as a whole. `now` is on the monotonic clock."""
    totals = seen.plane.totals()
    return {
        "version": kproxy.__version__,
        "pid": os.getpid(),
        "ready": seen.syncs.is_ready,
        "alive": seen.syncs.is_alive,
        "last_sync": _rfc3339(seen.syncs.last_done),
        "source": {
            "description": seen.source.describe(),
            "has_synced": seen.source.has_synced,
            "unread_seconds": {
                what: round(seconds, 3)
                for what, seconds in metrics.unread(seen.source.counters(), now).items()
            },
            "problems": sum(
                problem.severity is not admission.Severity.NOTE
                for problem in seen.source.problems()
            ),
        },
        "node": {"name": seen.proxier.options.node, "zone": seen.proxier.options.zone},
        "portal": seen.proxier.portal,
        "services": len(counted.services),
        "service_ports": counted.ports,
        "frontends": dict(sorted(counted.states.items())),
        "connections": {
            "active": totals.connections,
            "limit": totals.max_connections,
        },
        "penalized_endpoints": totals.penalized,
        "dropped_log_lines": seen.dropped_log_lines(),
    }


def service_view(seen: observed.Observed, plan: rules.PortPlan) -> Generator[None, None, View]:
    """What is shown of a service port, whatever it belongs to, in steps."""
    endpoints: list[View] = []
    for run in steps.runs(_endpoints(seen, plan), _RUN):
        endpoints += run
        if len(run) == _RUN:
            yield
    rule = plan.rule
    service = seen.source.store.service(rule.name.service)
    counters = seen.plane.service_port(rule.name)
    main = rule.frontends[0]
    affinity = rule.policy.affinity_seconds
    return {
        **_identity(rule, "name"),
        "cluster_ip": main.address,
        "port": main.port,
        "type": service.type.value if service else None,
        "portal": seen.proxier.portal,
        "strategy": rule.policy.strategy.value,
        "session_affinity": (
            {"type": "ClientIP", "timeout_seconds": affinity} if affinity is not None else None
        ),
        "frontends": [_frontend(status) for status in seen.proxier.frontends(rule.name)],
        "endpoints": endpoints,
        "connections": {
            "active": counters.active if counters else 0,
            "total": counters.accepted if counters else 0,
        },
    }


def _identity(rule: forwarding.Rule, key: str) -> View:
    return {
        "namespace": rule.name.service.namespace,
        key: rule.name.service.name,
        "port_name": rule.name.port,
        "protocol": rule.name.protocol.value,
    }


def _frontend(status: statuses.FrontendStatus) -> View:
    return {
        "kind": status.frontend.kind.value,
        "address": status.frontend.address,
        "port": status.frontend.port,
        "bound_address": status.bound.address if status.bound else None,
        "bound_port": status.bound.port if status.bound else None,
        "state": status.state.value,
        "detail": status.detail,
    }


def _endpoints(seen: observed.Observed, plan: rules.PortPlan) -> Iterator[View]:
    counted = seen.plane.service_port(plan.rule.name)
    all_total = counted.reached if counted else 0
    for endpoint in plan.found:
        known = seen.plane.endpoint(plan.rule.name, endpoint.backend)
        until = known.penalized_until
        yield {
            "address": endpoint.backend.address,
            "port": endpoint.backend.port,
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
            "node": endpoint.node,
            "pod": endpoint.pod,
            "weight": plan.weights.get(endpoint.backend, weighting.DEFAULT_WEIGHT),
            "in_use": known.is_used,
            "penalized_until": None if until is None else _wall_clock(until),
            "own_address_of": known.own_address_of,
            "connections": {
                "total": known.total,
                "active": known.active,
                "dial_failures": known.dial_failures,
                "share": round(known.total / all_total, 4) if all_total else None,
            },
        }


def _wall_clock(moment: float) -> str | None:
    """A monotonic moment as RFC 3339 in UTC."""
    return _rfc3339(time.time() + moment - time.monotonic())


def _rfc3339(seconds: float | None) -> str | None:
    """A Unix time as RFC 3339 in UTC; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
