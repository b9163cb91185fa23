"""The OpenAPI v2 document in protobuf, for clients that read nothing else (client-go).

The messages are gnostic's (`openapiv2/OpenAPIv2.proto`); the numbers below are its fields. Only
what our documents contain is written.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""What clients ask for."""
CONTENT_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What the answer declares: a media type must not contain an @, and newer clients parse it."""

_BYTES = 2
"""The wire type of strings and messages."""


def document(openapi: Mapping[str, Any]) -> bytes:
    info = openapi["info"]
    return b"".join(
        (
            _string(1, openapi["swagger"]),
            _field(2, _string(1, info["title"]) + _string(2, info["version"])),
            _field(8, _named(2, openapi["paths"], _path_item)),
            _field(9, _named(1, openapi["definitions"], _schema)),
        )
    )


def _path_item(item: Mapping[str, Any]) -> bytes:
    numbers = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
    return b"".join(_field(numbers[method], _operation(item[method])) for method in item)


def _operation(operation: Mapping[str, Any]) -> bytes:
    responses = _named(1, operation["responses"], lambda each: _field(1, _response(each)))
    return b"".join(
        (
            _string(5, operation["operationId"]),
            *(_string(7, media_type) for media_type in operation.get("consumes", ())),
            *(_field(8, _query_parameter(each)) for each in operation.get("parameters", ())),
            _field(9, responses),
            _extensions(13, operation),
        )
    )


def _query_parameter(parameter: Mapping[str, Any]) -> bytes:
    content = (
        _string(2, parameter["in"]) + _string(4, parameter["name"]) + _string(6, parameter["type"])
    )
    # ParametersItem.parameter → Parameter.non_body_parameter → .query_parameter_sub_schema
    return _field(1, _field(2, _field(3, content)))


def _response(response: Mapping[str, Any]) -> bytes:
    return _string(1, response["description"]) + _field(2, _field(1, _schema(response["schema"])))


def _schema(schema: Mapping[str, Any]) -> bytes:
    parts = []
    for name, number in (("$ref", 1), ("format", 2), ("description", 4)):
        if name in schema:
            parts.append(_string(number, schema[name]))
    parts.extend(_string(19, name) for name in schema.get("required", ()))
    if isinstance(schema.get("additionalProperties"), dict):
        parts.append(_field(21, _field(1, _schema(schema["additionalProperties"]))))
    if "type" in schema:
        parts.append(_field(22, _string(1, schema["type"])))
    if "items" in schema:
        parts.append(_field(23, _field(1, _schema(schema["items"]))))
    if "properties" in schema:
        parts.append(_field(25, _named(1, schema["properties"], _schema)))
    parts.append(_extensions(31, schema))
    return b"".join(parts)


def _extensions(number: int, holder: Mapping[str, Any]) -> bytes:
    """The `x-` fields: NamedAny messages, the value of each as YAML."""
    found: Iterable[str] = (name for name in holder if name.startswith("x-"))
    return b"".join(
        _field(number, _string(1, name) + _field(2, _string(2, yaml.safe_dump(holder[name]))))
        for name in found
    )


def _named(number: int, entries: Mapping[str, Any], encode: Any) -> bytes:
    """A map: a message of name (1) and value (2) for each entry."""
    return b"".join(
        _field(number, _string(1, name) + _field(2, encode(value)))
        for name, value in entries.items()
    )


def _string(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
