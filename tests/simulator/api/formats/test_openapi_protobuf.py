"""The OpenAPI document in protobuf says what the document says: read back with a small reader.

Its field names and numbers are gnostic's (`openapiv2/OpenAPIv2.proto`), written down here once
more so that a wrong number in the encoder shows.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest
import yaml

from kproxy.simulator.api import emulation
from kproxy.simulator.api.formats import openapi, openapi_protobuf

Fields: TypeAlias = dict[int, list[bytes]]


def fields(raw: bytes) -> Fields:
    """The fields of a message, all of which are of wire type 2."""
    found: Fields = {}
    position = 0
    while position < len(raw):
        tag, position = varint(raw, position)
        length, position = varint(raw, position)
        assert tag & 7 == 2
        assert position + length <= len(raw)
        found.setdefault(tag >> 3, []).append(raw[position : position + length])
        position += length
    return found


def varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def text(raw: bytes) -> str:
    return raw.decode()


def only(read: Callable[[bytes], Any], found: Fields, number: int) -> Any:
    """The one value of a field, None without one."""
    values = found.pop(number, [])
    assert len(values) < 2
    return read(values[0]) if values else None


def named(read: Callable[[bytes], Any], entries: list[bytes]) -> dict[str, Any]:
    made = {}
    for entry in entries:
        parts = fields(entry)
        made[only(text, parts, 1)] = only(read, parts, 2)
        assert not parts
    return made


def wrapped(read: Callable[[bytes], Any], number: int) -> Callable[[bytes], Any]:
    """A reader of a message that has nothing but field `number`."""

    def read_inner(raw: bytes) -> Any:
        parts = fields(raw)
        value = only(read, parts, number)
        assert not parts
        return value

    return read_inner


def extensions(parts: Fields, number: int) -> dict[str, Any]:
    as_yaml = wrapped(lambda raw: yaml.safe_load(raw), 2)  # Any.yaml
    return named(as_yaml, parts.pop(number, []))


def schema(raw: bytes) -> dict[str, Any]:
    parts = fields(raw)
    made = {
        "$ref": only(text, parts, 1),
        "format": only(text, parts, 2),
        "description": only(text, parts, 4),
        "required": [text(each) for each in parts.pop(19, [])],
        "additionalProperties": only(wrapped(schema, 1), parts, 21),
        "type": only(wrapped(text, 1), parts, 22),
        "items": only(wrapped(schema, 1), parts, 23),
        "properties": only(lambda raw: named(schema, fields(raw).get(1, [])), parts, 25),
        **extensions(parts, 31),
    }
    assert not parts
    return {name: value for name, value in made.items() if value not in (None, [])}


def operation(raw: bytes) -> dict[str, Any]:
    parts = fields(raw)
    answer = wrapped(lambda each: named(wrapped(response, 1), [each]), 1)
    made = {
        "operationId": only(text, parts, 5),
        "consumes": [text(each) for each in parts.pop(7, [])],
        "parameters": [
            wrapped(wrapped(wrapped(parameter, 3), 2), 1)(each) for each in parts.pop(8, [])
        ],
        "responses": only(answer, parts, 9),
        **extensions(parts, 13),
    }
    assert not parts
    return {name: value for name, value in made.items() if value not in (None, [])}


def parameter(raw: bytes) -> dict[str, Any]:
    parts = fields(raw)
    made = {
        name: only(text, parts, number) for name, number in (("in", 2), ("name", 4), ("type", 6))
    }
    assert not parts
    return made


def response(raw: bytes) -> dict[str, Any]:
    parts = fields(raw)
    made = {"description": only(text, parts, 1), "schema": only(wrapped(schema, 1), parts, 2)}
    assert not parts
    return made


def path_item(raw: bytes) -> dict[str, Any]:
    numbers = {2: "get", 3: "put", 4: "post", 5: "delete", 8: "patch"}
    return {numbers[number]: operation(value) for number, (value,) in fields(raw).items()}


@pytest.fixture(scope="module")
def documents() -> tuple[Mapping[str, Any], Fields]:
    """The document as data, and the fields of its encoding."""
    made = openapi.Documents(emulation.V1_33.served)
    return made.v2(), fields(made.v2_protobuf())


def test_every_definition_comes_back(documents: tuple[Mapping[str, Any], Fields]) -> None:
    document, encoded = documents
    read = named(schema, fields(encoded[9][0])[1])
    assert len(read) > 100
    for name, definition in document["definitions"].items():
        assert read.pop(name) == {**definition}, name
    assert not read


def test_every_path_comes_back(documents: tuple[Mapping[str, Any], Fields]) -> None:
    document, encoded = documents
    assert named(path_item, fields(encoded[8][0])[2]) == document["paths"]


def test_the_head_comes_back(documents: tuple[Mapping[str, Any], Fields]) -> None:
    document, encoded = documents
    assert encoded[1] == [b"2.0"]
    info = fields(encoded[2][0])
    assert info == {1: [b"Kubernetes"], 2: [document["info"]["version"].encode()]}
    assert encoded.keys() == {1, 2, 8, 9}


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_lengths_of_any_size(length: int) -> None:
    title = "x" * length
    document = {
        "swagger": "2.0",
        "info": {"title": title, "version": "v1"},
        "paths": {},
        "definitions": {},
    }
    (info,) = fields(openapi_protobuf.document(document))[2]
    assert fields(info)[1] == [title.encode()]
