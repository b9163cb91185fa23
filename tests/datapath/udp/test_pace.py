"""A flood of datagrams holds up neither relays nor other flows. Case U06 of docs/faults.md."""

import asyncio
import socket
import threading

from kproxy.datapath import poller, syscalls
from kproxy.datapath.tcp import connection
from kproxy.datapath.udp import pace
from kproxy.model import addresses, names
from tests.datapath.rig import harness
from tests.datapath.udp import rig


class Handler:
    """Has as many datagrams as it is given, and notes what it takes."""

    def __init__(self, name: str, log: list[str], rhythm: pace.Pace, waiting: int) -> None:
        self.name, self.log, self.waiting = name, log, waiting
        self.pace = rhythm
        self.fd = 0
        self.is_late = False

    def on_events(self, mask: int) -> None:
        if self.pace.at != self.pace.poller.now:
            self.pace.begin()
        if self.pace.left <= 0:
            self.pace.defer(self)
            return
        taken = min(8, self.waiting)
        self.waiting -= taken
        self.pace.left -= taken or 1
        self.log.append(self.name)

    def on_bug(self) -> None:
        raise AssertionError


def test_a_batch_moves_a_bounded_number_and_every_handler_has_a_turn() -> None:
    event_poller = poller.Poller(syscalls.Kernel())
    rhythm = pace.Pace(event_poller)
    log: list[str] = []
    handlers = [Handler(f"{n:02}", log, rhythm, 1000) for n in range(40)]
    most = 0
    for batch in range(50):
        event_poller.now = float(batch + 1)
        before = len(log)
        for handler in handlers:
            handler.on_events(0)
        event_poller._resume_ready()
        most = max(most, len(log) - before)
    assert 8 * most <= 2 * pace.BUDGET + 16
    turns = [log.count(handler.name) for handler in handlers]
    assert max(turns) - min(turns) <= 2, "in the order in which they came"
    event_poller.close()


async def test_u06_a_flood_lets_others_and_tcp_through(
    bench: harness.Harness,
    udp: rig.Rig,
) -> None:
    sink, server = udp.sink(), udp.server()
    flooded, other = udp.serve(sink), udp.serve(server)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = addresses.SocketAddress(*listening.getsockname())
        name = names.ServicePortName(names.NamespacedName("test", "tcp"))
        opened = udp.data_path.open(
            addresses.SocketAddress("127.0.0.1", 0),
            connection.Target(name, harness.Scripted(place)),
        )
        stop = threading.Event()

        def flood() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as firehose:
                while not stop.is_set():
                    firehose.sendto(b"x" * 100, flooded.address)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            await harness.until(lambda: len(sink.taken) > 100, "the flood is there")
            client, stream = udp.client(), await _connected(opened.address)
            async with harness.within("the relay's first bytes"):
                far = await _accepted(listening)
            for n in range(20):
                assert (await client.ask(b"%d" % n, other.address)).endswith(b" %d" % n)
                async with harness.within("bytes go back and forth"):
                    await _passes(stream, far, b"ping %d" % n)
                    await _passes(far, stream, b"pong %d" % n)
        finally:
            stop.set()
            thread.join()
        stream.close()
        far.close()
        await harness.until(lambda: not udp.data_path.connections, "the connection ends")


async def _connected(address: addresses.SocketAddress) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, address)
    return made


async def _accepted(listening: socket.socket) -> socket.socket:
    listening.setblocking(False)
    made, _ = await asyncio.get_running_loop().sock_accept(listening)
    made.setblocking(False)
    return made


async def _passes(source: socket.socket, destination: socket.socket, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(source, data)
    assert await loop.sock_recv(destination, 100) == data
