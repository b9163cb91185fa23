"""Cases about moving bytes: bulk, tiny writes, paused readers, urgent data, fairness."""

import asyncio
import collections.abc
import contextlib
import random
import statistics

from tests.relay import actor, registry, rig, stream

KIB = 1024
MIB = 1024 * KIB

_MSS = 1448
_FLOOR = 0.020
"""Seconds: a quiet p99 below this is the scheduler's noise, not a yardstick."""


async def _arrives(reader: actor.Actor, source: stream.Stream, size: int) -> None:
    """Require exactly `size` bytes of `source` and a clean end."""
    checker = stream.Checker(source)
    end = await reader.receive_to_end(checker)
    assert (end, checker.offset) == (actor.End.FIN, size), (
        f"{reader.name} saw {end.value} after {checker.offset} of {size} bytes"
    )


@registry.case(
    "R12",
    "P0",
    "bulk both ways at the same time in random pieces",
    budget=30.0,
    long_budget=600.0,
)
async def r12_bulk_both_ways(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    size = bench.scale(64, 1024) * MIB
    before = bench.rss()

    async def send(sender: actor.Actor, direction: int) -> None:
        source = stream.Stream(1, direction, bench.seed)
        await sender.send_stream(source, size, random.Random(bench.seed + direction))
        await actor.until(lambda: min(client.received, backend.received) == size)
        sender.shut_write()

    await registry.together(
        send(client, stream.TO_BACKEND),
        send(backend, stream.TO_CLIENT),
        _arrives(backend, stream.Stream(1, stream.TO_BACKEND, bench.seed), size),
        _arrives(client, stream.Stream(1, stream.TO_CLIENT, bench.seed), size),
    )
    bench.judge_growth(before, 4 * MIB)
    bench.note(f"{size >> 20} MiB each way, every record in its place")


@registry.case("R13", "P0", "one-byte writes, first paced, then as fast as possible")
async def r13_one_byte_writes(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    paced, fast = bench.scale(100, 10_000), bench.scale(10_000, 90_000)
    source = stream.Stream(1, stream.TO_BACKEND, bench.seed)
    data = source.read(0, paced + fast)

    async def dribble() -> None:
        for at in range(paced):
            await client.send(data[at : at + 1])
            await asyncio.sleep(0.001)
        for at in range(paced, len(data)):
            await client.send(data[at : at + 1])
        client.shut_write()

    async with registry.alongside(dribble()):
        await _arrives(backend, stream.Stream(1, stream.TO_BACKEND, bench.seed), len(data))


@registry.case("R15", "P0", "reader stops: sender blocks, memory stays, then all arrives",
               budget=30.0, long_budget=300.0)  # fmt: skip
async def r15_stopped_reader(bench: rig.Rig) -> None:
    client, backend = await bench.pair(rcvbuf=64 * KIB)
    size = bench.scale(64, 1024) * MIB
    before = bench.rss()

    async def send() -> None:
        await backend.send_stream(stream.Stream(1, stream.TO_CLIENT, bench.seed), size)
        backend.shut_write()

    async with registry.alongside(send()):
        await backend.until_blocked()
        taken = backend.sent
        assert taken < size, f"the proxy took all {size >> 20} MiB though the receiver did not read"
        await asyncio.sleep(bench.scale(0.3, 120.0))
        bench.judge_growth(before, MIB)
        await _arrives(client, stream.Stream(1, stream.TO_CLIENT, bench.seed), size)
    bench.note(f"the sender blocked after {taken >> 10} KiB")


@registry.case("R16", "P0", "backend speaks first, client is silent")
async def r16_banner(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    await backend.send(b"220 ready\r\n")
    async with bench.within("the banner reaches the silent client"):
        banner = await client.receive_exactly(11)
    assert banner == b"220 ready\r\n", f"the client got {banner!r} for a banner"


@registry.case("R20", "P0", "urgent data arrives in line, nothing after the mark is lost")
async def r20_urgent(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    await client.send(b"ab")
    await client.send_urgent(b"!")
    await client.send(b"cd")
    client.shut_write()
    got = bytearray()
    async with bench.within("the end behind urgent data reaches the backend"):
        while data := await backend.receive():
            got += data
    assert got == b"ab!cd", f"the backend got {bytes(got)!r} instead of b'ab!cd'"


@registry.case("R21", "P1", "every byte urgent: all arrive in line")
async def r21_urgent_flood(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    count = bench.scale(1000, 10_000)
    data = stream.Stream(1, stream.TO_BACKEND, bench.seed).read(0, count)

    async def flood() -> None:
        for byte in data:
            await client.send_urgent(bytes([byte]))
            await asyncio.sleep(0)
        client.shut_write()

    async with registry.alongside(flood()):
        await _arrives(backend, stream.Stream(1, stream.TO_BACKEND, bench.seed), count)


@registry.case("R22", "P0", "downloads in MSS-sized segments end without a stalled tail")
async def r22_segment_tails(bench: rig.Rig) -> None:
    for _ in range(bench.scale(20, 200)):
        client, backend = await bench.pair()
        source = stream.Stream(1, stream.TO_CLIENT, bench.seed)

        async def send(backend: actor.Actor, source: stream.Stream) -> None:
            for offset in range(0, MIB, _MSS):
                await backend.send(source.read(offset, min(_MSS, MIB - offset)))
            backend.shut_write()

        await registry.together(
            send(backend, source),
            _arrives(client, stream.Stream(1, stream.TO_CLIENT, bench.seed), MIB),
        )
        client.close()
        backend.close()
        bench.forget(client, backend)


@registry.case("R23", "P0", "one firehose does not starve ping-pong on the other connections",
               budget=40.0, long_budget=120.0)  # fmt: skip
async def r23_firehose(bench: rig.Rig) -> None:
    count = bench.scale(50, 499)
    pairs = [await bench.pair() for _ in range(count)]
    hose_client, hose_backend = await bench.pair()
    quiet = await _ping_pong_p99(pairs, bench)
    ratios = []
    for _ in range(3):
        async with _firehose(hose_backend, hose_client):
            busy = await _ping_pong_p99(pairs, bench)
        ratios.append(busy / max(quiet, _FLOOR))
        if ratios[-1] < 5:
            break
    assert min(ratios) < 5, f"beside a firehose, ping-pong p99 is {min(ratios):.1f} times as long"
    bench.note(f"ping-pong p99 {quiet * 1e3:.1f} ms quiet, {busy * 1e3:.1f} ms beside a firehose")


async def _ping_pong_p99(pairs: list[tuple[actor.Actor, actor.Actor]], bench: rig.Rig) -> float:
    """Play on all pairs at once; return the 99th percentile of a round trip in seconds."""
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def play(client: actor.Actor, backend: actor.Actor) -> None:
        for _ in range(bench.scale(20, 40)):
            start = loop.time()
            await client.send(b"ping")
            await backend.receive_exactly(4)
            await backend.send(b"pong")
            await client.receive_exactly(4)
            times.append(loop.time() - start)

    async with bench.within("every ping-pong goes on", 10.0):
        await registry.together(*(play(client, backend) for client, backend in pairs))
    return statistics.quantiles(times, n=100)[98]


@contextlib.asynccontextmanager
async def _firehose(
    sender: actor.Actor, reader: actor.Actor
) -> collections.abc.AsyncIterator[None]:
    """Push bytes as fast as they go for the length of a block."""
    data = bytes(4 * stream.BLOCK)

    async def push() -> None:
        while True:
            await sender.send(data)

    async with asyncio.TaskGroup() as group:
        works = [group.create_task(push()), group.create_task(_drain(reader))]
        try:
            yield
        finally:
            for work in works:
                work.cancel()


async def _drain(reader: actor.Actor) -> None:
    while await reader.receive():
        pass


@registry.case("R24", "P1", "firehoses both ways on many connections share fairly",
               budget=40.0, long_budget=120.0)  # fmt: skip
async def r24_fair_shares(bench: rig.Rig) -> None:
    pairs = [await bench.pair() for _ in range(bench.scale(16, 100))]
    async with contextlib.AsyncExitStack() as hoses:
        for client, backend in pairs:
            await hoses.enter_async_context(_firehose(client, backend))
            await hoses.enter_async_context(_firehose(backend, client))
        start = [client.received + backend.received for client, backend in pairs]
        for _ in range(3):
            await asyncio.sleep(bench.scale(1.5, 60.0))
            moved = [
                client.received + backend.received - base
                for (client, backend), base in zip(pairs, start, strict=True)
            ]
            ratio = min(moved) / max(*moved, 1)
            if ratio >= 0.5:
                break
    assert ratio >= 0.5, f"the slowest connection got {ratio:.2f} of the fastest one's share"
    bench.note(f"the slowest connection got {ratio:.2f} of the fastest one's share")
