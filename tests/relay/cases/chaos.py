"""Seeded chaos: many connections that end at random points in random ways, and one invariant.

What a peer receives is an exact prefix of what the other sent; a clean end comes only when
everything arrived; anything else is an error. An orderly connection never shows an error.
"""

import asyncio
import collections.abc
import contextlib
import dataclasses
import enum
import random

from tests.relay import actor, registry, rig, stream

_LARGEST = 256 * 1024
_AT_ONCE = 50


class Way(enum.Enum):
    """How a side leaves."""

    HALF_CLOSE = "half-closes, reads to the end, closes"
    CLOSE = "closes without reading on"
    RESET = "resets"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What one side does: send `size` bytes, pausing now and then, and leave."""

    size: int
    way: Way
    slow_reader: bool


@dataclasses.dataclass(slots=True)
class Side:
    """One side at work and what it saw. `end` stays None when it left before an end came."""

    plan: Plan
    direction: int
    sent: int = 0
    received: int = 0
    end: actor.End | None = None


def _plan(chance: random.Random) -> Plan:
    way = chance.choices(list(Way), weights=[6, 2, 2])[0]
    size = chance.choice([stream.RECORD, 1000, 20_000, chance.randint(stream.RECORD, _LARGEST)])
    return Plan(size, way, chance.random() < 0.2)


@registry.case("R33", "P0", "300 mixed connections ending at random: prefix or error holds",
               budget=30.0, long_budget=900.0)  # fmt: skip
async def r33_chaos(bench: rig.Rig) -> None:
    await _chaos(bench, bench.scale(300, 2000), strays=0)


@registry.case("R34", "P0", "the same with cancelled connects between: no byte in the wrong place",
               budget=30.0, long_budget=900.0)  # fmt: skip
async def r34_reuse(bench: rig.Rig) -> None:
    await _chaos(bench, bench.scale(150, 2000), strays=bench.scale(300, 4000))


async def _chaos(bench: rig.Rig, count: int, strays: int) -> None:
    """Run `count` tagged connections, `_AT_ONCE` at a time, and `strays` that reset at once."""
    chance = random.Random(bench.seed)
    plans = {number: (_plan(chance), _plan(chance)) for number in range(1, count + 1)}
    backends: dict[int, Side] = {}
    clients: dict[int, Side] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def stray() -> None:
        async with gate:
            client = await bench.connect()
            client.reset()
            bench.forget(client)

    async def client_side(number: int) -> None:
        side = clients[number] = Side(plans[number][0], stream.TO_BACKEND)
        async with gate:
            client = await bench.connect()
            await _act(bench, client, side, number)
            bench.forget(client)

    async def backend_side(backend: actor.Actor) -> None:
        number = await _introduction(backend)
        if number is None:
            backend.reset()
        else:
            assert number in plans, f"a connection introduced itself as number {number}: leaked"
            assert number not in backends, f"two connections introduced themselves as {number}"
            side = backends[number] = Side(plans[number][1], stream.TO_CLIENT)
            side.received = stream.RECORD
            await _act(bench, backend, side, number)
        bench.forget(backend)

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_serve(bench, backend_side))
        works = [client_side(number) for number in plans] + [stray() for _ in range(strays)]
        chance.shuffle(works)
        await registry.together(*works)
        await actor.until_settled(lambda: sum(s.received + s.sent for s in backends.values()))
        serving.cancel()
    _judge(clients, backends)
    met = sum(side.end is actor.End.RESET for side in clients.values())
    bench.note(
        f"{len(backends)} of {count} connections met their backend, {met} clients saw a reset"
    )


async def _serve(
    bench: rig.Rig,
    handle: collections.abc.Callable[[actor.Actor], collections.abc.Coroutine[None, None, None]],
) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(handle(await bench.accept()))


async def _introduction(backend: actor.Actor) -> int | None:
    """Read the first record, which names the connection; None if it ended before that."""
    record = bytearray()
    with contextlib.suppress(ConnectionError):
        while len(record) < stream.RECORD:
            piece = await backend.receive(stream.RECORD - len(record))
            if not piece:
                return None
            record += piece
        return stream.connection_of(bytes(record))
    return None


async def _act(bench: rig.Rig, end: actor.Actor, side: Side, number: int) -> None:
    """Send and read at the same time, then leave as planned."""
    chance = random.Random(f"{bench.seed}/{number}/{side.direction}")
    checker = stream.Checker(stream.Stream(number, 1 - side.direction, bench.seed))
    checker.offset = side.received
    source = stream.Stream(number, side.direction, bench.seed)

    async def read() -> None:
        while side.end is None:
            try:
                data = await end.receive()
            except ConnectionError:
                side.end = actor.End.RESET
                return
            checker.feed(data)
            side.received = checker.offset
            if not data:
                side.end = actor.End.FIN
            elif side.plan.slow_reader:
                await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        cut_off = not await _send(end, side, source, chance)
        if side.plan.way is Way.HALF_CLOSE and not cut_off:
            with contextlib.suppress(OSError):
                end.shut_write()
        elif not cut_off:
            reading.cancel()
    if side.plan.way is Way.RESET:
        end.reset()
    else:
        end.close()


async def _send(end: actor.Actor, side: Side, source: stream.Stream, chance: random.Random) -> bool:
    """Send the planned bytes; False when the connection was gone before all were sent."""
    while side.sent < side.plan.size:
        piece = min(chance.randint(1, 32 * 1024), side.plan.size - side.sent)
        try:
            await end.send(source.read(side.sent, piece))
        except ConnectionError:
            return False
        side.sent += piece
        if chance.random() < 0.1:
            await asyncio.sleep(0.001)
    return True


def _judge(clients: dict[int, Side], backends: dict[int, Side]) -> None:
    for number, client in clients.items():
        backend = backends.get(number)
        if backend is None:
            left_early = client.plan.way is not Way.HALF_CLOSE
            assert left_early, f"connection {number} was orderly but never met its backend"
            continue
        orderly = client.plan.way is backend.plan.way is Way.HALF_CLOSE
        for who, reader, writer in (("client", client, backend), ("backend", backend, client)):
            _judge_direction(f"connection {number}: the {who}", reader, writer, orderly)


def _judge_direction(who: str, reader: Side, writer: Side, orderly: bool) -> None:
    ways = f"it {reader.plan.way.value}, the other {writer.plan.way.value}"
    if orderly:
        assert reader.end is actor.End.FIN, f"{who} saw a reset though both ended well"
    if reader.end is actor.End.FIN:
        assert writer.plan.way is not Way.RESET, f"{who} saw a clean end for a reset ({ways})"
        assert reader.received == writer.plan.size, (
            f"{who} saw a clean end after {reader.received} of {writer.plan.size} bytes ({ways})"
        )
