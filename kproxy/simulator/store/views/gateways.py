"""The older versions of the Gateway API's resources, which differ in nothing but their names."""

from kproxy.simulator.store import resources
from kproxy.simulator.store.views.view import same_fields

VIEWS = (
    same_fields(resources.GATEWAY_CLASSES, "v1beta1"),
    same_fields(resources.GATEWAYS, "v1beta1"),
    same_fields(resources.TCP_ROUTES, "v1alpha2"),
    same_fields(resources.UDP_ROUTES, "v1alpha2"),
    same_fields(resources.REFERENCE_GRANTS, "v1beta1"),
)
