"""The routes of Gateways, as `kproxy get routes` shows them. Imported with `--gateway` only."""

from kproxy.gateway import state, statuses
from kproxy.model.kinds.gateway import (
    gateway_kind,
    references,
    tcp_route_kind,
    udp_route_kind,
)
from kproxy.model.kinds.gateway import routes as route_values
from kproxy.ops.views import observed, status


def views(
    seen: observed.Observed, said: state.GatewayState, namespace: str, name: str
) -> status.Views:
    """A view for each reference of a route, of that name or namespace, to a Gateway.

    References to Gateways of other classes are left out.
    """
    for kind in (tcp_route_kind.KIND, udp_route_kind.KIND):
        for key in sorted(seen.source.store.all(kind)):
            route = seen.source.store.get(kind, key)
            is_meant = namespace in ("", key.namespace) and name in ("", key.name)
            yield None
            if route is not None and is_meant:
                yield from _references(seen, said, route)


def _references(
    seen: observed.Observed, said: state.GatewayState, route: route_values.Route
) -> status.Views:
    known = said.route(route.kind, route.name)
    conditions_at = dict(known.parents) if known is not None else {}
    for parent in route.parents:
        conditions = {each.type: each for each in conditions_at.get(parent, ())}
        is_there = seen.source.store.get(gateway_kind.KIND, parent.name) is not None
        if parent.kind != references.GATEWAY or (is_there and not conditions):
            continue
        accepted = conditions.get(statuses.ACCEPTED)
        resolved = conditions.get(statuses.RESOLVED_REFS)
        messages = [each.message for each in (accepted, resolved) if each and each.message]
        yield {
            "namespace": route.name.namespace,
            "name": route.name.name,
            "protocol": route.protocol.value,
            "gateway_namespace": parent.name.namespace,
            "gateway": parent.name.name,
            "listener": parent.section,
            "port": parent.port or None,
            "accepted": accepted.is_true if accepted else False,
            "accepted_reason": accepted.reason if accepted else "",
            "resolved": resolved.is_true if resolved else False,
            "resolved_reason": resolved.reason if resolved else "",
            "detail": "; ".join(messages) if conditions else f"there is no Gateway {parent.name}",
            "backends": [
                {
                    "namespace": each.name.namespace,
                    "name": each.name.name,
                    "port": each.port,
                    "weight": each.weight,
                }
                for each in route.backends
            ],
        }
