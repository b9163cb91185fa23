"""Structural schemas, by which custom resources are pruned, defaulted and validated.

What k8s.io/apiextensions-apiserver does with the schema of a CustomResourceDefinition, in its
words and kube-openapi's. A schema is OpenAPI v3 as a dictionary; `RULES` holds, in place of rules
in CEL, functions that decide the same.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from kproxy.simulator.store import statuses
from kproxy.simulator.store.statuses import Cause

Schema: TypeAlias = Mapping[str, Any]

RULES = "x-kubernetes-validations"
LIST_KEYS = "x-kubernetes-list-map-keys"


class Rule(NamedTuple):
    """What must hold of a value that is valid by its schema; `message` says what."""

    message: str
    holds: Callable[[Any], bool]


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}

_BOUNDS = frozenset(
    {
        "default",
        "enum",
        "pattern",
        *("minimum", "maximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "maxProperties"),
    }
)


def openapi(schema: Schema, *, with_bounds: bool = True) -> dict[str, Any]:
    """The schema as a document can have it: without the functions, and perhaps without bounds."""
    made: dict[str, Any] = {}
    for name, inner in schema.items():
        if name == "properties":
            made[name] = {
                field: openapi(each, with_bounds=with_bounds) for field, each in inner.items()
            }
        elif name in {"items", "additionalProperties"}:
            made[name] = openapi(inner, with_bounds=with_bounds)
        elif name != RULES and (with_bounds or name not in _BOUNDS):
            made[name] = inner
    return made


def pruned(schema: Schema, value: Any) -> Any:
    """The value without the fields that its schema does not have."""
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        return {name: pruned(known[name], value[name]) for name in value if name in known}
    if isinstance(value, list) and "items" in schema:
        return [pruned(schema["items"], each) for each in value]
    return value


def set_defaults(schema: Schema, value: Any) -> None:
    """Give the fields of `value` that are not there their defaults."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                set_defaults(inner, value[name])
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            set_defaults(schema["items"], each)


def shape_violations(schema: Schema, value: Any) -> list[Cause]:
    """Where a value has not the types and the bounds of its schema."""
    return list(_structure(schema, value, ""))


def rule_violations(schema: Schema, value: Any) -> list[Cause]:
    """The rules that a value breaks which has its defaults and no `shape_violations`."""
    return [*_duplicates(schema, value, ""), *_rules(schema, value, "")]


def _structure(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    expected = schema.get("type")
    if expected is not None and not _is_of(expected, value):
        found = _type_of(value)
        detail = f'{where} in body must be of type {expected}: "{found}"'
        yield Cause("FieldValueTypeInvalid", where, f'Invalid value: "{found}": {detail}')
        return
    if isinstance(value, dict):
        yield from _object(schema, value, where)
    elif isinstance(value, list):
        yield from _array(schema, value, where)
    elif isinstance(value, str):
        yield from _text(schema, value, where)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from _number(schema, value, where)


def _object(schema: Schema, value: dict[str, Any], where: str) -> Iterator[Cause]:
    for name in schema.get("required", ()):
        if name not in value:
            yield statuses.required_value(_child(where, name))
    most = schema.get("maxProperties")
    if most is not None and len(value) > most:
        yield _too_many(where, len(value), most)
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            yield from _structure(inner, value[name], _child(where, name))
    others = schema.get("additionalProperties")
    if others is not None:
        for name, each in value.items():
            yield from _structure(others, each, _child(where, name))


def _array(schema: Schema, value: list[Any], where: str) -> Iterator[Cause]:
    most, least = schema.get("maxItems"), schema.get("minItems", 0)
    if most is not None and len(value) > most:
        yield _too_many(where, len(value), most)
        return
    if len(value) < least:
        detail = f"{where} in body should have at least {least} items"
        yield statuses.invalid_value(where, len(value), detail)
    for index, each in enumerate(value):
        yield from _structure(schema.get("items", {}), each, f"{where}[{index}]")


def _text(schema: Schema, value: str, where: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        yield statuses.too_long_value(where, schema["maxLength"])
        return  # a pattern may take the square of the length
    if len(value) < schema.get("minLength", 0):
        least = schema["minLength"]
        detail = f"{where} in body should be at least {least} chars long"
        yield statuses.invalid_value(where, value, detail)
    pattern = schema.get("pattern")
    if pattern is not None and not re.search(pattern, value):
        detail = f"{where} in body should match '{pattern}'"
        yield statuses.invalid_value(where, value, detail)
    if "enum" in schema and value not in schema["enum"]:
        yield statuses.not_supported_value(where, value, schema["enum"])


def _number(schema: Schema, value: int, where: str) -> Iterator[Cause]:
    if value < schema.get("minimum", value):
        detail = f"{where} in body should be greater than or equal to {schema['minimum']}"
        yield statuses.invalid_value(where, value, detail)
    if value > schema.get("maximum", value):
        detail = f"{where} in body should be less than or equal to {schema['maximum']}"
        yield statuses.invalid_value(where, value, detail)


def _duplicates(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    """Elements with the same keys, of lists that are maps."""
    if isinstance(value, list):
        seen = set()
        for index, each in enumerate(value):
            place = f"{where}[{index}]"
            if LIST_KEYS in schema and isinstance(each, dict):
                key = {name: each.get(name) for name in schema[LIST_KEYS]}
                text = statuses.quoted(key)
                if text in seen:
                    yield statuses.duplicate_value(place, key)
                seen.add(text)
            yield from _duplicates(schema.get("items", {}), each, place)
    elif isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _duplicates(inner, value[name], _child(where, name))


def _rules(schema: Schema, value: Any, where: str) -> Iterator[Cause]:
    for rule in schema.get(RULES, ()):
        if not rule.holds(value):
            yield statuses.invalid_value(where, schema["type"], rule.message)
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _rules(inner, value[name], _child(where, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _rules(schema.get("items", {}), each, f"{where}[{index}]")


def _too_many(where: str, count: int, most: int) -> Cause:
    return Cause("FieldValueTooMany", where, f"Too many: {count}: must have at most {most} items")


def _is_of(expected: str, value: Any) -> bool:
    is_number = isinstance(value, bool) and expected != "boolean"
    return isinstance(value, _TYPES[expected]) and not is_number


def _type_of(value: Any) -> str:
    for name, kind in _TYPES.items():
        if isinstance(value, kind) and _is_of(name, value):
            return name
    return "null" if value is None else "number"


def _child(where: str, name: str) -> str:
    return f"{where}.{name}".lstrip(".")
