"""Endpoints come and go while clients talk: no open connection and no new client notices."""

import asyncio
import itertools

from tests.datapath.rig import harness
from tests.relay import actor

STREAMS = 40


async def talks(client: actor.Actor, backend: actor.Actor) -> None:
    """Require that a byte passes each way."""
    await client.send(b"x")
    await backend.send(b"y")
    async with harness.within("a byte passes each way"):
        assert await backend.receive_exactly(1) == b"x"
        assert await client.receive_exactly(1) == b"y"


async def opened(
    bench: harness.Harness, service: harness.Service, places: list[harness.Place]
) -> list[tuple[actor.Actor, actor.Actor, harness.Place]]:
    """`STREAMS` clients, one after the other, each with the backend's end and where that is."""
    streams = []
    for _ in range(STREAMS):
        client = await bench.connect(service)
        await client.send(b"x")
        await harness.until(lambda: any(place.waiting() for place in places), "it is dialled")
        place = next(place for place in places if place.waiting())
        backend = await bench.accept(place)
        async with harness.within("a byte passes"):
            assert await backend.receive_exactly(1) == b"x"
        streams.append((client, backend, place))
    return streams


async def test_c01_new_endpoints_are_used_and_open_streams_go_on(bench: harness.Harness) -> None:
    path, old = bench.start(), [bench.backend() for _ in range(10)]
    service = path.serve(*old)
    assert service.balancer is not None
    streams = await opened(bench, service, old)
    new = [bench.backend() for _ in range(10)]
    for count in range(1, 11):
        service.balancer.update([place.address for place in (*old, *new[:count])])
        for client, backend, _ in streams[::10]:
            await talks(client, backend)
    later = await opened(bench, service, old + new)
    assert {id(place) for _, _, place in later} == {id(place) for place in old + new}
    for client, backend, _ in streams:
        await talks(client, backend)
    assert not service.ended


async def test_c02_c03_a_stream_outlives_its_endpoint_and_new_clients_go_elsewhere(
    bench: harness.Harness,
) -> None:
    path, places = bench.start(), [bench.backend() for _ in range(4)]
    service = path.serve(*places)
    assert service.balancer is not None
    streams = await opened(bench, service, places)
    gone = places[:2]
    service.balancer.update([place.address for place in places[2:]])
    later = await opened(bench, service, places)
    assert not {id(place) for _, _, place in later} & {id(place) for place in gone}
    for client, backend, place in streams:
        await talks(client, backend)
        if place in gone:  # it has drained, and closes in order
            await backend.send(b"last words")
            backend.shut_write()
            async with harness.within("the last words and the end arrive"):
                assert await client.receive_exactly(10) == b"last words"
                assert await client.receive_to_end() is actor.End.FIN
            client.shut_write()
    assert set(service.ended) == {"B/H"}


async def test_c04_replacing_every_endpoint_again_and_again_fails_no_client(
    bench: harness.Harness,
) -> None:
    """Old endpoints stay up for a while, as pods do that are told to end."""
    path, places = bench.start(), [bench.backend() for _ in range(6)]
    service = path.serve(*places[:2])
    assert service.balancer is not None
    sets = itertools.cycle([places[2:4], places[4:6], places[:2]])
    served = 0
    is_over = False

    async def answer(backend: actor.Actor) -> None:
        await backend.send(b"y")
        backend.shut_write()
        await backend.receive_to_end()
        backend.close()

    async def serve(place: harness.Place) -> None:
        while True:
            group.create_task(answer(bench.hold(await place.accept())))

    async def visit() -> None:
        nonlocal served
        while not is_over:
            client = await bench.connect(service)
            await client.send(b"x")
            async with harness.within("the client is served"):
                assert await client.receive_exactly(1) == b"y"
                assert await client.receive_to_end() is actor.End.FIN
            client.close()
            served += 1

    async with asyncio.TaskGroup() as group:
        answering = [group.create_task(serve(place)) for place in places]
        visiting = [group.create_task(visit()) for _ in range(8)]
        for _ in range(60):
            wanted = served + 8
            await harness.until(lambda wanted=wanted: served >= wanted, "clients are served")  # type: ignore[misc]
            for _ in service.balancer.update_steps([place.address for place in next(sets)]):
                await asyncio.sleep(0)
        is_over = True
        for visitor in visiting:
            await visitor
        for each in answering:
            each.cancel()
    assert served >= 480
    assert not service.dial_failures
    await harness.until(path.is_quiet, "all have ended")
    assert set(service.ended) <= {"B/H", "C/H"}
