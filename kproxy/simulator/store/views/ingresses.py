"""networking.k8s.io/v1beta1 and extensions/v1beta1 Ingresses as views of v1.

The conversion is kube-apiserver's (`pkg/apis/networking/v1beta1/conversion.go`): the older
versions name a backend's Service and port in `serviceName` and `servicePort`, and the default
backend is `backend`. Where v1 asks for a `pathType`, they default it to ImplementationSpecific.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from kproxy.simulator.store.views.view import View, same_fields

_BACKEND_FIELDS = ("serviceName", "servicePort")


def _to_served(item: Object) -> Object:
    return _converted(item, "defaultBackend", "backend", _path_to_v1beta1, _backend_to_v1beta1)


def _to_stored(item: Object) -> Object:
    return _converted(item, "backend", "defaultBackend", _path_to_v1, _backend_to_v1)


def _converted(
    item: Object,
    default_field: str,
    new_default_field: str,
    path: Callable[[Object], Object],
    backend: Callable[[Object], Object],
) -> Object:
    spec = item.get("spec")
    if not isinstance(spec, dict):
        return dict(item)
    made = {name: spec[name] for name in spec if name != default_field}
    if default_field in spec:
        made[new_default_field] = _if_map(spec[default_field], backend)
    if "rules" in spec:
        made["rules"] = _each(spec["rules"], lambda rule: _rule(rule, path))
    return {**item, "spec": made}


def _rule(rule: Object, path: Callable[[Object], Object]) -> Object:
    http = rule.get("http")
    if not isinstance(http, dict) or "paths" not in http:
        return rule
    return {**rule, "http": {**http, "paths": _each(http["paths"], path)}}


def _path_to_v1beta1(path: Object) -> Object:
    backend = path.get("backend")
    return {**path, "backend": _if_map(backend, _backend_to_v1beta1)} if backend else path


def _path_to_v1(path: Object) -> Object:
    made = {"pathType": "ImplementationSpecific", **path}
    if "backend" in made:
        made["backend"] = _if_map(made["backend"], _backend_to_v1)
    return made


def _backend_to_v1beta1(backend: Object) -> Object:
    service = backend.get("service")
    if service is None:
        return backend
    port = service.get("port") or {}
    made = {name: backend[name] for name in backend if name != "service"}
    return {
        **made,
        "serviceName": service.get("name", ""),
        "servicePort": port.get("name") or port.get("number", 0),
    }


def _backend_to_v1(backend: Object) -> Object:
    name, port = (backend.get(field) for field in _BACKEND_FIELDS)
    made = {field: backend[field] for field in backend if field not in _BACKEND_FIELDS}
    if not name and not port:
        return made
    service: Object = {} if name is None else {"name": name}
    if port:
        service["port"] = {"name" if isinstance(port, str) else "number": port}
    return {**made, "service": service}


def _if_map(value: Any, convert: Callable[[Object], Object]) -> Any:
    return convert(value) if isinstance(value, dict) else value


def _each(values: Any, convert: Callable[[Object], Object]) -> Any:
    if not isinstance(values, list):
        return values
    return [_if_map(value, convert) for value in values]


_RENAMED = (
    ("spec.defaultBackend", "spec.backend"),
    ("`defaultBackend`", "`backend`"),
    (".service.name", ".serviceName"),
    (".service.port.name", ".servicePort"),
    (".service.port.number", ".servicePort"),
)


def _view(group: str) -> View:
    served = replace(resources.INGRESSES, group=group, version="v1beta1")
    return View(served, resources.INGRESSES, _to_served, _to_stored, _RENAMED)


NETWORKING_V1BETA1 = _view("networking.k8s.io")
EXTENSIONS_V1BETA1 = _view("extensions")
CLASSES_V1BETA1 = same_fields(resources.INGRESS_CLASSES, "v1beta1")
