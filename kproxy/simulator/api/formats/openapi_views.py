"""The schemas of API versions that are views: those of the stored version, changed.

The `kubernetes` package has models of the stored versions alone.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from kproxy.simulator.store import api_versions
from kproxy.simulator.store.resources import Resource

Schemas = dict[str, Any]

_INT_OR_STRING = {"$ref": "io.k8s.apimachinery.pkg.util.intstr.IntOrString"}
_INGRESS_TYPES = (
    "Ingress",
    "IngressSpec",
    "IngressRule",
    "HTTPIngressRuleValue",
    "HTTPIngressPath",
    "IngressBackend",
)


def alter(served: Resource, found: Schemas, stored_name: str, name: str) -> None:
    """Add the schema `name` of `served` to `found`, which has that of the stored version."""
    _ALTERATIONS.get(served, _same)(found, stored_name, name)


def _same(found: Schemas, stored_name: str, name: str) -> None:
    found[name] = copy.deepcopy(found[stored_name])


def _ingress(found: Schemas, stored_name: str, name: str) -> None:
    """Its types under names of their own, with backends as before v1."""
    old, new = stored_name.removesuffix("Ingress"), name.removesuffix("Ingress")
    made = {
        new + each: json.loads(_renamed(json.dumps(found[old + each]), old, new))
        for each in _INGRESS_TYPES
    }
    spec = made[f"{new}IngressSpec"]["properties"]
    spec["backend"] = spec.pop("defaultBackend")
    made[f"{new}HTTPIngressPath"]["required"].remove("pathType")
    backend = made[f"{new}IngressBackend"]["properties"]
    del backend["service"]
    backend["serviceName"] = {
        "type": "string",
        "description": "serviceName specifies the name of the referenced service.",
    }
    backend["servicePort"] = {
        **_INT_OR_STRING,
        "description": "servicePort specifies the port of the referenced service.",
    }
    found.update(made)


def _renamed(schema: str, old: str, new: str) -> str:
    for each in _INGRESS_TYPES:
        schema = schema.replace(f'"$ref": "{old}{each}"', f'"$ref": "{new}{each}"')
    return schema


def _slice(found: Schemas, stored_name: str, name: str) -> None:
    """Its endpoints have a `topology`."""
    endpoint = stored_name.removesuffix("Slice")
    made = copy.deepcopy(found[endpoint])
    fields = made["properties"]
    del fields["deprecatedTopology"], fields["zone"]
    fields["topology"] = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "topology contains arbitrary topology information about the endpoint.",
    }
    new = name.removesuffix("Slice")
    found[new] = made
    found[name] = json.loads(
        json.dumps(found[stored_name]).replace(f'"$ref": "{endpoint}"', f'"$ref": "{new}"')
    )


_ALTERATIONS: Mapping[Resource, Callable[[Schemas, str, str], None]] = {
    api_versions.ENDPOINT_SLICES_V1BETA1: _slice,
    api_versions.INGRESSES_V1BETA1: _ingress,
    api_versions.INGRESSES_EXTENSIONS: _ingress,
}
