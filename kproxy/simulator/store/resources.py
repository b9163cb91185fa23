"""The resource types that the API server has: what discovery lists, and what URLs are made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource type, as in a discovery document.

    `has_generation` says whether `metadata.generation` counts the changes that its controller
    must act on; Services, Pods and Nodes have none. `is_custom` says that a real cluster has it by
    a CustomResourceDefinition.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    has_status: bool = False
    has_scale: bool = False
    has_generation: bool = False
    is_custom: bool = False

    @property
    def api_version(self) -> str:
        """The `apiVersion` of objects: "v1", "apps/v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name that error messages use (schema.GroupResource): "pods", "deployments.apps"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def verbs(self) -> tuple[str, ...]:
        """What can be done with it. There is no `deletecollection` of namespaces."""
        collection = () if self.kind == "Namespace" else ("deletecollection",)
        return ("create", "delete", *collection, "get", "list", "patch", "update", "watch")

    def __str__(self) -> str:
        return self.qualified


NAMESPACES = Resource(
    "", "v1", "Namespace", "namespaces", "namespace", ("ns",), namespaced=False, has_status=True
)
NODES = Resource("", "v1", "Node", "nodes", "node", ("no",), namespaced=False, has_status=True)
PODS = Resource("", "v1", "Pod", "pods", "pod", ("po",), ("all",), has_status=True)
SERVICES = Resource("", "v1", "Service", "services", "service", ("svc",), ("all",), has_status=True)
ENDPOINTS = Resource("", "v1", "Endpoints", "endpoints", "endpoints", ("ep",))
EVENTS = Resource("", "v1", "Event", "events", "event", ("ev",))
DEPLOYMENTS = Resource(
    "apps",
    "v1",
    "Deployment",
    "deployments",
    "deployment",
    ("deploy",),
    ("all",),
    has_status=True,
    has_scale=True,
    has_generation=True,
)
ENDPOINT_SLICES = Resource(
    "discovery.k8s.io",
    "v1",
    "EndpointSlice",
    "endpointslices",
    "endpointslice",
    has_generation=True,
)
CONFIG_MAPS = Resource("", "v1", "ConfigMap", "configmaps", "configmap", ("cm",))
SERVICE_ACCOUNTS = Resource(
    "", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", ("sa",)
)
SECRETS = Resource("", "v1", "Secret", "secrets", "secret")
INGRESSES = Resource(
    "networking.k8s.io",
    "v1",
    "Ingress",
    "ingresses",
    "ingress",
    ("ing",),
    has_status=True,
    has_generation=True,
)
INGRESS_CLASSES = Resource(
    "networking.k8s.io",
    "v1",
    "IngressClass",
    "ingressclasses",
    "ingressclass",
    namespaced=False,
    has_generation=True,
)
SERVICE_CIDRS = Resource(
    "networking.k8s.io",
    "v1",
    "ServiceCIDR",
    "servicecidrs",
    "servicecidr",
    namespaced=False,
    has_status=True,
)


def _of_gateway_api(
    kind: str,
    plural: str,
    short_names: tuple[str, ...] = (),
    *,
    namespaced: bool = True,
    has_status: bool = True,
) -> Resource:
    return Resource(
        "gateway.networking.k8s.io",
        "v1",
        kind,
        plural,
        kind.lower(),
        short_names,
        ("gateway-api",),
        namespaced=namespaced,
        has_status=has_status,
        has_generation=True,
        is_custom=True,
    )


GATEWAY_CLASSES = _of_gateway_api("GatewayClass", "gatewayclasses", ("gc",), namespaced=False)
GATEWAYS = _of_gateway_api("Gateway", "gateways", ("gtw",))
TCP_ROUTES = _of_gateway_api("TCPRoute", "tcproutes")
UDP_ROUTES = _of_gateway_api("UDPRoute", "udproutes")
REFERENCE_GRANTS = _of_gateway_api(
    "ReferenceGrant", "referencegrants", ("refgrant",), has_status=False
)

ALL = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    EVENTS,
    SECRETS,
    CONFIG_MAPS,
    SERVICE_ACCOUNTS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    INGRESSES,
    INGRESS_CLASSES,
    SERVICE_CIDRS,
    GATEWAY_CLASSES,
    GATEWAYS,
    TCP_ROUTES,
    UDP_ROUTES,
    REFERENCE_GRANTS,
)
