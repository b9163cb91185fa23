"""Questions for names of elsewhere, which other servers are asked.

Each from a socket of its own, so from a port that strangers do not know, with a number that they do
not know either; an answer counts only if it has that number and that question. By UDP first, by TCP
where the answer is cut short. Clients that ask the same at the same time share one question.

A question that comes back to this server, because its upstream asks it in turn, is not asked again.
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import structlog

from kproxy import metrics
from kproxy.dns import wire
from kproxy.dns.forwarding import upstreams
from kproxy.model import addresses

MOST_SHARING = 64
"""Clients that wait for the same answer."""
TRIES = 3
TRY_SECONDS = 2.0
"""Each server is given this time; a client of glibc's waits for 5 s."""
_SHUNNED_SECONDS = 30.0
"""For how long a server that did not answer comes after the others."""
_LARGEST = 65535
_FAILED = (wire.Rcode.SERVFAIL, wire.Rcode.REFUSED, wire.Rcode.NOTIMP, wire.Rcode.FORMERR)

_length = struct.Struct("!H")

Done: TypeAlias = Callable[[bytes | None], None]
"""Called with the answer as it came from the server, or with None if there is none."""

_log = structlog.get_logger(__name__)


class _Key(NamedTuple):
    """What questions must have in common to share an answer."""

    name: wire.Name
    type: int
    class_: int
    flags: int
    has_edns: bool
    wants_dnssec: bool


class Forwarder:
    """Asks other servers while `run` runs: `most` questions at once, each with a socket."""

    def __init__(
        self, servers: upstreams.Upstreams, counters: metrics.DnsCounters, most: int
    ) -> None:
        self._servers = servers
        self._most = most
        self._counters = counters
        self._waiting: dict[_Key, list[Done]] = {}
        self._sent: set[tuple[int, wire.Name, int]] = set()
        self._shunned: dict[addresses.SocketAddress, float] = {}
        self._group: asyncio.TaskGroup | None = None
        self._has_warned = False

    async def run(self) -> None:
        """Ask what `ask` is given, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.get_running_loop().create_future()

    def ask(self, query: wire.Query, done: Done) -> None:
        """Have a question asked. Calls `done` once, perhaps at once."""
        key = _key(query)
        waiting = self._waiting.get(key)
        if (query.id, query.key, query.type) in self._sent:
            self._warn_of_circle(query)
            done(None)
        elif waiting is not None and len(waiting) < MOST_SHARING:
            waiting.append(done)
        elif waiting is not None or len(self._waiting) >= self._most or self._group is None:
            self._counters.forward_failures += 1
            done(None)
        else:
            self._counters.forwarded += 1
            self._waiting[key] = [done]
            self._group.create_task(self._find(key, query))

    async def _find(self, key: _Key, query: wire.Query) -> None:
        """Ask one server after the other, and give the answer to all who wait for it.

        A bug in here leaves one question without an answer, and no other.
        """
        reply: bytes | None = None
        try:
            for server in self._in_order():
                found = await self._ask_one(server, query)
                reply = found or reply
                if found is not None and wire.rcode_of(found) not in _FAILED:
                    break
        except Exception:
            _log.exception("internal error: a question was not forwarded")
        if reply is None:
            self._counters.forward_failures += 1
        for done in self._waiting.pop(key):
            try:
                done(reply)
            except Exception:
                _log.exception("internal error: an answer was not passed on")

    def _in_order(self) -> list[addresses.SocketAddress]:
        """The servers to try: those that have lately not answered come last."""
        now = asyncio.get_running_loop().time()
        known = self._servers()
        for each in [each for each, until in self._shunned.items() if until <= now]:
            del self._shunned[each]
        chosen = sorted(known, key=lambda each: self._shunned.get(each, 0.0))
        return (chosen * TRIES)[: max(TRIES, len(chosen))]

    async def _ask_one(self, server: addresses.SocketAddress, query: wire.Query) -> bytes | None:
        """The answer of one server; None if there is none in time."""
        ident = secrets.randbelow(65536)
        mark = ident, query.key, query.type
        self._sent.add(mark)
        try:
            async with asyncio.timeout(TRY_SECONDS):
                asked = query._replace(id=ident)
                packet = wire.question_of(asked)
                found = await _by_datagram(server, packet, asked)
                return found if not wire.is_cut(found) else await _by_stream(server, packet, asked)
        except (OSError, TimeoutError, EOFError) as error:
            self._shunned[server] = asyncio.get_running_loop().time() + _SHUNNED_SECONDS
            reason = str(error) or "no answer in time"
            _log.debug("a DNS server did not answer", server=str(server), reason=reason)
            return None
        finally:
            self._sent.discard(mark)

    def _warn_of_circle(self, query: wire.Query) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the DNS servers that kproxy forwards to ask kproxy in turn: name others with "
                "--dns-upstream, or none",
                question=wire.to_text(query.name),
            )


def _key(query: wire.Query) -> _Key:
    flags = query.flags & wire.ASKED_FLAGS
    return _Key(query.key, query.type, query.class_, flags, query.has_edns, query.wants_dnssec)


async def _by_datagram(server: addresses.SocketAddress, packet: bytes, asked: wire.Query) -> bytes:
    """The answer in a datagram. Others' datagrams are passed over. Raises OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(server)
        sock.send(packet)
        while True:
            reply = await loop.sock_recv(sock, _LARGEST)
            if wire.is_reply(reply, asked):
                return reply


async def _by_stream(server: addresses.SocketAddress, packet: bytes, asked: wire.Query) -> bytes:
    """The answer over TCP. Raises OSError, and EOFError if it does not come whole."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(_length.pack(len(packet)) + packet)
        (size,) = _length.unpack(await reader.readexactly(_length.size))
        reply = await reader.readexactly(size)
    finally:
        writer.transport.abort()
    if not wire.is_reply(reply, asked):
        raise EOFError("the answer is to another question")
    return reply
