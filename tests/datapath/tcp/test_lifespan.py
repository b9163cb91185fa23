"""Connections that have lived long enough: too old, or their endpoint is removed."""

import asyncio
import contextlib

import pytest

from kproxy import events
from kproxy.datapath import data_path
from kproxy.datapath.tcp import halfclose, lifespan
from kproxy.model import lifetimes, steps
from kproxy.model.lifetimes import Lifetime, OnEndpointRemoved
from tests.datapath.rig import clients, harness
from tests.relay import actor

pytestmark = pytest.mark.xdist_group("time")

LONG = 3600.0
YOUNG = Lifetime(max_age=0.4, age_grace=LONG)
DRAIN = Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=LONG)
RESET = Lifetime(on_removed=OnEndpointRemoved.RESET)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come more often, and a moment is quiet sooner."""
    monkeypatch.setattr(lifespan, "TICK", 0.02)
    monkeypatch.setattr(lifespan, "QUIET", 0.1)
    monkeypatch.setattr(lifespan, "GONE", 0.1)


def follow(
    path: harness.DataPath, service: harness.Service, lifetime: Lifetime, *present: harness.Place
) -> None:
    path.data_path.lifetimes.follow(
        service.target.terms, lifetime, frozenset(place.address for place in present)
    )


def states(path: harness.DataPath) -> set[str]:
    return {view.state for view in path.views()}


async def exchange(client: actor.Actor, backend: actor.Actor) -> None:
    """A question and its answer."""
    async with harness.within("a question is answered"):
        await client.send(b"?")
        assert await backend.receive_exactly(1) == b"?"
        await backend.send(b"!")
        assert await client.receive_exactly(1) == b"!"


async def meets_its_end(end: actor.Actor) -> None:
    async with harness.within("the end is met"):
        assert await end.receive_to_end() is actor.End.FIN


async def ends_in_order(client: actor.Actor, backend: actor.Actor) -> None:
    """As with a server that closes when its client has ended, and a client that does the same."""
    await meets_its_end(backend)
    backend.close()
    await meets_its_end(client)
    client.close()


async def test_a_connection_that_is_too_old_ends_in_order_by_way_of_its_endpoint(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await exchange(client, backend)
    follow(path, service, YOUNG, place)
    await meets_its_end(backend)
    assert states(path) == {"aging-out"}
    await backend.send(b"last words")
    backend.close()
    async with harness.within("the last words and the end arrive"):
        assert await client.receive_exactly(10) == b"last words"
    await meets_its_end(client)
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.AGED: 1}


async def test_an_age_that_is_set_later_holds_for_connections_that_are_open(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    pairs = [await bench.pair(service, place) for _ in range(3)]
    follow(path, service, YOUNG, place)
    for client, backend in pairs:
        await ends_in_order(client, backend)
    await harness.until(path.is_quiet, "the connections end")
    assert service.ended == {halfclose.AGED: 3}


async def test_many_that_are_too_old_at_once_are_found_in_slices(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a slice is one connection long, and what holds changes while they are found."""
    monkeypatch.setattr(lifespan, "_BUDGET", 0.0)
    monkeypatch.setattr(lifespan, "_NEXT_SLICE", 0.0)
    runs = steps.runs
    monkeypatch.setattr(steps, "runs", lambda items, _=1: runs(items, 1))
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    pairs = [await bench.pair(service, place) for _ in range(5)]
    follow(path, service, YOUNG, place)
    await harness.until(lambda: "aging-out" in states(path), "the first is too old")
    follow(path, service, Lifetime(max_age=0.3, age_grace=LONG), place)
    for client, backend in pairs:
        await ends_in_order(client, backend)
    await harness.until(path.is_quiet, "the connections end")
    assert service.ended == {halfclose.AGED: 5}


async def test_an_age_that_is_lifted_lets_connections_go_on(bench: harness.Harness) -> None:
    """Also one that waits for its quiet moment: its client is not answered yet."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await client.send(b"?")
    async with harness.within("the question arrives"):
        await backend.receive_exactly(1)
    follow(path, service, YOUNG, place)
    await harness.until(lambda: states(path) == {"aging-out"}, "it is too old")
    follow(path, service, lifetimes.UNLIMITED, place)
    await harness.until(lambda: states(path) == {"open"}, "it may go on")
    await backend.send(b"!")
    await exchange(client, backend)
    assert service.target.terms.roll is None


@pytest.mark.parametrize("spoke_last", ["client", "the endpoint, and not all has arrived"])
async def test_a_connection_that_is_never_quiet_is_reset_when_its_grace_is_over(
    bench: harness.Harness, spoke_last: str
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    await exchange(client, backend)
    if spoke_last == "client":
        await client.send(b"?")
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await backend.send(bytes(100_000_000))
    follow(path, service, Lifetime(max_age=0.2, age_grace=0.6), place)
    await clients.is_reset(client)
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.AGED_RESET: 1}


async def test_a_client_that_speaks_after_all_is_reset_at_once(bench: harness.Harness) -> None:
    """Its bytes could go nowhere; the grace is long."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, YOUNG, place)
    client, backend = await bench.pair(service, place)
    await meets_its_end(backend)
    await client.send(b"too late")
    await clients.is_reset(client)
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.AGED_RESET: 1}


async def test_an_endpoint_that_goes_on_all_the_same_is_reset_when_the_grace_is_over(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, Lifetime(max_age=0.2, age_grace=2.0), place)
    client, backend = await bench.pair(service, place)
    await meets_its_end(backend)
    await clients.is_reset(client)
    assert service.ended == {halfclose.AGED_RESET: 1}


async def test_a_half_closed_connection_keeps_its_own_end(bench: harness.Harness) -> None:
    """Its grace is long: the download after the FIN goes on."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    client.shut_write()
    await meets_its_end(backend)
    follow(path, service, Lifetime(max_age=0.01, age_grace=LONG), place)
    await harness.until(lambda: states(path) == {"aging-out"}, "it is too old")
    await backend.send(b"the rest")
    backend.close()
    async with harness.within("the rest arrives"):
        assert await client.receive_exactly(8) == b"the rest"
    await meets_its_end(client)
    assert service.ended == {halfclose.CLIENT_CLOSED: 1}


async def test_connections_to_a_removed_endpoint_drain_and_others_stay(
    bench: harness.Harness,
) -> None:
    path, going, staying = bench.start(), bench.backend(), bench.backend()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    service = path.serve(going, staying)
    follow(path, service, DRAIN, going, staying)
    crowd = [await bench.connect(service) for _ in range(4)]
    to_going = [await bench.accept(going) for _ in range(2)]
    to_staying = [await bench.accept(staying) for _ in range(2)]
    assert service.balancer is not None
    service.balancer.update([staying.address])
    follow(path, service, DRAIN, staying)

    for backend in to_going:
        await meets_its_end(backend)
        backend.close()
    await harness.until(lambda: service.ended == {halfclose.REMOVED: 2}, "two have ended")
    assert states(path) == {"open"}
    assert len(to_staying) == path.data_path.connections == len(crowd) - 2
    (moved,) = feed.recent()
    assert moved == events.ConnectionsMoved(moved.at, service.target.text, "drain", 2)


async def test_draining_ends_with_a_reset(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    lifetime = Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=0.5)
    follow(path, service, lifetime, place)
    client, backend = await bench.pair(service, place)
    await client.send(b"?")
    async with harness.within("the question arrives"):
        await backend.receive_exactly(1)
    follow(path, service, lifetime)
    await clients.is_reset(client)
    assert service.ended == {halfclose.REMOVED_RESET: 1}


async def test_an_endpoint_that_comes_back_keeps_its_connections(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, DRAIN, place)
    client, backend = await bench.pair(service, place)
    await client.send(b"?")
    async with harness.within("the question arrives"):
        await backend.receive_exactly(1)
    follow(path, service, DRAIN)
    await harness.until(lambda: states(path) == {"draining"}, "it drains")
    follow(path, service, DRAIN, place)
    await harness.until(lambda: states(path) == {"open"}, "it goes on")
    await backend.send(b"!")
    await exchange(client, backend)


async def test_connections_to_a_removed_endpoint_are_reset_if_the_service_says_so(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, RESET, place)
    client, backend = await bench.pair(service, place)
    await exchange(client, backend)
    follow(path, service, RESET)
    await clients.is_reset(client)
    async with harness.within("the endpoint is reset too"):
        assert await backend.receive_to_end() is actor.End.RESET
    assert service.ended == {halfclose.REMOVED_RESET: 1}


async def test_an_endpoint_that_is_gone_for_a_moment_keeps_its_connections(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves from one EndpointSlice to another. Idle ones, too, are not ended meanwhile."""
    monkeypatch.setattr(lifespan, "GONE", LONG)
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, RESET, place)
    client, backend = await bench.pair(service, place)
    follow(path, service, RESET)
    await harness.until(lambda: states(path) == {"draining"}, "it is noticed")
    follow(path, service, RESET, place)
    await harness.until(lambda: states(path) == {"open"}, "it goes on")
    await exchange(client, backend)


async def test_what_is_aging_out_already_is_reset_with_its_endpoint(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    lifetime = Lifetime(max_age=0.2, age_grace=LONG, on_removed=OnEndpointRemoved.RESET)
    follow(path, service, lifetime, place)
    client, backend = await bench.pair(service, place)
    await meets_its_end(backend)
    follow(path, service, lifetime)
    await clients.is_reset(client)
    assert service.ended == {halfclose.REMOVED_RESET: 1}


async def test_keep_keeps_what_is_connected_to_an_endpoint_that_was_removed_before(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    client, backend = await bench.pair(service, place)
    follow(path, service, lifetimes.UNLIMITED)
    await exchange(client, backend)
    follow(path, service, RESET)
    await clients.is_reset(client)


async def test_a_dial_that_ends_at_a_removed_endpoint_is_dealt_with_too(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve_by(harness.Scripted(place.address))
    follow(path, service, RESET)
    await clients.is_turned_away(bench, service)
    await harness.until(lambda: service.ended == {halfclose.REMOVED_RESET: 1}, "it is counted")


async def test_the_endpoints_of_a_service_that_goes_are_removed(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, DRAIN, place)
    client, backend = await bench.pair(service, place)
    path.data_path.lifetimes.part(service.target.terms)
    await ends_in_order(client, backend)
    await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.REMOVED: 1}


async def test_thousands_of_connections_that_came_and_went_leave_nothing(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, Lifetime(max_age=LONG), place)
    for _ in range(20):
        for client, backend in [await bench.pair(service, place) for _ in range(20)]:
            client.close()
            backend.close()
        await harness.until(path.is_quiet, "the connections end")
        bench.end_all()
    roll = service.target.terms.roll
    assert isinstance(roll, lifespan.Roll)
    assert not roll.connections


async def test_ages_differ_so_that_not_all_come_back_at_once(bench: harness.Harness) -> None:
    """Of connections that are made at the same time, none ends after its age, and few together."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    follow(path, service, Lifetime(max_age=100.0), place)
    for _ in range(50):
        await bench.pair(service, place)
    roll = service.target.terms.roll
    assert isinstance(roll, lifespan.Roll)
    moments = [roll.due(conn) for conn in roll.connections]
    (first, *_), *_, (last, *_) = roll.connections.values()
    assert len({round(each, 2) for each in moments}) > 40
    assert all(first + 90 <= each <= last + 100 for each in moments)


async def test_limits_that_are_not_used_keep_no_books(bench: harness.Harness) -> None:
    path, place = bench.start(data_path.Limits()), bench.backend()
    service = path.serve(place)
    follow(path, service, lifetimes.UNLIMITED, place)
    await bench.pair(service, place)
    assert service.target.terms.roll is None
