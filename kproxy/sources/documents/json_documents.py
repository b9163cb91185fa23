"""JSON values one after the other, and the items of a large list each by itself.

Brackets show where values begin and end. They are found here and not by a decoder, because a
decoder holds the interpreter for a whole value, which may be 50 MB.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from kproxy.model import objects
from kproxy.sources.documents.document import LARGEST_PIECE, TOO_LARGE, Document, Pause

LARGE = 128 * 1024
"""Lists of more bytes are read item by item."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
_ITEMS = re.compile(rb'"items"[ \t\r\n]*:[ \t\r\n]*\Z')
_MAYBE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape of JSON; group 1 is half of a pair of surrogates without the other half."""
_LONGEST_KEY = 64
_BETWEEN_ITEMS = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")


class Position(NamedTuple):
    """The position of the reader; `number` is that of the last document before it."""

    offset: int = 0
    line: int = 1
    number: int = 0


class _Span(NamedTuple):
    start: int
    end: int


class _Value(NamedTuple):
    """Where a value is, and the list of its items if it has one."""

    span: _Span
    items: _Span | None
    each: Sequence[_Span]
    is_closed: bool = True


def read(data: bytes, pause: Pause) -> Iterator[tuple[Document, Position]]:
    """The values in `data`, each with the position behind it. The last may be malformed."""
    place = Position()
    while True:
        start = _SPACE.match(data, place.offset).end()  # type: ignore[union-attr]  # it matches
        if start == len(data):
            return
        line = place.line + data.count(b"\n", place.offset, start)
        value = _bounds(data, start, pause)
        made = _document(data, value, place.number + 1, line, pause)
        end = value.span.end
        place = Position(end, line + data.count(b"\n", start, end), place.number + 1)
        yield made, place
        if made.is_malformed:
            return


def _bounds(data: bytes, start: int, pause: Pause) -> _Value:
    """The value at `start`: to the bracket that closes it, else to the end of `data`."""
    offset = start
    depth = 0
    items_start = item_start = -1
    items: _Span | None = None
    each: list[_Span] = []
    while found := _BRACKET.match(data, offset, offset + LARGEST_PIECE):
        pause()
        offset = found.end()
        if depth == 0 and offset != start + 1:
            break  # no bracket comes first: neither an object nor a list
        if found[1] in b"{[":
            depth += 1
            if depth == 2 and found[1] == b"[" and items is None:
                key = data[max(start, offset - _LONGEST_KEY) : offset - 1]
                items_start = offset if _ITEMS.search(key) else -1
            elif depth == 3:
                item_start = offset - 1
            continue
        depth -= 1
        if depth == 2 and items_start >= 0:
            each.append(_Span(item_start, offset))
        elif depth == 1 and items_start >= 0:
            items, items_start = _Span(items_start, offset - 1), -1
        elif depth <= 0:
            return _Value(_Span(start, offset), items, each)
    return _Value(_Span(start, len(data)), None, (), is_closed=False)


def _is_too_large(span: _Span) -> bool:
    return span.end - span.start > LARGEST_PIECE


def _document(data: bytes, value: _Value, number: int, line: int, pause: Pause) -> Document:
    start, end = value.span
    try:
        if value.items and end - start > LARGE:
            large = _item_by_item(data, value, pause)
            if large is not None:
                lines = _lines(data, line, start, value.each)
                return Document(number, large, line=line, item_lines=lines)
        if _is_too_large(value.span):
            flaw = TOO_LARGE if value.is_closed else f"not valid JSON: cut off, or {TOO_LARGE}"
            return Document(number, None, flaw, is_malformed=not value.is_closed, line=line)
        return Document(number, objects.json_object(_valid(data[start:end])), line=line)
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        return Document(number, None, f"not valid JSON: {reason}", is_malformed=True, line=line)
    except RecursionError:
        reason = "not readable: nested too deeply"
        return Document(number, None, reason, is_malformed=True, line=line)


def _item_by_item(data: bytes, value: _Value, pause: Pause) -> dict[str, Any] | None:
    """A list object whose items are not yet read; None if not all its items are objects.

    Raises msgspec.DecodeError.
    """
    start, end = value.span
    if value.items is None or not value.each:
        return None
    gaps = zip(value.each, value.each[1:], strict=False)
    if not all(_BETWEEN_ITEMS.fullmatch(data, left.end, right.start) for left, right in gaps):
        return None
    first, last = value.each[0].start, value.each[-1].end
    if _is_too_large(_Span(start, value.items.start)) or _is_too_large(_Span(last, end)):
        return None
    if data[value.items.start : first].strip() or data[last : value.items.end].strip():
        return None
    envelope = msgspec.json.decode(_valid(data[start : value.items.start] + data[last:end]))
    items: list[objects.RawObject] = []
    for each in value.each:
        pause()
        if _is_too_large(each):
            items.append(TOO_LARGE)  # not a mapping: refused by itself
        else:
            items.append(objects.json_object(_valid(data[each.start : each.end])))
    return {**envelope, "items": items}


def _valid(piece: bytes) -> bytes:
    """`piece` with U+FFFD for invalid UTF-8 and for escapes of half a letter, as Go reads it."""
    if _MAYBE_SURROGATE.search(piece):
        piece = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], piece)
    if piece.isascii():
        return piece
    try:
        piece.decode()
    except UnicodeDecodeError:
        return piece.decode(errors="replace").encode()
    return piece


def _lines(data: bytes, line: int, start: int, items: Sequence[_Span]) -> dict[int, int]:
    made = {}
    for index, each in enumerate(items):
        line += data.count(b"\n", start, each.start)
        start = each.start
        made[index] = line
    return made
