"""Where one JSON value ends and the next begins: the bytes of a watch, and the bytes of a list.

A watch is one event a line. A list is one object whose `items` may be tens of megabytes; decoded
at once they would hold the event loop for as long as that takes, so items come out one by one
while the body is still arriving, whatever the order of its fields.

Both take chunks of any size and keep no more than a chunk and one value. A value larger than the
ceiling is a FramingError, as is what is not JSON: the stream cannot be trusted any further.
"""

import math
import re
from collections.abc import Generator, Iterator
from typing import TypeAlias

import msgspec

MAX_VALUE_BYTES = 8 * 1024 * 1024
"""Ceiling for one line of a watch and one item of a list: it is decoded in one piece, some 30 ms.

An API server takes requests of 3 MiB at most, and etcd keeps objects of 1.5 MiB by default, in
protobuf, of which the JSON may be twice as long."""

_EAGER_BYTES = 64 * 1024
"""Bytes of an unfinished value up to which each chunk is tried."""

MAX_FIELDS = 100
"""Most fields of a list object beside its items. The API has kind, apiVersion and metadata."""

_raw = msgspec.json.Decoder(msgspec.Raw)
PLACE = re.compile(r"\(byte (\d+)\)")
TRAILING = "JSON is malformed: trailing characters"
"""Part of msgspec's messages, pinned by tests/sources/transfer/test_msgspec_words.py."""

_BLANKS = re.compile(rb"[ \t\r\n]*")


class FramingError(ValueError):
    """The bytes are not what a Kubernetes API sends; the message is a clause."""


class LineFramer:
    """Splits the body of a watch into lines. Blank lines are left out."""

    def __init__(self, ceiling: int = MAX_VALUE_BYTES) -> None:
        self._ceiling = ceiling
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def is_mid_line(self) -> bool:
        """Whether a line has begun that has not ended."""
        return self._held > 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes. Raises FramingError at one over the ceiling."""
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        for part in rest:
            line = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
            if line.strip():
                yield line
            self._hold(part)

    def _hold(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._ceiling:
            raise FramingError(f"a line is longer than {self._ceiling} bytes")
        if part:
            self._parts.append(part)


_Reading: TypeAlias = Generator[msgspec.Raw | None, None, None]
"""Reads on until it needs more bytes; then it yields None."""


class ListFramer:
    """Takes a list object apart: `feed` yields its items, `fields` has its other fields.

    `fields` is complete once `is_complete`: a server may put `metadata` after `items`. The cost
    is linear in the length of the body, also for values that come in many chunks.
    """

    def __init__(self, ceiling: int = MAX_VALUE_BYTES) -> None:
        self._ceiling = ceiling
        self._buffer = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._wanted = 1
        self._reading = self._read()
        self._held = 0
        self.fields: dict[str, msgspec.Raw] = {}
        self.is_complete = False

    def feed(self, chunk: bytes) -> Iterator[msgspec.Raw]:
        """The items that are complete. Raises FramingError for what is not a list object.

        A large item may come out some chunks late, but no later than at the end of the body,
        which is an empty chunk.
        """
        self._chunks.append(chunk)
        self._waiting += len(chunk)
        if chunk and self._waiting < self._wanted:
            return
        self._buffer = b"".join((self._buffer[self._at :], *self._chunks))
        self._chunks.clear()
        self._at, self._waiting, self._wanted = 0, 0, 1
        for item in self._reading:
            if item is None:
                return
            yield item

    def _read(self) -> _Reading:
        """The grammar of one object."""
        yield from self._mark(b"{")
        while (yield from self._mark(b'"}')) != b"}":
            self._at -= 1
            key = _string((yield from self._value()))
            yield from self._mark(b":")
            if key != "items" or (yield from self._mark(b"[n")) == b"n":
                self._at -= key == "items"
                self._keep(key, (yield from self._value()))
            else:
                yield from self._items()
            if (yield from self._mark(b",}")) == b"}":
                break
        self.is_complete = True
        yield from self._mark(b"")

    def _keep(self, key: str, value: msgspec.Raw) -> None:
        """A list object has four fields, and a server may send fields without end."""
        self._held += len(key) + len(bytes(value))
        if self._held > self._ceiling or len(self.fields) >= MAX_FIELDS:
            raise FramingError("a list object has more fields than a list can have")
        self.fields[key] = value

    def _items(self) -> _Reading:
        while (yield from self._mark(b"{]")) == b"{":
            self._at -= 1
            yield (yield from self._value())
            if (yield from self._mark(b",]")) == b"]":
                return

    def _mark(self, expected: bytes) -> Generator[None, None, bytes]:
        """The next byte that is not blank, taken; it must be one of `expected`."""
        while True:
            blanks = _BLANKS.match(self._buffer, self._at)
            self._at = blanks.end() if blanks else self._at
            mark = self._buffer[self._at : self._at + 1]
            if mark:
                break
            yield None
        if mark not in expected:
            raise FramingError(f"not the JSON of a list: {mark!r} where it does not belong")
        self._at += 1
        return mark

    def _value(self) -> Generator[None, None, msgspec.Raw]:
        """The value that begins here, once a byte behind it has come that ends it.

        msgspec finds the end at the speed of C, and says where it is only in its complaint that
        something follows: it names the byte after the first one that does not belong any more.
        """
        while True:
            try:
                _raw.decode(memoryview(self._buffer)[self._at :])
            except msgspec.DecodeError as error:
                found = PLACE.search(str(error))
                place = int(found[1]) if found else math.inf
                if str(error).startswith(TRAILING):
                    break
                # A complaint about the very end may only mean that more is to come.
                if place < len(self._buffer) - self._at:
                    raise FramingError(f"not JSON: {error}") from None
            except RecursionError:
                raise FramingError("nested too deeply to be read") from None
            length = len(self._buffer) - self._at
            if length > self._ceiling:
                raise FramingError(f"an object is longer than {self._ceiling} bytes")
            if length > _EAGER_BYTES:
                # Trying again at each chunk would cost the square of the value's length.
                self._wanted = min(length, self._ceiling + 1 - length)
            yield None
        begin, self._at = self._at, self._at + int(place) - 1
        return msgspec.Raw(self._buffer[begin : self._at])


def _string(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FramingError("a field's name is not a string") from None
