"""The strategies of custom resources, and their schemas."""

from collections.abc import Mapping

from kproxy.simulator.kinds.custom import gateways, grants, routes
from kproxy.simulator.kinds.custom.strategy import CustomStrategy
from kproxy.simulator.kinds.custom.structural import Schema
from kproxy.simulator.store import registry, resources
from kproxy.simulator.store.resources import Resource

SCHEMAS: Mapping[Resource, Schema] = {
    resources.GATEWAY_CLASSES: gateways.CLASS_SCHEMA,
    resources.GATEWAYS: gateways.SCHEMA,
    resources.TCP_ROUTES: routes.SCHEMA,
    resources.UDP_ROUTES: routes.SCHEMA,
    resources.REFERENCE_GRANTS: grants.SCHEMA,
}


def strategies() -> Mapping[Resource, registry.Strategy]:
    """How objects of CustomResourceDefinitions are treated, by resource."""
    classes = resources.GATEWAY_CLASSES
    return {resource: CustomStrategy(resource, schema) for resource, schema in SCHEMAS.items()} | {
        classes: CustomStrategy(
            classes, SCHEMAS[classes], update_violations=gateways.class_update_violations
        )
    }
