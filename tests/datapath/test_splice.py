"""The pipe pool: what one client left in a pipe never reaches another.

Cases: X04 of docs/faults.md.
"""

import fcntl
import os

import pytest

from kproxy.datapath import splice, syscalls
from tests.datapath.rig import faulty, scripts

_F_GETPIPE_SZ = 1032


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def borrow(pool: splice.PipePool) -> splice.Pipe:
    pipe = pool.borrow()
    assert pipe is not None
    return pipe


def test_an_empty_pipe_is_lent_again() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=4)
    first = borrow(pool)
    pool.give_back(first)
    assert pool.idle == 1
    assert borrow(pool) is first
    assert (pool.idle, pool.lent) == (0, 1)
    pool.give_back(first)
    pool.close()


def test_a_pipe_with_bytes_in_it_is_destroyed_and_never_lent_again() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=4)
    dirty = borrow(pool)
    dirty.filled = os.write(dirty.write_end, b"another client's")
    pool.give_back(dirty)
    assert pool.idle == pool.lent == 0
    assert not is_open(dirty.read_end)
    assert not is_open(dirty.write_end)
    clean = borrow(pool)
    with pytest.raises(BlockingIOError):
        os.read(clean.read_end, 1)
    pool.give_back(clean)
    pool.close()


def test_a_lent_pipe_remembers_nothing_of_its_last_direction() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=4)
    pipe = borrow(pool)
    pipe.last_fill = 1 << 20
    pool.give_back(pipe)
    again = borrow(pool)
    last_fill = again.last_fill
    pool.give_back(again)
    pool.close()
    assert last_fill == 0, "a quiet direction would keep the pipe of a busy one"


def test_no_more_pipes_exist_than_the_limit_allows() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=2)
    first, second = borrow(pool), borrow(pool)
    assert pool.borrow() is None
    pool.give_back(first)
    first = borrow(pool)
    assert pool.borrow() is None
    pool.give_back(first)
    pool.give_back(second)
    pool.close()


def test_only_so_many_idle_pipes_are_kept() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=8, keep=2)
    lent = [borrow(pool) for _ in range(5)]
    for pipe in lent:
        pool.give_back(pipe)
    assert pool.idle == 2
    assert sum(is_open(pipe.read_end) for pipe in lent) == 2
    pool.close()


def test_a_kernel_without_a_pipe_to_spare_makes_the_borrower_copy() -> None:
    pool = splice.PipePool(faulty.FaultyKernel(faulty.Rates(no_pipe=1.0)), limit=4)
    assert pool.borrow() is None
    assert pool.lent == 0


def test_a_pipe_that_comes_back_after_close_is_destroyed() -> None:
    pool = splice.PipePool(syscalls.Kernel(), limit=4)
    late, idle = borrow(pool), borrow(pool)
    pool.give_back(idle)
    pool.close()
    assert not is_open(idle.read_end)
    pool.give_back(late)
    assert not is_open(late.read_end)
    assert not is_open(late.write_end)


@pytest.mark.parametrize("wanted", [4096, 1 << 20, 1 << 30])
def test_the_size_of_a_pipe_is_what_the_kernel_granted(wanted: int) -> None:
    read_end, write_end, size = syscalls.Kernel().pipe(wanted)
    try:
        assert size == fcntl.fcntl(write_end, _F_GETPIPE_SZ)
        assert not os.get_blocking(read_end)
        assert not os.get_inheritable(write_end)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_the_size_is_true_for_a_user_with_too_many_pipes_as_well() -> None:
    """X12. Such pipes hold two pages or less, and F_SETPIPE_SZ is refused."""
    script = """
import fcntl, os
from kproxy.datapath import syscalls
soft = int(open("/proc/sys/fs/pipe-user-pages-soft").read())
os.setgroups([]); os.setgid(65534); os.setuid(54322)
kernel = syscalls.Kernel()
pipes = [kernel.pipe(1 << 20) for _ in range(soft // 256 + 8)]
assert all(size == fcntl.fcntl(end, 1032) for _, end, size in pipes), pipes[-1]
"""
    scripts.run(script)


_MANY_STREAMS = """
import asyncio, os, resource
from tests.datapath.rig import harness
from tests.relay import actor, stream

resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
os.setgroups([]); os.setgid(65534); os.setuid(54323)
STREAMS, SIZE = 100, 1 << 20

async def main():
    bench = harness.Harness()
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    pairs = [await bench.pair(service, place, rcvbuf=4096) for _ in range(STREAMS)]
    ways = [stream.Stream(number, stream.TO_CLIENT) for number in range(STREAMS)]
    checkers = [stream.Checker(way) for way in ways]

    async def relayed(number):
        client, backend = pairs[number]
        sending = asyncio.ensure_future(backend.send_stream(ways[number], SIZE))
        counters = path.data_path.counters
        await harness.until(lambda: counters.splices >= STREAMS, "all are spliced at once", 60)
        ending = asyncio.ensure_future(client.receive_to_end(checkers[number]))
        await sending
        backend.shut_write()
        assert await ending is actor.End.FIN
        assert client.received == SIZE
        client.shut_write()

    await asyncio.gather(*map(relayed, range(STREAMS)))
    await harness.until(path.is_quiet, "all have ended")
    counters = path.data_path.counters
    await bench.finish()
    return counters.small_pipes, counters.splices

print(*asyncio.run(main()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_x12_bytes_are_exact_through_pipes_that_the_kernel_made_small() -> None:
    """A hundred streams of an unprivileged user, who may have 64 pipes of a megabyte."""
    printed = scripts.run(_MANY_STREAMS, seconds=240)
    small, splices = map(int, printed.splitlines()[-1].split())
    assert splices >= 100
    assert 0 < small < splices
