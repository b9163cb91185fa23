"""What the proxy is doing, as the plain data of `kproxy get services -o json`."""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from kproxy.model import endpoints, forwarding
from kproxy.reconcile import dataplane, proxier, rules


def service_views(
    reader: rules.ObjectReader, served: proxier.Proxier, plane: dataplane.WorkerDataPlane
) -> Iterator[dict[str, object]]:
    """Every service port that is served, sorted by name; each is looked at when it is asked for."""
    for _, rule in sorted(served.rules().items()):
        yield service_view(rule, reader, served, plane)


def service_view(
    rule: forwarding.Rule,
    reader: rules.ObjectReader,
    served: proxier.Proxier,
    plane: dataplane.WorkerDataPlane,
) -> dict[str, object]:
    """One service port. The shape is an interface: scripts and tests rely on it."""
    service = reader.service(rule.name.service)
    state = plane.port(rule.name)
    counters = state.counters if state else None
    main = rule.frontends[0]
    affinity = rule.policy.affinity_seconds
    return {
        "namespace": rule.name.service.namespace,
        "name": rule.name.service.name,
        "port_name": rule.name.port,
        "protocol": rule.name.protocol.value,
        "cluster_ip": main.address,
        "port": main.port,
        "type": service.type.value if service else None,
        "strategy": rule.policy.strategy.value,
        "session_affinity": (
            {"type": "ClientIP", "timeout_seconds": affinity} if affinity is not None else None
        ),
        "frontends": [_frontend(status) for status in served.frontends(rule.name)],
        "endpoints": list(_endpoints(rule, reader.endpoints(rule.name), plane)),
        "connections": {
            "active": counters.active if counters else 0,
            "total": counters.accepted if counters else 0,
        },
    }


def _frontend(status: proxier.FrontendStatus) -> dict[str, object]:
    return {
        "kind": status.frontend.kind.value,
        "address": status.frontend.address,
        "port": status.frontend.port,
        "bound_address": status.bound.address if status.bound else None,
        "bound_port": status.bound.port if status.bound else None,
        "state": status.state,
        "detail": status.detail,
    }


def _endpoints(
    rule: forwarding.Rule,
    found: Iterable[endpoints.Endpoint],
    plane: dataplane.WorkerDataPlane,
) -> Iterable[dict[str, object]]:
    used = {*rule.cluster, *rule.local}
    for endpoint in found:
        until = plane.box.until(endpoint.backend)
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
