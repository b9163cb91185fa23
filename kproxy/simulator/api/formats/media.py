"""Media types: how an answer is to be encoded, and how a request's body is to be read."""

import contextlib
import json
import math
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from kproxy.simulator.api.formats import protobuf_body
from kproxy.simulator.store import patch, statuses
from kproxy.sources.documents import reading

LARGEST_BODY = 3 * 1024 * 1024
"""Bytes in a request's body: kube-apiserver's limit."""

DEEPEST = 100
"""How deep mappings and lists may nest in a body; an object needs some ten."""

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
    raise statuses.not_acceptable(["application/json"])


def body(content_type: str, raw: bytes) -> Any:
    """A body decoded. Raises UnsupportedMediaType, BadRequest."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json", "application/octet-stream"):
        return _json(raw)
    if media_type in _YAML:
        return _yaml(raw)
    if media_type == protobuf_body.MEDIA_TYPE:
        return protobuf_body.decode(raw)
    raise statuses.unsupported_media_type(["application/json", "application/yaml"])


def patch_body(
    content_type: str, raw: bytes, *, can_be_strategic: bool = True
) -> tuple[patch.Type, Any]:
    """A patch's type and body. Raises UnsupportedMediaType, BadRequest.

    Custom resources have no strategic merge patches, since no schema says how lists are merged.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _APPLY:
        raise statuses.StatusError(
            415,
            "UnsupportedMediaType",
            "server-side apply is not supported by the simulated API server: apply without "
            "--server-side",
        )
    known = [each for each, kind in _PATCHES.items() if can_be_strategic or kind != "strategic"]
    if media_type not in known:
        raise statuses.unsupported_media_type(known)
    return _PATCHES[media_type], _json(raw)


def _json(raw: bytes) -> Any:
    try:
        return _bounded(msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        complaint = str(error)
    with contextlib.suppress(RecursionError):
        try:
            json.loads(raw)
        except ValueError as error:
            complaint = str(error)  # with a line and a column
    raise statuses.bad_request(
        f"the object provided is unrecognized (must be of type JSON): {complaint}"
    )


def _yaml(raw: bytes) -> Any:
    """The first document. Its cost is bounded by the size of `raw`, and aliases count in full."""
    try:
        for document in reading.read_yaml(raw):
            if document.flaw:
                raise statuses.bad_request(f"error converting YAML to JSON: {document.flaw}")
            return _bounded(document.value)
    except reading.MalformedError as error:
        raise statuses.bad_request(f"error converting YAML to JSON: {error}") from None
    return None


def _bounded(value: Any) -> Any:
    """`value`, if it is not larger than a body can be that spells it out. Raises BadRequest.

    Without recursion: what it walks through may be nested as deep as the text allowed.
    """
    cost, level, depth = 0, [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise statuses.bad_request(f"the object is nested more than {DEEPEST} deep")
        below: list[Any] = []
        for each in level:
            cost += 1
            if isinstance(each, str):
                cost += len(each)
            elif isinstance(each, dict):
                cost += sum(map(_length, each))
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif isinstance(each, int) and not -(2**63) <= each < 2**63:
                raise statuses.bad_request(
                    "json: cannot unmarshal a number of more than 64 bits into Go value of type "
                    "int64"
                )
            elif isinstance(each, float) and not math.isfinite(each):
                raise statuses.bad_request(f"json: unsupported value: {each}")
            if cost + len(below) > LARGEST_BODY:
                raise statuses.bad_request(
                    f"the object is larger than {LARGEST_BODY} bytes, with aliases counted in full"
                )
        level = below
    return value


def _length(key: Any) -> int:
    return len(key) if isinstance(key, str) else 1
