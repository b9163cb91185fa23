"""JSON in pieces, so that a caller that writes megabytes of it can pause in between."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

RUN = 100
"""Items of a list in one piece: some 50 us."""


def is_short(value: Mapping[str, object]) -> bool:
    """Whether the JSON of `value` is one piece: it has no long list among its members."""
    return not any(isinstance(each, list) and len(each) > RUN for each in value.values())


def encoded(value: Mapping[str, object]) -> Iterator[bytes]:
    """The JSON object `value`, in pieces that have at most `RUN` items of a list."""
    if is_short(value):
        yield msgspec.json.encode(value)
        return
    opening = b"{"
    for name, member in value.items():
        yield opening + msgspec.json.encode(name) + b":"
        opening = b","
        if isinstance(member, list):
            yield from _list(member)
        else:
            yield msgspec.json.encode(member)
    yield b"}"


def listed(values: Iterable[Mapping[str, object] | None]) -> Iterator[bytes]:
    """The JSON list of `values`, an object a line; a value that is None is an empty piece."""
    opening = b"["
    for value in values:
        if value is None:
            yield b""
            continue
        yield opening
        yield from encoded(value)
        opening = b",\n"
    yield b"]\n" if opening != b"[" else b"[]\n"


def _list(items: Sequence[Any]) -> Iterator[bytes]:
    yield b"["
    for start in range(0, len(items), RUN):
        text = msgspec.json.encode(items[start : start + RUN])
        yield (b"," if start else b"") + text[1:-1]
    yield b"]"
