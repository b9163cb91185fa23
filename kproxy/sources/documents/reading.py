"""Manifest text to documents, as kubectl reads it, with bounds on what a file may ask for.

The content of a file decides its notation, not its name: JSON values one after the other, else
YAML. Each document is read by itself, so a malformed one does not affect the others.
`yaml_documents` and `json_documents` read the two notations into `document.Document`s.
"""

import codecs
import re
from collections.abc import Iterable, Iterator

from kproxy.sources.documents import json_documents, yaml_documents
from kproxy.sources.documents.document import (
    LARGEST_PIECE,
    Document,
    MalformedError,
    Pause,
    no_pause,
)

__all__ = ["Document", "MalformedError", "read", "read_json", "read_yaml"]

MAX_DEPTH = yaml_documents.MAX_DEPTH
"""How deep mappings and lists of a document may nest."""

_JSON_STARTS = re.compile(rb"[ \t\r\n]*\{")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(data: bytes, pause: Pause = no_pause) -> Iterator[Document]:
    """The documents in `data` that are not empty; those are counted, and left out.

    Raises for no `data`. Text is read as JSON if its first character is a brace, and as YAML from
    the point on where it is not JSON, as by kubectl 1.33.
    """
    data = _utf8(data)
    if not _JSON_STARTS.match(data, 0, LARGEST_PIECE):
        yield from yaml_documents.read(data, pause)
        return
    start = json_documents.Position()
    for document, end in json_documents.read(data, pause):
        if document.is_malformed:
            rest = data[start.offset :]
            as_yaml = list(yaml_documents.read(rest, pause, start.number, start.line - 1))
            is_yaml = not any(each.is_malformed for each in as_yaml)
            yield from as_yaml if is_yaml else [document]
            return
        yield document
        start = end


def read_yaml(data: bytes) -> Iterator[Document]:
    """The documents in the YAML `data`. Raises MalformedError at one that is malformed."""
    yield from _strict(yaml_documents.read(_utf8(data), no_pause))


def read_json(data: bytes) -> Iterator[Document]:
    """The JSON values in `data`. Raises MalformedError at one that is malformed."""
    yield from _strict(document for document, _ in json_documents.read(_utf8(data), no_pause))


def _strict(found: Iterable[Document]) -> Iterator[Document]:
    for document in found:
        if document.is_malformed:
            raise MalformedError(document.flaw)
        yield document


def _utf8(data: bytes) -> bytes:
    """`data` without a byte order mark, in UTF-8 if the mark says that it is UTF-16."""
    if data.startswith(_UTF16_MARKS):
        return data.decode("utf-16", errors="replace").encode(errors="replace")
    return data.removeprefix(codecs.BOM_UTF8)
