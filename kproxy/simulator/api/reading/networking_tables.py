"""Tables of Ingresses and IngressClasses."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kproxy.simulator.api.reading.columns import (
    AGE,
    NAME,
    NONE,
    Column,
    Layout,
    age_of,
    value_in,
)
from kproxy.simulator.store.storage import Object

_MOST_HOSTS = 3


def _ingress(item: Object, now: datetime) -> Sequence[Any]:
    spec = item.get("spec") or {}
    entries = value_in(item, "status", "loadBalancer", "ingress", default=[])
    addresses = {entry.get("ip") or entry.get("hostname") for entry in entries}
    return (
        item["metadata"]["name"],
        spec.get("ingressClassName") or NONE,
        _hosts(spec.get("rules") or ()),
        ",".join(sorted(filter(None, addresses))),
        "80, 443" if spec.get("tls") else "80",
        age_of(item, now),
    )


def _hosts(rules: Sequence[Object]) -> str:
    """The first hosts. More rules are counted, whether they have a host or not, as kubectl does."""
    named = [index for index, rule in enumerate(rules) if rule.get("host")]
    shown = named[:_MOST_HOSTS]
    if not shown:
        return "*"
    text = ",".join(rules[index]["host"] for index in shown)
    has_more = len(shown) == _MOST_HOSTS and shown[-1] + 1 < len(rules)
    return f"{text} + {len(rules) - _MOST_HOSTS} more..." if has_more else text


def _ingress_class(item: Object, now: datetime) -> Sequence[Any]:
    spec = item.get("spec") or {}
    parameters = spec.get("parameters")
    shown = NONE
    if parameters is not None:
        group = parameters.get("apiGroup")
        kind = parameters.get("kind", "")
        shown = f"{kind}.{group}" if group is not None else kind
        shown = f"{shown}/{parameters.get('name', '')}"
    return item["metadata"]["name"], spec.get("controller", ""), shown, age_of(item, now)


LAYOUTS: Mapping[str, Layout] = {
    "Ingress": (
        (NAME, Column("Class"), Column("Hosts"), Column("Address"), Column("Ports"), AGE),
        _ingress,
    ),
    "IngressClass": ((NAME, Column("Controller"), Column("Parameters"), AGE), _ingress_class),
}
