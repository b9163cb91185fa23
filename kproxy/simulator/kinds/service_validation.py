"""What a Service may say: kube-apiserver's rules and words.

From `ValidateService` and `ValidateServiceUpdate` of `pkg/apis/core/validation/validation.go`, as
far as they concern what a proxy or the allocators read. Defaults have been set before. What is
about cluster IPs and their families is in `ip_families`.
"""

from collections.abc import Hashable, Iterator
from typing import Any

from kproxy.model import addresses
from kproxy.model.kinds import services
from kproxy.simulator.store import formats, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

_ONLY_LOAD_BALANCER = "may only be used when `type` is 'LoadBalancer'"
_LOAD_BALANCER_FIELDS = (
    "allocateLoadBalancerNodePorts",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
)
_CHOICES = {
    "type": tuple(services.ServiceType),
    "sessionAffinity": ("ClientIP", "None"),
    "externalTrafficPolicy": tuple(services.TrafficPolicy),
    "internalTrafficPolicy": tuple(services.TrafficPolicy),
}


def is_headless(service: Object) -> bool:
    """Whether its `clusterIP` is "None"."""
    return bool(service["spec"].get("clusterIP") == "None")


def needs_cluster_ip(service: Object) -> bool:
    """Whether its type comes with a cluster IP ("None" counts as one here)."""
    return bool(service["spec"].get("type") != "ExternalName")


def needs_node_ports(service: Object) -> bool:
    """Whether its ports get node ports by themselves."""
    spec = service["spec"]
    if spec.get("type") == "LoadBalancer":
        return spec.get("allocateLoadBalancerNodePorts") is not False
    return bool(spec.get("type") == "NodePort")


def needs_health_check(service: Object) -> bool:
    """Whether it gets a healthCheckNodePort."""
    spec = service["spec"]
    return bool(spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local")


def is_externally_accessible(service: Object) -> bool:
    """Whether an externalTrafficPolicy applies to it."""
    spec = service["spec"]
    kind = spec.get("type")
    return bool(
        kind in {"NodePort", "LoadBalancer"} or (kind == "ClusterIP" and spec.get("externalIPs"))
    )


def violations(service: Object) -> list[Cause]:
    """What is wrong with a Service by itself."""
    return [
        *_choices(service["spec"]),
        *_type(service),
        *_ports(service),
        *_affinity(service["spec"]),
        *_external_ips(service["spec"]),
        *_type_dependent_fields(service),
    ]


def update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """What may not change. A type change from or to ExternalName frees the address."""
    if not (needs_cluster_ip(old) and needs_cluster_ip(new)):
        return
    if needs_health_check(old) and needs_health_check(new):
        field = "healthCheckNodePort"
        if old["spec"].get(field) != new["spec"].get(field):
            yield statuses.forbidden_value(f"spec.{field}", "field is immutable")


def _choices(spec: Object) -> Iterator[Cause]:
    for field, choices in _CHOICES.items():
        value = spec.get(field)
        if value is not None and value not in choices:
            yield statuses.not_supported_value(f"spec.{field}", value, choices)


def _type(service: Object) -> Iterator[Cause]:
    spec = service["spec"]
    kind = spec["type"]
    if kind == "ExternalName":
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield statuses.forbidden_value(
                    f"spec.{field}", "may not be set for ExternalName services"
                )
        target = (spec.get("externalName") or "").removesuffix(".")
        if target:
            syntax = formats.dns_1123_subdomain
            yield from statuses.malformed_value("spec.externalName", target, syntax)
        else:
            yield statuses.required_value("spec.externalName")
    elif is_headless(service):
        if kind != "ClusterIP":
            yield statuses.invalid_value(
                "spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"
            )
    elif not spec.get("ports"):
        yield statuses.required_value("spec.ports")


def _ports(service: Object) -> Iterator[Cause]:
    spec = service["spec"]
    ports = spec.get("ports") or []
    seen: dict[str, set[Hashable]] = {"name": set(), "nodePort": set(), "": set()}
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        yield from _port(port, where, name_required=len(ports) > 1)
        if spec["type"] == "ClusterIP" and port.get("nodePort"):
            yield statuses.forbidden_value(
                f"{where}.nodePort", "may not be used when `type` is 'ClusterIP'"
            )
        key = {name: port[name] for name in ("protocol", "port")}
        scoped = (port["protocol"], port.get("nodePort"))
        for field, value, shown in (
            ("name", port.get("name"), port.get("name")),
            ("nodePort", scoped if port.get("nodePort") else None, port.get("nodePort")),
            ("", tuple(key.values()), key),
        ):
            if value and value in seen[field]:
                yield statuses.duplicate_value(f"{where}.{field}".rstrip("."), shown)
            seen[field].add(value)


def _port(port: Object, where: str, *, name_required: bool) -> Iterator[Cause]:
    name = port.get("name") or ""
    if name:
        yield from statuses.malformed_value(f"{where}.name", name, formats.dns_1123_label)
    elif name_required:
        yield statuses.required_value(f"{where}.name")
    if not 1 <= port["port"] <= 65535:
        yield statuses.invalid_value(f"{where}.port", port["port"], formats.PORT_RULE)
    if port["protocol"] not in {"TCP", "UDP", "SCTP"}:
        yield statuses.not_supported_value(
            f"{where}.protocol", port["protocol"], ("SCTP", "TCP", "UDP")
        )
    yield from _target_port(port["targetPort"], f"{where}.targetPort")


def _target_port(value: int | str, where: str) -> Iterator[Cause]:
    if isinstance(value, str):
        yield from statuses.malformed_value(where, value, formats.port_name)
    elif not 1 <= value <= 65535:
        yield statuses.invalid_value(where, value, formats.PORT_RULE)


def _affinity(spec: Object) -> Iterator[Cause]:
    if spec.get("sessionAffinity") != "ClientIP":
        return
    seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
    longest = services.MAX_AFFINITY_SECONDS
    if not 1 <= seconds <= longest:
        yield statuses.invalid_value(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            seconds,
            f"must be greater than 0 and less than {longest}",
        )


def _external_ips(spec: Object) -> Iterator[Cause]:
    for index, text in enumerate(spec.get("externalIPs") or []):
        where = f"spec.externalIPs[{index}]"
        yield from address_violations(text, where)
        parsed = addresses.parse(text)
        if parsed and parsed.use is addresses.Use.LOOPBACK:
            yield statuses.invalid_value(
                where, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"
            )


def address_violations(text: str, where: str) -> Iterator[Cause]:
    """That `text` is no IP address in the strict sense (`IsValidIP`)."""
    if addresses.parse(text) is None:
        yield statuses.invalid_value(
            where, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        )


def _type_dependent_fields(service: Object) -> Iterator[Cause]:
    spec: dict[str, Any] = service["spec"]
    policy = spec.get("externalTrafficPolicy")
    if policy and not is_externally_accessible(service):
        yield statuses.invalid_value(
            "spec.externalTrafficPolicy",
            policy,
            "may only be set for externally-accessible services",
        )
    if spec.get("healthCheckNodePort") and not needs_health_check(service):
        yield statuses.invalid_value(
            "spec.healthCheckNodePort",
            spec["healthCheckNodePort"],
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )
    if spec["type"] != "LoadBalancer":
        for field in _LOAD_BALANCER_FIELDS:
            if spec.get(field) is not None:
                yield statuses.forbidden_value(f"spec.{field}", _ONLY_LOAD_BALANCER)
