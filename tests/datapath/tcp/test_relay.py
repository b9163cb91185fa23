"""What the relay does with bytes and endings, seen from inside: how, and with how much memory."""

import asyncio
import collections
import gc
import hashlib
import random
import socket
import struct

import pytest

from kproxy.datapath import splice
from kproxy.datapath.tcp import halfclose, relay
from tests.datapath.rig import faulty, harness
from tests.relay import actor, registry, stream

KIB = 1024
MIB = 1024 * KIB

FAST = pytest.param(False, id="service port")
WAITED = pytest.param(True, id="ephemeral port")
"""Dials to a port that the kernel could also give to the dialling socket take another path."""


async def sends(sender: actor.Actor, direction: int, size: int, connection: int = 1) -> None:
    """Send the first `size` bytes of a tagged stream, then FIN."""
    await sender.send_stream(stream.Stream(connection, direction), size)
    sender.shut_write()


async def gets(reader: actor.Actor, direction: int, size: int, connection: int = 1) -> None:
    """Require exactly `size` bytes of a tagged stream, then FIN."""
    checker = stream.Checker(stream.Stream(connection, direction))
    end = await reader.receive_to_end(checker)
    assert (end, checker.offset) == (actor.End.FIN, size)
    assert reader.sha256 == hashlib.sha256(checker.stream.read(0, size)).hexdigest()


async def both_ways(client: actor.Actor, backend: actor.Actor, up: int, down: int) -> None:
    async with harness.within("all bytes arrive", 20.0):
        await registry.together(
            sends(client, stream.TO_BACKEND, up),
            gets(backend, stream.TO_BACKEND, up),
            sends(backend, stream.TO_CLIENT, down),
            gets(client, stream.TO_CLIENT, down),
        )


@pytest.mark.parametrize("ephemeral", [FAST, WAITED])
@pytest.mark.parametrize(
    "size", [0, 1, 65535, 65536, 65537, 2 * 65536, MIB - 1, MIB, MIB + 1, 5 * MIB + 3]
)
async def test_every_size_arrives_whole_in_both_directions(
    bench: harness.Harness, size: int, ephemeral: bool
) -> None:
    path, place = bench.start(), bench.backend(ephemeral=ephemeral)
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await both_ways(client, backend, size, size)
    await harness.until(path.is_quiet, "the connection ends")
    counters = service.target.counters
    assert counters.bytes_from_clients == counters.bytes_from_backends == size
    assert sum(service.ended.values()) == 1
    assert set(service.ended) <= {halfclose.CLIENT_CLOSED, halfclose.BACKEND_CLOSED}


@pytest.mark.parametrize("ephemeral", [FAST, WAITED])
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, MIB + 1])
async def test_bytes_and_fin_that_came_before_the_dial_arrive_whole(
    bench: harness.Harness, size: int, ephemeral: bool
) -> None:
    path, place = bench.start(), bench.backend(ephemeral=ephemeral)
    service = path.serve(place)
    data = stream.Stream(1, stream.TO_BACKEND).read(0, size)
    with socket.create_connection(service.listener.address) as early:
        early.setblocking(False)
        sent = early.send(data)
        early.shutdown(socket.SHUT_WR)
        backend = await bench.accept(place)
        async with harness.within("the bytes arrive"):
            await gets(backend, stream.TO_BACKEND, sent)


@pytest.mark.parametrize("first", ["client", "backend"])
async def test_a_half_close_leaves_the_other_direction_open(
    bench: harness.Harness, first: str
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    ends = dict(zip(("client", "backend"), await bench.pair(service, place), strict=True))
    one = ends.pop(first)
    (other,) = ends.values()
    await one.send(b"that is all")
    one.shut_write()
    async with harness.within("the half-close is passed on"):
        assert await other.receive_exactly(11) == b"that is all"
        assert await other.receive_to_end() is actor.End.FIN
    (view,) = path.views()
    assert view.state == "half-closed"
    for _ in range(3):
        await other.send(b"still here")
        async with harness.within("the other direction goes on"):
            assert await one.receive_exactly(10) == b"still here"
    other.shut_write()
    async with harness.within("the second half-close is passed on"):
        assert await one.receive_to_end() is actor.End.FIN
    await harness.until(path.is_quiet, "the connection ends")
    expected = halfclose.CLIENT_CLOSED if first == "client" else halfclose.BACKEND_CLOSED
    assert service.ended == {expected: 1}


@pytest.mark.parametrize("state", ["idle", "busy", "half-closed by it", "half-closed by the other"])
@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_reset_is_passed_on_as_a_reset(
    bench: harness.Harness, who: str, state: str
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    ends = dict(zip(("client", "backend"), await bench.pair(service, place), strict=True))
    one = ends.pop(who)
    (other,) = ends.values()
    async with harness.within("the connection is brought into its state"):
        if state == "busy":
            await one.send(b"x" * 1000)
            await other.receive_exactly(1000)
        elif state != "idle":
            first, second = (one, other) if state == "half-closed by it" else (other, one)
            first.shut_write()
            assert await second.receive_to_end() is actor.End.FIN
    one.reset()
    await harness.until(other.is_dead, "the reset is passed on")
    if state != "half-closed by it":
        assert await other.receive_to_end() is actor.End.RESET
    await harness.until(path.is_quiet, "the connection ends")
    expected = halfclose.CLIENT_RESET if who == "client" else halfclose.BACKEND_RESET
    assert service.ended == {expected: 1}


@pytest.mark.parametrize("ephemeral", [FAST, WAITED])
async def test_a_client_that_resets_before_it_is_dialled_for_is_no_clean_end_for_a_backend(
    bench: harness.Harness, ephemeral: bool
) -> None:
    """The handshake with the backend may be over by then; closing that socket would send FIN."""
    path, place = bench.start(), bench.backend(ephemeral=ephemeral)
    service = path.serve(place)
    for _ in range(20):
        gone = await bench.connect(service)
        await gone.send(b"x")
        gone.reset()
    await harness.until(lambda: sum(service.ended.values()) == 20, "all have ended")
    for _ in range(place.waiting()):
        backend = await bench.accept(place)
        async with harness.within("the backend's connection ends"):
            assert await backend.receive_to_end() is actor.End.RESET


async def test_a_full_client_gets_the_rest_when_it_reads_again(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4 * KIB)
    size = 6 * MIB
    async with registry.alongside(sends(backend, stream.TO_CLIENT, size)):
        await backend.until_blocked()
        async with harness.within("the rest arrives", 20.0):
            await gets(client, stream.TO_CLIENT, size)


async def test_a_stopped_reader_costs_one_buffer_and_one_pipe_at_most(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=16 * KIB)
    size = 32 * MIB
    async with registry.alongside(sends(backend, stream.TO_CLIENT, size)):
        await backend.until_blocked()
        assert backend.sent < size
        (leg,) = path.legs(dialled=False)

        def held() -> int:
            (view,) = path.views()
            passed_on = client.waiting() + path.kernel.unsent(leg.fileno())
            return view.bytes_from_backend - passed_on

        # What has arrived and is not acknowledged yet is counted twice for a moment.
        await harness.until(lambda: held() > 0, "all that arrived is acknowledged")
        assert held() <= relay.READ_SIZE + splice.PIPE_SIZE
        assert path.lent_pipes <= 1
        async with harness.within("the rest arrives", 30.0):
            await gets(client, stream.TO_CLIENT, size)


async def test_bulk_is_spliced_and_every_byte_is_in_its_place(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await both_ways(client, backend, 16 * MIB, 16 * MIB)
    assert path.data_path.counters.splices > 0
    assert path.data_path.counters.splice_fallbacks == 0


async def test_small_messages_are_not_spliced(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    for _ in range(50):
        await client.send(b"q" * 100)
        async with harness.within("a question arrives"):
            await backend.receive_exactly(100)
        await backend.send(b"a" * 1000)
        async with harness.within("an answer arrives"):
            await client.receive_exactly(1000)
    assert path.data_path.counters.splices == 0


@pytest.mark.parametrize(
    ("call", "code"),
    [
        pytest.param("pipe", 24, id="EMFILE at pipe2"),
        pytest.param("pipe", 23, id="ENFILE at pipe2"),
        pytest.param("fill", 22, id="EINVAL at splice"),
        pytest.param("fill", 38, id="ENOSYS at splice"),
        pytest.param("fill", 12, id="ENOMEM at splice"),
        pytest.param("fill", 105, id="ENOBUFS at splice"),
    ],
)
async def test_without_splice_bytes_are_copied_and_exact(
    bench: harness.Harness, call: str, code: int
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    path.kernel.fail(call, code, times=10_000)
    await both_ways(client, backend, 3 * MIB, 3 * MIB)
    if call == "pipe":
        assert path.data_path.counters.splices == 0
        assert path.data_path.counters.splice_fallbacks > 0


@pytest.mark.parametrize("bulk", [0, 200 * KIB])
async def test_urgent_data_arrives_in_line_with_nothing_lost_after_it(
    bench: harness.Harness, bulk: int
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    before, after = b"b" * bulk + b"ab", b"cd" + b"a" * bulk

    async def speak() -> None:
        await client.send(before)
        await client.send_urgent(b"!")
        await client.send(after)
        client.shut_write()

    async with registry.alongside(speak()), harness.within("all arrives"):
        expected = before + b"!" + after
        assert await backend.receive_exactly(len(expected)) == expected
        assert await backend.receive_to_end() is actor.End.FIN


@pytest.mark.parametrize("size", [100, 600 * KIB])
@pytest.mark.parametrize("with_fin", [False, True], ids=["in mid-request", "request ends with FIN"])
async def test_the_last_answer_of_a_backend_that_resets_reaches_a_slow_client(
    bench: harness.Harness, with_fin: bool, size: int
) -> None:
    """The backend answers and closes without reading the request: the kernel resets."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place, rcvbuf=4 * KIB)
    answer = stream.Stream(1, stream.TO_CLIENT)
    await client.send(b"a request that no server reads")
    await harness.until(lambda: backend.waiting() > 0, "the request arrives")
    async with harness.within("the answer leaves the backend"):
        await backend.send_stream(answer, size)
        await actor.until(lambda: backend.in_flight() == 0)
    backend.close()
    await client.send(b"more of it")
    if with_fin:
        client.shut_write()
    checker = stream.Checker(answer)
    async with harness.within("the client's connection ends"):
        end = await client.receive_to_end(checker)
    assert end is actor.End.RESET
    assert checker.offset > 0
    await harness.until(path.is_quiet, "the connection ends")


async def legs_that_have_talked(bench: harness.Harness) -> list[faulty.FaultySocket]:
    """Both legs of a connection over which a second message has been sent."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await client.send(b"x")
    async with harness.within("a byte arrives"):
        await backend.receive_exactly(1)
    return [*path.legs(dialled=False), *path.legs(dialled=True)]


async def test_both_legs_send_small_messages_without_delay(bench: harness.Harness) -> None:
    """Nagle's algorithm holds the second part of a message until the first is acknowledged."""
    for leg in await legs_that_have_talked(bench):
        side = "backend's" if leg.is_dialled else "client's"
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), f"Nagle on the {side} leg"


async def test_neither_leg_is_paced_where_there_is_no_network(bench: harness.Harness) -> None:
    for leg in await legs_that_have_talked(bench):
        assert harness.congestion_control(leg) == b"reno"


@pytest.mark.parametrize("call", ["recv", "send"])
async def test_a_bug_in_one_connection_resets_that_one_only(
    bench: harness.Harness, call: str
) -> None:
    path, place = bench.start(), bench.backend()
    path.bugs = 1
    service = path.serve(place)
    victim, victims_backend = await bench.pair(service, place)
    neighbour, neighbours_backend = await bench.pair(service, place)
    path.kernel.fail(call, 0)
    await victim.send(b"x")
    async with harness.within("both ends of the broken connection are told"):
        assert await victim.receive_to_end() is actor.End.RESET
        assert await victims_backend.receive_to_end() is actor.End.RESET
    await neighbour.send(b"fine")
    async with harness.within("the other connection goes on"):
        assert await neighbours_backend.receive_exactly(4) == b"fine"
    assert service.ended == {halfclose.BUG: 1}


async def test_a_busy_direction_yields_after_sixteen_steps(bench: harness.Harness) -> None:
    """With splices of a few bytes, 128 KiB are thousands of steps: others must get in between."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    steps: collections.Counter[tuple[int, int]] = collections.Counter()

    def cut_short_and_count(call: str, fd: int) -> None:
        assert path.kernel.watcher is not None
        if call == "fill":
            path.kernel.rates = faulty.Rates(short=1.0)
        steps[path.kernel.watcher.polls, fd] += 1

    path.kernel.on_call = cut_short_and_count
    size = 192 * KIB
    async with harness.within("all arrives", 20.0):
        await registry.together(
            sends(client, stream.TO_BACKEND, size), gets(backend, stream.TO_BACKEND, size)
        )
    assert sum(steps.values()) > 10_000
    assert 8 <= max(steps.values()) <= 2 * 16


async def test_a_firehose_does_not_starve_a_ping_pong(bench: harness.Harness) -> None:
    """While one connection pours, another's question is answered within a few batches."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    hose_client, hose_backend = await bench.pair(service, place)
    client, backend = await bench.pair(service, place)
    watcher = path.kernel.watcher
    assert watcher is not None
    waits = []
    pouring = sends(hose_backend, stream.TO_CLIENT, 64 * MIB)
    drinking = gets(hose_client, stream.TO_CLIENT, 64 * MIB)
    hose = registry.alongside(pouring, drinking)
    async with harness.within("the firehose runs dry", 30.0), hose:
        for _ in range(50):
            before = watcher.polls
            await client.send(b"?")
            await backend.receive_exactly(1)
            waits.append(watcher.polls - before)
    assert sorted(waits)[len(waits) // 2] <= 50


async def test_three_hundred_connections_at_once_do_not_mix(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    dice = random.Random(7)
    todo = [(number, dice.choice([0, 1, 100, 70_000, 300_000])) for number in range(300)]

    async def answer(backend: actor.Actor) -> None:
        number, size = struct.unpack("!II", await backend.receive_exactly(8))
        await registry.together(
            gets_stream(backend, number, stream.TO_BACKEND, size),
            sends(backend, stream.TO_CLIENT, size, number),
        )

    async def ask(number: int, size: int) -> None:
        client = await bench.connect(service)
        await client.send(struct.pack("!II", number, size))
        await registry.together(
            sends(client, stream.TO_BACKEND, size, number),
            gets_stream(client, number, stream.TO_CLIENT, size),
        )

    async with harness.within("all 300 connections end", 30.0), asyncio.TaskGroup() as group:
        for number, size in todo:
            group.create_task(ask(number, size))
        for _ in todo:
            group.create_task(answer(bench.hold(await place.accept())))
    await harness.until(path.is_quiet, "the connections end")
    assert sum(service.ended.values()) == 300


async def gets_stream(reader: actor.Actor, number: int, direction: int, size: int) -> None:
    """As `gets`, for a reader that has read something before."""
    checker = stream.Checker(stream.Stream(number, direction))
    assert await reader.receive_to_end(checker) is actor.End.FIN
    assert checker.offset == size


async def test_closed_connections_leave_no_garbage_cycles(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            client, backend = await bench.pair(service, place)
            await both_ways(client, backend, 70_000, 70_000)
        await harness.until(path.is_quiet, "the connections end")
        legs = [each for each in gc.get_objects() if isinstance(each, relay.Leg)]
    finally:
        gc.enable()
    assert legs == []


@pytest.mark.parametrize("size", [1, 70_000])
async def test_a_second_message_is_not_held_back_until_the_first_is_acknowledged(
    bench: harness.Harness, size: int
) -> None:
    """For a client whose first message came along with its connection."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    with socket.create_connection(service.listener.address) as sock:
        client = actor.Actor(sock, "the client")
        sock.setblocking(False)
        first = sock.send(b"x" * size)
        backend = await bench.accept(place)
        async with harness.within("the first message arrives"):
            await backend.receive_exactly(first)
        await client.send(b"y")
        async with harness.within("the second message arrives"):
            await backend.receive_exactly(1)
        (leg,) = path.legs(dialled=True)
        assert leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
