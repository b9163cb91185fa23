"""Cases about what clients do while the proxy is still connecting to the backend.

The backend's listen queue is kept full, so the kernel drops the proxy's SYN; once there is room,
the proxy's next SYN (a retransmission comes after 1 s) is answered.
"""

import asyncio
import contextlib

from tests.relay import actor, registry, rig, stream

KIB = 1024
MIB = 1024 * KIB

_WATCH = 0.4
"""Seconds for which a cancelled dial must stay cancelled: above the first retry of any ladder
that begins at 250 ms."""


@registry.case("R17", "P0", "client sends and half-closes while the dial is held up")
async def r17_half_close_during_dial(bench: rig.Rig) -> None:
    size = 10 * KIB
    up = stream.Stream(1, stream.TO_BACKEND, bench.seed)
    down = stream.Stream(1, stream.TO_CLIENT, bench.seed)
    async with bench.full_backlog():
        client = await bench.connect()
        await client.send_stream(up, size)
        client.shut_write()
        await asyncio.sleep(bench.scale(0.3, 2.0))
    async with bench.within("the proxy connects once the backend has room", 4.5):
        backend = await bench.accept_speaking()
    async with bench.within("the backend gets what was sent during the dial"):
        end = await backend.receive_to_end(stream.Checker(up))
    assert (end, backend.received) == (actor.End.FIN, size), (
        f"the backend saw {end.value} after {backend.received} of {size} bytes"
    )
    await backend.send_stream(down, size)
    backend.close()
    async with bench.within("the client gets the answer"):
        end = await client.receive_to_end(stream.Checker(down))
    assert (end, client.received) == (actor.End.FIN, size), (
        f"the client saw {end.value} after {client.received} of {size} bytes"
    )


@registry.case("R18", "P0", "client resets while the dial is held up: the dial is cancelled")
async def r18_reset_during_dial(bench: rig.Rig) -> None:
    async with bench.full_backlog():
        idle = bench.dials()
        client = await bench.connect()
        async with bench.within("the proxy's dial is seen waiting"):
            await actor.until(lambda: bench.dials() > idle)
        await client.send(b"never to be delivered")
        client.reset()
        async with bench.within("the proxy gives up its dial for a client that has reset", 2.0):
            await actor.until(lambda: bench.dials() <= idle)
        await _nothing(lambda: bench.dials() > idle, "the proxy dials again for a client that left")
    # A proxy may look whether an endpoint that kept a dial waiting is back. That connection
    # has no client: it brings nothing, and ends.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WATCH):
            late = await bench.accept()
            with contextlib.suppress(ConnectionError):
                brought = await late.receive()
                assert not brought, f"{late.name} got {brought!r} of a client that had left"


async def _nothing(happens: actor.State, sentence: str) -> None:
    """Require that a state does not come about for a while."""
    try:
        async with asyncio.timeout(_WATCH):
            await actor.until(happens)
    except TimeoutError:
        return
    raise AssertionError(sentence)


@registry.case(
    "R19", "P1", "client sends 10 MiB while the dial is held up: bounded, then delivered"
)
async def r19_bulk_during_dial(bench: rig.Rig) -> None:
    size = 10 * MIB
    up = stream.Stream(1, stream.TO_BACKEND, bench.seed)
    before = bench.rss()
    async with contextlib.AsyncExitStack() as stack:
        async with bench.full_backlog():
            client = await bench.connect()

            async def upload() -> None:
                await client.send_stream(up, size)
                client.shut_write()

            await stack.enter_async_context(registry.alongside(upload()))
            await client.until_blocked()
            assert client.sent < size, "the proxy took all 10 MiB before there was a backend"
            await asyncio.sleep(bench.scale(0.1, 2.0))
            bench.judge_growth(before, MIB)
            bench.note(f"{client.sent >> 10} KiB left the client before the dial was done")
        async with bench.within("the proxy connects once the backend has room", 4.5):
            backend = await bench.accept_speaking()
        checker = stream.Checker(stream.Stream(1, stream.TO_BACKEND, bench.seed))
        end = await backend.receive_to_end(checker)
        assert (end, checker.offset) == (actor.End.FIN, size), (
            f"the backend saw {end.value} after {checker.offset} of {size} bytes"
        )
