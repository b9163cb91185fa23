"""What a list-and-watch reads besides the objects themselves: events, statuses, versions, names.

Shapes of `meta/v1` (`Status`, `WatchEvent`, `ListMeta`, `APIGroup`), reduced to what is used. A
list-and-watch never looks into an object further than its identity; the rest is admission's.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from kproxy.model import names
from kproxy.model.judging import field_rules
from kproxy.sources.transfer import framing

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a streaming list (KEP-3157)."""

_NULL = msgspec.Raw(b"null")
_LONGEST_WAIT = 2**31 - 1
"""The largest retryAfterSeconds of the API, an int32. JSON has any number of digits."""


class _Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str | None = None
    namespace: str | None = None
    resource_version: str | None = None
    annotations: msgspec.Raw = _NULL


class _Object(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata | None = None


class _ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Cause(msgspec.Struct, frozen=True, gc=False):
    reason: str | None = None


class _Details(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    causes: tuple[_Cause, ...] | None = None
    retry_after_seconds: int | None = None


class _Status(msgspec.Struct, frozen=True, gc=False):
    kind: str | None = None
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


class _GroupVersion(msgspec.Struct, frozen=True, gc=False):
    version: str


class _APIGroup(msgspec.Struct, frozen=True, gc=False):
    versions: tuple[_GroupVersion, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """One line of a watch. `object` is an object, a Status for ERROR, a husk for BOOKMARK."""

    type: str
    object: msgspec.Raw


class Identity(NamedTuple):
    """Which object, and which version of it; `version` is "" if it has none."""

    name: names.NamespacedName
    version: str


class Status(NamedTuple):
    """Why a request failed, in the server's words; `code` is 0 if it gave none."""

    code: int
    reason: str
    message: str
    causes: tuple[str, ...] = ()
    retry_after: float = 0.0


_T = TypeVar("_T")

_events = msgspec.json.Decoder(Event)
_objects = msgspec.json.Decoder(_Object)
_list_metas = msgspec.json.Decoder(_ListMeta | None)
_statuses = msgspec.json.Decoder(_Status)
_groups = msgspec.json.Decoder(_APIGroup)
_annotations = msgspec.json.Decoder(dict[str, str] | None)


def event(line: bytes) -> Event:
    """One line of a watch. Raises FramingError if it is none."""
    return _decoded(_events, line, "an event")


def identity(raw: msgspec.Raw) -> Identity | None:
    """Which object `raw` is; None if that cannot be read."""
    try:
        metadata = _objects.decode(raw).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if metadata is None or not metadata.name:
        return None
    name = names.NamespacedName(metadata.namespace or field_rules.DEFAULT_NAMESPACE, metadata.name)
    return Identity(name, metadata.resource_version or "")


def bookmark(raw: msgspec.Raw) -> tuple[str, bool]:
    """The version a BOOKMARK marks, and whether it ends the initial events of a streaming list.

    Raises FramingError when it cannot be read, or ends a list without a version: no watch could
    follow it.
    """
    metadata = _decoded(_objects, raw, "a bookmark").metadata or _Metadata()
    annotations = _decoded(_annotations, metadata.annotations, "a bookmark's annotations")
    is_end = (annotations or {}).get(INITIAL_EVENTS_END) == "true"
    version = metadata.resource_version or ""
    if is_end and not version:
        raise framing.FramingError("the end of a streaming list has no metadata.resourceVersion")
    return version, is_end


def list_position(fields: Mapping[str, msgspec.Raw]) -> tuple[str, str]:
    """The resourceVersion and the continue token of a list, from its fields. Raises FramingError.

    A list must have a version: without one, no watch could follow it.
    """
    metadata = _decoded(_list_metas, fields.get("metadata", _NULL), "a list")
    if metadata is None or not metadata.resource_version:
        raise framing.FramingError("a list has no metadata.resourceVersion")
    return metadata.resource_version, metadata.continue_ or ""


def status(body: bytes | msgspec.Raw) -> Status | None:
    """The Status in an error's body; None if it holds something else."""
    try:
        found = _statuses.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.kind != "Status":
        return None
    details = found.details or _Details()
    causes = tuple(cause.reason or "" for cause in details.causes or ())
    wait = min(max(details.retry_after_seconds or 0, 0), _LONGEST_WAIT)
    return Status(found.code or 0, found.reason or "", found.message or "", causes, float(wait))


def group_versions(body: bytes) -> tuple[str, ...]:
    """The versions of an APIGroup. Raises FramingError."""
    return tuple(each.version for each in _decoded(_groups, body, "an API group").versions)


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes | msgspec.Raw, what: str) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise framing.FramingError(f"not {what}: {error}") from None
