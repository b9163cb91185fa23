"""The other process of `remote.RemotePlane`: a data plane that is reached over a socket alone.

`python -m tests.plane.host DESCRIPTOR LIMITS MAX_AFFINITY_CLIENTS`; LIMITS is a JSON object.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from typing import Any

import msgspec
import structlog

from kproxy import errors, events, turns
from kproxy.datapath import data_path
from kproxy.model import forwarding
from kproxy.ops.views import status
from kproxy.plane import in_process, plane, wire

TOO_MUCH = 4 * 1024 * 1024
"""Bytes that wait to be read from which on facts are dropped."""
AT_ONCE = 64
"""Connections in one message."""


class WireFeed(events.Feed):
    """A feed whose only subscriber is at the other end."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer
        self._is_wanted = False

    @property
    def active(self) -> bool:
        """Whether the other end wants facts about connections."""
        return self._is_wanted

    def want(self, is_so: bool) -> None:
        """The other end wants them from now on, or no longer."""
        self._is_wanted = is_so
        for give in self._followers:
            give(self if is_so else None)

    def publish(self, fact: events.Fact) -> None:
        """Send it."""
        self._send(fact, is_kept=False)

    def record(self, fact: events.Fact) -> None:
        """Send it, to be kept at the other end."""
        self._send(fact, is_kept=True)

    def _send(self, fact: events.Fact, *, is_kept: bool) -> None:
        if self._writer.transport.get_write_buffer_size() < TOO_MUCH:
            self._writer.write(wire.encode(wire.pack(fact, is_kept=is_kept)))


class Reader:
    """Reads bytes and the descriptors beside them, which asyncio's streams would drop.

    Owns both. `writer` has the same socket, and reads no longer.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        self._sock.setblocking(False)
        self._descriptors: deque[int] = deque()

    async def read(self) -> bytes:
        """What has come; b"" at the end."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, 16)
            except BlockingIOError:
                await self._wait()
            else:
                self._descriptors.extend(descriptors)
                return data

    def descriptor(self) -> int:
        """The first one that came and was not taken yet. It is the caller's."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the socket, and the descriptors that were not taken."""
        self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock)


class Host:
    """Obeys one connection until it ends."""

    def __init__(self, reader: Reader, writer: asyncio.StreamWriter, feed: WireFeed) -> None:
        self._reader = reader
        self._writer = writer
        self._feed = feed
        self._shared = turns.Turns()

    async def run(self, served: in_process.InProcessPlane) -> None:
        """Say that it works, then obey."""
        served.subscribe(self._send)
        self._send(wire.Started(served.max_listeners, served.protocols, served.totals()))
        frames = wire.Frames()
        async with asyncio.TaskGroup() as group:
            drains: list[asyncio.Task[None]] = []
            while data := await self._reader.read():
                for message in frames.feed(data):
                    match message:
                        case forwarding.SetBackends():
                            async for _ in self._shared.batches(served.send_steps(message)):
                                pass
                        case wire.Look():
                            await self._look(served, message)
                        case wire.WantFacts(is_so):
                            self._feed.want(is_so)
                        case wire.Drain(grace):
                            drains.append(group.create_task(self._drain(served, grace)))
                        case wire.Abort():
                            self._send(wire.Drained(await served.abort()))
                        case wire.Share(name):
                            descriptor = self._reader.descriptor()
                            served.share(name, descriptor)
                            os.close(descriptor)
                        case _:
                            served.send(message)
            for task in drains:
                task.cancel()

    async def _drain(self, served: in_process.InProcessPlane, grace: float) -> None:
        self._send(wire.Drained(await served.drain(grace)))

    async def _look(self, served: in_process.InProcessPlane, asked: wire.Look) -> None:
        part = plane.Part(asked.part)
        await served.refresh(part, self._shared)
        if plane.Part.PORTS in part:
            for name in served.service_ports():
                happened = served.service_port(name)
                assert happened is not None
                known = tuple((each, served.endpoint(name, each)) for each in served.backends(name))
                await self._send_all(wire.SeenPort(name, happened, known))
        if plane.Part.AFFINITY in part:
            for name in served.service_ports():
                bindings = served.affinity(name, status.AFFINITY_SHOWN)
                await self._send_all(wire.SeenBindings(name, tuple(bindings)))
        if plane.Part.CONNECTIONS in part:
            found = [each for each in served.connections() if each is not None]
            for start in range(0, len(found), AT_ONCE):
                chosen = tuple(found[start : start + AT_ONCE])
                await self._send_all(wire.SeenConnections(chosen))
        self._send(wire.Looked(asked.number, served.totals()))

    def _send(self, message: Any) -> None:
        self._writer.write(wire.encode(message))

    async def _send_all(self, message: Any) -> None:
        self._send(message)
        await self._writer.drain()
        await asyncio.sleep(0)


async def main(descriptor: int, limits: data_path.Limits, max_affinity_clients: int) -> None:
    """Serve the plane at the other end of `descriptor`."""
    _, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    reader = Reader(writer)
    feed = WireFeed(writer)
    try:
        served = in_process.InProcessPlane(
            limits, max_affinity_clients=max_affinity_clients, feed=feed
        )
    except errors.ConfigError as error:
        writer.write(wire.encode(wire.Refused(str(error))))
        await writer.drain()
        return
    try:
        with contextlib.suppress(ConnectionError):
            await Host(reader, writer, feed).run(served)
    finally:
        reader.close()
        served.close()


if __name__ == "__main__":
    # Where the log of the proxy is.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # A terminal sends these to both processes. When to end is the other one's to say.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(
        main(
            int(sys.argv[1]),
            msgspec.json.decode(sys.argv[2], type=data_path.Limits),
            int(sys.argv[3]),
        )
    )
