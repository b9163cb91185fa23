"""The kind Service: API shape, then defaults, then kube-apiserver's rules.

A real cluster's objects have been through this once; hand-written manifests have not. Defaults
are those of `pkg/apis/core/v1/defaults.go` (docs/behaviour.md row 2), rules those of
`pkg/apis/core/validation/validation.go`, for the fields a proxy reads.
"""

from collections.abc import Generator, Mapping
from enum import StrEnum
from typing import TypeVar

import msgspec

from kproxy.model import addresses, names, objects
from kproxy.model.judging import (
    connection_annotations,
    field_rules,
    findings,
    load_balancer_rules,
    weight_annotations,
)
from kproxy.model.kinds import services
from kproxy.model.kinds.kind import Collection, Kind, Policy

LABEL_SERVICE_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
ANNOTATION_STRATEGY = "kproxy.io/strategy"
ANNOTATION_TOLERATE_UNREADY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"

_PIECE = 128
"""Ports judged between two pauses."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class ServicePort(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.ports[]`. targetPort is the endpoints controller's business (row 5), and is shown."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None
    target_port: int | str | None = None


class ClientIPConfig(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.sessionAffinityConfig.clientIP`."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(msgspec.Struct, frozen=True, gc=False):
    """`spec.sessionAffinityConfig`."""

    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec` of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    ports: tuple[ServicePort, ...] | None = None
    selector: dict[str, str] | None = None
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    allocate_load_balancer_node_ports: bool | None = None
    external_name: str | None = None
    load_balancer_source_ranges: tuple[str, ...] | None = None
    health_check_node_port: int | None = None
    publish_not_ready_addresses: bool | None = None


class LoadBalancerIngress(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`status.loadBalancer.ingress[]`."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(msgspec.Struct, frozen=True, gc=False):
    """`status.loadBalancer`."""

    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`status` of a Service."""

    load_balancer: LoadBalancerStatus | None = None


class Service(msgspec.Struct, frozen=True, gc=False):
    """`v1` Service."""

    metadata: objects.ObjectMeta | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


def judge(
    shape: Service, found: findings.Findings, _: Policy, /
) -> Generator[None, None, services.Service | None]:
    """The Service that `shape` describes, or None when `found` has violations.

    Yields where others can be let run.

    An ExternalName has no cluster IP whatever it says (row 8); `clusterIP: None` is headless
    (row 7). A manifest without a clusterIP, or without a node port where one belongs, stands for
    a Service that no apiserver has completed yet: its `wants` say so. Names follow the relaxed
    rule of Kubernetes 1.34 (KEP-5311): they may start with a digit.
    """
    spec = shape.spec or ServiceSpec()
    metadata = shape.metadata or objects.ObjectMeta()
    key = field_rules.identity(metadata, field_rules.DNS_LABEL, found)
    kind = _choice(spec.type, services.ServiceType.CLUSTER_IP, "spec.type", found)
    cluster_ip = _cluster_ip(spec, kind, found)
    policies = _policies(spec, kind, found)
    annotations = metadata.annotations or {}
    made = services.Service(
        name=key,
        type=kind,
        cluster_ip=cluster_ip,
        ports=(yield from _service_ports(spec, kind, found)),
        external_ips=_external_ips(spec, found) if spec.external_ips else (),
        load_balancer_ips=_load_balancer_ips(shape.status, found) if shape.status else (),
        affinity_seconds=_affinity_seconds(spec, found),
        source_ranges=(
            yield from load_balancer_rules.source_ranges(
                spec.load_balancer_source_ranges, kind, found
            )
        ),
        health_check_node_port=load_balancer_rules.health_check_node_port(
            spec.health_check_node_port, kind, policies[1], found
        ),
        internal_policy=policies[0],
        external_policy=policies[1],
        strategy=_strategy(metadata, found) if metadata.annotations else None,
        weights=weight_annotations.read(annotations, found),
        lifetime=connection_annotations.lifetime(annotations, found),
        proxy_protocol=connection_annotations.proxy_protocol(annotations, found),
        other_cluster_ips=_other_cluster_ips(spec, cluster_ip, found),
        created=metadata.creation_timestamp or "",
        wants_cluster_ip=not spec.cluster_ip and kind is not services.ServiceType.EXTERNAL_NAME,
        wants_node_ports=_wants_node_ports(spec, kind),
        proxied_elsewhere=LABEL_SERVICE_PROXY_NAME in (metadata.labels or ()),
        is_headless=spec.cluster_ip == "None" and kind is not services.ServiceType.EXTERNAL_NAME,
        external_name=_external_name(spec, kind),
        publishes_not_ready=_publishes_not_ready(spec, annotations),
        labels=tuple(sorted((metadata.labels or {}).items())),
        selector=tuple(sorted((spec.selector or {}).items())),
    )
    return None if found.violations else made


def _choice(value: str | None, default: _Choice, where: str, found: findings.Findings) -> _Choice:
    """A member of `default`'s enumeration; `default` when absent or empty."""
    if not value:
        return default
    try:
        return type(default)(value)
    except ValueError:
        found.violate(where, value, f"must be one of {', '.join(type(default))}")
        return default


def _cluster_ip(spec: ServiceSpec, kind: services.ServiceType, found: findings.Findings) -> str:
    if kind is services.ServiceType.EXTERNAL_NAME:
        return ""
    text = spec.cluster_ip
    if not text:
        return ""
    if text == "None":
        if kind is not services.ServiceType.CLUSTER_IP:
            found.violate("spec.clusterIP", text, f"must be an IP address for type {kind}")
        return ""
    address = addresses.parse(text)
    if address is None:
        found.violate("spec.clusterIP", text, 'must be an IP address, "None" or absent')
        return ""
    if not address.use.is_one_host:
        found.violate("spec.clusterIP", text, f"must not be {address.use}")
    return address.text


def _other_cluster_ips(
    spec: ServiceSpec, cluster_ip: str, found: findings.Findings
) -> tuple[str, ...]:
    """The entries of `spec.clusterIPs` after the first, which is `spec.clusterIP`.

    kube-apiserver sees to it that they agree and are two at most. In a file they may not: then
    clusterIP counts, and a note says so.
    """
    given = spec.cluster_ips or ()
    if not cluster_ip or len(given) < 2:
        return ()
    first, other = (addresses.parse(text) for text in given[:2])
    is_good = (
        len(given) == 2
        and first is not None
        and first.text == cluster_ip
        and other is not None
        and other.use.is_one_host
        and addresses.family(other.text) is not addresses.family(cluster_ip)
    )
    if not is_good or other is None:
        found.notes.append(
            "spec.clusterIPs is ignored: it must hold spec.clusterIP, and one address of the "
            "other family"
        )
        return ()
    return (other.text,)


def _external_name(spec: ServiceSpec, kind: services.ServiceType) -> str:
    """As given: nothing is dialled by it."""
    return spec.external_name or "" if kind is services.ServiceType.EXTERNAL_NAME else ""


def _publishes_not_ready(spec: ServiceSpec, annotations: Mapping[str, str]) -> bool:
    """By the field, or by the annotation that it replaced, which the DNS specification names."""
    old = annotations.get(ANNOTATION_TOLERATE_UNREADY, "")
    return spec.publish_not_ready_addresses is True or old.lower() == "true"


def _wants_node_ports(spec: ServiceSpec, kind: services.ServiceType) -> bool:
    """Whether kube-apiserver would give each port a node port that has none."""
    if kind is services.ServiceType.LOAD_BALANCER:
        return spec.allocate_load_balancer_node_ports is not False
    return kind is services.ServiceType.NODE_PORT


def _policies(
    spec: ServiceSpec, kind: services.ServiceType, found: findings.Findings
) -> tuple[services.TrafficPolicy, services.TrafficPolicy]:
    """The internal and the external traffic policy."""
    cluster = services.TrafficPolicy.CLUSTER
    where = "spec.externalTrafficPolicy"
    external = _choice(spec.external_traffic_policy, cluster, where, found)
    reachable = kind is not services.ServiceType.CLUSTER_IP or bool(spec.external_ips)
    if spec.external_traffic_policy and not reachable:
        rule = "must be absent for type ClusterIP without externalIPs"
        found.violate(where, spec.external_traffic_policy, rule)
    where = "spec.internalTrafficPolicy"
    return _choice(spec.internal_traffic_policy, cluster, where, found), external


def _service_ports(
    spec: ServiceSpec, kind: services.ServiceType, found: findings.Findings
) -> Generator[None, None, tuple[services.ServicePort, ...]]:
    made = []
    several = len(spec.ports or ()) > 1
    for index, port in enumerate(spec.ports or ()):
        made.append(_service_port(port, f"spec.ports[{index}]", found, several=several))
        if index % _PIECE == _PIECE - 1:
            yield
    ports = tuple(made)
    if not ports and kind is not services.ServiceType.EXTERNAL_NAME and spec.cluster_ip != "None":
        found.violate("spec.ports", None, "must hold at least one port")
    if len(ports) > 1:
        yield from _check_unique(ports, found)
    if kind is services.ServiceType.CLUSTER_IP:
        for index, each in enumerate(ports):
            if each.node_port:
                where = f"spec.ports[{index}].nodePort"
                found.violate(where, each.node_port, "must be absent for type ClusterIP")
    return ports


def _service_port(
    port: ServicePort, where: str, found: findings.Findings, *, several: bool
) -> services.ServicePort:
    node_port = port.node_port or 0
    if not 0 <= node_port <= 65535:
        found.violate(f"{where}.nodePort", node_port, "must be from 0 to 65535")
    return services.ServicePort(
        name=field_rules.port_name(port.name, f"{where}.name", found, required=several),
        protocol=field_rules.protocol(port.protocol, f"{where}.protocol", found),
        port=field_rules.port_number(port.port, f"{where}.port", found),
        node_port=node_port,
        target=str(port.target_port or ""),
    )


def _check_unique(
    ports: tuple[services.ServicePort, ...], found: findings.Findings
) -> Generator[None, None, None]:
    """Names are unique; so are numbers, node ports too, within a protocol (row 6)."""
    first: dict[tuple[object, ...], int] = {}
    for index, port in enumerate(ports):
        if index % _PIECE == _PIECE - 1:
            yield
        claims: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("name", port.name, ()),
            ("port", port.port, (port.protocol,)),
            ("nodePort", port.node_port, (port.protocol,)),
        )
        for attribute, value, scope in claims:
            holder = first.setdefault((attribute, value, *scope), index)
            if value and holder != index:
                within = f" in {port.protocol}" if scope else ""
                rule = f"must be unique{within}: spec.ports[{holder}] has it already"
                found.violate(f"spec.ports[{index}].{attribute}", value, rule)


def _affinity_seconds(spec: ServiceSpec, found: findings.Findings) -> int | None:
    """ClientIP's timeout, 10800 when nothing is said at any level; None without affinity.

    With affinity None the apiserver's defaulting *clears* the config before its validation
    could forbid it (`SetDefaults_Service`), so it is accepted here too, and noted.
    """
    config = spec.session_affinity_config
    if spec.session_affinity in {None, "", "None"}:
        if config is not None and config.client_ip is not None:
            found.notes.append(
                "spec.sessionAffinityConfig has no effect because spec.sessionAffinity is None"
            )
        return None
    if spec.session_affinity != "ClientIP":
        found.violate("spec.sessionAffinity", spec.session_affinity, "must be ClientIP or None")
        return None
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return services.DEFAULT_AFFINITY_SECONDS
    if not 1 <= seconds <= services.MAX_AFFINITY_SECONDS:
        where = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        found.violate(where, seconds, f"must be from 1 to {services.MAX_AFFINITY_SECONDS}")
    return seconds


def _external_ips(spec: ServiceSpec, found: findings.Findings) -> tuple[str, ...]:
    made = []
    for index, text in enumerate(spec.external_ips or ()):
        address = addresses.parse(text)
        if address is None:
            found.violate(f"spec.externalIPs[{index}]", text, "must be an IP address")
        elif address.use is not addresses.Use.ORDINARY:
            found.violate(f"spec.externalIPs[{index}]", text, f"must not be {address.use}")
        else:
            made.append(address.text)
    return tuple(dict.fromkeys(made))  # one that is named twice is one frontend


def _load_balancer_ips(status: ServiceStatus, found: findings.Findings) -> tuple[str, ...]:
    """Ingress addresses to intercept: not hostnames, and not those of mode Proxy (15, 16)."""
    made = []
    ingress = (status.load_balancer.ingress if status.load_balancer else None) or ()
    for index, entry in enumerate(ingress):
        if not entry.ip or entry.ip_mode not in {None, "VIP"}:
            continue
        where = f"status.loadBalancer.ingress[{index}].ip"
        address = addresses.parse(entry.ip)
        if address is None:
            found.violate(where, entry.ip, "must be an IP address")
        elif not address.use.is_one_host:
            found.violate(where, entry.ip, f"must not be {address.use}")
        else:
            made.append(address.text)
    return tuple(dict.fromkeys(made))


def _strategy(metadata: objects.ObjectMeta, found: findings.Findings) -> services.Strategy | None:
    value = (metadata.annotations or {}).get(ANNOTATION_STRATEGY)
    if value is None:
        return None
    try:
        return services.Strategy(value)
    except ValueError:
        rule = f"must be one of {', '.join(services.Strategy)}"
        found.violate(f'metadata.annotations["{ANNOTATION_STRATEGY}"]', value, rule)
        return None


def _owner(service: services.Service) -> tuple[names.NamespacedName, ...]:
    return (service.name,)


# Asked for without a selector, unlike by kube-proxy: headless Services and those of another proxy
# are not served either, but users want to see that, and why. They wait for their endpoints,
# because a Service without them would refuse its clients.
KIND = Kind(
    name=services.Service.kind,
    collection=Collection("services", waits=True),
    shape=Service,
    judge=judge,
    owner=_owner,
)
