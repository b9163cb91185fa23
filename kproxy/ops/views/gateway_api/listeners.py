"""The listeners of Gateways, as `kproxy get gateways` shows them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kproxy.model import names
from kproxy.ops.views import observed, status
from kproxy.reconcile.planning import rules

if TYPE_CHECKING:
    from kproxy.gateway import statuses  # what is off costs no import

_SHOWN = (
    *("protocol", "port", "portal", "strategy"),
    *("frontends", "endpoints", "connections"),
)
"""What is shown of a listener as of a service port."""


def select(
    seen: observed.Observed, namespace: str = "", name: str = ""
) -> Iterator[rules.PortPlan | None]:
    """The plans of the listeners of that Gateway or namespace, in steps; "" means any."""

    def is_wanted(known: names.NamespacedName) -> bool:
        is_meant = not known.is_of_service and namespace in ("", known.namespace)
        return is_meant and name in ("", known.name.removeprefix(names.GATEWAY_PREFIX))

    yield from status.wanted(seen.proxier.known(), is_wanted)


def views(seen: observed.Observed, plans: status.Plans) -> status.Views:
    """A view for each listener of each Gateway."""
    for plan in plans:
        if plan is None:
            yield None
            continue
        view = yield from status.service_view(seen, plan)
        name = plan.rule.name
        own = name.service.name.removeprefix(names.GATEWAY_PREFIX)
        said = _listener(seen, names.NamespacedName(name.service.namespace, own), name.port)
        yield {
            "namespace": name.service.namespace,
            "name": own,
            "listener": name.port,
            **{field: view[field] for field in _SHOWN},
            "attached_routes": said.attached if said else None,
            "problems": list(said.problems()) if said else [],
        }


def _listener(
    seen: observed.Observed, gateway: names.NamespacedName, listener: str
) -> "statuses.ListenerStatus | None":
    known = seen.gateways.gateway(gateway) if seen.gateways is not None else None
    listeners = known.listeners if known is not None else ()
    return next((each for each in listeners if each.name == listener), None)
