"""Strategic merge patch: a merge that knows which lists are maps in disguise.

What apimachinery's `pkg/util/strategicpatch/patch.go` does on the server: lists with a merge key
are merged element by element; `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and
`$setElementOrder` express what a plain merge cannot.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kproxy.simulator.store import statuses

PRIMITIVE = ""
"""The merge key of a list of plain values: they are their own keys."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a patch must know of an API type. `fields` names the types of fields with a shape;
    `merge_keys` the lists that are merged; `retain_keys` the fields whose patches name the keys
    that stay. Everything else is merged (maps) or replaced (lists)."""

    fields: Mapping[str, str] = field(default_factory=dict)
    merge_keys: Mapping[str, str] = field(default_factory=dict)
    retain_keys: frozenset[str] = frozenset()


def _root(spec: str = "", status_type: str = "") -> Shape:
    types = {"metadata": "ObjectMeta", "spec": spec, "status": status_type}
    return Shape({name: of for name, of in types.items() if of})


SHAPES: Mapping[str, Shape] = {
    "Namespace": _root(status_type="NamespaceStatus"),
    "Node": _root("NodeSpec", "NodeStatus"),
    "Pod": _root("PodSpec", "PodStatus"),
    "Service": _root("ServiceSpec", "ServiceStatus"),
    "Endpoints": _root(),
    "EndpointSlice": _root(),
    "Event": _root(),
    "Secret": _root(),
    "ConfigMap": _root(),
    "ServiceAccount": Shape({"metadata": "ObjectMeta"}, {"secrets": "name"}),
    "Ingress": _root(),
    "IngressClass": _root(),
    "Deployment": _root("DeploymentSpec", "DeploymentStatus"),
    "ObjectMeta": Shape(merge_keys={"ownerReferences": "uid", "finalizers": PRIMITIVE}),
    "NamespaceStatus": Shape(merge_keys={"conditions": "type"}),
    "NodeSpec": Shape(merge_keys={"podCIDRs": PRIMITIVE}),
    "NodeStatus": Shape(merge_keys={"conditions": "type", "addresses": "type"}),
    "PodStatus": Shape(merge_keys={"conditions": "type", "podIPs": "ip", "hostIPs": "ip"}),
    "ServiceSpec": Shape(merge_keys={"ports": "port"}),
    "ServiceStatus": Shape(merge_keys={"conditions": "type"}),
    "DeploymentSpec": Shape({"template": "PodTemplateSpec"}, retain_keys=frozenset({"strategy"})),
    "DeploymentStatus": Shape(merge_keys={"conditions": "type"}),
    "PodTemplateSpec": Shape({"metadata": "ObjectMeta", "spec": "PodSpec"}),
    "PodSpec": Shape(
        {
            "containers": "Container",
            "initContainers": "Container",
            "ephemeralContainers": "Container",
        },
        {
            "containers": "name",
            "initContainers": "name",
            "ephemeralContainers": "name",
            "volumes": "name",
            "imagePullSecrets": "name",
            "hostAliases": "ip",
            "topologySpreadConstraints": "topologyKey",
            "resourceClaims": "name",
            "schedulingGates": "name",
        },
        frozenset({"volumes", "resourceClaims"}),
    ),
    "Container": Shape(
        merge_keys={
            "ports": "containerPort",
            "env": "name",
            "volumeMounts": "mountPath",
            "volumeDevices": "devicePath",
        }
    ),
}
"""API types by name. The keys are the `patchMergeKey` tags of k8s.io/api's Go types."""

_UNSHAPED = Shape()
_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def apply(kind: str, old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`old` with `patch` applied, as a new object. Raises BadRequest for a patch that makes no
    sense."""
    return _merge_map(_shape(kind), old, patch)


def _shape(type_name: str) -> Shape:
    return SHAPES.get(type_name, _UNSHAPED)


def _merge_map(shape: Shape, old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {name: _without_directives(patch[name]) for name in patch if name != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise statuses.bad_request(f"unknown patch type found: {directive}")
    new = dict(old)
    if (retained := patch.get(_RETAIN)) is not None:
        new = {name: value for name, value in new.items() if name in retained}
    for name, doomed in _directives(patch, _DELETE).items():
        if isinstance(new.get(name), list):
            new[name] = [value for value in new[name] if value not in doomed]
    orders = _directives(patch, _ORDER)
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            new.pop(name, None)
        else:
            new[name] = _merge_field(shape, name, new.get(name), value, orders.get(name))
    for name in orders.keys() - patch.keys():
        if isinstance(new.get(name), list) and name in shape.merge_keys:
            key = _key_of(shape.merge_keys[name])
            new[name] = _ordered(new[name], orders[name], new[name], key)
    return new


def _directives(patch: dict[str, Any], prefix: str) -> dict[str, list[Any]]:
    found = {}
    for name, value in patch.items():
        if name.startswith(prefix):
            if not isinstance(value, list):
                raise statuses.bad_request(f"{name} in the patch is not a list")
            found[name.removeprefix(prefix)] = value
    return found


def _merge_field(shape: Shape, name: str, old: Any, patch: Any, order: list[Any] | None) -> Any:
    inner = _shape(shape.fields.get(name, ""))
    if isinstance(patch, dict):
        return _merge_map(inner, old if isinstance(old, dict) else {}, patch)
    if isinstance(patch, list) and name in shape.merge_keys:
        merge_key = shape.merge_keys[name]
        original = old if isinstance(old, list) else []
        merge = _merge_primitives if merge_key == PRIMITIVE else _merge_elements
        merged = merge(inner, merge_key, original, patch)
        key = _key_of(merge_key)
        if order is None:
            order = [value for value in patch if not _is_directive(value)]
        return _ordered(merged, order, original, key)
    return _without_directives(patch)


def _merge_primitives(
    inner: Shape,  # noqa: ARG001
    merge_key: str,  # noqa: ARG001
    old: list[Any],
    patch: list[Any],
) -> list[Any]:
    return list(dict.fromkeys(map(_itself, (*old, *patch))))


def _merge_elements(
    inner: Shape, merge_key: str, old: list[Any], patch: list[Any]
) -> list[dict[str, Any]]:
    key = _key_of(merge_key)
    replaces = any(_is_directive(each) and each.get(_DIRECTIVE) == "replace" for each in patch)
    merged = {} if replaces else {key(each): each for each in old}
    for each in patch:
        if isinstance(each, dict) and each.keys() == {_DIRECTIVE}:
            continue
        if isinstance(each, dict) and each.get(_DIRECTIVE) == "delete":
            merged.pop(key(each), None)
        else:
            merged[key(each)] = _merge_map(inner, merged.get(key(each), {}), each)
    return list(merged.values())


def _is_directive(element: Any) -> bool:
    return isinstance(element, dict) and element.get(_DIRECTIVE) in ("delete", "replace")


def _key_of(merge_key: str) -> Callable[[Any], Hashable]:
    if merge_key == PRIMITIVE:
        return _itself

    def key(element: Any) -> Hashable:
        value = element.get(merge_key) if isinstance(element, dict) else None
        if not isinstance(value, str | int):
            raise statuses.bad_request(
                f"{element} does not contain declared merge key: {merge_key}"
            )
        return value

    return key


def _itself(element: Any) -> Hashable:
    if not isinstance(element, str | int):
        raise statuses.bad_request(f"{element} cannot be in a list of plain values")
    return element


def _ordered(
    merged: list[Any], order: list[Any], original: list[Any], key: Callable[[Any], Hashable]
) -> list[Any]:
    """Elements named in `order` as it says; the others keep their place among them as far as
    both were in the original (`mergeSortedSlice`)."""
    wanted = {key(each): rank for rank, each in enumerate(order)}
    place = {key(each): rank for rank, each in enumerate(original)}
    named = sorted((each for each in merged if key(each) in wanted), key=lambda x: wanted[key(x)])
    others = [each for each in merged if key(each) not in wanted]
    result: list[Any] = []
    while named and others:
        first, other = place.get(key(named[0])), place.get(key(others[0]))
        takes_named = first is not None and other is not None and first < other
        result.append((named if takes_named else others).pop(0))
    return result + named + others


def _without_directives(value: Any) -> Any:
    """What is new to an object: nulls and directives have done their work."""
    if isinstance(value, dict):
        return {
            name: _without_directives(inner)
            for name, inner in value.items()
            if inner is not None and not name.startswith("$")
        }
    if isinstance(value, list):
        return [_without_directives(inner) for inner in value if not _is_directive(inner)]
    return value
