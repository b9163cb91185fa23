"""Request bodies in Kubernetes' protobuf, which `kubectl create` of most kinds, and `kubectl
drain`, send without asking whether the server reads it.

Only what those commands can set is known here. A message that has anything else is refused with
415 rather than read in part. The envelope is apimachinery's `runtime.Unknown` behind four magic
bytes.
"""

import base64
from collections.abc import Iterator
from typing import Any

from kproxy.simulator.api.formats.protobuf_messages import MESSAGES, Field
from kproxy.simulator.store import statuses

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"


_KINDS = (
    "Namespace",
    "Service",
    "Deployment",
    "Secret",
    "ConfigMap",
    "ServiceAccount",
    "Ingress",
    "DeleteOptions",
)
_ENTRIES = {"map": "MapEntry", "map of bytes": "BytesEntry"}
"""The messages that maps are lists of."""


def decode(body: bytes) -> dict[str, Any]:
    """The object in a request's body. Raises UnsupportedMediaType, BadRequest."""
    if not body.startswith(_MAGIC):
        raise statuses.bad_request(
            "the body is not Kubernetes protobuf: its first bytes are others"
        )
    try:
        envelope = _message("Unknown", body[len(_MAGIC) :])
        identity = envelope["typeMeta"]
        if identity["kind"] not in _KINDS:
            raise _unsupported(identity["kind"])
        decoded: dict[str, Any] = _message(identity["kind"], envelope.get("raw", b""))
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise statuses.bad_request("the body is not Kubernetes protobuf: it breaks off") from error
    return {**identity, **decoded}


def _message(message: str, raw: bytes) -> Any:
    known = MESSAGES[message]
    decoded: dict[str, Any] = {}
    for number, value in _fields(raw):
        field = known.get(number)
        if field is None:
            if _says_something(value):
                raise _unsupported(f"field {number} of {message}")
            continue
        read = _value(field, value)
        if field.is_list:
            decoded.setdefault(field.name, []).append(read)
        elif field.is_inline:
            decoded |= read
        elif field.type in _ENTRIES:
            decoded.setdefault(field.name, {})[read.get("key", "")] = read.get("value", "")
        elif read or field.is_pointer:
            decoded[field.name] = read
    if message == "IntOrString":
        return decoded.get("str", "") if decoded.get("type") else decoded.get("int", 0)
    return decoded


def _value(field: Field, value: int | bytes) -> Any:
    if isinstance(value, int) is not (field.type in {"int", "bool"}):
        raise IndexError(f"{field.name} is of another type on the wire")
    if isinstance(value, int):
        return bool(value) if field.type == "bool" else value
    if field.type == "raw":
        return value
    if field.type == "bytes":
        return base64.b64encode(value).decode()  # as they are in JSON
    if field.type == "string":
        return value.decode()
    return _message(_ENTRIES.get(field.type, field.type), value)


def _says_something(value: int | bytes) -> bool:
    """Go writes empty strings, zeros, and messages of nothing but those."""
    if isinstance(value, int):
        return value != 0
    try:
        return any(_says_something(inner) for _, inner in _fields(value))
    except IndexError:
        return True  # a string, then


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values; fixed-width numbers do not occur. Raises IndexError."""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        value, position = _varint(raw, position)
        if tag & 7 == 0:
            yield tag >> 3, value
        elif tag & 7 == 2 and position + value <= len(raw):
            yield tag >> 3, raw[position : position + value]
            position += value
        else:
            raise IndexError(position)


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _unsupported(what: str) -> statuses.StatusError:
    return statuses.StatusError(
        415,
        "UnsupportedMediaType",
        f"{what} cannot be read from protobuf by the simulated API server: send JSON, for "
        "instance with kubectl create --dry-run=client -o yaml | kubectl apply -f -",
    )
