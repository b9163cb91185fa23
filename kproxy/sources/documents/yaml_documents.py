"""YAML documents from libyaml's events, with bounds on nesting, aliases and their number.

Values are built here instead of by `yaml.safe_load_all` for these reasons. Bounds can be kept
while reading, so that neither "billion laughs" nor 10^5 brackets cost more than the text that
spells them. Documents and items know their line. Scalars are those of kubectl. And text is
divided at its `---` lines first, as kubectl does it, so that each document fails by itself.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from kproxy.model import objects
from kproxy.sources.documents import scalars
from kproxy.sources.documents.document import LARGEST_PIECE, Document, Pause

MAX_DEPTH = 100
"""How deep mappings and lists may nest; a Kubernetes object of ours needs 8."""

MAX_NODES = 2_000_000
"""How many mappings, lists and scalars a file may hold, with every alias counted in full."""

_PAUSE_EVERY = 64
"""How many events are read between two pauses."""

_READ_BYTES = 16 * 1024
"""libyaml is given a large document in pieces of this size, with a pause before each."""

_SEPARATOR = re.compile(rb"---(?:[ \t\r\n]|\Z|(#))")
_LINE_OF_NOTHING = re.compile(rb"[ \t]*+(?:#[^\n]*+)?\r?\n|%[^\n]*+\n")
_STRIDE = 256 * 1024
"""Bytes that are searched between two pauses."""
_PYTHON_TAG = "tag:yaml.org,2002:python/"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(data: bytes, pause: Pause, number: int = 0, line: int = 0) -> Iterator[Document]:
    """The documents in `data` that are not empty; those are counted, and left out.

    `number` and `line` are how many documents and lines came before. The last document may be
    malformed because the bound on values is reached: then nothing after it is read.
    """
    nodes = 0
    for start, end in _pieces(data, pause):
        builder = _Builder(pause, number, line, nodes)
        yield from builder.documents(data[start:end])
        if builder.nodes > MAX_NODES:
            return
        number, nodes = builder.number, builder.nodes
        line += data.count(b"\n", start, end)


def _pieces(data: bytes, pause: Pause) -> Iterator[tuple[int, int]]:
    """Where the text of each document begins and ends.

    What comes before the first separator belongs to the document behind it if it is nothing but
    comments and directives. A separator followed by "#" is left out: libyaml takes it for text.
    """
    first = _first_line_of_text(data, pause)
    start = 0
    for found in _separators(data, pause):
        if found.start() == first and not found[1]:
            continue
        if found.start() > start:
            yield start, found.start()
        start = found.start(1) if found[1] else found.start()
    yield start, len(data)


def _first_line_of_text(data: bytes, pause: Pause) -> int:
    """Where the first line begins that is neither empty, a comment nor a directive."""
    start = 0
    while found := _LINE_OF_NOTHING.match(data, start, start + _STRIDE):
        pause()
        start = found.end()
    return start


def _separators(data: bytes, pause: Pause) -> Iterator[re.Match[bytes]]:
    """The lines that separate documents. Searched for by `find`, which is fast, in strides."""
    if found := _SEPARATOR.match(data):
        yield found
    offset = 0
    while offset < len(data):
        pause()
        end = offset + _STRIDE
        at = data.find(b"\n---", offset, end + 3)
        if at < 0:
            offset = end
            continue
        if found := _SEPARATOR.match(data, at + 1):
            yield found
        offset = at + 1


class _Anchored(NamedTuple):
    value: Any
    size: int
    height: int


class _Frame:
    """A mapping or list under construction. `size` and `height` count what it holds."""

    __slots__ = ("anchor", "height", "key", "size", "value")

    def __init__(self, value: dict[Any, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = _NO_KEY
        self.size = 1
        self.height = 1


class _Text:
    """A large document for libyaml to read from, bit by bit."""

    def __init__(self, data: bytes, pause: Pause) -> None:
        self._data = data
        self._pause = pause
        self._offset = 0
        self._used = 0

    def advance(self) -> None:
        """An event was made of what has been read so far."""
        self._used = self._offset

    def read(self, size: int) -> bytes:
        """The next bytes; b"" at the end. Raises MarkedYAMLError if too many led to no event."""
        self._pause()
        if self._offset - self._used > LARGEST_PIECE:
            size_text = f"a value, a comment or a gap of more than {LARGEST_PIECE // 2**20} MiB"
            raise yaml.MarkedYAMLError(problem=size_text)
        piece = self._data[self._offset : self._offset + min(size, _READ_BYTES)]
        self._offset += len(piece)
        return piece


def _valid(data: bytes, pause: Pause) -> bytes:
    """`data` with U+FFFD for what is not UTF-8, as Go reads it."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = []
    for start in range(0, len(data), _READ_BYTES):
        pause()
        end = start + _READ_BYTES
        pieces.append(decoder.decode(data[start:end], final=end >= len(data)).encode())
    return b"".join(pieces)


_NO_KEY = object()


class _Builder:
    """Builds the documents of one piece of a file. `nodes` counts those before it as well."""

    def __init__(self, pause: Pause, number: int, line: int, nodes: int) -> None:
        self.number = number
        self.nodes = nodes
        self._pause = pause
        self._lines_before = line
        self._begin(line + 1)

    def documents(self, data: bytes) -> Iterator[Document]:
        """The documents in `data`; the last is malformed if reading ends with it."""
        before = self.number
        try:
            yield from self._documents(data)
        except yaml.reader.ReaderError as error:
            self.number = max(self.number, before + 1)
            yield self._malformed(str(error.reason))
        except yaml.MarkedYAMLError as error:
            self.number = max(self.number, before + 1)
            mark = error.problem_mark or error.context_mark
            at = f"line {self._line(mark)}, column {mark.column + 1}: " if mark else ""
            reason = " ".join(part for part in (error.context, error.problem) if part)
            yield self._malformed(f"{at}{reason}")

    def _documents(self, data: bytes) -> Iterator[Document]:
        if not data.isascii():
            data = _valid(data, self._pause)
        text = _Text(data, self._pause)
        source: Any = data if len(data) <= _READ_BYTES else text
        for count, event in enumerate(yaml.parse(source, Loader=_LOADER)):
            text.advance()
            if not count % _PAUSE_EVERY:
                self._pause()
            if isinstance(event, yaml.ScalarEvent):
                self._add(event, _Anchored(self._scalar(event), 1, 0), event.anchor)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self.number += 1
                self._begin(self._line(event.start_mark))
            elif isinstance(event, yaml.DocumentEndEvent) and self._root is not None:
                yield Document(
                    self.number,
                    self._root,
                    self._flaw,
                    remark=self._remark,
                    line=self._first_line,
                    item_lines=self._item_lines,
                )

    def _begin(self, line: int) -> None:
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._flaw = self._remark = ""
        self._root: Any = None
        self._first_line = line
        self._item_lines: dict[int, int] = {}

    def _malformed(self, reason: str) -> Document:
        text = f"not valid YAML: {reason}"
        return Document(self.number, None, text, is_malformed=True, line=self._first_line)

    def _line(self, mark: Any) -> int:
        return self._lines_before + int(mark.line) + 1

    def _scalar(self, event: Any) -> Any:
        try:
            return scalars.resolved(event.value, event.tag, is_plain=event.implicit[0])
        except ValueError as error:
            self._spoil(event, str(error))
            return event.value

    def _open(self, event: Any) -> None:
        stack = self._stack
        if len(stack) >= MAX_DEPTH:
            raise _error(event, f"nested more than {MAX_DEPTH} deep")
        if event.tag and event.tag.startswith(_PYTHON_TAG):
            self._spoil(event, f"the tag {event.tag} is not allowed")
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if not stack:
            self._first_line = self._line(event.start_mark)
        elif len(stack) == 2 and stack[0].key == "items" and isinstance(stack[1].value, list):
            self._item_lines[len(stack[1].value)] = self._line(event.start_mark)
        self._stack.append(_Frame({} if is_mapping else [], event.anchor))

    def _close(self, event: Any) -> None:
        frame = self._stack.pop()
        self._add(event, _Anchored(frame.value, frame.size, frame.height), frame.anchor)

    def _alias(self, event: Any) -> None:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise _error(event, f"the alias *{event.anchor} refers to nothing complete")
        if len(self._stack) + known.height > MAX_DEPTH:
            raise _error(event, f"nested more than {MAX_DEPTH} deep")
        self.nodes += known.size
        self._add(event, known, None)

    def _add(self, event: Any, node: _Anchored, anchor: str | None) -> None:
        """Put a complete node where it belongs: into the open mapping or list, or the root."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _error(event, f"more than {MAX_NODES} values, aliases counted in full")
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
        elif frame.key is scalars.MERGE:
            self._merge(event, node.value, frame.value)
            frame.key = _NO_KEY
        else:
            frame.value[frame.key] = _as_value(node.value)
            frame.key = _NO_KEY

    def _merge(self, event: Any, merged: Any, into: dict[Any, Any]) -> None:
        """`<<: merged`: like kubectl, over the keys so far, the first of several counting most."""
        for source in reversed(merged if isinstance(merged, list) else [merged]):
            if isinstance(source, dict):
                into.update(source)
            else:
                self._spoil(event, "only mappings can be merged with <<")

    def _checked_key(self, event: Any, key: Any, mapping: dict[Any, Any]) -> Any:
        if key is scalars.MERGE:
            return key
        try:
            text = scalars.key_text(key)
        except ValueError as error:
            self._spoil(event, str(error))
            return ""
        if text in mapping and not self._remark:
            line = self._line(event.start_mark)
            self._remark = (
                f"line {line}: the key {objects.shown(text)} is given twice in one mapping, "
                "of which the last counts"
            )
        return text

    def _spoil(self, event: Any, reason: str) -> None:
        self._flaw = self._flaw or f"line {self._line(event.start_mark)}: {reason}"


def _as_value(value: Any) -> Any:
    return "<<" if value is scalars.MERGE else value


def _error(event: Any, reason: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=event.start_mark)
