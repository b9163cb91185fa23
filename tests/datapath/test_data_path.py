"""The data path as one object: its limits, its draining, and that closing leaves nothing."""

import asyncio
import errno
import signal
import socket

import pytest

from kproxy import errors
from kproxy.balancer import penalty
from kproxy.datapath import data_path, syscalls
from kproxy.datapath.tcp import halfclose
from tests.datapath.rig import harness
from tests.relay import actor


async def test_a_data_path_refuses_to_start_with_an_impossible_limit(
    bench: harness.Harness,
) -> None:
    impossible = data_path.Limits(max_connections=syscalls.open_files_limit())
    with pytest.raises(errors.ConfigError):
        data_path.DataPath(penalty.PenaltyBox(), impossible)


async def test_each_listener_costs_a_descriptor(bench: harness.Harness) -> None:
    path = bench.start()
    before = path.data_path.max_connections
    services = [path.serve() for _ in range(10)]
    assert path.data_path.max_connections == before - 5
    for service in services:
        path.data_path.shut(service.listener)
    assert path.data_path.max_connections == before


async def test_a_data_path_at_its_computed_limit_never_meets_emfile(bench: harness.Harness) -> None:
    """X01 with a real limit. More clients come than fit; all of them are served in the end."""
    place = bench.backend()
    room = 300
    with harness.open_files_limit(room):
        path = bench.start()
        limit = path.data_path.max_connections
        assert limit < room / 2
    service = path.serve(place)
    clients = [await bench.connect(service) for _ in range(limit + 20)]
    full = path.data_path.max_connections
    await harness.until(lambda: path.data_path.connections == full, "the limit is reached")
    for client in clients:
        await client.send(b"x")
        client.close()
    for _ in clients:
        backend = await bench.accept(place)
        async with harness.within("a byte arrives"):
            assert await backend.receive_exactly(1) == b"x"
        backend.close()
    await harness.until(path.is_quiet, "all have ended")
    assert path.data_path.counters.accept_errors == 0
    assert set(service.ended) <= {halfclose.CLIENT_CLOSED, halfclose.BACKEND_CLOSED}


async def test_sigpipe_is_ignored(bench: harness.Harness) -> None:
    """splice(2) into a socket that was reset would kill the process."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        bench.start()
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGPIPE, before)


async def test_draining_lets_connections_finish(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    async with asyncio.TaskGroup() as group:
        drain = group.create_task(path.data_path.drain(30.0))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await bench.connect(service)
        await client.send(b"last words")
        client.shut_write()
        async with harness.within("the last words arrive"):
            assert await backend.receive_exactly(10) == b"last words"
        assert not drain.done()
        backend.close()
        async with harness.within("draining ends with the last connection"):
            assert await drain == 0
    assert service.ended == {halfclose.CLIENT_CLOSED: 1}


async def test_draining_resets_what_is_left_after_its_grace(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    async with harness.within("draining ends with its grace"):
        assert await path.data_path.drain(0.05) == 1
        assert await client.receive_to_end() is actor.End.RESET
        assert await backend.receive_to_end() is actor.End.RESET
    assert service.ended == {halfclose.KILLED: 1}


async def test_draining_an_idle_data_path_takes_no_time(bench: harness.Harness) -> None:
    path = bench.start()
    path.serve()
    async with harness.within("draining ends at once"):
        assert await path.data_path.drain(3600.0) == 0


async def test_draining_that_is_cancelled_leaves_connections_to_close(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, _ = await bench.pair(service, place)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await path.data_path.drain(3600.0)
    assert path.data_path.connections == 1
    path.data_path.abort_all()
    async with harness.within("the client is reset"):
        assert await client.receive_to_end() is actor.End.RESET


async def test_aborting_resets_every_connection_in_whatever_state(
    bench: harness.Harness,
) -> None:
    path, place, hole = bench.start(), bench.backend(), await bench.black_hole()
    service, dead = path.serve(place), path.serve(hole)
    idle, _ = await bench.pair(service, place)
    half_closed, half_backend = await bench.pair(service, place)
    half_closed.shut_write()
    full, full_backend = await bench.pair(service, place, rcvbuf=4096)
    async with harness.within("they reach their states"):
        assert await half_backend.receive_to_end() is actor.End.FIN
        sending = asyncio.ensure_future(full_backend.send(b"x" * (64 << 20)))
        await full_backend.until_blocked()
        dialling = await bench.connect(dead)
        await actor.until(lambda: path.dials == 1)
    states = sorted(view.state for view in path.views())
    assert states == ["dialling", "half-closed", "open", "open"]
    assert path.data_path.abort_all() == 4
    assert path.data_path.connections == path.dials == path.lent_pipes == 0
    assert path.data_path.abort_all() == 0
    for client in (idle, half_closed, dialling, full):
        async with harness.within("each client is reset"):
            assert await client.receive_to_end() is actor.End.RESET
    with pytest.raises(ConnectionError):
        await sending


async def test_views_of_connections_are_made_in_steps(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look through a table of a million descriptors takes 50 ms."""
    monkeypatch.setattr(data_path, "_COUNTED_AT_ONCE", 8)
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    for _ in range(3):
        await bench.pair(service, place)
    for asked, count in ((service.target.name, 3), (None, 0)):
        steps = list(path.data_path.connection_views(lambda name, asked=asked: name == asked))  # type: ignore[misc]
        assert len(list(filter(None, steps))) == count
        assert steps.count(None) > 3


async def test_closing_in_the_midst_of_everything_leaves_nothing(
    bench: harness.Harness,
) -> None:
    """The harness looks for what is left: descriptors, timers, tasks, table entries."""
    path, place = bench.start(), bench.backend()
    hole, refusing = await bench.black_hole(), bench.place()
    services = [path.serve(place), path.serve(hole, place), path.serve(refusing, place)]
    for service in services:
        for _ in range(10):
            client = await bench.connect(service)
            await client.send(b"x" * 1000)
    queued = bench.hold(actor.Actor(socket.socket(), "the client"))
    queued.sock.connect_ex(services[0].listener.address)
    path.close()
    assert path.data_path.connections == 0


async def test_connections_can_be_viewed(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await client.send(b"12345")
    await backend.send(b"123")
    async with harness.within("bytes arrive"):
        await backend.receive_exactly(5)
        await client.receive_exactly(3)
    (view,) = path.views()
    assert view == data_path.ConnectionView(
        service=service.target.name,
        client="127.0.0.1",
        client_port=client.sock.getsockname()[1],
        frontend=service.listener.address,
        backend=place.address,
        bytes_from_client=5,
        bytes_from_backend=3,
        state="open",
        age=view.age,
    )
    assert view.age >= 0


async def test_bytes_of_open_connections_are_counted_when_asked_for(
    bench: harness.Harness,
) -> None:
    """Once each, whenever and however often it is asked, and never less than before."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    counters = service.target.counters

    def counted() -> tuple[int, int]:
        for _ in path.data_path.count_bytes():
            pass
        return counters.bytes_from_clients, counters.bytes_from_backends

    assert counted() == (0, 0)
    for times in range(1, 4):
        await client.send(b"12345")
        await backend.send(b"123")
        async with harness.within("bytes arrive"):
            await backend.receive_exactly(5)
            await client.receive_exactly(3)
        assert counted() == counted() == (5 * times, 3 * times)
    (view,) = path.views()
    assert (view.bytes_from_client, view.bytes_from_backend) == (15, 9)
    await client.send(b"1")
    client.shut_write()
    backend.shut_write()
    await harness.until(path.is_quiet, "the connection ends")
    assert counted() == (16, 9)


async def test_counting_bytes_is_no_sign_of_life(bench: harness.Harness) -> None:
    """A connection that is idle for too long ends, however often it is looked at."""
    path, place = bench.start(data_path.Limits(idle_timeout=0.4)), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await client.send(b"x")
    async with harness.within("a byte arrives"):
        await backend.receive_exactly(1)

    def has_ended() -> bool:
        for _ in path.data_path.count_bytes():
            pass
        return path.is_quiet()

    await harness.until(has_ended, "it is ended for being idle")
    assert service.ended == {halfclose.IDLE_TIMEOUT: 1}


async def test_a_listener_that_cannot_be_watched_yet_serves_its_clients_later(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    path.kernel.fail("register", errno.ENOSPC)
    service = path.serve(place)
    client = await bench.connect(service)
    await client.send(b"x")
    await harness.until(place.waiting, "the client is served")
