"""Cases about how connections end: half-closes stay half-closes, resets stay resets."""

import asyncio
import collections.abc

from tests.relay import actor, registry, rig, stream

KIB = 1024
MIB = 1024 * KIB


async def _echo(backend: actor.Actor) -> None:
    """Send everything back until the other side has ended, then end."""
    while data := await backend.receive():
        await backend.send(data)
    backend.shut_write()


async def _reads_all(reader: actor.Actor, source: stream.Stream, size: int) -> None:
    """Require exactly `size` bytes of `source` and then a clean end."""
    end = await reader.receive_to_end(stream.Checker(source))
    assert end is actor.End.FIN, f"{reader.name} saw {end.value} after {reader.received} bytes"
    assert reader.received == size, (
        f"{reader.name} saw a clean end after {reader.received} of {size} bytes"
    )


async def _sees(bench: rig.Rig, reader: actor.Actor, wanted: actor.End) -> None:
    async with bench.within(f"{reader.name} sees {wanted.value}"):
        end = await reader.receive_to_end()
    assert end is wanted, f"{reader.name} saw {end.value} instead of {wanted.value}"


@registry.case("R01", "P0", "client sends 1 MiB and half-closes, everything is echoed")
async def r01_echo_after_half_close(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    source = stream.Stream(1, stream.TO_BACKEND, bench.seed)

    async def speak() -> None:
        await client.send_stream(source, MIB)
        client.shut_write()

    await registry.together(speak(), _reads_all(client, source, MIB), _echo(backend))


@registry.case("R02", "P0", "client half-closes first, backend answers after a pause")
async def r02_late_answer(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    question = stream.Stream(1, stream.TO_BACKEND, bench.seed)
    answer = stream.Stream(1, stream.TO_CLIENT, bench.seed)

    async def answer_late() -> None:
        await _reads_all(backend, question, KIB)
        await asyncio.sleep(bench.scale(0.3, 5.0))
        await backend.send_stream(answer, MIB)
        backend.shut_write()

    await client.send_stream(question, KIB)
    client.shut_write()
    await registry.together(answer_late(), _reads_all(client, answer, MIB))


@registry.case("R03", "P0", "backend half-closes first, client goes on uploading")
async def r03_backend_first(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    size = bench.scale(8, 64) * MIB
    down = stream.Stream(1, stream.TO_CLIENT, bench.seed)
    up = stream.Stream(1, stream.TO_BACKEND, bench.seed)

    async def backend_speaks() -> None:
        await backend.send_stream(down, MIB)
        backend.shut_write()

    await registry.together(backend_speaks(), _reads_all(client, down, MIB))

    async def upload() -> None:
        await client.send_stream(up, size)
        client.close()

    await registry.together(upload(), _reads_all(backend, up, size))


@registry.case("R04", "P0", "backend sends 8 MiB and FIN while the client is not reading")
async def r04_fin_behind_a_full_window(bench: rig.Rig) -> None:
    client, backend = await bench.pair(rcvbuf=16 * KIB)
    down = stream.Stream(1, stream.TO_CLIENT, bench.seed)

    async def send_and_exit() -> None:
        await backend.send_stream(down, 8 * MIB)
        backend.close()

    async with registry.alongside(send_and_exit()):
        await backend.until_blocked()
        await asyncio.sleep(bench.scale(0.3, 3.0))
        await _reads_all(client, down, 8 * MIB)


@registry.case("R05", "P0", "both sides send and FIN while neither reads, then both read")
async def r05_flush_both_ways(bench: rig.Rig) -> None:
    client, backend = await bench.pair(rcvbuf=16 * KIB)
    size = bench.scale(16, 50) * MIB
    before = bench.rss()

    async def send(sender: actor.Actor, direction: int) -> None:
        await sender.send_stream(stream.Stream(1, direction, bench.seed), size)
        sender.shut_write()

    async with registry.alongside(send(client, stream.TO_BACKEND), send(backend, stream.TO_CLIENT)):
        await registry.together(client.until_blocked(), backend.until_blocked())
        await asyncio.sleep(bench.scale(0.1, 3.0))
        bench.judge_growth(before, MIB)
        await registry.together(
            _reads_all(client, stream.Stream(1, stream.TO_CLIENT, bench.seed), size),
            _reads_all(backend, stream.Stream(1, stream.TO_BACKEND, bench.seed), size),
        )
    bench.judge_growth(before, MIB)


@registry.case("R06", "P0", "client resets an idle connection, backend sees a reset")
async def r06_client_resets(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    client.reset()
    await _sees(bench, backend, actor.End.RESET)


@registry.case("R07", "P0", "backend resets an idle connection, client sees a reset")
async def r07_backend_resets(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    backend.reset()
    await _sees(bench, client, actor.End.RESET)


@registry.case("R08", "P0", "backend sends 100 KiB and resets, slow client never sees a clean end")
async def r08_reset_after_data(bench: rig.Rig) -> None:
    client, backend = await bench.pair(rcvbuf=16 * KIB)
    down = stream.Stream(1, stream.TO_CLIENT, bench.seed)
    checker = stream.Checker(down)

    async with registry.alongside(backend.send_stream(down, 100 * KIB)):
        checker.feed(await client.receive_exactly(KIB))
        async with bench.within("100 KiB leave the backend"):
            await actor.until(lambda: backend.sent == 100 * KIB and backend.in_flight() == 0)
    backend.reset()
    await asyncio.sleep(0.05)
    async with bench.within("the slow client's connection ends"):
        end = await client.receive_to_end(checker)
    assert end is actor.End.RESET, f"the client saw {end.value} after {client.received} bytes"
    bench.note(f"the client got {client.received >> 10} of 100 KiB, then a reset")


@registry.case("R09", "P0", "client half-closes, idles, then resets: backend sees a reset")
async def r09_silent_reset(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    client.shut_write()
    await _sees(bench, backend, actor.End.FIN)
    client.reset()
    # A half-close timeout would end it too; that is not noticing.
    prompt = bench.target.prompt
    soon = min(prompt, (bench.target.half_close_timeout or 2 * prompt) / 2)
    async with bench.within("the backend learns that the half-closed client has reset", soon):
        await actor.until(backend.is_dead)


@registry.case("R10", "P0", "both ends half-close in the same instant, again and again")
async def r10_simultaneous_close(bench: rig.Rig) -> None:
    for _ in range(bench.scale(100, 1000)):
        client, backend = await bench.pair()
        client.shut_write()
        backend.shut_write()
        await registry.together(
            _sees(bench, client, actor.End.FIN), _sees(bench, backend, actor.End.FIN)
        )
        client.close()
        backend.close()
        bench.forget(client, backend)


@registry.case("R11", "P0", "both ends send 1 MiB and FIN before either reads")
async def r11_close_with_data(bench: rig.Rig) -> None:
    client, backend = await bench.pair()

    async def send(sender: actor.Actor, direction: int) -> None:
        await sender.send_stream(stream.Stream(1, direction, bench.seed), MIB)
        sender.shut_write()

    async with registry.alongside(send(client, stream.TO_BACKEND), send(backend, stream.TO_CLIENT)):
        await registry.together(client.until_blocked(), backend.until_blocked())
        await registry.together(
            _reads_all(client, stream.Stream(1, stream.TO_CLIENT, bench.seed), MIB),
            _reads_all(backend, stream.Stream(1, stream.TO_BACKEND, bench.seed), MIB),
        )


@registry.case("R27", "P0", "a half-closed and silent connection ends at the half-close timeout",
               budget=40.0, long_budget=400.0)  # fmt: skip
async def r27_half_close_timeout(bench: rig.Rig) -> None:
    limit = bench.target.half_close_timeout
    if limit is None:
        raise rig.Unknown("not judged: --half-close-timeout was not given")
    client, backend = await bench.pair()
    client.shut_write()
    await _sees(bench, backend, actor.End.FIN)
    async with bench.within(
        "the proxy ends the half-closed connection", limit * 1.5 + bench.target.prompt
    ):
        end = await client.receive_to_end()
    assert end is actor.End.RESET, f"the client saw {end.value}, but the backend never ended"
    async with bench.within("the backend learns of it as well"):
        await actor.until(backend.is_dead)


@registry.case("R28", "P1", "backend answers and closes without reading what is pending")
async def r28_close_with_unread_input(bench: rig.Rig) -> None:
    client, backend = await bench.pair()
    down = stream.Stream(1, stream.TO_CLIENT, bench.seed)
    await client.send(b"q" * 64 * KIB)
    async with bench.within("the question reaches the backend"):
        await actor.until(backend.waiting)
    await backend.send_stream(down, 16 * KIB)
    backend.close()
    async with bench.within("the client's connection ends"):
        end = await client.receive_to_end(stream.Checker(down))
    assert end is actor.End.RESET, f"the client saw {end.value} after {client.received} bytes"
    bench.note(f"the client got {client.received >> 10} of 16 KiB, then a reset")


@registry.case("R31", "P0", "connect and close at once, many times: each ends, nothing leaks")
async def r31_empty_connections(bench: rig.Rig) -> None:
    count = bench.scale(500, 10_000)
    ends = await _storm(bench, count, actor.Actor.close)
    resets = ends.count(actor.End.RESET)
    bench.note(f"{len(ends)} of {count} reached the backend")
    assert resets == 0, f"{resets} of {count} clean closes reached the backend as resets"


@registry.case("R32", "P1", "connect and reset at once, many times: accepting goes on")
async def r32_port_scan(bench: rig.Rig) -> None:
    count = bench.scale(500, 10_000)
    ends = await _storm(bench, count, actor.Actor.reset)
    clean = ends.count(actor.End.FIN)
    bench.note(f"{len(ends)} of {count} reached the backend")
    assert clean == 0, f"{clean} of {count} resets reached the backend as clean ends"


async def _storm(
    bench: rig.Rig, count: int, leave: collections.abc.Callable[[actor.Actor], None]
) -> list[actor.End]:
    """Connect and leave `count` times; return how each looked to the backend, if it came there.

    Afterwards an ordinary connection must work.
    """
    ends: list[actor.End] = []

    async def serve() -> None:
        while True:
            backend = await bench.accept()
            ends.append(await backend.receive_to_end())
            backend.close()
            bench.forget(backend)

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve())
        for _ in range(count):
            client = await bench.connect()
            leave(client)
            bench.forget(client)
        await actor.until_settled(lambda: len(ends))
        await bench.until_let_go()
        serving.cancel()
    client, backend = await bench.pair()
    await client.send(b"?")
    async with bench.within("an ordinary connection works after the storm"):
        assert await backend.receive() == b"?", "the connection after the storm is another's"
    return ends
