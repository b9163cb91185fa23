"""A name server with sockets, and other servers for it to ask."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset

from kproxy import settings
from kproxy.dns import located, name_server
from kproxy.dns import settings as dns_settings
from kproxy.model import addresses
from kproxy.portal import loopback
from kproxy.sources.files import manifests
from tests.dns.rig import lab


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    host: str = "127.0.0.1",
    upstreams: Sequence[addresses.SocketAddress] | None = None,
    bounds: dns_settings.Bounds = dns_settings.MOST,
) -> AsyncIterator[tuple[name_server.NameServer, int]]:
    """A name server that follows the manifests of a folder, and its port."""
    followed = manifests.ManifestSource((folder,), on_problem=print, kinds=lab.KINDS)
    server = name_server.NameServer(
        settings.Listen(host, 0),
        followed,
        located.through(lab.of(loopback.LoopbackPortal(1))),
        domain=lab.DOMAIN,
        others=None if upstreams is None else lambda: upstreams,
        bounds=bounds,
    )
    server.bind()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.run()), group.create_task(followed.run())]
            async with asyncio.timeout(20):
                await server.ready()
            place = server.addresses()["dns"]
            assert place is not None
            yield server, int(place.rpartition(":")[2])
            for each in tasks:
                each.cancel()
    finally:
        server.close()


@contextlib.asynccontextmanager
async def absent() -> AsyncIterator[addresses.SocketAddress]:
    """An address at which the kernel refuses datagrams. No other socket can be given its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        held.connect(("127.0.0.1", 1))  # from elsewhere it now takes nothing
        yield addresses.SocketAddress(*held.getsockname())


Reply = Callable[[dns.message.Message], "dns.message.Message | bytes | None"]
"""What a server says to a question; None: nothing."""


def saying(address: str) -> Reply:
    """A server that gives every name this address."""

    def reply(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        name = query.question[0].name
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
        return response

    return reply


class Other:
    """A DNS server that says what a function says, by UDP and TCP, and notes what it was asked."""

    def __init__(self, by_datagram: Reply, by_stream: Reply | None = None) -> None:
        self.asked: list[dns.message.Message] = []
        self.clients: list[tuple[str, int]] = []
        self._by_datagram = by_datagram
        self._by_stream = by_stream or by_datagram
        self.address = addresses.SocketAddress("", 0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Other"]:
        """Serve, on a free port."""
        loop = asyncio.get_running_loop()
        datagrams, streams = name_server.bind_both(settings.Listen("127.0.0.1", 0))
        with datagrams:
            datagrams.setblocking(False)
            self.address = addresses.SocketAddress(*datagrams.getsockname())
            server = await asyncio.start_server(self._serve, sock=streams)
            loop.add_reader(datagrams, self._answer, datagrams)
            try:
                yield self
            finally:
                loop.remove_reader(datagrams)
                server.close()

    def _answer(self, datagrams: socket.socket) -> None:
        packet, client = datagrams.recvfrom(65535)
        self.clients.append(client)
        made = self._made(packet, self._by_datagram)
        if made is not None:
            datagrams.sendto(made, client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            made = self._made(await reader.readexactly(size), self._by_stream)
            if made is not None:
                writer.write(struct.pack("!H", len(made)) + made)
                await writer.drain()

    def _made(self, packet: bytes, reply: Reply) -> bytes | None:
        query = dns.message.from_wire(packet)
        self.asked.append(query)
        made = reply(query)
        return made.to_wire() if isinstance(made, dns.message.Message) else made
