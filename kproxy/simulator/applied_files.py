"""Manifests that are applied at the start, from what `kubectl apply -f` takes.

That is files, directories and standard input.

A manifest for a whole application holds kinds that a simulated cluster does not have, such as a
ServiceAccount beside a Deployment. Those are skipped, with a line for each.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kproxy import errors
from kproxy.simulator.store.resources import Resource
from kproxy.sources.documents import reading

STANDARD_INPUT = Path("-")
_EXTENSIONS = (".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a document; `origin` is the file and the document, for messages."""

    origin: str
    content: Mapping[str, Any]

    @property
    def title(self) -> str:
        metadata = self.content.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        kind = self.content.get("kind") or "an object without a kind"
        return f"{kind} {name}" if isinstance(name, str) and name else str(kind)


def read(paths: Sequence[Path]) -> list[Manifest]:
    """The objects in files, in the manifests of directories, and in standard input ("-").

    Raises ConfigError for what cannot be read, and for a document that is not an object.
    """
    return [
        manifest
        for path in paths
        for name, data in _sources(path)
        for manifest in _manifests(name, data)
    ]


def resource_of(content: Mapping[str, Any], served: Iterable[Resource]) -> Resource | None:
    """The resource of an object, among those `served`; None if it is of none of them."""
    for resource in served:
        wanted = (resource.kind, resource.api_version)
        if (content.get("kind"), content.get("apiVersion")) == wanted:
            return resource
    return None


def why_unknown(content: Mapping[str, Any], served: Iterable[Resource]) -> str:
    """Why `resource_of` found nothing, as a clause."""
    kind, version = content.get("kind"), content.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        return "it has no kind"
    versions = [each.api_version for each in served if each.kind == kind]
    if versions:
        return f"the simulated cluster has {kind} of {' and '.join(versions)}, not of {version}"
    return f"the simulated cluster has no {kind} of {version}"


def items(content: Mapping[str, Any]) -> Sequence[Any]:
    """The objects of a List, of whatever kind, or the one object that `content` is."""
    kind, listed = content.get("kind"), content.get("items")
    if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(listed, list):
        return (content,)
    identity = {"apiVersion": content.get("apiVersion"), "kind": kind.removesuffix("List")}
    if kind == "List":
        identity = {}
    return [{**identity, **each} if isinstance(each, dict) else each for each in listed]


def _sources(path: Path) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the manifests at `path`. Raises ConfigError."""
    if path == STANDARD_INPUT:
        yield "standard input", sys.stdin.buffer.read()
        return
    try:
        if not path.is_dir():
            yield str(path), path.read_bytes()
            return
        files = sorted(each for each in path.iterdir() if _is_manifest(each))
        for file in files:
            yield str(file), file.read_bytes()
    except OSError as error:
        advice = errors.advice_on_url(path) or "name a readable file with --filename"
        raise errors.ConfigError(
            f"cannot read manifests from {path}: {errors.reason(error)}; {advice}"
        ) from error
    if not files:
        raise errors.ConfigError(
            f"there is no manifest in {path}: a manifest's name ends in {', '.join(_EXTENSIONS)}"
        )


def _is_manifest(path: Path) -> bool:
    is_shown = not path.name.startswith(".")
    return path.suffix in _EXTENSIONS and is_shown and path.is_file()


def _manifests(name: str, data: bytes) -> Iterator[Manifest]:
    for document in reading.read(data):
        origin = f"{name}, document {document.number}"
        if document.flaw:
            raise errors.ConfigError(f"{_at(origin, document.line)}: {document.flaw}; correct it")
        yield from _objects(origin, document.line, document.item_lines, document.value)


def _objects(
    origin: str, line: int, item_lines: Mapping[int, int], value: Any
) -> Iterator[Manifest]:
    """The objects of a document; `item_lines` is where those of a list begin, by their index."""
    where = _at(origin, line)
    try:
        value = _plain(value)
    except RecursionError:
        raise errors.ConfigError(f"{where}: it is nested too deeply to be read") from None
    if not isinstance(value, dict):
        raise errors.ConfigError(f"{where}: it is not an object; correct it")
    found = items(value)
    if found == (value,):
        yield Manifest(where, value)
        return
    for index, each in enumerate(found):
        yield from _objects(f"{origin}, item {index + 1}", item_lines.get(index, line), {}, each)


def _plain(value: Any) -> Any:
    """A value decoded that the reader of JSON left encoded, with the items of a list."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, dict) and isinstance(value.get("items"), list):
        return {**value, "items": [_plain(each) for each in value["items"]]}
    return value


def _at(origin: str, line: int) -> str:
    return f"{origin} (line {line})"
