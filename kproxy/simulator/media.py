"""Media types: how an answer is to be encoded, and how a request's body is to be read."""

import json
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import yaml

from kproxy.simulator import patch, protobuf_body, status

Form: TypeAlias = Literal["object", "table"]

_JSON = ("application/json", "application/*", "*/*")
_YAML = ("application/yaml", "text/yaml", "application/x-yaml")
_PATCHES: dict[str, patch.Type] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
_APPLY = ("application/apply-patch+yaml", "application/apply-patch+cbor")


class Accepted(NamedTuple):
    """What the client wants: objects as they are, or a Table in this version of meta.k8s.io."""

    form: Form
    version: str = "v1"


def accepted(accept: str, *, can_be_table: bool) -> Accepted:
    """The first of the accepted media types that can be produced. Raises NotAcceptable."""
    for clause in (accept or "*/*").split(","):
        media_type, *raw = (part.strip() for part in clause.split(";"))
        parameters = dict(part.split("=", 1) for part in raw if "=" in part)
        if media_type not in _JSON:
            continue
        wanted = parameters.get("as")
        if wanted is None:
            return Accepted("object")
        version = parameters.get("v", "v1")
        if wanted == "Table" and can_be_table and version in ("v1", "v1beta1"):
            return Accepted("table", version)
    raise status.not_acceptable(["application/json"])


def body(content_type: str, raw: bytes) -> Any:
    """A body decoded. Raises UnsupportedMediaType, BadRequest."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json", "application/octet-stream"):
        return _json(raw)
    if media_type in _YAML:
        return _yaml(raw)
    if media_type == protobuf_body.MEDIA_TYPE:
        return protobuf_body.decode(raw)
    raise status.unsupported_media_type(["application/json", "application/yaml"])


def patch_body(content_type: str, raw: bytes) -> tuple[patch.Type, Any]:
    """A patch's type and body. Raises UnsupportedMediaType, BadRequest."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _APPLY:
        raise status.StatusError(
            415,
            "UnsupportedMediaType",
            "server-side apply is not supported by the simulated API server: apply without "
            "--server-side",
        )
    if media_type not in _PATCHES:
        raise status.unsupported_media_type(list(_PATCHES))
    return _PATCHES[media_type], _json(raw)


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(raw)  # its complaints have a line and a column
    except (ValueError, RecursionError) as error:
        raise status.bad_request(
            f"the object provided is unrecognized (must be of type JSON): {error}"
        ) from error


def _yaml(raw: bytes) -> Any:
    try:
        # JSON has no dates and no binary: what they were written as must come back.
        return yaml.load(raw, Loader=_PlainLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise status.bad_request(f"error converting YAML to JSON: {error}") from error


class _PlainLoader(yaml.CSafeLoader):
    """YAML without timestamps."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
