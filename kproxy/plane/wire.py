"""Everything that crosses the seam, as bytes: for a data plane in another process.

A frame is four bytes of length (big-endian) and a MessagePack list of two: the name of the
message's type, and the message. Both ends are of one version of kproxy: the format is no interface.
"""

import struct
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from kproxy import events
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding, names
from kproxy.plane import snapshots

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of one frame at most: a Service of 1,000,000 endpoints is smaller."""

_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The bytes received are no message: the connection can no longer be used."""


class Look(msgspec.Struct, frozen=True):
    """Down: send the `Seen…` messages of these parts (`plane.Part`), then `Looked`."""

    number: int
    part: int


class WantFacts(msgspec.Struct, frozen=True):
    """Down: whether to send facts about single connections. Facts that are kept are always sent."""

    is_so: bool


class Drain(msgspec.Struct, frozen=True):
    """Down: `plane.DataPlane.drain`; answered by `Drained`."""

    grace: float


class Abort(msgspec.Struct, frozen=True):
    """Down: `plane.DataPlane.abort`; answered by `Drained`."""


class Share(msgspec.Struct, frozen=True):
    """Down: `plane.DataPlane.share`. The descriptor comes beside it or before, by SCM_RIGHTS."""

    name: str


class Started(msgspec.Struct, frozen=True):
    """Up, first: the data plane works, and may open so many frontends, of these protocols."""

    max_listeners: int
    protocols: frozenset[names.Protocol]
    totals: snapshots.Totals


class Refused(msgspec.Struct, frozen=True):
    """Up, first and last: the data plane refuses its limits, by a ConfigError of this `reason`."""

    reason: str


class FactSeen(msgspec.Struct, frozen=True):
    """Up: a fact, by the name of its type; see `unpack`."""

    kind: str
    fact: msgspec.Raw
    is_kept: bool


class SeenPort(msgspec.Struct, frozen=True):
    """Up: what happened on a service port, and to its endpoints."""

    name: names.ServicePortName
    happened: snapshots.ServicePort
    endpoints: tuple[tuple[addresses.SocketAddress, snapshots.Endpoint], ...]


class SeenBindings(msgspec.Struct, frozen=True):
    """Up: the clients of a service port that are bound to an endpoint."""

    name: names.ServicePortName
    bindings: tuple[snapshots.Binding, ...]


class SeenConnections(msgspec.Struct, frozen=True):
    """Up: some of the open connections."""

    connections: tuple[data_path.ConnectionView, ...]


class Looked(msgspec.Struct, frozen=True):
    """Up: all that the `Look` of this number asked for has been sent."""

    number: int
    totals: snapshots.Totals


class Drained(msgspec.Struct, frozen=True):
    """Up: no connection is left; so many were reset."""

    reset: int


_MESSAGES: tuple[type, ...] = (
    *typing.get_args(forwarding.Message),
    *typing.get_args(forwarding.Report),
    *(Look, WantFacts, Drain, Abort, Share),
    *(Started, Refused, FactSeen, SeenPort, SeenBindings, SeenConnections, Looked, Drained),
)
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    each.__name__: msgspec.msgpack.Decoder(each) for each in _MESSAGES
}
_FACTS = {each.__name__: msgspec.msgpack.Decoder(each) for each in events.Fact.__subclasses__()}
_ENVELOPE = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


def encode(message: Any) -> bytes:
    """A message as a frame. Raises WireError if it is too large."""
    body = msgspec.msgpack.encode((type(message).__name__, message))
    if len(body) > MAX_FRAME:
        raise WireError(f"a {type(message).__name__} of {len(body)} bytes is too large")
    return _LENGTH.pack(len(body)) + body


def pack(fact: events.Fact, *, is_kept: bool) -> FactSeen:
    """A fact as a message."""
    return FactSeen(type(fact).__name__, msgspec.Raw(msgspec.msgpack.encode(fact)), is_kept)


def unpack(seen: FactSeen) -> events.Fact:
    """The fact in a message. Raises WireError."""
    try:
        fact: events.Fact = _FACTS[seen.kind].decode(seen.fact)
    except (KeyError, msgspec.MsgspecError) as error:
        raise WireError(f"a fact of kind {seen.kind} cannot be read: {error}") from error
    return fact


class Frames:
    """Decodes messages from a stream of bytes, however it is cut into pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` completes. Raises WireError; do not call it again then."""
        held = self._bytes
        held += data
        start = 0
        try:
            while len(held) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(held, start)
                if length > MAX_FRAME:
                    raise WireError(f"a frame of {length} bytes is too large")
                end = start + _LENGTH.size + length
                if len(held) < end:
                    return
                body = bytes(held[start + _LENGTH.size : end])
                start = end
                yield _decode(body)
        finally:
            del held[:start]


def _decode(body: bytes) -> Any:
    try:
        kind, content = _ENVELOPE.decode(body)
        return _DECODERS[kind].decode(content)
    except (KeyError, msgspec.MsgspecError) as error:
        raise WireError(f"a message cannot be read: {error}") from error
