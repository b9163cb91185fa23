"""The process of a simulated pod: it listens, and answers HTTP and HTTPS.

On its UDP ports it answers each datagram with its name.

A `PodServer` is one run of the container: opened, perhaps turned into a black hole and back, and
closed, in an orderly way or as a crash.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

from aiohttp import web

from kproxy.simulator import http_server
from kproxy.simulator.kinds import pods
from kproxy.simulator.kinds.behaviour import answers
from kproxy.simulator.machines import pod_answers
from kproxy.simulator.store.storage import Object
from kproxy.system import socket_filters

_BACKLOG = 128
_IPV6_FREEBIND = 78
"""linux/in6.h; the socket module does not have it."""
_SLOWEST_START = 1.0


class PodServer:
    """Listens on `ports` of the pod's addresses, and answers for as long as it is open.

    With a `tls` context it speaks HTTPS on `https_ports`. A `program` answers in place of the
    annotations. `files` gives what is in the files that it shows at their paths, where no
    annotation orders another answer. `pod` gives the pod as it is now: its annotations count at
    once. The owner calls `open` once, then `adjust` whenever the annotations or the ports have
    changed, and one of `close` and `abort` at last.
    """

    def __init__(
        self,
        pod: Callable[[], Object],
        addresses: Sequence[str],
        ports: Sequence[int],
        datagram_ports: Sequence[int] = (),
        *,
        https_ports: Sequence[int] = (),
        tls: ssl.SSLContext | None = None,
        program: pod_answers.Program | None = None,
        files: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._files = files
        self._pod = pod
        self._addresses = tuple(addresses)
        self._ports = list(ports)
        self._datagram_ports = tuple(datagram_ports)
        self._https_ports = frozenset(https_ports)
        self._tls = tls
        self._program = program
        self._answering: list[asyncio.DatagramTransport] = []
        self._http = http_server.Server(self._answer)
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._black_hole: contextlib.ExitStack | None = None
        self._opened_at = 0.0
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Listen on every port. Raises OSError, and then listens on none."""
        self._opened_at = asyncio.get_running_loop().time()
        await self.adjust()
        try:
            await self._answer_datagrams()
        except OSError:
            self.abort()
            raise

    async def adjust(self, ports: Sequence[int] | None = None) -> None:
        """Listen on `ports`, None for those of before, or be a black hole on them, as the pod now
        says. Raises OSError."""
        has_moved = ports is not None and list(ports) != self._ports
        if ports is not None:
            self._ports = list(ports)
        if not pods.behaviour(self._pod()).is_black_hole:
            self._fill_in()
            await self._listen()
        elif self._black_hole is None or has_moved:
            self._fill_in()
            self._stop_listening()
            self._drop_connections()
            self._black_hole = black_holes(self._addresses, self._ports)

    async def drain(self) -> None:
        """Accept nothing more, and return when no request is under way."""
        self._stop_listening()
        self._http.pre_shutdown()
        await self._idle.wait()

    async def close(self) -> None:
        """Close listeners and connections."""
        self._stop_listening()
        self._fill_in()
        transports = [each.transport for each in self._http.connections]
        await self._http.shutdown(0)
        for transport in transports:
            if transport is not None and transport.get_extra_info("sslcontext") is not None:
                transport.abort()  # asyncio would wait half a minute for a close_notify

    def abort(self) -> None:
        """Close them at once, as the kernel does for a killed process."""
        self._stop_listening()
        self._fill_in()
        self._drop_connections()

    async def _listen(self) -> None:
        """Listen on each of the ports, and on no other."""
        loop = asyncio.get_running_loop()
        wanted = [(address, port) for address in self._addresses for port in self._ports]
        for gone in self._servers.keys() - set(wanted):
            self._servers.pop(gone).close()
        new = [each for each in wanted if each not in self._servers]
        with contextlib.ExitStack() as opened:
            listeners = {each: opened.enter_context(_listener(*each)) for each in new}
            opened.pop_all()
        for place, listener in listeners.items():
            context = self._tls if place[1] in self._https_ports else None
            self._servers[place] = await loop.create_server(
                self._http, sock=listener, backlog=_BACKLOG, ssl=context
            )

    async def _answer_datagrams(self) -> None:
        loop = asyncio.get_running_loop()
        for address in self._addresses:
            for port in self._datagram_ports:
                sock = _bound(address, port, socket.SOCK_DGRAM)
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Namer(self._pod, self._delay), sock=sock
                )
                self._answering.append(transport)

    def _stop_listening(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        for transport in self._answering:
            transport.close()
        self._answering.clear()

    def _fill_in(self) -> None:
        """End the black hole, if it is one."""
        if self._black_hole is not None:
            self._black_hole.close()
            self._black_hole = None

    def _drop_connections(self) -> None:
        for connection in self._http.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._under_way += 1
        self._idle.clear()
        try:
            length = await pod_answers.body_length(request)
            answer = answers.answer_to(self._pod(), request.path)
            if answer.body is None and (text := self._files(request.path)) is not None:
                answer = answers.Answer(body=text)
            if delay := self._delay() + answer.delay:
                await asyncio.sleep(delay)
            if self._program is not None:
                made = await self._program(self._pod(), request)
                if made is not None:
                    return made
            return pod_answers.response(answer, self._pod(), self._addresses, request, length)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def _delay(self) -> float:
        """The delay of an answer now, in seconds."""
        asked = pods.behaviour(self._pod())
        age = asyncio.get_running_loop().time() - self._opened_at
        warming = max(1 - age / asked.slow_start, 0.0) if asked.slow_start else 0.0
        return asked.response_delay + _SLOWEST_START * warming


class _Namer(asyncio.DatagramProtocol):
    """Answers each datagram with the pod's name, after the pod's delay; a black hole does not."""

    def __init__(self, pod: Callable[[], Object], delay: Callable[[], float]) -> None:
        self._pod = pod
        self._delay = delay
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of the asyncio protocol."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, _: bytes, client: tuple[Any, ...]) -> None:
        """Of the asyncio protocol."""
        pod = self._pod()
        if self._transport is None or pods.behaviour(pod).is_black_hole:
            return
        name = f"{pod['metadata']['name']}\n".encode()
        if delay := self._delay():
            asyncio.get_running_loop().call_later(delay, self._transport.sendto, name, client)
        else:
            self._transport.sendto(name, client)


def _listener(address: str, port: int) -> socket.socket:
    """A bound socket that a restarted pod may bind again at once."""
    made = _bound(address, port, socket.SOCK_STREAM)
    try:
        # Listening here makes a taken port known before any other one is served.
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket at an address. Raises OSError.

    An IPv6 address that is only routed to this machine can be bound with IPV6_FREEBIND alone.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)  # noqa: FBT003  # its only form
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def black_holes(addresses: Sequence[str], ports: Sequence[int]) -> contextlib.ExitStack:
    """Ports whose packets the kernel drops: listeners with a filter that passes none.

    The filter is there before the port listens, so no client slips in. Closing the stack ends it.
    Raises OSError.
    """
    with contextlib.ExitStack() as held:
        for address, port in itertools.product(addresses, ports):
            listener = held.enter_context(_bound(address, port, socket.SOCK_STREAM))
            socket_filters.attach(listener, socket_filters.DROP_ALL)
            listener.listen()
        return held.pop_all()
