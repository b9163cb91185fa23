"""Tables of custom resources: the printer columns of their CustomResourceDefinitions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kproxy.simulator.api.reading.columns import NAME, Column, Layout, age_of, value_in
from kproxy.simulator.store.storage import Object

_AGE = Column("Age", "date")


def _condition(item: Object, kind: str) -> Any:
    """The status of a condition; None, which is shown as nothing, without one."""
    for each in value_in(item, "status", "conditions", default=[]):
        if each["type"] == kind:
            return each["status"]
    return None


def _gateway_class(item: Object, now: datetime) -> Sequence[Any]:
    return (
        item["metadata"]["name"],
        value_in(item, "spec", "controllerName", default=None),
        _condition(item, "Accepted"),
        age_of(item, now),
        value_in(item, "spec", "description", default=None),
    )


def _gateway(item: Object, now: datetime) -> Sequence[Any]:
    # A printer column shows the first value of its path, and no other.
    addresses = value_in(item, "status", "addresses", default=[])
    return (
        item["metadata"]["name"],
        value_in(item, "spec", "gatewayClassName", default=None),
        addresses[0]["value"] if addresses else None,
        _condition(item, "Programmed"),
        age_of(item, now),
    )


def _route(item: Object, now: datetime) -> Sequence[Any]:
    return item["metadata"]["name"], age_of(item, now)


_ROUTE: Layout = ((NAME, _AGE), _route)
"""Of what has no column of its own."""

LAYOUTS: Mapping[str, Layout] = {
    "GatewayClass": (
        (
            NAME,
            Column("Controller"),
            Column("Accepted"),
            _AGE,
            Column("Description", priority=1),
        ),
        _gateway_class,
    ),
    "Gateway": (
        (NAME, Column("Class"), Column("Address"), Column("Programmed"), _AGE),
        _gateway,
    ),
    "TCPRoute": _ROUTE,
    "UDPRoute": _ROUTE,
    "ReferenceGrant": _ROUTE,
}
