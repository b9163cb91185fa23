"""Services as a proxy needs them: defaulted, validated, free of what it never reads."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from kproxy.model import lifetimes, names, weighting

DEFAULT_AFFINITY_SECONDS = 10800
MAX_AFFINITY_SECONDS = 86400


class ServiceType(StrEnum):
    """`spec.type`."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class TrafficPolicy(StrEnum):
    """`spec.internalTrafficPolicy` and `spec.externalTrafficPolicy`."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Strategy(StrEnum):
    """How an endpoint is chosen for a connection that no affinity entry decides."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    POWER_OF_TWO = "power-of-two"
    SOURCE_HASH = "source-hash"

    # Enum's own is a call in Python, in every look-up of whatever has one of these in its key.
    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One entry of `spec.ports`. `node_port` is 0 when there is none."""

    name: str
    protocol: names.Protocol
    port: int
    node_port: int = 0
    target: str = ""
    """`targetPort`, a number or a name, to show: the endpoints say where connections go."""


@dataclass(frozen=True, slots=True)
class Service:
    """A Service after API defaulting and validation (see `kproxy.model.objects`).

    `cluster_ip` is "" when the Service is headless or an ExternalName: it is then not proxied
    (docs/behaviour.md rows 7 and 8). `affinity_seconds` is None without ClientIP affinity,
    else 1..86400. `strategy` is None unless the annotation `kproxy.io/strategy` names one.
    """

    kind: ClassVar[str] = "Service"

    name: names.NamespacedName
    type: ServiceType
    cluster_ip: str
    ports: tuple[ServicePort, ...]
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    affinity_seconds: int | None = None
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    source_ranges: tuple[str, ...] = ()
    """Networks whose clients may use `load_balancer_ips`, as CIDRs; all may if it is empty."""
    health_check_node_port: int = 0
    """Where load balancers ask whether this node has endpoints of it; 0 for nowhere."""
    strategy: Strategy | None = None
    weights: weighting.Weights | None = None
    """In which proportion its endpoints get new connections, by annotations; None: evenly."""
    lifetime: lifetimes.Lifetime = lifetimes.UNLIMITED
    """How long its connections may live, by annotations."""
    proxy_protocol: lifetimes.ProxyProtocol | None = None
    """The PROXY headers that its endpoints get, by an annotation; None: none."""
    created: str = ""
    """`metadata.creationTimestamp` (RFC 3339, UTC); "" when the source gives none."""
    proxied_elsewhere: bool = False
    """Carries `service.kubernetes.io/service-proxy-name`: another proxy's (row 10)."""
    other_cluster_ips: tuple[str, ...] = ()
    """The entries of `spec.clusterIPs` after the first: of a dual-stack Service, the other one."""
    is_headless: bool = False
    """Has `clusterIP: None`: clients find its endpoints by name, without a proxy (row 7)."""
    external_name: str = ""
    """`spec.externalName`, as given, of a Service of type ExternalName (row 8)."""
    publishes_not_ready: bool = False
    """Has endpoints that are not ready in its names too: `spec.publishNotReadyAddresses`."""
    selector: tuple[tuple[str, str], ...] = ()
    """`spec.selector`, sorted, to show: which pods are meant is the cluster's to say."""
    labels: tuple[tuple[str, str], ...] = ()
    """`metadata.labels`, sorted: what `kproxy get services -l` selects by."""

    wants_cluster_ip: bool = False
    """Has no cluster IP, and is of a type for which kube-apiserver allocates one."""
    wants_node_ports: bool = False
    """Is of a type for which kube-apiserver allocates the node ports that are absent."""
    filled_in: tuple[str, ...] = ()
    """The fields that were absent in a file and that kproxy has completed."""

    @property
    def cluster_ips(self) -> tuple[str, ...]:
        """All of its cluster IPs, `cluster_ip` first; none of a headless Service."""
        return (self.cluster_ip, *self.other_cluster_ips) if self.cluster_ip else ()

    @property
    def is_proxied(self) -> bool:
        """Whether this proxy serves it: it has a ClusterIP and no other proxy claims it."""
        return bool(self.cluster_ip) and not self.proxied_elsewhere
