"""OpenAPI: the schemas that kubectl validates, merges and explains with.

They are made from the models of the `kubernetes` package, which were generated from
Kubernetes' own document, and from the merge keys of `strategic_merge`. Made when first asked
for, since importing the models takes a while, and kept.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kproxy.simulator.api.formats import openapi_protobuf, openapi_views
from kproxy.simulator.kinds.custom import strategies as custom_strategies
from kproxy.simulator.kinds.custom import structural
from kproxy.simulator.store import api_versions, strategic_merge
from kproxy.simulator.store.resources import Resource

_CORE = "io.k8s.api.core.v1"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_PACKAGES: Mapping[str, str] = {
    "apps": "io.k8s.api.apps.v1",
    "discovery.k8s.io": "io.k8s.api.discovery.v1",
    "extensions": "io.k8s.api.extensions.v1beta1",
    "networking.k8s.io": "io.k8s.api.networking.v1",
}
_META_TYPES = (
    "ObjectMeta",
    "OwnerReference",
    "ManagedFieldsEntry",
    "LabelSelector",
    "LabelSelectorRequirement",
    "Condition",
    "ListMeta",
)
_APPS_PREFIXES = ("Deployment", "RollingUpdateDeployment")
_NETWORKING_PREFIXES = ("Ingress", "HTTPIngress", "ServiceBackendPort", "ServiceCIDR")
_DISCOVERY_TYPES = ("EndpointSlice", "Endpoint", "EndpointConditions", "EndpointHints")
_SCALARS: Mapping[str, Mapping[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer", "format": "int32"},
    "float": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"type": "object"},
    "datetime": {"$ref": f"{_META}.Time"},
}
_TIMES = {
    f"{_META}.Time": {"type": "string", "format": "date-time"},
    f"{_META}.MicroTime": {"type": "string", "format": "date-time"},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "type": "string",
        "format": "int-or-string",
        "description": "IntOrString is a type that can hold an int32 or a string.",
    },
}
_INT_OR_STRING = {"$ref": "io.k8s.apimachinery.pkg.util.intstr.IntOrString"}
_VERBS = {"get": "get", "put": "update", "patch": "patch", "delete": "delete"}
_PATCH_TYPES = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
]


class Documents:
    """The OpenAPI documents of what is served."""

    def __init__(self, served: Sequence[Resource]) -> None:
        self._served = served

    @functools.cached_property
    def _definitions(self) -> dict[str, Any]:
        # What reads version 2 looks for fields, and leaves bounds to the server.
        return definitions(self._served, with_bounds=False)

    @functools.cached_property
    def _v2(self) -> dict[str, Any]:
        return {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.33.0"},
            "paths": _paths(self._served, "#/definitions/"),
            "definitions": _pointed(self._definitions, "#/definitions/"),
        }

    def v2(self) -> dict[str, Any]:
        return self._v2

    def v2_protobuf(self) -> bytes:
        """`/openapi/v2` in gnostic's protobuf, which is what kubectl asks for."""
        return self._protobuf

    @functools.cached_property
    def _protobuf(self) -> bytes:
        return openapi_protobuf.document(self._v2)

    def v3_index(self) -> dict[str, Any]:
        """`/openapi/v3`: where each version's document is."""
        names = dict.fromkeys(_v3_name(resource) for resource in self._served)
        return {
            "paths": {
                name: {"serverRelativeURL": f"/openapi/v3/{name}?hash={_hash(name)}"}
                for name in names
            }
        }

    def v3(self, name: str) -> dict[str, Any] | None:
        """`/openapi/v3/NAME`, None if there is no such version."""
        served = [resource for resource in self._served if _v3_name(resource) == name]
        if not served:
            return None
        prefix = "#/components/schemas/"
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.33.0"},
            "paths": _paths(served, prefix, is_v3=True),
            "components": {"schemas": _pointed(definitions(served), prefix, is_v3=True)},
        }


def definitions(served: Iterable[Resource], *, with_bounds: bool = True) -> dict[str, Any]:
    """The schemas of the resources and of all they are made of; a `$ref` is a bare name."""
    found: dict[str, Any] = dict(_TIMES)
    for resource in served:
        stored, name = api_versions.stored_as(resource), _definition_name(resource)
        kind = {"group": resource.group, "kind": resource.kind, "version": resource.version}
        if resource.is_custom:
            found[name] = _custom(found, stored, with_bounds=with_bounds)
            found[name]["x-kubernetes-group-version-kind"] = [kind]
            continue
        model = "CoreV1Event" if resource.kind == "Event" else f"V1{resource.kind}"
        stored_name = _definition_name(stored)
        _add(found, model, stored_name)
        if stored != resource:
            openapi_views.alter(resource, found, stored_name, name)
        found[name] = {**found[name], "x-kubernetes-group-version-kind": [kind]}
    return found


def _custom(found: dict[str, Any], stored: Resource, *, with_bounds: bool) -> dict[str, Any]:
    """The schema of a custom resource, with the fields that every object has."""
    _add(found, "V1ObjectMeta", _qualified("ObjectMeta"))
    schema = structural.openapi(custom_strategies.SCHEMAS[stored], with_bounds=with_bounds)
    common = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"$ref": _qualified("ObjectMeta")},
    }
    return {**schema, "properties": {**common, **schema["properties"]}}


def _add(found: dict[str, Any], model_name: str, name: str) -> None:
    if name in found:
        return
    from kubernetes.client import models  # noqa: PLC0415 - takes half a second: only when asked

    model = getattr(models, model_name)
    found[name] = {}  # types may refer to themselves
    shape = strategic_merge.SHAPES.get(_type_name(model_name), strategic_merge.Shape())
    fields = {info.serialization_alias or name: info for name, info in model.model_fields.items()}
    properties, required = {}, []
    for field, declared in model.openapi_types.items():
        json_name = model.attribute_map[field]
        info = fields[json_name]
        schema = dict(_schema(found, declared, json_name))
        if info.description:
            schema["description"] = info.description
        if info.is_required():
            required.append(json_name)
        properties[json_name] = schema | _merge_rules(shape, json_name)
    definition: dict[str, Any] = {"type": "object", "properties": properties}
    if model.__doc__:
        definition["description"] = model.__doc__.partition("Attributes:")[0].strip()
    found[name] = definition | ({"required": required} if required else {})


def _schema(found: dict[str, Any], declared: str, json_name: str) -> Mapping[str, Any]:
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", declared):
        return {"type": "array", "items": _schema(found, match[1], json_name)}
    if match := re.fullmatch(r"[Dd]ict\[str, (.+)\]", declared):
        return {"type": "object", "additionalProperties": _schema(found, match[1], json_name)}
    if declared == "object" and json_name in _INT_OR_STRINGS:
        return _INT_OR_STRING
    if declared in _SCALARS:
        return _SCALARS[declared]
    name = _qualified(_type_name(declared))
    _add(found, declared, name)
    return {"$ref": name}


_INT_OR_STRINGS = ("targetPort", "port", "maxSurge", "maxUnavailable")


def _type_name(model_name: str) -> str:
    return re.sub(r"^(CoreV1|DiscoveryV1|V1)", "", model_name)


def _qualified(type_name: str) -> str:
    if type_name in _META_TYPES:
        return f"{_META}.{type_name}"
    if type_name.startswith(_APPS_PREFIXES):
        return f"{_PACKAGES['apps']}.{type_name}"
    if type_name.startswith(_NETWORKING_PREFIXES):
        return f"{_PACKAGES['networking.k8s.io']}.{type_name}"
    if type_name in _DISCOVERY_TYPES:
        return f"{_PACKAGES['discovery.k8s.io']}.{type_name}"
    return f"{_CORE}.{type_name}"


def _definition_name(resource: Resource) -> str:
    if resource.is_custom:
        domain = ".".join(reversed(resource.group.split(".")))
        return f"{domain}.{resource.version}.{resource.kind}"
    package = _PACKAGES.get(resource.group, _CORE)
    return f"{package.rpartition('.')[0]}.{resource.version}.{resource.kind}"


def _merge_rules(shape: strategic_merge.Shape, json_name: str) -> dict[str, Any]:
    merge_key = shape.merge_keys.get(json_name)
    strategies = [] if merge_key is None else ["merge"]
    if json_name in shape.retain_keys:
        strategies.append("retainKeys")
    if not strategies:
        return {}
    rules = {"x-kubernetes-patch-strategy": ",".join(strategies)}
    return rules | ({"x-kubernetes-patch-merge-key": merge_key} if merge_key else {})


def _pointed(value: Any, prefix: str, *, is_v3: bool = False) -> Any:
    """With every bare `$ref` made a pointer into the document."""
    if isinstance(value, list):
        return [_pointed(inner, prefix, is_v3=is_v3) for inner in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        pointer = {"$ref": prefix + value["$ref"]}
        others = {name: inner for name, inner in value.items() if name != "$ref"}
        # In OpenAPI 3 nothing may stand beside a `$ref`.
        return {"allOf": [pointer], **others} if is_v3 and others else {**pointer, **others}
    return {name: _pointed(inner, prefix, is_v3=is_v3) for name, inner in value.items()}


def _paths(served: Iterable[Resource], prefix: str, *, is_v3: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for resource in served:
        root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        collection = f"{root}{scope}/{resource.plural}"
        operations = functools.partial(_operation, resource, prefix, is_v3=is_v3)
        found[collection] = {"get": operations("list"), "post": operations("post")}
        found[f"{collection}/{{name}}"] = {
            method: operations(verb) for method, verb in _VERBS.items()
        }
    return found


def _operation(resource: Resource, prefix: str, action: str, *, is_v3: bool) -> dict[str, Any]:
    kind = {"group": resource.group, "kind": resource.kind, "version": resource.version}
    schema = {"$ref": prefix + _definition_name(resource)}
    answer: dict[str, Any] = {"description": "OK"}
    if is_v3:
        answer["content"] = {"application/json": {"schema": schema}}
    else:
        answer["schema"] = schema
    operation: dict[str, Any] = {
        "operationId": f"{action}{resource.version.title()}{resource.kind}",
        "responses": {"200": answer},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    }
    if action == "patch" and not is_v3:
        # kubectl reads here which kind of patch to send.
        operation["consumes"] = _PATCH_TYPES[:2] if resource.is_custom else _PATCH_TYPES
        # kubectl looks here for whether the server knows dry runs.
        operation["parameters"] = [{"in": "query", "name": "dryRun", "type": "string"}]
    return operation


def _v3_name(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32].upper()
