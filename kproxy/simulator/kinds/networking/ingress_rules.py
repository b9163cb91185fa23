"""What an Ingress may say: kube-apiserver's rules and words.

From `ValidateIngressCreate` and `ValidateIngressUpdate` of
`pkg/apis/networking/validation/validation.go`.
"""

from collections.abc import Iterator

import msgspec

from kproxy.model import addresses
from kproxy.simulator.kinds.networking import references
from kproxy.simulator.store import formats, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

ANNOTATION_CLASS = "kubernetes.io/ingress.class"
"""The way of before `ingressClassName` to name a class."""

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_FORBIDDEN_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_FORBIDDEN_SUFFIXES = ("/..", "/.")


class _Port(msgspec.Struct):
    name: str | None = None
    number: int | None = None


class _Service(msgspec.Struct):
    name: str | None = None
    port: _Port | None = None


class _Backend(msgspec.Struct):
    service: _Service | None = None
    resource: references.Reference | None = None


class _Path(msgspec.Struct, rename="camel"):
    path: str | None = None
    path_type: str | None = None
    backend: _Backend | None = None


class _Http(msgspec.Struct):
    paths: list[_Path] | None = None


class _Rule(msgspec.Struct):
    host: str | None = None
    http: _Http | None = None


class _Tls(msgspec.Struct, rename="camel"):
    hosts: list[str] | None = None
    secret_name: str | None = None


class _Spec(msgspec.Struct, rename="camel"):
    ingress_class_name: str | None = None
    default_backend: _Backend | None = None
    rules: list[_Rule] | None = None
    tls: list[_Tls] | None = None


class _Address(msgspec.Struct):
    ip: str | None = None
    hostname: str | None = None


class _LoadBalancer(msgspec.Struct):
    ingress: list[_Address] | None = None


class _Status(msgspec.Struct, rename="camel"):
    load_balancer: _LoadBalancer | None = None


class Shape(msgspec.Struct):
    """An Ingress, as far as there are rules for it."""

    spec: _Spec | None = None
    status: _Status | None = None


def violations(ingress: Object) -> Iterator[Cause]:
    """What is wrong with an Ingress by itself."""
    spec = ingress.get("spec") or {}
    rules, backend = spec.get("rules") or [], spec.get("defaultBackend")
    if not rules and backend is None:
        rule = "either `defaultBackend` or `rules` must be specified"
        yield statuses.invalid_value("spec", rules or None, rule)
    if backend is not None:
        yield from _backend(backend, "spec.defaultBackend")
    for index, each in enumerate(rules):
        yield from _rule(each, f"spec.rules[{index}]")
    for index, tls in enumerate(spec.get("tls") or []):
        yield from _tls(tls, f"spec.tls[{index}]")
    name = spec.get("ingressClassName")
    if name is not None:
        yield from statuses.malformed_value(
            "spec.ingressClassName", name, formats.dns_1123_subdomain
        )


def create_violations(ingress: Object) -> Iterator[Cause]:
    """That the two ways to name a class disagree, which an old Ingress may."""
    named = (ingress.get("spec") or {}).get("ingressClassName")
    annotated = (ingress["metadata"].get("annotations") or {}).get(ANNOTATION_CLASS)
    if annotated is not None and named is not None and annotated != named:
        yield statuses.invalid_value(
            f"annotations.{ANNOTATION_CLASS}",
            annotated,
            "must match `ingressClassName` when both are specified",
        )


def status_violations(ingress: Object) -> Iterator[Cause]:
    """What is wrong with the addresses in its status."""
    entries = (ingress["status"].get("loadBalancer") or {}).get("ingress") or []
    for index, entry in enumerate(entries):
        where = f"status.loadBalancer.ingress[{index}]"
        ip, host = entry.get("ip") or "", entry.get("hostname") or ""
        if ip and addresses.parse(ip) is None:
            rule = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield statuses.invalid_value(f"{where}.ip", ip, rule)
        if host:
            yield from statuses.malformed_value(
                f"{where}.hostname", host, formats.dns_1123_subdomain
            )
            if addresses.parse(host) is not None:
                yield statuses.invalid_value(
                    f"{where}.hostname", host, formats.DNS_NAME_NOT_ADDRESS
                )


def _rule(rule: Object, where: str) -> Iterator[Cause]:
    host = rule.get("host") or ""
    if host:
        if addresses.parse(host) is not None:
            yield statuses.invalid_value(f"{where}.host", host, formats.DNS_NAME_NOT_ADDRESS)
        yield from statuses.malformed_value(f"{where}.host", host, _host_format(host))
    http = rule.get("http")
    if http is None:
        return
    paths = http.get("paths") or []
    if not paths:
        yield statuses.required_value(f"{where}.http.paths")
    for index, path in enumerate(paths):
        yield from _path(path, f"{where}.http.paths[{index}]")


def _path(path: Object, where: str) -> Iterator[Cause]:
    kind, text = path.get("pathType"), path.get("path") or ""
    if kind is None:
        yield statuses.required_value(f"{where}.pathType", "pathType must be specified")
        return
    if kind not in _PATH_TYPES:
        yield statuses.not_supported_value(f"{where}.pathType", kind, _PATH_TYPES)
    elif kind == "ImplementationSpecific":
        if text and not text.startswith("/"):
            yield statuses.invalid_value(f"{where}.path", text, "must be an absolute path")
    else:
        for fault in _path_faults(text):
            yield statuses.invalid_value(f"{where}.path", text, fault)
    yield from _backend(path.get("backend") or {}, f"{where}.backend")


def _path_faults(text: str) -> Iterator[str]:
    if not text.startswith("/"):
        yield "must be an absolute path"
    for sequence in _FORBIDDEN_SEQUENCES:
        if sequence in text:
            yield f"must not contain '{sequence}'"
    for suffix in _FORBIDDEN_SUFFIXES:
        if text.endswith(suffix):
            yield f"cannot end with '{suffix}'"


def _backend(backend: Object, where: str) -> Iterator[Cause]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        rule = "cannot set both resource and service backends"
        yield statuses.invalid_value(where, "", rule)
    elif resource is not None:
        yield from references.violations(resource, f"{where}.resource")
    elif service is not None:
        yield from _service(service, where)
    else:
        yield statuses.invalid_value(where, "", "resource or service backend is required")


def _service(service: Object, where: str) -> Iterator[Cause]:
    name = service.get("name") or ""
    if name:
        yield from statuses.malformed_value(f"{where}.service.name", name, formats.dns_1035_label)
    else:
        yield statuses.required_value(f"{where}.service.name")
    port = service.get("port") or {}
    port_name, number = port.get("name") or "", port.get("number") or 0
    if port_name and number:
        yield statuses.invalid_value(where, "", "cannot set both port name & port number")
    elif port_name:
        yield from statuses.malformed_value(
            f"{where}.service.port.name", port_name, formats.port_name
        )
    elif not number:
        yield statuses.required_value(where, "port name or number is required")
    elif not 1 <= number <= 65535:
        place = f"{where}.service.port.number"
        yield statuses.invalid_value(place, number, formats.PORT_RULE)


def _tls(tls: Object, where: str) -> Iterator[Cause]:
    for index, host in enumerate(tls.get("hosts") or []):
        yield from statuses.malformed_value(f"{where}.hosts[{index}]", host, _host_format(host))
    if name := tls.get("secretName"):
        yield from statuses.malformed_value(f"{where}.secretName", name, formats.dns_1123_subdomain)


def _host_format(host: str) -> formats.Format:
    return formats.wildcard_subdomain if "*" in host else formats.dns_1123_subdomain
