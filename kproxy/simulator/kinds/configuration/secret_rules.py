"""What a Secret may say: kube-apiserver's rules and words.

From `ValidateSecret` and `ValidateSecretUpdate` of `pkg/apis/core/validation/validation.go`. No
message contains a value of a Secret.
"""

import json
from collections.abc import Iterator, Mapping

import msgspec

from kproxy.simulator.kinds.configuration import data
from kproxy.simulator.store import resources, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

OPAQUE = "Opaque"
TLS = "kubernetes.io/tls"
CERTIFICATE, PRIVATE_KEY = "tls.crt", "tls.key"
"""The keys that a Secret of type `TLS` has."""

_OF_ACCOUNT = "kubernetes.io/service-account-token"
_ACCOUNT_NAME = "kubernetes.io/service-account.name"
_REDACTED = "<secret contents redacted>"
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    TLS: (CERTIFICATE, PRIVATE_KEY),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
_DOCKER_TYPES = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")


class Shape(msgspec.Struct, rename="camel"):
    """A Secret, as far as there are rules for it."""

    type: str | None = None
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None
    immutable: bool | None = None


def tls_secret(name: str, certificate: bytes, key: bytes) -> Object:
    """A Secret to create, with a certificate and its private key, both PEM."""
    contents = {CERTIFICATE: certificate, PRIVATE_KEY: key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": TLS,
        "data": {each: data.encode(value) for each, value in contents.items()},
    }


def set_defaults(secret: Object) -> None:
    """`stringData` becomes part of `data`, which is spelled as kube-apiserver spells it.

    Raises BadRequest for data that is not base64.
    """
    data.encode_anew(resources.SECRETS, secret, "data")
    texts = secret.pop("stringData", None)
    if texts:
        encoded = {key: data.encode(text.encode()) for key, text in texts.items()}
        secret["data"] = (secret.get("data") or {}) | encoded
    secret["type"] = secret.get("type") or OPAQUE


def violations(secret: Object) -> Iterator[Cause]:
    """What is wrong with a Secret by itself."""
    contents = data.decoded(resources.SECRETS, secret.get("data"))
    yield from data.key_violations(contents, "data")
    if data.size(contents) > data.LARGEST:
        yield statuses.too_long_value("data", data.LARGEST)
    yield from _required(secret["type"], contents)
    annotations = secret["metadata"].get("annotations") or {}
    if secret["type"] == _OF_ACCOUNT and not annotations.get(_ACCOUNT_NAME):
        yield statuses.required_value(f"metadata.annotations[{_ACCOUNT_NAME}]")


def update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """What may not change: the type, and everything of an immutable Secret."""
    if old["type"] != new["type"]:
        yield statuses.invalid_value("type", new["type"], "field is immutable")
    yield from data.immutable_violations(old, new, ("data",))


def _required(kind: str, contents: Mapping[str, bytes]) -> Iterator[Cause]:
    if kind == "kubernetes.io/basic-auth" and not contents.keys() & {"username", "password"}:
        yield statuses.required_value("data[username]")
        yield statuses.required_value("data[password]")
    for key in _REQUIRED.get(kind, ()):
        is_empty_key = kind == "kubernetes.io/ssh-auth" and not contents.get(key)
        if key not in contents or is_empty_key:
            yield statuses.required_value(f"data[{key}]")
        elif kind in _DOCKER_TYPES and not _is_json_object(contents[key]):
            yield statuses.invalid_value(f"data[{key}]", _REDACTED, "is not a JSON object")


def _is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False
