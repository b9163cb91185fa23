"""Tagged byte streams: every 16 bytes say which connection, direction and offset they belong to.

A byte that arrives where it does not belong is therefore not merely wrong: loss, duplication,
reordering and leakage from another connection are distinguished, and so is plain corruption.
"""

import functools
import random
import struct
from typing import Final

RECORD: Final = 16
"""Bytes per record: 4 connection and direction, 4 block number, 2 index in block, 6 random."""

BLOCK: Final = 16 * 1024
"""Bytes generated at once. A block differs from its neighbours only in its block number."""

TO_BACKEND: Final = 0
TO_CLIENT: Final = 1

_TAG = struct.Struct(">IIH")
_RECORDS = BLOCK // RECORD
_CONNECTIONS: Final = 1 << 16


@functools.lru_cache(maxsize=32)
def _template(connection: int, direction: int, seed: int) -> bytes:
    """Block 0 of a stream."""
    block = bytearray(random.Random(f"{seed}/{connection}/{direction}").randbytes(BLOCK))
    for index in range(_RECORDS):
        _TAG.pack_into(block, index * RECORD, connection << 1 | direction, 0, index)
    return bytes(block)


class Stream:
    """The endless byte sequence one side of one connection sends.

    `connection` is below 65,536. Two streams of equal arguments are equal; any two others differ
    in every record.
    """

    def __init__(self, connection: int, direction: int, seed: int = 0) -> None:
        if not 0 <= connection < _CONNECTIONS:
            raise ValueError(f"connection id {connection} is outside 0..{_CONNECTIONS - 1}")
        self.connection = connection
        self.direction = direction
        self.seed = seed
        self._template = _template(connection, direction, seed)
        self._number = 0
        self._block = self._template

    def read(self, offset: int, size: int) -> bytes:
        """Return the `size` bytes at `offset`."""
        pieces = []
        while size > 0:
            number, start = divmod(offset, BLOCK)
            piece = self._at(number)[start : start + size]
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _at(self, number: int) -> bytes:
        if number != self._number:
            block = bytearray(self._template)
            for position, byte in enumerate(number.to_bytes(4, "big"), start=4):
                if byte:
                    block[position::RECORD] = bytes([byte]) * _RECORDS
            self._number, self._block = number, bytes(block)
        return self._block


class Checker:
    """Compares what arrives with the stream it must be a prefix of."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.offset = 0

    def feed(self, data: bytes) -> None:
        """Accept the next bytes that arrived; AssertionError says what is wrong with them."""
        if data != self.stream.read(self.offset, len(data)):
            raise AssertionError(diagnosis(self.stream, self.offset, data))
        self.offset += len(data)


def connection_of(record: bytes) -> int:
    """Return the connection id that the first bytes of a stream carry."""
    tag: int = _TAG.unpack_from(record)[0]
    return tag >> 1


def diagnosis(stream: Stream, offset: int, data: bytes) -> str:
    """Say what kind of damage `data`, received at `offset` of `stream`, shows."""
    expected = stream.read(offset, len(data))
    first = next(i for i in range(len(data)) if data[i] != expected[i])
    wrong = offset + first
    for shift in range(min(RECORD, len(data) - first - RECORD + 1)):
        found = _identify(data[first + shift : first + shift + RECORD], stream.seed)
        if found is None:
            continue
        connection, direction, belongs = found
        if (connection, direction) != (stream.connection, stream.direction):
            return f"at byte {wrong} came bytes of connection {connection}: leaked into another"
        missing = belongs - shift - wrong
        if missing > 0:
            return f"at byte {wrong} came byte {wrong + missing}: lost or overtaken"
        return f"at byte {wrong} came byte {wrong + missing} again: duplicated or late"
    return f"byte {wrong} is corrupted: it carries no tag of any stream"


def _identify(record: bytes, seed: int) -> tuple[int, int, int] | None:
    """Return (connection, direction, offset) of a genuine record, None for anything else."""
    tag, number, index = _TAG.unpack_from(record)
    connection, direction = tag >> 1, tag & 1
    if connection >= _CONNECTIONS or index >= _RECORDS:
        return None
    offset = number * BLOCK + index * RECORD
    genuine = Stream(connection, direction, seed).read(offset, RECORD) == record
    return (connection, direction, offset) if genuine else None
