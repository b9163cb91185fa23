"""A Store filled from documents, and what the planner makes of it."""

from collections.abc import Iterable
from typing import Any

from kproxy.gateway import planner
from kproxy.model import addresses, names, steps
from kproxy.model.kinds.gateway import references
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.gateway import documents
from tests.reconcile import builders


def service(
    name: str,
    *pods: str,
    namespace: str = "default",
    protocol: str = "TCP",
    port: int = 80,
    **spec: Any,
) -> list[documents.Document]:
    """A headless Service with one port, and the slice with its pods, at port 8080."""
    meta = {"name": name, "namespace": namespace}
    ports = [{"port": port, "protocol": protocol}]
    made = {"clusterIP": "None", "ports": ports, **spec}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": made},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv6" if pods and ":" in pods[0] else "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": protocol}],
            "endpoints": [{"addresses": [each]} for each in pods],
        },
    ]


class Stored:
    """A Store of documents, with the planner that reads it."""

    def __init__(self, *given: documents.Document | list[documents.Document]) -> None:
        self.store = store.Store(documents.KINDS)
        self.planner = planner.Gateways(self.store, "kproxy")
        self.apply(*given)

    def apply(self, *given: documents.Document | list[documents.Document]) -> store.Dirty:
        """Store documents, and return what became dirty."""
        dirty: store.Dirty = frozenset()
        for each in given:
            for raw in each if isinstance(each, list) else [each]:
                dirty |= self.store.apply(documents.accepted(raw))
        return dirty

    def plans(
        self, gateway: str = "edge", namespace: str = "default", **options: Any
    ) -> dict[str, rules.PortPlan]:
        """The plans of a Gateway, by listener."""
        key = references.of_gateway(names.NamespacedName(namespace, gateway))
        asked = steps.at_once(self.planner.read(key, builders.options(**options)))
        planned = steps.at_once(asked.plans)
        assert {name.service for name in planned} <= {key}
        return {name.port: plan for name, plan in planned.items()}


def split(plan: rules.PortPlan, family: addresses.Family = addresses.Family.IPV4) -> dict[str, int]:
    """The weight of each endpoint, by address; under "refused" that of clients turned away."""
    for pool in plan.rule.pools:
        if pool.family is family:
            weights = pool.weights or (1,) * len(pool.backends)
            made = dict(zip((each.address for each in pool.backends), weights, strict=True))
            return {**made, **({"refused": pool.refused} if pool.refused else {})}
    return {}


def why(plan: rules.PortPlan) -> str:
    """Why the frontends of a plan have no endpoint, or are not served."""
    place = plan.places[0]
    return place.detail or plan.why_absent(place.frontend)


def bound(plans: Iterable[rules.PortPlan]) -> list[str]:
    """Where the frontends are to be bound."""
    return [
        str(place.address) for plan in plans for place in plan.places if place.address is not None
    ]
