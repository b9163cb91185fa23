"""API objects as the wire spells them: the only place where raw JSON and YAML are read.

A kind's struct (`kproxy.model.kinds`) mirrors the JSON of one object, reduced to what a proxy
reads; unknown fields are ignored, and null means absent, as for kube-apiserver. A value of the
wrong JSON type is a `ShapeError` that names the field. The kind's judge says which values are
*allowed*; `admission` says what becomes of a whole document.
"""

import functools
import json
import math
import re
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

RawObject: TypeAlias = Any
"""One object before it is understood: `msgspec.Raw` from JSON, plain Python values from YAML."""

Shape = TypeVar("Shape", bound=msgspec.Struct)

_MOST_DIGITS = 400
_HUGE = 10**_MOST_DIGITS
"""Stands for every number of more digits."""


class ObjectMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`metadata`."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: str | None = None


class Envelope(NamedTuple):
    """What is read of any object before its kind is known; `items` is a list object's, unread."""

    api_version: str
    kind: str
    items: RawObject


class ShapeError(ValueError):
    """A value has the wrong JSON type. `field` is "" for the object itself.

    `found` is the value in words (see `shown`), `expected` what must stand there.
    """

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(f"{field or 'the object'} is {found} but must be {expected}")
        self.field = field
        self.found = found
        self.expected = expected


class _JSONEnvelope(msgspec.Struct, frozen=True, rename="camel"):
    api_version: msgspec.Raw = msgspec.Raw(b"null")
    kind: msgspec.Raw = msgspec.Raw(b"null")
    items: msgspec.Raw = msgspec.Raw(b"null")


_A_MAPPING = "a mapping with apiVersion and kind"
_json_envelope = msgspec.json.Decoder(_JSONEnvelope)
_json_items = msgspec.json.Decoder(list[msgspec.Raw] | None)
_json_decoder = functools.cache(msgspec.json.Decoder)


def json_object(data: bytes) -> msgspec.Raw:
    """One JSON value, its syntax checked, to be read by the functions below.

    Raises `msgspec.DecodeError` for what is not one JSON value, and RecursionError when it is
    nested too deeply to read.
    """
    return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=msgspec.Raw)


def envelope(raw: RawObject) -> Envelope:
    """The type of `raw` and, for a list, its items. Raises ShapeError if `raw` has none."""
    if isinstance(raw, msgspec.Raw):
        try:
            parts = _json_envelope.decode(raw)
            version, kind = plain(parts.api_version), plain(parts.kind)
            items: RawObject = parts.items
        except msgspec.ValidationError:  # no mapping, or a number somewhere that no float holds
            version, kind, items = _envelope_of(_any(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _unreadable(error) from None
    else:
        version, kind, items = _envelope_of(raw)
    for field, value in (("apiVersion", version), ("kind", kind)):
        if not isinstance(value, str) or not value:
            raise ShapeError(field, shown(value), "a string that says what this object is")
    return Envelope(version, kind, items)


def _envelope_of(value: Any) -> tuple[Any, Any, RawObject]:
    if not isinstance(value, dict):
        raise ShapeError("", shown(value), _A_MAPPING)
    return value.get("apiVersion"), value.get("kind"), value.get("items")


def items(raw: RawObject) -> list[RawObject]:
    """The items of a list object, from `Envelope.items`. Raises ShapeError."""
    found = raw
    if isinstance(raw, msgspec.Raw):
        try:
            found = _json_items.decode(raw)
        except msgspec.ValidationError:
            found = _any(raw)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ShapeError("items", shown(found), "a list")
    return found


def decode(raw: RawObject, shape: type[Shape]) -> Shape:
    """`raw` as `shape`. Raises ShapeError naming the first field of a wrong type."""
    try:
        if isinstance(raw, msgspec.Raw):
            decoded: Shape = _json_decoder(shape).decode(raw)
            return decoded
        return msgspec.convert(raw, shape)
    except msgspec.ValidationError:
        relaxed = _relaxed(_any(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from None
    try:
        return msgspec.convert(relaxed, shape)
    except msgspec.ValidationError as error:
        raise _shape_error(relaxed, str(error)) from None


_DEPTH = 16
"""The shapes of all kinds nest less deeply; what is deeper is not read, so its depth is free."""


def _relaxed(value: Any, depth: int = _DEPTH) -> Any:
    """`value` as Go's decoder means it: null is absent, and 80.0 is 80."""
    if not depth:
        return value
    if isinstance(value, dict):
        return {key: _relaxed(each, depth - 1) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_relaxed(each, depth - 1) for each in value if each is not None]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def plain(raw: RawObject) -> Any:
    return msgspec.json.decode(raw) if isinstance(raw, msgspec.Raw) else raw


def field_or_none(raw: RawObject, name: str) -> Any:
    """The top-level field `name` as plain values, or None if it is not there or not readable."""
    found = _any(raw)
    return found.get(name) if isinstance(found, dict) else None


def shown(value: object) -> str:
    """`value` as an error message shows it: one line, at most some 70 characters."""
    if value is None:
        return "absent"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    text = json.dumps(value[:80] if isinstance(value, str) else value, default=repr)
    return text if len(text) <= 70 else f"{text[:66]}..."


def _any(raw: RawObject) -> Any:
    """`raw` as plain values, for an error message; "..." where it cannot be read."""
    try:
        return plain(raw)
    except msgspec.ValidationError:
        return _with_huge_numbers(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "..."


def _with_huge_numbers(raw: RawObject) -> Any:
    """JSON in which a number is out of a float's range, which msgspec does not read."""
    try:
        return json.loads(bytes(raw), parse_int=_whole, parse_float=_fraction)
    except (ValueError, RecursionError):
        return "..."


def _whole(digits: str) -> int:
    """A whole number. Python refuses to read one of more than 4,300 digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else _HUGE


def _fraction(digits: str) -> float | int:
    number = float(digits)
    return _HUGE if math.isinf(number) else number


def _unreadable(error: Exception) -> ShapeError:
    if isinstance(error, RecursionError):
        return ShapeError("", "nested too deeply", "shallow enough to read")
    return ShapeError("", "not UTF-8", "JSON in UTF-8")


_STEP = re.compile(r"\[\d+\]|[^.\[]+")
_TYPE_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "int": "an integer",
    "object": "a mapping",
    "str": "a string",
}


def _shape_error(raw: Any, message: str) -> ShapeError:
    """msgspec's "Expected `int | null`, got `str` - at `$.spec.ports[0].port`", in our words."""
    what, _, where = message.partition(" - at ")
    expected = what.partition("`")[2].partition("`")[0].removesuffix(" | null")
    path = where.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
    field, value = _located(raw, path)
    if where.startswith("`key`"):
        return ShapeError(field, value, "a mapping whose keys are strings")
    words = _TYPE_WORDS.get(expected, expected)
    if expected == "str" and re.match(r"[-+.\d]|true|false", value):
        words += ", in quotes if this is YAML"  # y, no, on and 1.10 are no strings there
    return ShapeError(field, value, words)


def _located(raw: Any, path: str) -> tuple[str, str]:
    """The field at msgspec's `path` and the value there, both in words.

    msgspec does not say which key of a mapping is meant ("labels[...]"): it is the first whose
    value is no string, since strings are all that the structs above map to. And the value need
    not be found: where JSON gives a key twice, msgspec's complaint can be about the first.
    """
    field, value = path.removesuffix("[...]"), raw
    try:
        for step in _STEP.findall(field):
            value = value[int(step[1:-1]) if step.startswith("[") else step]
        if not path.endswith("[...]"):
            return field, shown(value)
        key = next(key for key, entry in value.items() if not isinstance(entry, str))
        return f"{field}[{shown(key)}]", shown(value[key])
    except (LookupError, TypeError, AttributeError, StopIteration):
        return field, "something else"
