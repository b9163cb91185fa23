"""What the proxy is doing, as the plain data of `kproxy get … -o json`.

The shapes are an interface: scripts and tests rely on them. Every view is made when it is asked
for, so that whoever shows ten thousand of them can let others run in between.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from kproxy import metrics
from kproxy.model import endpoints, forwarding, names
from kproxy.ops import observed
from kproxy.reconcile import proxier

AFFINITY_SHOWN = 10_000
"""Clients shown for each service port and scope: those that came last."""

View: TypeAlias = dict[str, object]


def select(
    seen: observed.Observed, namespace: str = "", name: str = ""
) -> Iterator[forwarding.Rule]:
    """The rules of the service ports of that Service or namespace; "" means any."""
    for rule in seen.proxier.in_force():
        service = rule.name.service
        if namespace in ("", service.namespace) and name in ("", service.name):
            yield rule


def warning(seen: observed.Observed, now: float) -> str:
    """What whoever reads the views should know of all of them, in a sentence; "" is nothing.

    `now` is on the monotonic clock.
    """
    if not seen.source.has_synced:
        return "not every Service and endpoint has been read yet"
    unread = metrics.unread(seen.source.counters(), now)
    if not unread:
        return ""
    what, seconds = " and ".join(sorted(unread)), max(unread.values())
    return (
        f"{what} could not be read for {seconds:.0f} s: this is the last known state, "
        "which goes on being served; the log of the proxy says why"
    )


def service_views(seen: observed.Observed, rules: Iterable[forwarding.Rule]) -> Iterator[View]:
    """`kproxy get services`: a view for each service port."""
    return (_service(seen, rule) for rule in rules)


def endpoint_views(seen: observed.Observed, rules: Iterable[forwarding.Rule]) -> Iterator[View]:
    """`kproxy get endpoints`: a view for each endpoint of each service port."""
    for rule in rules:
        for view in _endpoints(seen, rule):
            yield {**_identity(rule, "service"), **view}


def affinity_views(seen: observed.Observed, rules: Iterable[forwarding.Rule]) -> Iterator[View]:
    """`kproxy get affinity`: a view for each client that is bound to an endpoint."""
    for rule in rules:
        state = seen.plane.port(rule.name)
        for scope, balancer in state.balancers.items() if state else ():
            table = balancer.affinity_table
            if table is None:
                continue
            for binding in table.snapshot(time.monotonic(), AFFINITY_SHOWN):
                yield {
                    **_identity(rule, "service"),
                    "scope": scope.value,
                    "client": binding.client,
                    "backend_address": binding.backend.address,
                    "backend_port": binding.backend.port,
                    "expires_in_seconds": round(binding.seconds_left, 3),
                }


def connection_views(seen: observed.Observed, rules: Iterable[forwarding.Rule]) -> Iterator[View]:
    """`kproxy get connections`: a view for each open connection of these service ports."""
    chosen = {rule.name.service for rule in rules}
    for view in seen.worker.connection_views():
        namespace, _, rest = view.service.partition("/")
        service, _, port_name = rest.partition(":")
        if names.NamespacedName(namespace, service) in chosen:
            yield {
                "namespace": namespace,
                "service": service,
                "port_name": port_name,
                "protocol": names.Protocol.TCP.value,
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


def _service(seen: observed.Observed, rule: forwarding.Rule) -> View:
    service = seen.source.store.service(rule.name.service)
    state = seen.plane.port(rule.name)
    counters = state.counters if state else None
    main = rule.frontends[0]
    affinity = rule.policy.affinity_seconds
    return {
        **_identity(rule, "name"),
        "cluster_ip": main.address,
        "port": main.port,
        "type": service.type.value if service else None,
        "strategy": rule.policy.strategy.value,
        "session_affinity": (
            {"type": "ClientIP", "timeout_seconds": affinity} if affinity is not None else None
        ),
        "frontends": [_frontend(status) for status in seen.proxier.frontends(rule.name)],
        "endpoints": list(_endpoints(seen, rule)),
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


def _frontend(status: proxier.FrontendStatus) -> View:
    return {
        "kind": status.frontend.kind.value,
        "address": status.frontend.address,
        "port": status.frontend.port,
        "bound_address": status.bound.address if status.bound else None,
        "bound_port": status.bound.port if status.bound else None,
        "state": status.state,
        "detail": status.detail,
    }


def _endpoints(seen: observed.Observed, rule: forwarding.Rule) -> Iterator[View]:
    used = {*rule.cluster, *rule.local}
    found: Iterable[endpoints.Endpoint] = seen.source.store.endpoints(rule.name)
    for endpoint in found:
        until = seen.plane.box.until(endpoint.backend)
        yield {
            "address": endpoint.backend.address,
            "port": endpoint.backend.port,
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
            "node": endpoint.node,
            "in_use": endpoint.backend in used,
            "penalized_until": None if until is None else _wall_clock(until),
        }


def _wall_clock(moment: float) -> str:
    """A monotonic moment as RFC 3339 in UTC."""
    seconds = time.time() + moment - time.monotonic()
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
