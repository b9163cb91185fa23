"""The relay on a kernel that lies at every turn, and that this kernel does lie."""

import collections

import pytest

from kproxy.datapath.tcp import halfclose
from tests.datapath.rig import faulty, harness
from tests.relay import actor, cases, registry, rig, stream

_HALF_CLOSE_TIMEOUT = 8.0
"""Seconds. A machine that lets nothing run for a while must not reach it."""
_QUICK = {"R01", "R02", "R03", "R06", "R07", "R08", "R09", "R10", "R16", "R20", "R31", "R33"}


async def _failures(chosen: list[registry.Case], seed: int, *options: str) -> list[str]:
    """Run cases against one proxy process. What fails is a sentence, as is an unclean end."""
    failures = []
    with rig.listen(("127.0.0.1", 0)) as listener:
        backend = listener.getsockname()
        timeout = f"--half-close-timeout={_HALF_CLOSE_TIMEOUT}"
        with harness.proxy_process(backend, f"--seed={seed}", timeout, *options) as proxy:
            for case in chosen:
                target = rig.Target(proxy.address, listener, proxy.pid, _HALF_CLOSE_TIMEOUT)
                outcome = await registry.run(case, rig.Rig(target, seed=seed))
                if outcome.result is registry.Result.FAIL:
                    failures.append(f"{case.id} {case.title}: {outcome.seen}")
            counters = proxy.end()
    unclean = (
        "bugs",
        "inconsistent",
        "stalls_recovered",
        "left_at_end",
        "connections",
        "lent_pipes",
    )
    return failures + [f"{counters[name]} {name}" for name in unclean if counters[name]]


async def test_the_relay_is_exact_on_a_faulty_kernel_under_the_stock_event_loop() -> None:
    chosen = [case for case in cases.ALL if case.id in _QUICK]
    assert await _failures(chosen, 2, "--kernel=rough", "--asyncio") == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 30))
async def test_the_relay_is_exact_on_many_faulty_kernels(seed: int) -> None:
    assert await _failures(list(cases.ALL), seed, "--kernel=rough") == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ephemeral", [False, True], ids=["service port", "ephemeral port"])
async def test_transfers_are_exact_whatever_the_dice_say(
    bench: harness.Harness, seed: int, ephemeral: bool
) -> None:
    kernel = faulty.FaultyKernel(faulty.ROUGH, seed)
    path, place = bench.start(kernel=kernel), bench.backend(ephemeral=ephemeral)
    service = path.serve(place)
    for size in (0, 1, 1000, 65536, 300_000):
        client, backend = await bench.pair(service, place)
        async with harness.within("all bytes arrive", 20.0):
            await registry.together(
                _sends(client, stream.TO_BACKEND, size),
                _gets(backend, stream.TO_BACKEND, size),
                _sends(backend, stream.TO_CLIENT, size),
                _gets(client, stream.TO_CLIENT, size),
            )
    await harness.until(path.is_quiet, "the connections end")
    assert sum(service.ended.values()) == 5
    assert set(service.ended) <= {halfclose.CLIENT_CLOSED, halfclose.BACKEND_CLOSED}


async def _sends(sender: actor.Actor, direction: int, size: int) -> None:
    await sender.send_stream(stream.Stream(1, direction), size)
    sender.shut_write()


async def _gets(reader: actor.Actor, direction: int, size: int) -> None:
    checker = stream.Checker(stream.Stream(1, direction))
    assert await reader.receive_to_end(checker) is actor.End.FIN
    assert checker.offset == size


async def test_a_faulty_kernel_cuts_most_calls_short_on_request(
    bench: harness.Harness,
) -> None:
    """A fake that told the truth would make every test above pass for nothing."""
    kernel = faulty.FaultyKernel(faulty.Rates(short=0.5, again=0.3), seed=3)
    path, place = bench.start(kernel=kernel), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    calls: collections.Counter[str] = collections.Counter()

    def count(call: str, fd: int) -> None:
        calls[call] += 1

    kernel.on_call = count
    for _ in range(20):
        await client.send(b"x" * 1000)
        async with harness.within("a thousand bytes arrive"):
            assert await backend.receive_exactly(1000) == b"x" * 1000
    # One of each for a message is what a truthful kernel needs.
    assert calls["recv"] > 40
    assert calls["send"] > 40


def test_the_same_seed_throws_the_same_dice() -> None:
    def dice(seed: int) -> list[bool]:
        kernel = faulty.FaultyKernel(faulty.ROUGH, seed)
        return [kernel.decides(0.5) for _ in range(100)]

    assert dice(1) == dice(1)
    assert dice(1) != dice(2)
