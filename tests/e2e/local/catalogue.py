"""The Services that `conftest.cluster` serves: one for each thing a client can meet."""

from tests.e2e.rig import namespaces
from tests.e2e.rig.published import Service


def outside(number: int) -> namespaces.Host:
    """External addresses that the client's network brings to node-a."""
    return namespaces.Host(f"203.0.113.{number}", f"2001:db8:113::{number:x}")


def outside_b(number: int) -> namespaces.Host:
    """The same of node-b."""
    return namespaces.Host(f"203.0.113.{128 + number}", f"2001:db8:113:1::{number:x}")


WEB = Service(name="web", number=10)
"""A ClusterIP."""

NODE_PORT = Service(name="node-port", number=11, has_node_ports=True)

EXTERNAL = Service(name="external", number=12, spec={"externalIPs": [*outside(12), *outside_b(12)]})
"""With external IPs, from the list."""

UNLISTED = Service(
    name="unlisted", number=13, spec={"externalIPs": ["203.0.114.13", "2001:db8:114::d"]}
)
"""Its external IPs are not from the list."""

_BALANCED = {"type": "LoadBalancer"}

BALANCED = Service(
    name="balanced",
    number=14,
    has_node_ports=True,
    ingress=(*outside(14), *outside_b(14)),
    spec={
        **_BALANCED,
        "loadBalancerSourceRanges": [f" {namespaces.CLIENT.v4}/32", f"{namespaces.CLIENT.v6}/128"],
    },
)
"""With source ranges that have the client and not the stranger."""

LOCAL = Service(
    name="local",
    number=15,
    pods=("pod-a",),
    has_node_ports=True,
    ingress=(*outside(15), *outside_b(15)),
    spec={**_BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 31015},
)
"""External traffic stays on the node, and only node-a has an endpoint."""

LOCAL_BOTH = Service(
    name="local-both",
    number=16,
    has_node_ports=True,
    spec={"externalTrafficPolicy": "Local"},
)
"""External traffic stays on the node; both have an endpoint."""

INTERNAL = Service(
    name="internal", number=17, pods=("pod-b",), spec={"internalTrafficPolicy": "Local"}
)
"""ClusterIP traffic stays on the node, and only node-b has an endpoint."""

ALONE = Service(name="alone", number=18, pods=("pod-a",))
"""With one pod, which reaches itself."""

NOTHING = Service(
    name="nothing",
    number=19,
    pods=(),
    has_node_ports=True,
    ingress=outside(19),
    spec={**_BALANCED, "externalIPs": [*outside(29)]},
)
"""Without endpoints."""

NOTHING_LOCAL = Service(
    name="nothing-local",
    number=20,
    pods=(),
    has_node_ports=True,
    spec={"externalTrafficPolicy": "Local"},
)
"""Without endpoints, and with a policy."""

STICKY = Service(name="sticky", number=21, spec={"sessionAffinity": "ClientIP"})

NAMES = Service(name="names", number=53, port=53, target=5353)
"""What a DNS server of the test's own is behind."""

ALL = (
    *(WEB, NODE_PORT, EXTERNAL, UNLISTED, BALANCED, LOCAL, LOCAL_BOTH, INTERNAL, ALONE),
    *(NOTHING, NOTHING_LOCAL, STICKY, NAMES),
)
