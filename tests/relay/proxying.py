"""Clients and backends that speak the PROXY protocol before their case begins.

Written from the specification, not with the project's own code.
"""

import contextlib
import ipaddress
import struct
from typing import Final

from tests.relay import actor

_SIGNATURE: Final = bytes.fromhex("0d0a0d0a000d0a515549540a")

CLIENT: Final = ("192.0.2.33", 3333)
"""Who the clients of `sends_v2` say that they are."""

_FRONTEND: Final = ("192.0.2.80", 80)


def v2(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """A version 2 header of TCP over IPv4."""
    packed = b"".join(ipaddress.IPv4Address(each[0]).packed for each in (source, destination))
    body = packed + struct.pack(">HH", source[1], destination[1])
    return _SIGNATURE + b"\x21\x11" + struct.pack(">H", len(body)) + body


async def sends_v2(client: actor.Actor) -> None:
    """Say who the client is."""
    with contextlib.suppress(ConnectionError):
        await client.send(v2(CLIENT, _FRONTEND))
    client.sent = 0  # a case counts its own bytes


async def reads_v2(backend: actor.Actor) -> None:
    """Take the header, which must be the one that `sends_v2` has sent."""
    expected = v2(CLIENT, _FRONTEND)
    await _take(backend, len(expected), expected)


async def reads_v1(backend: actor.Actor) -> None:
    """Take the header, which must be of a client on this host."""
    if not await backend.brings_bytes():
        return  # the proxy looks whether an endpoint is back: no client is behind it
    line = bytearray()
    with contextlib.suppress(ConnectionError):
        while not line.endswith(b"\r\n"):
            line += await backend.receive_exactly(1)
        assert line.startswith(b"PROXY TCP4 127."), bytes(line)
    backend.restart()


async def _take(backend: actor.Actor, size: int, expected: bytes) -> None:
    """A client that is gone already may have cost its backend the connection.

    Nor has the proxy's own look whether an endpoint is back a client, or a byte.
    """
    if not await backend.brings_bytes():
        return
    with contextlib.suppress(ConnectionError):
        assert await backend.receive_exactly(size) == expected
    backend.restart()
