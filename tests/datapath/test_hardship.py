"""Signals without end, thousands of connections, hours of traffic: bytes exact, nothing left."""

import asyncio
import contextlib
import gc
import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.datapath.rig import clients, harness
from tests.relay import actor, stream

MIB = 1 << 20


@contextlib.contextmanager
def storm() -> Iterator[dict[int, int]]:
    """A thousand signals a second of each kind that a process may get; counts what came."""
    kinds = itertools.cycle((signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCHLD))
    seen: dict[int, int] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        seen[number] = seen.get(number, 0) + 1
        if number == signal.SIGALRM:
            os.kill(os.getpid(), next(kinds))

    numbers = (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCHLD)
    before = {number: signal.signal(number, note) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_p12_bytes_are_exact_under_a_storm_of_signals(bench: harness.Harness) -> None:
    """Spliced and copied, while system calls are interrupted all the time."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    up, down = stream.Stream(1, stream.TO_BACKEND), stream.Stream(1, stream.TO_CLIENT)
    size = 24 * MIB

    async def send(end: actor.Actor, way: stream.Stream) -> None:
        await end.send_stream(way, size)
        end.shut_write()

    with storm() as seen:
        async with harness.within("all bytes arrive", 60.0), asyncio.TaskGroup() as group:
            group.create_task(send(client, up))
            group.create_task(send(backend, down))
            at_backend = group.create_task(backend.receive_to_end(stream.Checker(up)))
            at_client = group.create_task(client.receive_to_end(stream.Checker(down)))
        assert at_backend.result() is at_client.result() is actor.End.FIN
    assert client.received == backend.received == size
    assert len(seen) == 5
    assert path.data_path.counters.splices


async def test_p15_a_connection_is_a_handful_of_objects_to_the_collector(
    bench: harness.Harness,
) -> None:
    """A full collection walks them all while nothing else happens: 20 ms for 9,000 connections
    are 2.2 us for each, in which it visits some twenty objects."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    clients_before = [await bench.pair(service, place) for _ in range(10)]
    held = [ref for pair in clients_before for ref in pair]
    gc.collect()
    handlers = [each for each in path.held() if each is not None]
    reached = _reachable(handlers) - _reachable([service.target, path.data_path])
    assert len(held) == 20
    assert len(reached) / 10 <= 8


def _reachable(roots: list[object]) -> set[int]:
    """The collector's objects that can be reached from `roots`, by identity."""
    found: dict[int, object] = {}
    left = list(roots)
    while left:
        each = left.pop()
        if id(each) in found or not gc.is_tracked(each) or isinstance(each, type):
            continue
        found[id(each)] = each
        left += gc.get_referents(each)
    return set(found)


@pytest.mark.long
async def test_x15_nothing_grows_in_a_long_time(bench: harness.Harness) -> None:
    """Ten thousand connections of every sort, without the collector: flat in files and memory."""
    path, place, refusing = bench.start(), bench.backend(), bench.place()
    service, broken = path.serve(place, refusing), path.serve(refusing)
    chance = random.Random(1)

    async def one() -> None:
        kind = chance.random()
        if kind < 0.1:
            await clients.is_turned_away(bench, broken)
            return
        client, backend = await bench.pair(service, place)
        await client.send(chance.randbytes(chance.randint(1, 200_000)))
        if kind < 0.3:
            client.reset()
        elif kind < 0.5:
            backend.reset()
        else:
            client.shut_write()
            await backend.receive_to_end()
            backend.shut_write()
            await client.receive_to_end()

    def size() -> tuple[int, int, int]:
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        return harness.open_files(), path.lent_pipes + path.data_path.idle_pipes, rss

    gc.collect()
    gc.disable()
    try:
        for _ in range(3000):
            await one()
            bench.end_all()
        await harness.until(path.is_quiet, "all have ended")
        files, pipes, rss = size()
        for _ in range(7000):
            await one()
            bench.end_all()
        await harness.until(path.is_quiet, "all have ended")
        assert size()[0] <= files + 2 * 16, "as many as pipes are kept"
        assert size()[1] <= pipes + 16
        assert size()[2] <= rss + 8 * MIB
    finally:
        gc.enable()
