"""A data path that serves UDP, with the clients and servers on both sides of it."""

import asyncio
import contextlib
import dataclasses
import itertools
import random
import socket
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from unittest import mock

from kproxy import events
from kproxy.balancer import balancer, penalty
from kproxy.datapath import data_path, poller, syscalls
from kproxy.datapath.udp import backend_sockets, front, target
from kproxy.model import addresses, forwarding, names
from tests import steady_time
from tests.datapath.rig import harness

_hosts = itertools.cycle(
    f"127.83.{n // 250}.{n % 250 + 1}" for n in random.sample(range(5000), 400)
)


_Peer = TypeVar("_Peer", bound="Peer")


class Peer:
    """A UDP socket of a test: a client or a server."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((host, port))
        self.address = addresses.SocketAddress(*self.sock.getsockname()[:2])

    async def send(self, data: bytes, to: tuple[Any, ...]) -> None:
        """Send one datagram."""
        await asyncio.get_running_loop().sock_sendto(self.sock, data, to)

    async def receive(self) -> tuple[bytes, tuple[Any, ...]]:
        """The next datagram, and where it is from."""
        async with harness.within("a datagram"):
            return await asyncio.get_running_loop().sock_recvfrom(self.sock, 1 << 17)

    async def ask(self, data: bytes, to: tuple[Any, ...]) -> bytes:
        """Send a datagram; the answer, which must come from where it was sent to."""
        await self.send(data, to)
        answer, source = await self.receive()
        assert source[:2] == tuple(to[:2])
        return answer

    def waiting(self) -> bool:
        """Whether a datagram is there to be received."""
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(1 << 17, socket.MSG_PEEK)
            return True
        return False

    def close(self) -> None:
        self.sock.close()


class Server(Peer):
    """Answers each datagram with its own port and the datagram."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self.taken: list[bytes] = []
        self.clients: set[int] = set()
        """Their ports: one for each flow."""
        asyncio.get_running_loop().add_reader(self.sock, self._answer)

    def _answer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data, client = self.sock.recvfrom(1 << 17)
            self.taken.append(data)
            self.clients.add(client[1])
            self.sock.sendto(f"{self.address.port} ".encode() + data, client)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.sock)
        super().close()


class Sink(Server):
    """Takes datagrams and says nothing."""

    def _answer(self) -> None:
        data, client = self.sock.recvfrom(1 << 17)
        self.taken.append(data)
        self.clients.add(client[1])


@dataclasses.dataclass(frozen=True)
class Service:
    """A front and what is behind it."""

    target: target.Target
    front: front.Front
    balancer: balancer.ServicePortBalancer

    @property
    def address(self) -> addresses.SocketAddress:
        return self.front.address

    @property
    def ended(self) -> dict[str, int]:
        """How many flows ended for which reason, without the zeros."""
        return {reason: n for reason, n in self.target.counters.ended.items() if n}


class Clock:
    """The data path's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return steady_time.monotonic() + self.ahead


class Rig:
    """A data path, its clock, and everything that is to be closed with it."""

    def __init__(
        self, limits: data_path.Limits | None = None, kernel: syscalls.Kernel | None = None
    ) -> None:
        self.clock = Clock()
        self._patches = [
            mock.patch.object(module, "time", self.clock) for module in (poller, backend_sockets)
        ]
        for patch in self._patches:
            patch.start()
        self.facts: list[str] = []
        self.box = penalty.PenaltyBox(on_change=self._note)
        self.data_path = data_path.DataPath(
            penalty.PenaltyBox(), limits, kernel or syscalls.Kernel(), udp_box=self.box
        )
        self._peers: list[Peer] = []
        self._dead: dict[int, socket.socket] = {}
        self._stack = contextlib.ExitStack()
        self._services: list[Service] = []

    def _note(self, _: addresses.SocketAddress, boxed: bool) -> None:
        self.facts.append("boxed" if boxed else "free")

    def server(self, host: str = "127.0.0.1", port: int = 0) -> Server:
        """A server that answers; at the port of a `dead` one, if that is asked for."""
        held = self._dead.pop(port, None)
        if held is not None:
            held.close()
        return self._hold(Server(host, port))

    def sink(self) -> Sink:
        """A server that does not answer."""
        return self._hold(Sink())

    def client(self, host: str = "127.0.0.1", port: int = 0) -> Peer:
        return self._hold(Peer(host, port))

    def dead(self) -> addresses.SocketAddress:
        """An address that refuses, and that no other socket can have until the end.

        A socket takes only what comes from where it is connected to; for all others its port is
        closed. No ephemeral one: a flow could be given it when a server takes its place.
        """
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(held.close)
        for port in random.sample(range(20000, 32000), 100):
            with contextlib.suppress(OSError):
                held.bind(("127.0.0.1", port))
                held.connect(("127.0.0.1", 9))
                self._dead[port] = held
                return addresses.SocketAddress("127.0.0.1", port)
        raise AssertionError("no free port")

    def _hold(self, made: _Peer) -> _Peer:
        self._peers.append(made)
        return made

    def serve(
        self,
        *backends: Peer | addresses.SocketAddress,
        at: str = "",
        affinity_seconds: int | None = None,
        admitted: forwarding.Admission = None,
    ) -> Service:
        """Balance over `backends`, round-robin, in their order."""
        policy = forwarding.Policy(affinity_seconds=affinity_seconds)
        chooser = balancer.ServicePortBalancer(policy, self.box, _Ordered())
        chooser.update(places(backends))
        service = names.NamespacedName("test", f"service-{len(self._services)}")
        to = target.Target(names.ServicePortName(service, "", names.Protocol.UDP), chooser)
        address = addresses.SocketAddress(at or next(_hosts), 0)
        opened = self.data_path.open_datagrams(address, to, admitted)
        made = Service(to, opened, chooser)
        self._services.append(made)
        return made

    def views(self) -> Iterator[data_path.ConnectionView]:
        """Its flows."""
        return (view for view in self.data_path.connection_views() if view is not None)

    def change(self, service: Service, *backends: Peer | addresses.SocketAddress) -> None:
        """Balance over others, as a data plane does it."""
        service.balancer.update(places(backends))
        self.data_path.note_change()

    async def until_flows(self, count: int) -> None:
        await harness.until(lambda: self.data_path.flows == count, f"{count} flows")

    def subscribe(self) -> events.Subscription:
        """Facts from now on."""
        feed = events.Feed()
        self.data_path.publish_to(feed)
        return feed.subscribe()

    def close(self) -> None:
        """Close everything; no counter of what is open may be left."""
        self.data_path.close()
        for patch in self._patches:
            patch.stop()
        for each in self._services:
            each.balancer.close()
        for peer in self._peers:
            peer.close()
        self._stack.close()
        assert self.data_path.counters.bugs == 0
        assert self.data_path.flows == 0
        for each in self._services:
            assert each.target.counters.active == 0
            assert all(tally.active == 0 for tally in each.target.counters.endpoints.values())


class _Ordered(random.Random):
    """Shuffles nothing."""

    def random(self) -> float:
        return 1 - 2**-53


def places(backends: Sequence[Peer | addresses.SocketAddress]) -> list[addresses.SocketAddress]:
    return [each.address if isinstance(each, Peer) else each for each in backends]
