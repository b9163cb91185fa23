"""JSON in pieces, so that a caller that writes megabytes of it can pause in between."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from kproxy.model import addresses
from kproxy.model.kinds import endpoints

RUN = 100
"""Items of a list in one piece: some 50 us."""

_MOST = 200
"""Values in one piece of an object of the model: some 100 us."""

_SIMPLE = frozenset(
    {str, int, float, bool, type(None), addresses.SocketAddress, endpoints.Endpoint}
)
"""Types that count as one value each: there are many of them, and none has a long list."""


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


def freed(value: Mapping[str, object]) -> Iterator[None]:
    """Empty the long lists of `value` in steps: freed at once, 20,000 endpoints take 6 ms."""
    for member in value.values():
        while isinstance(member, list) and len(member) > RUN:
            del member[-RUN:]
            yield


def listed(values: Iterable[Mapping[str, object] | None]) -> Iterator[bytes]:
    """The JSON list of `values`, an object a line; a value that is None is an empty piece.

    The values are `freed` on the way.
    """
    opening = b"["
    for value in values:
        if value is None:
            yield b""
            continue
        yield opening
        yield from encoded(value)
        for _ in freed(value):
            yield b""
        opening = b",\n"
    yield b"]\n" if opening != b"[" else b"[]\n"


def of_object(value: Any) -> Iterator[bytes]:
    """The JSON of `value` as msgspec encodes it, in pieces however deep its long lists are.

    `value` is made of dataclasses, Structs, tuples and what has no parts. It may not be cyclic.
    """
    if _size(value) <= _MOST:
        yield msgspec.json.encode(value)
    elif isinstance(value, tuple | list):
        yield from _long_list(value)
    else:
        opening = b"{"
        for name in _field_names(value):
            yield opening + msgspec.json.encode(name) + b":"
            opening = b","
            yield from of_object(getattr(value, name))
        yield b"}"


def _long_list(items: Sequence[Any]) -> Iterator[bytes]:
    run: list[Any] = []
    opening, room = b"[", _MOST
    for each in items:
        size = _size(each)
        if size > room and run:
            yield opening + msgspec.json.encode(run)[1:-1]
            opening, run, room = b",", [], _MOST
        if size > _MOST:
            yield opening
            yield from of_object(each)
            opening = b","
        else:
            run.append(each)
            room -= size
    yield (opening + msgspec.json.encode(run)[1:-1] if run else b"") + b"]"


def _field_names(value: Any) -> Sequence[str]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return [each.name for each in fields(value)] if is_dataclass(value) else ()


def _size(value: Any, most: int = _MOST) -> int:
    """How many values `value` is made of; some number above `most` if it is more."""
    if type(value) in _SIMPLE:
        return 1
    parts = value
    if not isinstance(value, tuple | list):
        parts = [getattr(value, name) for name in _field_names(value)]
    count = 1
    for each in parts:
        count += 1 if type(each) in _SIMPLE else _size(each, most - count)
        if count > most:
            break
    return count


def _list(items: Sequence[Any]) -> Iterator[bytes]:
    yield b"["
    for start in range(0, len(items), RUN):
        text = msgspec.json.encode(items[start : start + RUN])
        yield (b"," if start else b"") + text[1:-1]
    yield b"]"
