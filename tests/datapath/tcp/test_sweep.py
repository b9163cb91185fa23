"""What is done for connections that last: keepalive, timeouts, and the stall watchdog."""

import _socket
import asyncio
import select
import socket
import struct
from pathlib import Path

import pytest
import structlog

from kproxy.datapath import data_path
from kproxy.datapath.tcp import halfclose
from tests.datapath.rig import harness
from tests.relay import actor, registry, stream

pytestmark = pytest.mark.xdist_group("time")

QUICK = data_path.Limits(half_closed_timeout=0.4)
"""With these limits a sweep visits every connection each 0.1 s."""


def linger(sock: _socket.socket) -> tuple[int, int]:
    onoff, seconds = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    return onoff, seconds


def keepalive_runs(near: tuple[str, int], far: tuple[str, int]) -> bool:
    """Whether the kernel has a keepalive timer on a socket of this host (timer 2)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state, _, timer = line.split()[1:6]
        ports = tuple(int(address.rpartition(":")[2], 16) for address in (local, remote))
        if ports == (near[1], far[1]) and state == "01":
            return timer.startswith("02:")
    return False


async def test_a_connection_that_lasts_is_armed_with_keepalive_and_a_reset_on_crash(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    (near,), (far,) = path.legs(dialled=False), path.legs(dialled=True)
    await harness.until(lambda: linger(near) == linger(far) == (1, 0), "both legs are armed")
    for leg in (near, far):
        assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    await harness.until(
        lambda: keepalive_runs(far.getsockname(), place.address), "the kernel's timer runs"
    )
    await client.send(b"last words")
    client.close()
    async with harness.within("an armed connection still ends in order"):
        assert await backend.receive_exactly(10) == b"last words"
        assert await backend.receive_to_end() is actor.End.FIN
    backend.close()
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.CLIENT_CLOSED: 1}


async def test_an_armed_connection_ends_in_order_with_much_in_flight(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    (near,) = path.legs(dialled=False)
    await harness.until(lambda: linger(near) == (1, 0), "the connection is armed")
    client.shut_write()
    answer = stream.Stream(1, stream.TO_CLIENT)
    await backend.send_stream(answer, 300_000)
    backend.close()
    checker = stream.Checker(answer)
    async with harness.within("the answer arrives"):
        assert await client.receive_to_end(checker) is actor.End.FIN
    assert checker.offset == 300_000


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
async def test_a_killed_process_shows_its_peers_a_reset(
    bench: harness.Harness, signal_name: str
) -> None:
    """P04. Without a reset on close, a cut transfer would pass for a complete one."""
    place = bench.backend()
    with harness.proxy_process(place.address, "--kernel=real", "--half-close-timeout=0.4") as proxy:
        client = bench.hold(actor.Actor(socket.create_connection(proxy.address), "the client"))
        backend = await bench.accept(place)
        await backend.send(b"half of an ans")
        async with harness.within("the half arrives"):
            await client.receive_exactly(14)
        near = backend.sock.getpeername()
        await harness.until(lambda: keepalive_runs(near, place.address), "it is armed")
        await client.send(b"?")
        async with harness.within("the visit that armed it is over"):
            await backend.receive_exactly(1)
        if signal_name == "SIGKILL":
            proxy.kill()
        else:
            proxy.end()
        async with harness.within("both peers are told"):
            assert await client.receive_to_end() is actor.End.RESET
            assert await backend.receive_to_end() is actor.End.RESET


@pytest.mark.parametrize("first", ["client", "backend"])
async def test_a_half_closed_connection_on_which_nothing_moves_is_reset(
    bench: harness.Harness, first: str
) -> None:
    """R27. Both sides see a reset: a side that still waits for bytes must not see an end."""
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    one, other = (client, backend) if first == "client" else (backend, client)
    one.shut_write()
    async with harness.within("the half-close is passed on"):
        assert await other.receive_to_end() is actor.End.FIN
    await harness.until(lambda: client.is_dead() and backend.is_dead(), "both are reset")
    assert await one.receive_to_end() is actor.End.RESET
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.HALF_CLOSE_TIMEOUT: 1}


async def test_bytes_restart_the_half_closed_timeout(bench: harness.Harness) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    client.shut_write()
    for _ in range(6):
        await asyncio.sleep(0.2)
        await backend.send(b"x")
        async with harness.within("a byte arrives"):
            assert await client.receive_exactly(1) == b"x"
    backend.close()
    async with harness.within("the end arrives"):
        assert await client.receive_to_end() is actor.End.FIN


async def test_a_slow_reader_that_takes_bytes_keeps_a_half_closed_connection_alive(
    bench: harness.Harness,
) -> None:
    """What a pipe holds is read from one side long before the other side has taken it."""
    # Long enough for a busy machine, which may let nothing here run for a while.
    timeout = 1.0
    path = bench.start(data_path.Limits(half_closed_timeout=timeout))
    place = bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    client.shut_write()
    size = 12 << 20
    answer = stream.Stream(1, stream.TO_CLIENT)
    checker = stream.Checker(answer)

    async def speak() -> None:
        await backend.send_stream(answer, size)
        backend.close()

    async with registry.alongside(speak()):
        await backend.until_blocked()
        (before,) = path.views()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + 3 * timeout:
            checker.feed(await client.receive_exactly(1024))
            await asyncio.sleep(0.05)
        assert path.data_path.connections == 1, f"reset, although {checker.offset} bytes were taken"
        (after,) = path.views()
        if after.bytes_from_backend != before.bytes_from_backend:
            pytest.fail("the reader was too fast for this test to mean anything")
        async with harness.within("the rest arrives", 20.0):
            assert await client.receive_to_end(checker) is actor.End.FIN
    assert checker.offset == size


async def test_an_open_connection_is_never_too_idle_by_default(bench: harness.Harness) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await asyncio.sleep(1.0)
    await client.send(b"hello again")
    async with harness.within("bytes arrive after a pause"):
        assert await backend.receive_exactly(11) == b"hello again"


async def test_the_idle_timeout_resets_a_connection_on_which_nothing_moves(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(data_path.Limits(idle_timeout=0.4)), bench.backend()
    service = path.serve(place)
    idle, _ = await bench.pair(service, place)
    busy, backend = await bench.pair(service, place)
    for _ in range(8):
        await asyncio.sleep(0.1)
        await busy.send(b"x")
        async with harness.within("a byte arrives"):
            assert await backend.receive_exactly(1) == b"x"
    await harness.until(idle.is_dead, "the idle one is reset")
    assert service.ended == {halfclose.IDLE_TIMEOUT: 1}
    assert not busy.is_dead()


async def test_a_quiet_direction_gives_its_pipe_back(bench: harness.Harness) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    size = 4 << 20
    sending = registry.alongside(backend.send_stream(stream.Stream(1, 1), size))
    async with harness.within("all arrives"), sending:
        await client.receive_exactly(size)
    await harness.until(lambda: path.lent_pipes == 0, "the pipe is given back")
    assert path.data_path.counters.splices > 0
    await backend.send(b"x")
    async with harness.within("bytes arrive afterwards"):
        assert await client.receive_exactly(1) == b"x"


@pytest.mark.parametrize(
    "bulk", [pytest.param(100, id="bytes to read"), pytest.param(8 << 20, id="room to write")]
)
async def test_a_lost_edge_is_recovered_counted_and_logged(
    bench: harness.Harness, bulk: int
) -> None:
    """The stall is made by hand: the kernel holds back the events that would end it."""
    path, place = bench.start(QUICK), bench.backend()
    path.stalls = 1
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    await backend.send(b"!")
    async with harness.within("the connection is made"):
        await client.receive_exactly(1)
    watcher = path.kernel.watcher
    assert watcher is not None
    is_full = bulk > 100
    (leg,) = path.legs(dialled=not is_full)
    watcher.held[leg.fileno()] = select.EPOLLOUT if is_full else select.EPOLLIN | select.EPOLLOUT
    answer = stream.Stream(1, stream.TO_CLIENT)
    with structlog.testing.capture_logs() as log:
        async with registry.alongside(backend.send_stream(answer, bulk)):
            if is_full:
                await backend.until_blocked()
            checker = stream.Checker(answer)
            reading = asyncio.ensure_future(_read(client, checker, bulk))
            await harness.until(lambda: path.data_path.counters.stalls_recovered, "it is recovered")
            watcher.release(leg.fileno())
            async with harness.within("everything arrives"):
                await reading
    assert any(entry["event"].startswith("recovered a stalled") for entry in log)


async def test_a_lost_edge_is_recovered_although_nothing_is_left_to_read(
    bench: harness.Harness,
) -> None:
    """The last bytes are in the data path's own hands, and it was not told of the room."""
    path, place = bench.start(QUICK), bench.backend()
    path.stalls = 1
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    answer = stream.Stream(1, stream.TO_CLIENT)
    await backend.send(answer.read(0, 16384))
    await harness.until(lambda: next(path.views()).bytes_from_backend, "it flows")
    (near,), (far,) = path.legs(dialled=False), path.legs(dialled=True)
    watcher = path.kernel.watcher
    assert watcher is not None
    watcher.held[near.fileno()] = select.EPOLLOUT

    def held_back() -> int:
        (view,) = path.views()
        return view.bytes_from_backend - client.waiting() - path.kernel.unsent(near.fileno())

    for _ in range(2000):
        if held_back() > 0:
            break
        await backend.send(answer.read(backend.sent, 16384))
        await harness.until(lambda: path.kernel.unread(far.fileno()) == 0, "it flows")
    assert held_back() > 0
    assert path.kernel.unread(far.fileno()) == 0
    checker = stream.Checker(answer)
    async with harness.within("the last bytes arrive"):
        await _read(client, checker, backend.sent)
    assert path.data_path.counters.stalls_recovered == 1


async def _read(client: actor.Actor, checker: stream.Checker, size: int) -> None:
    while checker.offset < size:
        checker.feed(await client.receive())


async def test_bytes_that_came_a_moment_ago_are_no_stall(bench: harness.Harness) -> None:
    """A connection's first visit knows of no time in which nothing has moved."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await harness.until(lambda: not path.dials, "the connection is made")
    (leg,) = path.legs(dialled=False)
    assert client.sock.send(b"x") == 1
    wait = select.poll()
    wait.register(leg.fileno(), select.POLLIN)
    assert wait.poll(3000)
    (conn,) = path.data_path._open_connections()  # the event loop has not turned since
    path.data_path._sweep.visit(conn, path.data_path._poller.now)
    assert path.data_path.counters.stalls_recovered == 0
    async with harness.within("the byte arrives"):
        assert await backend.receive_exactly(1) == b"x"


async def test_a_reader_that_has_stopped_is_no_stall(bench: harness.Harness) -> None:
    path, place = bench.start(QUICK), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    size = 16 << 20
    async with registry.alongside(backend.send_stream(stream.Stream(1, 1), size)):
        await backend.until_blocked()
        await asyncio.sleep(0.5)
        assert path.data_path.counters.stalls_recovered == 0
        async with harness.within("the rest arrives", 20.0):
            await client.receive_exactly(size)


async def test_a_bug_during_a_visit_ends_that_connection_and_is_counted(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(QUICK), bench.backend()
    path.bugs = 1
    service = path.serve(place)
    victim, _ = await bench.pair(service, place)
    path.kernel.fail("unread", 0)
    await harness.until(victim.is_dead, "the connection is reset")
    client, backend = await bench.pair(service, place)
    await client.send(b"x")
    async with harness.within("others are served"):
        assert await backend.receive_exactly(1) == b"x"
    assert service.ended == {halfclose.BUG: 1}


async def test_a_live_peer_with_a_closed_window_is_never_given_up(bench: harness.Harness) -> None:
    """R15. The kernel applies TCP_USER_TIMEOUT to window probes, answered or not."""
    path, place = bench.start(data_path.Limits(keepalive_idle=1)), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4096)
    size = 16 << 20
    async with registry.alongside(backend.send_stream(stream.Stream(1, 1), size)):
        await backend.until_blocked()
        await asyncio.sleep(4.0)
        assert not client.is_dead(), "the client was given up, though it answers"
        async with harness.within("the rest arrives", 20.0):
            await client.receive_exactly(size)
