"""Request bodies in Kubernetes' protobuf, which `kubectl create namespace`, `service` and
`deployment`, and `kubectl drain`, send without asking whether the server reads it.

Only what those commands can set is known here. A message that has anything else is refused with
415 rather than read in part. The numbers are those of k8s.io/api's `generated.proto` files, the
envelope is apimachinery's `runtime.Unknown` behind four magic bytes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kproxy.simulator.store import statuses

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"


class _Field(NamedTuple):
    """`type` is string, int, bool, map or the name of a message. A zero is "not set" unless
    the field is a pointer in Go."""

    name: str
    type: str = "string"
    is_list: bool = False
    is_pointer: bool = False


_OBJECT = {1: _Field("metadata", "ObjectMeta"), 3: _Field("status", "Nothing")}
_MESSAGES: Mapping[str, Mapping[int, _Field]] = {
    "Unknown": {1: _Field("typeMeta", "TypeMeta"), 2: _Field("raw", "bytes")},
    "TypeMeta": {1: _Field("apiVersion"), 2: _Field("kind")},
    "Nothing": {},
    "Namespace": {**_OBJECT, 2: _Field("spec", "Nothing")},
    "Service": {**_OBJECT, 2: _Field("spec", "ServiceSpec")},
    "Deployment": {**_OBJECT, 2: _Field("spec", "DeploymentSpec")},
    "ObjectMeta": {
        1: _Field("name"),
        2: _Field("generateName"),
        3: _Field("namespace"),
        11: _Field("labels", "map"),
        12: _Field("annotations", "map"),
    },
    "ServiceSpec": {
        1: _Field("ports", "ServicePort", is_list=True),
        2: _Field("selector", "map"),
        3: _Field("clusterIP"),
        4: _Field("type"),
        7: _Field("sessionAffinity"),
        10: _Field("externalName"),
    },
    "ServicePort": {
        1: _Field("name"),
        2: _Field("protocol"),
        3: _Field("port", "int"),
        4: _Field("targetPort", "IntOrString"),
        5: _Field("nodePort", "int"),
    },
    "IntOrString": {1: _Field("type", "int"), 2: _Field("int", "int"), 3: _Field("str")},
    "DeploymentSpec": {
        1: _Field("replicas", "int", is_pointer=True),
        2: _Field("selector", "LabelSelector"),
        3: _Field("template", "PodTemplateSpec"),
    },
    "LabelSelector": {1: _Field("matchLabels", "map")},
    "PodTemplateSpec": {1: _Field("metadata", "ObjectMeta"), 2: _Field("spec", "PodSpec")},
    "PodSpec": {2: _Field("containers", "Container", is_list=True)},
    "Container": {
        1: _Field("name"),
        2: _Field("image"),
        3: _Field("command", is_list=True),
        4: _Field("args", is_list=True),
        6: _Field("ports", "ContainerPort", is_list=True),
    },
    "ContainerPort": {
        1: _Field("name"),
        3: _Field("containerPort", "int"),
        4: _Field("protocol"),
    },
    "DeleteOptions": {
        1: _Field("gracePeriodSeconds", "int", is_pointer=True),
        2: _Field("preconditions", "Preconditions"),
        4: _Field("propagationPolicy"),
        5: _Field("dryRun", is_list=True),
    },
    "Preconditions": {1: _Field("uid"), 2: _Field("resourceVersion")},
    "MapEntry": {1: _Field("key"), 2: _Field("value")},
}
_KINDS = ("Namespace", "Service", "Deployment", "DeleteOptions")


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
    known = _MESSAGES[message]
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
        elif field.type == "map":
            decoded.setdefault(field.name, {})[read.get("key", "")] = read.get("value", "")
        elif read or field.is_pointer:
            decoded[field.name] = read
    if message == "IntOrString":
        return decoded.get("str", "") if decoded.get("type") else decoded.get("int", 0)
    return decoded


def _value(field: _Field, value: int | bytes) -> Any:
    if isinstance(value, int) is not (field.type in {"int", "bool"}):
        raise IndexError(f"{field.name} is of another type on the wire")
    if isinstance(value, int) or field.type == "bytes":
        return value
    if field.type == "string":
        return value.decode()
    return _message("MapEntry" if field.type == "map" else field.type, value)


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
