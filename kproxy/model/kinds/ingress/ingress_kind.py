"""The kind Ingress: API shape, and kube-apiserver's rules (`pkg/apis/networking/validation`).

`networking.k8s.io/v1`, and `v1beta1` as Kubernetes 1.14 to 1.21 have it: there a backend is
`serviceName` and `servicePort`, the default one is `spec.backend`, and `pathType` may be absent.
`extensions/v1beta1`, which all servers up to 1.21 had beside it, has the same words.
"""

import re
from collections.abc import Generator, Sequence

import msgspec

from kproxy.model import addresses, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.ingress import ingresses
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

_NEVER_IN_A_PATH = ("//", "/./", "/../", "%2f", "%2F")
_NEVER_LAST_IN_A_PATH = ("/..", "/.")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_RULES_BETWEEN_PAUSES = 64
_PATHS_BETWEEN_PAUSES = 64


class Port(msgspec.Struct, frozen=True, gc=False):
    """`backend.service.port`."""

    name: str | None = None
    number: int | None = None


class ServiceReference(msgspec.Struct, frozen=True, gc=False):
    """`backend.service`."""

    name: str | None = None
    port: Port | None = None


class ResourceReference(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`backend.resource`."""

    api_group: str | None = None
    kind: str | None = None
    name: str | None = None


class BackendShape(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A backend of v1, or of v1beta1."""

    service: ServiceReference | None = None
    resource: ResourceReference | None = None
    service_name: str | None = None
    service_port: int | str | None = None


class PathShape(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.rules[].http.paths[]`."""

    path: str | None = None
    path_type: str | None = None
    backend: BackendShape | None = None


class HttpShape(msgspec.Struct, frozen=True, gc=False):
    """`spec.rules[].http`."""

    paths: tuple[PathShape, ...] | None = None


class RuleShape(msgspec.Struct, frozen=True, gc=False):
    """`spec.rules[]`."""

    host: str | None = None
    http: HttpShape | None = None


class TlsShape(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec.tls[]`."""

    hosts: tuple[str, ...] | None = None
    secret_name: str | None = None


class Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec`. `backend` is v1beta1's name of `defaultBackend`."""

    ingress_class_name: str | None = None
    default_backend: BackendShape | None = None
    backend: BackendShape | None = None
    rules: tuple[RuleShape, ...] | None = None
    tls: tuple[TlsShape, ...] | None = None


class Published(msgspec.Struct, frozen=True, gc=False):
    """`status.loadBalancer.ingress[]`."""

    ip: str | None = None
    hostname: str | None = None


class LoadBalancer(msgspec.Struct, frozen=True, gc=False):
    """`status.loadBalancer`."""

    ingress: tuple[Published, ...] | None = None


class Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`status`."""

    load_balancer: LoadBalancer | None = None


class Metadata(objects.ObjectMeta, frozen=True, gc=False, rename="camel"):
    """`metadata`."""

    uid: str | None = None


class IngressShape(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`networking.k8s.io/v1` and `v1beta1` Ingress. Items of a list give no `apiVersion`."""

    api_version: str | None = None
    metadata: Metadata | None = None
    spec: Spec | None = None
    status: Status | None = None


def judge(
    shape: IngressShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, ingresses.Ingress | None]:
    """What an Ingress says, or None when it is invalid. Yields where others can be let run."""
    yield
    metadata, spec = shape.metadata or Metadata(), shape.spec or Spec()
    name = field_rules.identity(metadata, field_rules.DNS_SUBDOMAIN, found)
    default, where = spec.default_backend, "spec.defaultBackend"
    if default is None and spec.backend is not None:
        default, where = spec.backend, "spec.backend"
    if not spec.rules and default is None:
        found.violate("spec", None, "must have rules or defaultBackend")
    is_v1 = shape.api_version == "networking.k8s.io/v1"
    rules = yield from _rules(spec.rules or (), found, is_path_type_needed=is_v1)
    tls = yield from _tls(spec.tls or (), found)
    if spec.ingress_class_name is not None and not field_rules.DNS_SUBDOMAIN.admits(
        spec.ingress_class_name
    ):
        found.violate(
            "spec.ingressClassName", spec.ingress_class_name, field_rules.DNS_SUBDOMAIN.words
        )
    made = ingresses.Ingress(
        name,
        spec.ingress_class_name,
        rules,
        None if default is None else _backend(default, where, found),
        tls,
        _annotations(metadata),
        metadata.creation_timestamp or "",
        metadata.uid or "",
        _published(shape.status),
    )
    return None if found.violations else made


def _rules(
    shapes: Sequence[RuleShape], found: findings.Findings, *, is_path_type_needed: bool
) -> Generator[None, None, tuple[ingresses.Rule, ...]]:
    made = []
    for index, shape in enumerate(shapes):
        if index % _RULES_BETWEEN_PAUSES == _RULES_BETWEEN_PAUSES - 1:
            yield
        where = f"spec.rules[{index}]"
        host = shape.host or ""
        if host:
            _check_host(host, f"{where}.host", found)
        paths = []
        if shape.http is not None and not shape.http.paths:
            found.violate(f"{where}.http.paths", None, "must be given")
        for number, path in enumerate((shape.http.paths if shape.http else None) or ()):
            if number % _PATHS_BETWEEN_PAUSES == _PATHS_BETWEEN_PAUSES - 1:
                yield
            at = f"{where}.http.paths[{number}]"
            paths.append(_path(path, at, found, is_type_needed=is_path_type_needed))
        made.append(ingresses.Rule(host, tuple(paths)))
    return tuple(made)


def _check_host(host: str, where: str, found: findings.Findings) -> None:
    if addresses.parse(host) is not None:
        found.violate(where, host, "must be a DNS name, not an IP address")
    elif not field_rules.DNS_SUBDOMAIN.admits(host.removeprefix("*.")):
        rule = field_rules.DNS_SUBDOMAIN.words
        found.violate(where, host, f'{rule}, with or without "*." before it')


def _path(
    shape: PathShape, where: str, found: findings.Findings, *, is_type_needed: bool
) -> ingresses.Path:
    kind = ingresses.PathType.IMPLEMENTATION_SPECIFIC
    if shape.path_type is not None:
        try:
            kind = ingresses.PathType(shape.path_type)
        except ValueError:
            rule = f"must be one of {', '.join(ingresses.PathType)}"
            found.violate(f"{where}.pathType", shape.path_type, rule)
    elif is_type_needed:
        found.violate(f"{where}.pathType", None, f"must be one of {', '.join(ingresses.PathType)}")
    path = shape.path or ""
    if kind is ingresses.PathType.IMPLEMENTATION_SPECIFIC:
        if path and not path.startswith("/"):
            found.violate(f"{where}.path", path, 'must begin with "/"')
    else:
        _check_path(path, f"{where}.path", found)
    if shape.backend is None:
        found.violate(f"{where}.backend", None, "must be given")
        return ingresses.Path(path or "/", kind, ingresses.Backend())
    return ingresses.Path(path or "/", kind, _backend(shape.backend, f"{where}.backend", found))


def _check_path(path: str, where: str, found: findings.Findings) -> None:
    """A path of the types Exact and Prefix."""
    if not path.startswith("/"):
        found.violate(where, path or None, 'must begin with "/"')
    for never in _NEVER_IN_A_PATH:
        if never in path:
            found.violate(where, path, f'must not contain "{never}"')
    for never in _NEVER_LAST_IN_A_PATH:
        if path.endswith(never):
            found.violate(where, path, f'must not end with "{never}"')


def _backend(shape: BackendShape, where: str, found: findings.Findings) -> ingresses.Backend:
    service, resource = shape.service, shape.resource
    if shape.service_name is not None or shape.service_port is not None:
        return _old_backend(shape, where, found)
    if (service is None) is (resource is None):
        found.violate(where, None if service is None else {}, "must be one service or resource")
    if resource is not None:
        if not resource.kind or not resource.name:
            found.violate(f"{where}.resource", None, "must have a kind and a name")
        return ingresses.Backend(resource=f"{resource.kind} {resource.name}")
    service = service or ServiceReference()
    port = service.port or Port()
    if port.name and port.number:
        found.violate(f"{where}.service.port", {}, "must have a name or a number, not both")
    _check_service(service.name, f"{where}.service.name", found)
    if not port.name:
        at = f"{where}.service.port.number"
        return ingresses.Backend(
            service.name or "", field_rules.port_number(port.number, at, found)
        )
    _check_port_name(port.name, f"{where}.service.port.name", found)
    return ingresses.Backend(service.name or "", port.name)


def _old_backend(shape: BackendShape, where: str, found: findings.Findings) -> ingresses.Backend:
    """A backend of v1beta1. A port in digits that is a string is a name, as it is there."""
    if shape.service is not None or shape.resource is not None:
        found.violate(where, {}, "must be one service or resource")
    _check_service(shape.service_name, f"{where}.serviceName", found)
    port, at = shape.service_port, f"{where}.servicePort"
    if isinstance(port, str):
        _check_port_name(port, at, found)
        return ingresses.Backend(shape.service_name or "", port)
    return ingresses.Backend(shape.service_name or "", field_rules.port_number(port, at, found))


def _check_service(name: str | None, where: str, found: findings.Findings) -> None:
    if not name:
        found.violate(where, None, "must be given")
    elif not field_rules.DNS_LABEL.admits(name):
        found.violate(where, name, field_rules.DNS_LABEL.words)


def _check_port_name(name: str, where: str, found: findings.Findings) -> None:
    if not _PORT_NAME.fullmatch(name):
        rule = "must be at most 15 of a-z, 0-9 and '-', with a letter, no '-' at either end"
        found.violate(where, name, rule)


def _tls(
    shapes: Sequence[TlsShape], found: findings.Findings
) -> Generator[None, None, tuple[ingresses.Tls, ...]]:
    made = []
    for index, shape in enumerate(shapes):
        if index % _RULES_BETWEEN_PAUSES == _RULES_BETWEEN_PAUSES - 1:
            yield
        where = f"spec.tls[{index}]"
        for number, host in enumerate(shape.hosts or ()):
            _check_host(host, f"{where}.hosts[{number}]", found)
        secret = shape.secret_name or ""
        if secret and not field_rules.DNS_SUBDOMAIN.admits(secret):
            found.violate(f"{where}.secretName", secret, field_rules.DNS_SUBDOMAIN.words)
        made.append(ingresses.Tls(shape.hosts or (), secret))
    return tuple(made)


def _annotations(metadata: objects.ObjectMeta) -> tuple[tuple[str, str], ...]:
    """Those that are read."""
    return tuple(
        sorted(
            (key, value)
            for key, value in (metadata.annotations or {}).items()
            if key.startswith(ingresses.PREFIXES) or key == ingresses.ANNOTATION_CLASS
        )
    )


def _published(status: Status | None) -> tuple[str, ...]:
    balancer = status.load_balancer if status else None
    entries = (balancer.ingress if balancer else None) or ()
    return tuple(each.ip or each.hostname or "" for each in entries)


# networking.k8s.io/v1 came with Kubernetes 1.19, and both v1beta1 went with 1.22.
KIND = Kind(
    name=ingresses.Ingress.kind,
    collection=Collection("ingresses", "networking.k8s.io", ("v1", "v1beta1"), needed=False),
    shape=IngressShape,
    judge=judge,
    owner=concerns_no_service,
    older_versions=("extensions/v1beta1",),
)
