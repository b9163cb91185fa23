"""The socket of a flow that has ended serves another one, which gets nothing of the first."""

import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterator
from unittest import mock

import pytest

from kproxy.datapath import data_path, poller, syscalls
from kproxy.datapath.udp import backend_sockets, endings
from kproxy.model import addresses
from tests.datapath.rig import harness
from tests.datapath.udp import rig


class Kernel(syscalls.Kernel):
    """Counts the sockets of flows that it makes."""

    def __init__(self) -> None:
        self.made = 0

    def datagram_socket(self, backend: addresses.SocketAddress) -> syscalls.DatagramSocket:
        self.made += 1
        return super().datagram_socket(backend)


class Taker:
    """The flow of a socket: notes what comes."""

    def __init__(self) -> None:
        self.taken: list[bytes | int | None] = []
        self.used: backend_sockets.BackendSocket

    def on_events(self, mask: int) -> None:
        buffer = bytearray(16)
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self.taken.append(bytes(buffer[: self.used.receive(buffer)]))
                except ConnectionRefusedError as error:
                    self.taken.append(error.errno)

    def on_bug(self) -> None: ...


class Idle(Taker):
    """Leaves what comes."""

    def on_events(self, mask: int) -> None: ...


class Pool:
    """Backend sockets, with a poller that a test turns by hand, and a clock."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.ahead = 0.0
        self._patches = [
            mock.patch.object(module, "time", self) for module in (poller, backend_sockets)
        ]
        for patch in self._patches:
            patch.start()
        self.poller = poller.Poller(self.kernel)
        self.sockets = backend_sockets.BackendSockets(
            self.kernel, self.poller, bytearray(1 << 16), range(0)
        )
        self.sockets.share(8)
        self._peers: list[socket.socket] = []

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def backend(self, host: str = "127.0.0.1") -> socket.socket:
        peer = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        peer.settimeout(harness.PROMPT)
        peer.bind((host, 0))
        self._peers.append(peer)
        return peer

    def connect(self, peer: socket.socket) -> tuple[backend_sockets.BackendSocket, Taker]:
        taker = Taker()
        taker.used = self.sockets.connect(address(peer), taker)
        return taker.used, taker

    def rest(self) -> None:
        """Let the sockets that rest do so for long enough."""
        self.ahead += 2 * backend_sockets.REST_SECONDS
        self.poller.turn()

    def close(self) -> None:
        self.sockets.share(0)
        self.poller.close()
        for patch in self._patches:
            patch.stop()
        for peer in self._peers:
            peer.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    before = harness.descriptors()
    made = Pool()
    yield made
    made.close()
    assert harness.descriptors() <= before


def address(peer: socket.socket) -> addresses.SocketAddress:
    return addresses.SocketAddress(*peer.getsockname()[:2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_that_has_rested_is_connected_to_another_backend(pool: Pool, host: str) -> None:
    first, second = pool.backend(host), pool.backend(host)
    used, _ = pool.connect(first)
    used.send(b"1")
    client = first.recvfrom(9)[1]
    pool.sockets.release(used)
    pool.rest()
    again, taker = pool.connect(second)
    assert again is used
    assert pool.kernel.made == 1
    again.send(b"2")
    data, source = second.recvfrom(9)
    assert data == b"2"
    assert source[0] == client[0]
    first.sendto(b"not its backend", source)
    second.sendto(b"answer", source)
    pool.poller.turn()
    assert taker.taken == [b"answer"]
    pool.sockets.release(again)


def test_a_socket_that_rests_has_no_port(pool: Pool) -> None:
    backend = pool.backend()
    used, _ = pool.connect(backend)
    assert used.sock.getsockname()[1] > 0
    pool.sockets.release(used)
    assert used.sock.getsockname()[1] == 0


def test_a_socket_is_not_used_before_it_has_rested(pool: Pool) -> None:
    backend = pool.backend()
    used, _ = pool.connect(backend)
    pool.sockets.release(used)
    with mock.patch.object(pool, "monotonic", return_value=used.rested_at - 1e-6):
        pool.poller.turn()
        other, _ = pool.connect(backend)
        assert other is not used
    pool.rest()
    assert pool.connect(backend)[0] is used
    for each in (used, other):
        pool.sockets.release(each)


def test_a_socket_is_not_used_while_events_are_due_that_could_be_its_own(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "_MAX_EVENTS", 1)
    backend = pool.backend()
    used, _ = pool.connect(backend)
    near, far = socket.socketpair()
    near.setblocking(False)
    far.send(b"x")
    pool.poller.register(near.fileno(), Idle(), poller.READABLE)
    pool.sockets.release(used)
    pool.ahead += 2 * backend_sockets.REST_SECONDS
    ticks = itertools.count(pool.monotonic(), 0.001)
    with mock.patch.object(pool, "monotonic", side_effect=lambda: next(ticks)):
        pool.poller.turn()
    other, _ = pool.connect(backend)
    assert other is not used
    pool.poller.unregister(near.fileno())
    pool.rest()
    pool.rest()
    assert pool.connect(backend)[0] is used
    for each in (used, other):
        pool.sockets.release(each)
    near.close()
    far.close()


def test_what_came_for_the_flow_before_is_thrown_away(pool: Pool) -> None:
    backend, nowhere = pool.backend(), addresses.SocketAddress("127.0.0.1", 1)
    used, before = pool.connect(backend)
    used.send(b"1")
    old = backend.recvfrom(9)[1]
    for answer in (b"late", b"", b"later"):
        backend.sendto(answer, old)
    pool.sockets.release(used)
    failed = pool.sockets.connect(nowhere, before)
    failed.send(b"2")
    pool.sockets.release(failed)
    pool.rest()
    both = [pool.connect(backend) for _ in range(2)]
    assert {id(each) for each, _ in both} == {id(used), id(failed)}
    pool.poller.turn()
    assert before.taken == []
    assert [taker.taken for _, taker in both] == [[], []]
    for each, _ in both:
        pool.sockets.release(each)


def test_an_answer_that_comes_late_reaches_no_flow(pool: Pool) -> None:
    backend = pool.backend()
    with contextlib.ExitStack() as stack:
        while True:
            used, before = pool.connect(backend)
            used.send(b"1")
            old = backend.recvfrom(9)[1]
            pool.sockets.release(used)
            # The port is held, so that the late answers reach no socket of anyone else.
            holder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            holder.settimeout(harness.PROMPT)
            with contextlib.suppress(OSError):
                holder.bind(old)
                break
            pool.rest()
        backend.sendto(b"while it rests", old)
        pool.rest()
        again, after = pool.connect(backend)
        assert again is used
        backend.sendto(b"and after", old)
        assert [holder.recv(99), holder.recv(99)] == [b"while it rests", b"and after"]
        pool.poller.turn()
        assert before.taken == after.taken == []
        pool.sockets.release(again)


def test_sockets_of_one_family_do_not_serve_the_other(pool: Pool) -> None:
    four, six = pool.backend(), pool.backend("::1")
    used, _ = pool.connect(four)
    pool.sockets.release(used)
    pool.rest()
    other, _ = pool.connect(six)
    assert other is not used
    pool.sockets.release(other)
    pool.rest()
    assert pool.connect(six)[0] is other
    assert pool.connect(four)[0] is used
    pool.sockets.release(used)
    pool.sockets.release(other)


def test_no_more_sockets_rest_than_may(pool: Pool) -> None:
    backend = pool.backend()
    before = harness.descriptors()
    used = [pool.connect(backend)[0] for _ in range(12)]
    for each in used:
        pool.sockets.release(each)
    pool.poller.turn()
    assert len(harness.descriptors() - before) == 8
    pool.sockets.share(3)
    pool.poller.turn()
    assert len(harness.descriptors() - before) == 3


def test_a_socket_that_cannot_be_connected_is_closed(pool: Pool) -> None:
    backend = pool.backend()
    before = harness.descriptors()
    used, taker = pool.connect(backend)
    pool.sockets.release(used)
    pool.rest()
    broadcast = addresses.SocketAddress("255.255.255.255", 1)
    for _ in range(2):  # the one that has rested, and a new one
        with pytest.raises(OSError, match="Errno"):
            pool.sockets.connect(broadcast, taker)
    pool.poller.turn()
    assert harness.descriptors() <= before


@pytest.fixture
async def small(bench: harness.Harness) -> AsyncIterator[tuple[rig.Rig, Kernel]]:  # closed after it
    """A table of four flows, and its kernel."""
    kernel = Kernel()
    made = rig.Rig(data_path.Limits(max_flows=4), kernel)
    yield made, kernel
    made.close()


async def test_flows_use_the_sockets_of_those_that_made_way(
    small: tuple[rig.Rig, Kernel],
) -> None:
    udp, kernel = small
    server = udp.server()
    service = udp.serve(server)
    for number in range(20):
        data = str(number).encode()
        answer = await udp.client().ask(data, service.address)
        assert answer == f"{server.address.port} ".encode() + data
        udp.clock.ahead += 2 * backend_sockets.REST_SECONDS
    assert service.ended == {endings.MADE_WAY: 16}
    assert kernel.made <= 6, "four, and two while others rest"


async def test_a_flow_that_moves_leaves_its_socket_to_others(
    small: tuple[rig.Rig, Kernel],
) -> None:
    udp, kernel = small
    servers = udp.server(), udp.server()
    service = udp.serve(servers[0])
    client = udp.client()
    for number in range(10):
        await client.ask(b"x", service.address)
        udp.change(service, servers[(number + 1) % 2])
        udp.clock.ahead += 2 * backend_sockets.REST_SECONDS
    assert [len(each.taken) for each in servers] == [5, 5]
    assert kernel.made <= 3, "two, and one while another rests"
