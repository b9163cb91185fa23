"""Questions and answers in datagrams.

Many are taken at each wakeup, for 2 ms at most; the loop then turns. While relays wait, a few are
taken: a flood of questions must not hold them up. A transport of asyncio's would cost as much again
as an answer does. An answer that the socket has no room for is dropped: clients
ask again.
"""

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from kproxy import settings, turns
from kproxy.dns import cache, responder

Send: TypeAlias = Callable[[bytes], None]
Forwarding: TypeAlias = Callable[[responder.Forward, Send], None]
"""Has others asked, and calls back with their answer, or with the failure."""

_Client: TypeAlias = Any
_Source: TypeAlias = list[tuple[int, int, bytes]] | None
"""The address that an answer is sent from, as ancillary data; None for the socket's only one."""

_LARGEST = 4096
_RECEIVE_BUFFER = 4 * 1024 * 1024
AT_ONCE = 8
"""Datagrams between two looks at the clock, and at what else waits: some 0.2 ms."""
_IP_PKTINFO = 8  # linux/in.h; the socket module has it from 3.14 on
_V4_INFO = struct.Struct("I4s4s")  # struct in_pktinfo: interface, local address, destination
_V6_INFO = struct.Struct("16sI")  # struct in6_pktinfo: address, interface
_ANCILLARY = socket.CMSG_SPACE(_V6_INFO.size)


class UdpServer:
    """A socket in the event loop, from `start` to `close`. Owns the socket."""

    def __init__(
        self,
        sock: socket.socket,
        answers: responder.Responder,
        kept: cache.Cache,
        forward: Forwarding,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """`others_wait` says whether something else has work for this thread."""
        self._sock = sock
        self._others_wait = others_wait
        self._answers = answers
        self._kept = kept
        self._forward = forward
        self._loop: asyncio.AbstractEventLoop | None = None
        sock.setblocking(False)  # noqa: FBT003  # its only form
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def start(self) -> None:
        """Answer on the running event loop."""
        self._loop = asyncio.get_running_loop()
        is_any = settings.Listen(*self._sock.getsockname()[:2]).is_everywhere
        if is_any:
            self._want_destinations()
        self._loop.add_reader(self._sock, self._take_any if is_any else self._take)

    def close(self) -> None:
        """Stop. A second call does nothing."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop = None
        self._sock.close()

    def _take(self) -> None:
        """Answer what has come to a socket that is bound to one address."""
        receive, send = self._sock.recvfrom, self._sock.sendto
        whole = self._kept.whole
        left = AT_ONCE
        time_left = turns.Slice()
        try:
            while True:
                packet, client = receive(_LARGEST)
                hit = whole.get(packet[2:])
                if hit is None:
                    self._think(packet, client, None)
                else:
                    hit[1][0] += 1
                    send(packet[:2] + hit[0], client)
                left -= 1
                if not left:
                    if time_left.is_over or self._others_wait():
                        return
                    left = AT_ONCE
        except OSError:
            # Nothing is there, or an answer cannot be sent: its client asks again.
            return

    def _take_any(self) -> None:
        """Answer what has come to a socket that is bound to all addresses, each from its own."""
        left = AT_ONCE
        time_left = turns.Slice()
        with contextlib.suppress(OSError):
            while left or not (time_left.is_over or self._others_wait()):
                left = (left or AT_ONCE) - 1
                packet, ancillary, _, client = self._sock.recvmsg(_LARGEST, _ANCILLARY)
                source = [_as_source(each) for each in ancillary]
                hit = self._kept.whole.get(packet[2:])
                if hit is None:
                    self._think(packet, client, source)
                else:
                    hit[1][0] += 1
                    self._sock.sendmsg([packet[:2] + hit[0]], source, 0, client)

    def _think(self, packet: bytes, client: _Client, source: _Source) -> None:
        """Answer what is not kept whole."""
        outcome = self._answers.datagram(packet)
        if isinstance(outcome, bytes):
            self._send(outcome, client, source)
        elif outcome is not None:
            self._forward(outcome, functools.partial(self._send, client=client, source=source))

    def _send(self, made: bytes, client: _Client, source: _Source) -> None:
        """Send an answer; one for which there is no room, or no way, is lost."""
        with contextlib.suppress(OSError):
            if source is None:
                self._sock.sendto(made, client)
            else:
                self._sock.sendmsg([made], source, 0, client)

    def _want_destinations(self) -> None:
        """Have the kernel say for each datagram to which of this host's addresses it came."""
        if self._sock.family == socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self._sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _as_source(ancillary: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """What the kernel said of a datagram's destination, as the source of the answer.

    The interface is left to routing, except for a link-local address, which is nothing without it.
    """
    level, kind, data = ancillary
    if level == socket.IPPROTO_IP:
        _, local, _ = _V4_INFO.unpack(data)
        return level, kind, _V4_INFO.pack(0, local, bytes(4))
    address, interface = _V6_INFO.unpack(data)
    is_link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return level, kind, _V6_INFO.pack(address, interface if is_link_local else 0)
