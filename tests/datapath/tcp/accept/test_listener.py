"""Accepting: it goes on whatever happens, and clients that cannot be served yet wait in line."""

import asyncio
import errno
import gc
import socket
from pathlib import Path

import pytest
import structlog

from kproxy.datapath import data_path, episodes, syscalls
from kproxy.model import addresses
from tests.datapath.rig import faulty, harness
from tests.relay import actor


async def serves(
    bench: harness.Harness, service: harness.Service, place: harness.Place
) -> actor.Actor:
    """Require that a new client is served; returns it."""
    client = await bench.connect(service)
    await client.send(b"x")
    backend = await bench.accept(place)
    async with harness.within("a byte arrives"):
        assert await backend.receive_exactly(1) == b"x"
    return client


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EPERM])
async def test_a_failure_that_is_the_clients_is_passed_over(
    bench: harness.Harness, code: int
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    path.kernel.fail("accept", code, times=3)
    await serves(bench, service, place)
    assert path.data_path.counters.accept_errors == 3
    assert path.data_path.counters.accept_pauses == 0


@pytest.mark.parametrize("is_closed", [False, True])
async def test_clients_that_find_the_queue_full_are_counted(
    bench: harness.Harness, is_closed: bool
) -> None:
    """X08. The kernel drops their SYN; they ask again, and are not reset."""
    path, place = bench.start(data_path.Limits(backlog=1)), bench.backend()
    service = path.serve(place)
    assert service.listener.drops == 0
    clients = [bench.hold(actor.Actor(socket.socket(), f"client {n}")) for n in range(9)]
    for client in clients:
        client.sock.setblocking(False)
        client.sock.connect_ex(service.listener.address)  # and the event loop does not turn
    queued = 2  # the kernel lets in one more than the backlog
    harness.settled(
        lambda: harness.accept_queue(service.listener.sock)[0] == queued, "the queue is full"
    )
    harness.settled(lambda: service.listener.drops >= 9 - queued, "all others are dropped")
    fewest = service.listener.drops  # one that asks again after a second is dropped again
    if is_closed:
        path.data_path.shut(service.listener)
    most = sum(1 + client.syns_repeated() for client in clients[queued:])
    of_closed, of_open = service.target.counters.listen_drops, service.listener.drops
    assert (of_open if is_closed else of_closed) == 0
    assert fewest <= of_closed + of_open <= most
    for _ in range(queued):
        await bench.accept(place)


@pytest.mark.parametrize("code", faulty.EXHAUSTED)
async def test_exhaustion_pauses_accepting_for_a_moment(bench: harness.Harness, code: int) -> None:
    """X02, X05. The client waits in the queue, and is served."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    path.kernel.fail("accept", code)
    await serves(bench, service, place)
    assert path.data_path.counters.accept_errors == 1
    assert path.data_path.counters.accept_pauses == 1
    assert not service.listener.is_paused


async def test_an_episode_of_exhaustion_is_one_line_in_the_log(bench: harness.Harness) -> None:
    """And one more with the count when it is over, or when the process ends."""
    path, place = bench.start(), bench.backend()
    one, two = path.serve(place), path.serve(place)
    with structlog.testing.capture_logs() as log:
        path.kernel.fail("accept", errno.EMFILE, times=4)
        await serves(bench, one, place)
        path.kernel.fail("accept", errno.EMFILE, times=2)
        await serves(bench, two, place)
        assert path.data_path.counters.accept_errors == 6
        assert path.data_path.counters.accept_pauses == 2
        path.data_path.abort_all()
        path.close()
    began, ended = log
    assert began["event"].startswith("cannot accept")
    assert began["service"] == one.target.text
    assert began["reason"] == "EMFILE"
    assert ended["event"] == "accepting again"
    assert ended["failed_accepts"] == 6


async def test_real_exhaustion_is_survived(bench: harness.Harness) -> None:
    """X02 with a real limit, lowered after the start so that the computed cap does not help."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    await bench.accept(place)
    gc.collect()  # what frees a descriptor later would make room
    spare = [socket.socket() for _ in range(8)]
    highest = max(sock.fileno() for sock in spare)
    waiting = socket.socket()
    waiting.setblocking(False)
    with harness.open_files_limit(highest + 1):
        waiting.connect_ex(service.listener.address)
        await harness.until(lambda: path.data_path.counters.accept_pauses, "accepting pauses")
        await client.send(b"an open connection goes on")
        for sock in spare:
            sock.close()
        await harness.until(place.waiting, "the waiting client is served")
    waiting.close()


async def test_clients_beyond_the_connection_limit_wait_and_are_served_later(
    bench: harness.Harness,
) -> None:
    """X01."""
    path, place = bench.start(data_path.Limits(max_connections=3)), bench.backend()
    service = path.serve(place)
    served = 0
    with structlog.testing.capture_logs() as log:
        clients = [await bench.connect(service) for _ in range(8)]
        for expected in (3, 6, 8):
            await harness.until(lambda: path.data_path.connections, "some are accepted")
            for client in clients[served:expected]:
                await client.send(b"x")
                await bench.accept(place)
            count = expected - served
            await harness.until(
                lambda count=count: path.data_path.connections == count,  # type: ignore[misc]
                "those before have ended",
            )
            assert place.waiting() == 0
            for client in clients[served:expected]:
                client.reset()
            served = expected
        path.close()
    assert path.data_path.counters.accept_errors == 0
    assert [entry["event"] for entry in log] == [episodes.FULL.began, episodes.FULL.ended]
    assert log[1]["clients_that_waited"] == 5


async def test_each_place_that_becomes_free_is_taken_by_a_client_that_waits(
    bench: harness.Harness,
) -> None:
    """X01, H6. Not only when a fiftieth of the places are free."""
    path, place = bench.start(data_path.Limits(max_connections=100)), bench.backend()
    service = path.serve(place)
    clients = [await bench.connect(service) for _ in range(105)]
    await harness.until(lambda: path.data_path.connections == 100, "the limit is reached")
    for served, client in enumerate(clients[:5], 101):
        client.reset()
        await harness.until(
            lambda served=served: service.target.counters.accepted == served,  # type: ignore[misc]
            "the next one is served",
        )
        assert path.data_path.connections == 100


async def test_listeners_that_wait_for_room_take_turns(bench: harness.Harness) -> None:
    """None starves because another's queue is longer, or never empty."""
    path, place = bench.start(data_path.Limits(max_connections=2)), bench.backend()
    crowded, modest = path.serve(place), path.serve(place)
    clients = [await bench.connect(crowded) for _ in range(12)]
    await harness.until(lambda: crowded.listener.is_paused, "the limit is reached")
    for _ in range(4):
        await bench.connect(modest)
    await harness.until(lambda: modest.listener.is_paused, "the other listener waits too")
    path.data_path.abort_all()
    for served in range(1, 4):
        await harness.until(
            lambda served=served: (  # type: ignore[misc]
                crowded.target.counters.accepted == 2 + served
                and modest.target.counters.accepted == served
            ),
            "each is given one of the two places",
        )
        path.data_path.abort_all()
    for client in clients:
        client.reset()


async def test_a_listener_does_not_overtake_those_that_wait(bench: harness.Harness) -> None:
    path, place = bench.start(data_path.Limits(max_connections=1)), bench.backend()
    first, late = path.serve(place), path.serve(place)
    for _ in range(2):
        await bench.connect(first)
    await harness.until(lambda: first.listener.is_paused, "the limit is reached")
    await bench.connect(late)
    path.data_path.abort_all()
    await harness.until(lambda: first.target.counters.accepted == 2, "the first in line is served")
    assert late.target.counters.accepted == 0
    path.data_path.abort_all()
    await harness.until(lambda: late.target.counters.accepted == 1, "then the other")


async def test_a_raised_limit_lets_waiting_clients_in(bench: harness.Harness) -> None:
    """A listener that closes gives its descriptor to clients."""
    place, room = bench.backend(), 300
    with harness.open_files_limit(room):
        path = bench.start()
        service, others = path.serve(place), [path.serve(place) for _ in range(4)]
    full = path.data_path.max_connections
    for _ in range(full + 2):
        await bench.connect(service)
    await harness.until(lambda: service.listener.is_paused, "the limit is reached")
    for other in others:
        path.data_path.shut(other.listener)
    assert path.data_path.max_connections == full + 2
    await harness.until(lambda: path.data_path.connections == full + 2, "they are served")


async def test_a_listener_that_no_client_waits_for_any_more_is_watched_again(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(data_path.Limits(max_connections=1)), bench.backend()
    service = path.serve(place)
    await bench.connect(service)
    gone = await bench.connect(service)
    await harness.until(lambda: service.listener.is_paused, "the limit is reached")
    gone.reset()
    path.data_path.abort_all()
    await harness.until(lambda: not service.listener.is_paused, "it is watched again")
    path.data_path.abort_all()
    before = service.target.counters.accepted
    await bench.connect(service)
    await harness.until(lambda: service.target.counters.accepted > before, "a client is served")


async def test_a_full_data_path_is_idle(bench: harness.Harness) -> None:
    """A listener with clients in its queue would wake the event loop again and again."""
    path, place = bench.start(data_path.Limits(max_connections=1)), bench.backend()
    service = path.serve(place)
    await bench.connect(service)
    await bench.connect(service)
    await harness.until(lambda: service.listener.is_paused, "the limit is reached")
    watcher = path.kernel.watcher
    assert watcher is not None
    before = watcher.polls
    await asyncio.sleep(0.1)
    assert watcher.polls - before <= 10


async def test_the_limit_counts_the_connections_of_all_listeners(bench: harness.Harness) -> None:
    path, place = bench.start(data_path.Limits(max_connections=2)), bench.backend()
    one, two = path.serve(place), path.serve(place)
    clients = [await bench.connect(one) for _ in range(2)]
    await harness.until(lambda: path.data_path.connections == 2, "the limit is reached")
    late = await bench.connect(two)
    for client in clients:
        client.reset()
    await late.send(b"x")
    await harness.until(lambda: two.target.counters.active == 1, "the other's client is served")


async def test_closing_a_listener_serves_the_clients_in_its_queue(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    queued = []
    for _ in range(40):
        client = bench.hold(actor.Actor(socket.socket(), "the client"))
        client.sock.connect_ex(service.listener.address)
        queued.append(client)
    harness.settled(
        lambda: harness.accept_queue(service.listener.sock)[0] == 40, "all are in the queue"
    )
    path.data_path.shut(service.listener)
    assert path.data_path.connections == 40
    for client in queued:
        await client.send(b"x")
        backend = await bench.accept(place)
        async with harness.within("a byte arrives"):
            assert await backend.receive_exactly(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        await bench.connect(service)


async def test_closing_a_listener_leaves_its_connections_alone(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    path.data_path.shut(service.listener)
    path.data_path.shut(service.listener)
    await client.send(b"still here")
    async with harness.within("the connection goes on"):
        assert await backend.receive_exactly(10) == b"still here"


async def test_a_listener_closed_while_it_waits_for_room_stays_closed(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(data_path.Limits(max_connections=1)), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    await bench.connect(service)
    await harness.until(lambda: service.listener.is_paused, "the limit is reached")
    path.data_path.shut(service.listener)
    client.reset()
    await harness.until(path.is_quiet, "the connection ends")
    with pytest.raises(ConnectionRefusedError):
        await bench.connect(service)


async def test_a_listener_closed_while_it_waits_for_descriptors_stays_closed(
    bench: harness.Harness,
) -> None:
    """The retry that was planned must go with it: the leak check finds a timer left behind."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    path.kernel.fail("accept", errno.EMFILE)
    await bench.connect(service)
    await harness.until(lambda: service.listener.is_paused, "accepting pauses")
    path.data_path.shut(service.listener)
    with pytest.raises(ConnectionRefusedError):
        await bench.connect(service)


async def test_a_taken_address_is_an_error_and_leaves_nothing(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    with pytest.raises(OSError, match="in use"):
        path.data_path.open(place.address, service.target)


async def test_an_ipv6_listener_serves_ipv6_clients(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    opened = path.data_path.open(addresses.SocketAddress("::1", 0), service.target)
    with socket.create_connection(opened.address) as client:
        client.send(b"x")
        await bench.accept(place)
        (view,) = path.views()
        assert view.client == "::1"


async def test_connections_inherit_what_is_set_on_the_listener(bench: harness.Harness) -> None:
    path, place = bench.start(data_path.Limits(keepalive_idle=77)), bench.backend()
    service = path.serve(place)
    await bench.pair(service, place)
    (leg,) = path.legs(dialled=False)
    assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
    assert leg.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


@pytest.mark.parametrize("address", ["127.77.0.1", "::1"])
def test_on_loopback_connections_are_not_paced(address: str) -> None:
    listener = syscalls.Kernel().listen(addresses.SocketAddress(address, 0), 16, 77)
    try:
        assert harness.congestion_control(listener) == b"reno"
    finally:
        listener.close()


def test_elsewhere_congestion_control_is_the_administrator_s_choice() -> None:
    listener = syscalls.Kernel().listen(addresses.SocketAddress("0.0.0.0", 0), 16, 77)
    try:
        default = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_bytes().strip()
        assert harness.congestion_control(listener) == default
    finally:
        listener.close()
