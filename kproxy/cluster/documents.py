"""Manifest text to documents: YAML and JSON, with bounds on what a file may ask of the reader.

YAML is built from libyaml's event stream instead of `yaml.safe_load_all`, for three reasons. A
bound on nesting and on aliases can be kept while reading, so that neither "billion laughs" nor
10^5 brackets cost more than the text that spells them. Documents know their line. And a key
given twice in one mapping spoils its own document, not the file.

Scalars are resolved as kubectl's YAML library does, which is YAML 1.1 as in PyYAML, but without
dates: `2026-01-01` is a string.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import yaml
import yaml.constructor
import yaml.resolver

from kproxy.model import objects

MAX_DEPTH = 100
"""How deep mappings and lists may nest; a Kubernetes object of ours needs 8."""

MAX_NODES = 2_000_000
"""How many mappings, lists and scalars a file may hold, with every alias counted in full."""


CACHED_LENGTH = 64
"""Plain scalars shorter than this are remembered with their type; the same few come often."""


class MalformedError(ValueError):
    """The text as a whole cannot be read; the message is a clause without a full stop."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, counted from 1; `value` is for `admission.admit`.

    `flaw` says why it must not be used although it can be read; "" if nothing is wrong.
    """

    number: int
    value: objects.RawObject
    flaw: str = ""


def read_json(data: bytes) -> Iterator[Document]:
    """The one JSON value in `data`, as a document of number 1. Raises MalformedError."""
    if not data.strip():
        return
    try:
        yield Document(1, objects.json_object(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise MalformedError(f"not valid JSON: {reason}") from None
    except RecursionError:
        raise MalformedError("not readable: nested too deeply") from None


def read_yaml(data: bytes) -> Iterator[Document]:
    """The documents in `data` that are not empty; those are counted, and left out.

    Raises MalformedError when the reading comes to the fault, after the documents before it. One
    at a time, because a whole file's worth of small containers is what garbage collection
    stumbles over, and the event loop with it.
    """
    try:
        yield from _Builder().documents(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise MalformedError(f"not valid YAML: {at}{reason}") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or "it cannot be decoded"
        raise MalformedError(f"not valid YAML: {reason}") from None
    except UnicodeDecodeError:
        raise MalformedError("not valid YAML: it is neither UTF-8 nor UTF-16") from None


class _Anchored(NamedTuple):
    value: Any
    size: int
    height: int


class _Frame:
    """A mapping or list under construction. `size` and `height` count what it holds."""

    __slots__ = ("anchor", "height", "key", "merges", "size", "value")

    def __init__(self, value: dict[Any, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = _NO_KEY
        self.merges: list[Any] = []
        self.size = 1
        self.height = 1


_NO_KEY = object()
_MERGE = object()
_PREFIX = "tag:yaml.org,2002:"
_TAGS: dict[str | None, str] = {
    None: "",
    "!": "str",
    **{f"{_PREFIX}{tag}": tag for tag in ("str", "int", "float", "bool", "null", "map", "seq")},
}


class _Builder:
    """Builds documents from events. One per file, since the bound on nodes is per file."""

    def __init__(self) -> None:
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._nodes = 0
        self._flaw = ""
        self._root: Any = None

    def documents(self, data: bytes) -> Iterator[Document]:
        number = 0
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for event in yaml.parse(data, Loader=loader):
            if isinstance(event, yaml.ScalarEvent):
                self._add(event, _Anchored(self._scalar(event), 1, 0), event.anchor)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                number += 1
                self._anchors.clear()
                self._flaw, self._root = "", None
            elif isinstance(event, yaml.DocumentEndEvent) and self._root is not None:
                yield Document(number, self._root, self._flaw)

    def _scalar(self, event: Any) -> Any:
        tag = _TAGS.get(event.tag)
        if tag == "str" or (tag == "" and not event.implicit[0]):
            return event.value
        resolve = _typed if len(event.value) < CACHED_LENGTH else _typed.__wrapped__
        try:
            return resolve(event.value, tag)
        except (ValueError, LookupError, OverflowError):
            self._spoil(event, f"{objects.shown(event.value)} cannot have the tag {event.tag}")
            return event.value

    def _open(self, event: Any) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if _TAGS.get(event.tag) not in {"", "map" if mapping else "seq"}:
            self._spoil(event, f"the tag {event.tag} is not allowed")
        if len(self._stack) >= MAX_DEPTH:
            raise _malformed(event, f"nested more than {MAX_DEPTH} deep")
        self._stack.append(_Frame({} if mapping else [], event.anchor))

    def _close(self, event: Any) -> None:
        frame = self._stack.pop()
        value = frame.value
        for merged in frame.merges:
            for source in merged if isinstance(merged, list) else [merged]:
                if isinstance(source, dict) and isinstance(value, dict):
                    value = {**source, **value}
                else:
                    self._spoil(event, "only mappings can be merged with <<")
        self._add(event, _Anchored(value, frame.size, frame.height), frame.anchor)

    def _alias(self, event: Any) -> None:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise _malformed(event, f"the alias *{event.anchor} refers to nothing complete")
        if len(self._stack) + known.height > MAX_DEPTH:
            raise _malformed(event, f"nested more than {MAX_DEPTH} deep")
        self._nodes += known.size
        self._add(event, known, None)

    def _add(self, event: Any, node: _Anchored, anchor: str | None) -> None:
        """Put a complete node where it belongs: into the open mapping or list, or the root."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _malformed(event, f"more than {MAX_NODES} values, aliases counted in full")
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = _as_value(node.value)
            return
        frame = self._stack[-1]
        frame.size += node.size
        frame.height = max(frame.height, node.height + 1)
        if isinstance(frame.value, list):
            frame.value.append(_as_value(node.value))
        elif frame.key is _NO_KEY:
            frame.key = self._checked_key(event, node.value, frame.value)
        elif frame.key is _MERGE:
            frame.merges.append(node.value)
            frame.key = _NO_KEY
        else:
            frame.value[frame.key] = _as_value(node.value)
            frame.key = _NO_KEY

    def _checked_key(self, event: Any, key: Any, mapping: dict[Any, Any]) -> Any:
        if isinstance(key, dict | list):
            self._spoil(event, "a key is itself a mapping or a list")
            return ""
        if key in mapping:
            self._spoil(event, f"the key {objects.shown(key)} is given twice in one mapping")
        return key

    def _spoil(self, event: Any, reason: str) -> None:
        self._flaw = self._flaw or f"line {event.start_mark.line + 1}: {reason}"


def _as_value(value: Any) -> Any:
    return "<<" if value is _MERGE else value


def _malformed(event: Any, reason: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)


@functools.lru_cache(maxsize=4096)
def _typed(value: str, tag: str | None) -> Any:
    """A scalar of the type `tag`, or of the type it resolves to when `tag` is "".

    Raises ValueError, LookupError or OverflowError when it cannot be one.
    """
    tag = tag or _resolved(value) if tag is not None else tag
    if tag == "null":
        return None
    if tag == "merge":
        return _MERGE
    if tag == "str":
        return value
    return _CONSTRUCT[tag](yaml.ScalarNode(f"{_PREFIX}{tag}", value))


def _resolved(value: str) -> str:
    """The type of a plain scalar, of those that JSON has."""
    for tag, pattern in yaml.resolver.Resolver.yaml_implicit_resolvers.get(value[:1], ()):
        name = str(tag).removeprefix(_PREFIX)
        if (name in _CONSTRUCT or name in {"null", "merge"}) and pattern.match(value):
            return name
    return "str"


_SAFE = yaml.constructor.SafeConstructor()
_CONSTRUCT: dict[str | None, Callable[[yaml.ScalarNode], Any]] = {
    "bool": _SAFE.construct_yaml_bool,
    "float": _SAFE.construct_yaml_float,
    "int": _SAFE.construct_yaml_int,
}
