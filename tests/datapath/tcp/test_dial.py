"""Dialling: no client waits for another's dead endpoint, or repeats a dial known to fail.

Behaviour: row 24 of docs/behaviour.md.
"""

import asyncio
import itertools

import pytest
import structlog

from kproxy.datapath.tcp import dial, halfclose
from kproxy.model import addresses
from tests.datapath.rig import clients, faulty, harness
from tests.relay import actor, registry

LADDER = 3.75
"""Seconds that four attempts may take: 250 ms, 500 ms, 1 s, 2 s."""

FAST = pytest.param(False, id="service port")
WAITED = pytest.param(True, id="ephemeral port")


@pytest.mark.parametrize("ephemeral", [FAST, WAITED])
async def test_an_endpoint_that_refuses_costs_no_client_its_connection(
    bench: harness.Harness, ephemeral: bool
) -> None:
    """D01. One client at most meets it; then it is in the penalty box."""
    path = bench.start()
    places = [
        bench.place(ephemeral=ephemeral),
        bench.backend(ephemeral=ephemeral),
        bench.backend(ephemeral=ephemeral),
    ]
    service = path.serve(*places)
    for _ in range(30):
        client = await bench.connect(service)
        await client.send(b"x")
    await harness.until(lambda: sum(p.waiting() for p in places[1:]) == 30, "all are served")
    assert service.dial_failures == {"ECONNREFUSED": 1}
    assert places[0].address in path.box
    assert service.ended == {}


async def test_without_a_penalty_box_each_client_moves_on_from_a_refusing_endpoint(
    bench: harness.Harness,
) -> None:
    path, dead, alive = bench.start(), bench.place(), bench.backend()
    service = path.serve_by(harness.Scripted(dead.address, alive.address))
    for _ in range(30):
        await clients.exchanges(bench, await bench.connect(service), alive)
    assert service.dial_failures == {"ECONNREFUSED": 30}


async def test_a_black_hole_costs_the_clients_that_met_it_one_rung(bench: harness.Harness) -> None:
    """D02. Those that come after the first timeout never meet it."""
    path, hole, alive = bench.start(), await bench.black_hole(), bench.backend()
    service = path.serve(hole, alive)
    crowd = [await bench.connect(service) for _ in range(10)]
    await harness.until(lambda: alive.waiting() == 10, "all are served")
    assert service.dial_failures == {"timeout": 1}
    crowd += [await bench.connect(service) for _ in range(20)]
    await harness.until(lambda: alive.waiting() == 30, "the others are served")
    assert service.dial_failures == {"timeout": 1}
    assert service.ended == {}


class Unmoved:
    """A watcher of the penalty box that does nothing about it."""

    def penalty_changed(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        pass


async def test_clients_that_wait_on_an_endpoint_move_on_when_another_dial_has_marked_it(
    bench: harness.Harness,
) -> None:
    """The second client came later, and does not wait out a timeout of its own."""
    path, hole, alive = bench.start(), await bench.black_hole(), bench.backend()
    service = path.serve_by(harness.Scripted(hole.address, alive.address))
    path.box.watch(hole.address, Unmoved())
    first = await bench.connect(service)
    await harness.until(lambda: path.dials == 1, "the first dial waits")
    await asyncio.sleep(0.12)  # half of the first dial's time
    others = [await bench.connect(service) for _ in range(5)]
    await harness.until(lambda: path.dials == 6, "their dials wait too")
    await harness.until(lambda: alive.waiting() == 6, "all move on", 1.0)
    assert service.dial_failures == {"timeout": 1}
    for client in (first, *others):
        await client.send(b"x")
    for _ in range(6):
        backend = await bench.accept(alive)
        async with harness.within("a byte arrives"):
            assert await backend.receive_exactly(1) == b"x"


async def test_a_client_with_nowhere_to_go_ends_with_a_reset_after_the_whole_ladder(
    bench: harness.Harness,
) -> None:
    """D03. The log names all four attempts."""
    path = bench.start()
    holes = [await bench.black_hole() for _ in range(4)]
    service = path.serve(*holes)
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as log:
        begun = loop.time()
        client = await bench.connect(service)
        await clients.is_reset(client, 2 * LADDER)
        took = loop.time() - begun
    assert took > LADDER * 0.95
    assert service.dial_failures == {"timeout": 4}
    assert service.ended == {halfclose.DIAL_FAILED: 1}
    (line,) = (entry for entry in log if entry["event"].startswith("no endpoint reachable"))
    assert {attempt.rpartition(": ")[0] for attempt in line["attempts"]} == {
        str(hole.address) for hole in holes
    }
    assert all(attempt.endswith(": timeout") for attempt in line["attempts"])


@pytest.mark.parametrize("places", [1, 4])
async def test_when_all_refuse_the_client_is_reset_at_once(
    bench: harness.Harness, places: int
) -> None:
    """D04. No waiting between refusals; the penalty is ignored when everything is boxed."""
    path = bench.start()
    refusing = [bench.place() for _ in range(places)]
    service = path.serve(*refusing)
    for _ in range(3):
        await clients.is_turned_away(bench, service)
    assert service.dial_failures == {"ECONNREFUSED": 12}
    assert service.ended == {halfclose.DIAL_FAILED: 3}


async def test_an_endpoint_is_used_although_it_is_boxed_when_all_are(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.place()
    service = path.serve(place)
    await clients.is_turned_away(bench, service)
    assert place.address in path.box
    place.listen()
    await clients.exchanges(bench, await bench.connect(service), place)
    assert place.address not in path.box, "a success sets it free"


async def test_a_success_that_took_longer_than_the_first_rung_proves_nothing(
    bench: harness.Harness,
) -> None:
    """The kernel repeats the last attempt's SYN after 1 s, and then it is answered."""
    path, slow = bench.start(), await bench.black_hole()
    service = path.serve(slow)
    client = await bench.connect(service)
    await harness.until(lambda: service.dial_failures == {"timeout": 3}, "the last rung")
    path.box.probe_started(slow.address)  # no probe of the proxy's own is to come in between
    slow.wake()
    await clients.exchanges(bench, client, slow)
    assert slow.address in path.box


async def test_a_late_answer_to_an_abandoned_dial_serves_no_client(bench: harness.Harness) -> None:
    """D06. The first attempt is over after 250 ms; its SYN is repeated after 1 s by the kernel."""
    path, slow, alive = bench.start(), await bench.black_hole(), bench.backend()
    service = path.serve_by(harness.Scripted(slow.address, alive.address))
    client = await bench.connect(service)
    await clients.exchanges(bench, client, alive)
    slow.wake()
    assert len(path.legs(dialled=True)) == 1
    await client.send(b"y")
    assert slow.waiting() == 0


async def test_dead_endpoints_of_one_service_do_not_hold_up_another(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D07. Two hundred dials wait; the other service's clients are served as ever."""
    monkeypatch.setattr(dial, "LADDER", (60.0,) * 4)
    path, hole, alive = bench.start(), await bench.black_hole(), bench.backend()
    dead, healthy = path.serve(hole), path.serve(alive)
    stuck = [await bench.connect(dead) for _ in range(200)]
    await harness.until(lambda: path.dials == 200, "all the dials wait")
    for _ in range(20):
        await clients.exchanges(bench, await bench.connect(healthy), alive)
    assert path.dials == 200, "and the others wait still"
    assert healthy.dial_failures == {}
    for client in stuck:
        client.reset()


async def test_a_storm_of_clients_is_served_beside_a_dead_endpoint(
    bench: harness.Harness,
) -> None:
    """D08. Of three endpoints one is dead: those given a good one never wait for the others."""
    path, hole = bench.start(), await bench.black_hole()
    good = [bench.backend(), bench.backend()]
    service = path.serve(hole, *good)
    for _ in range(300):
        await bench.connect(service)
    await harness.until(lambda: sum(p.waiting() for p in good) == 300, "all are served")
    assert service.ended == {}
    assert service.dial_failures.get("timeout", 0) <= 1


async def test_an_endpoint_removed_during_a_dial_is_not_tried_again(
    bench: harness.Harness,
) -> None:
    """D09. The attempt under way may finish; the next one goes elsewhere."""
    path, hole, alive = bench.start(), await bench.black_hole(), bench.place()
    service = path.serve(hole)
    assert service.balancer is not None
    client = await bench.connect(service)
    await harness.until(lambda: path.dials == 1, "the dial waits")
    service.balancer.update([alive.listen().address])
    await clients.exchanges(bench, client, alive)
    assert service.dial_failures == {"timeout": 1}
    assert hole.address not in path.box, "no service port uses it any more"


async def test_a_removed_endpoint_may_still_answer_a_dial_under_way(
    bench: harness.Harness,
) -> None:
    path, hole = bench.start(), await bench.black_hole()
    service = path.serve_by(harness.Scripted(*[hole.address] * 4))
    await bench.connect(service)
    await harness.until(lambda: path.dials == 1, "the dial waits")
    hole.wake()
    await harness.until(lambda: path.dials == 0 and path.data_path.connections == 1, "it answers")


async def test_a_service_deleted_during_a_dial_resets_its_client(bench: harness.Harness) -> None:
    """D10. When the attempt fails there is nowhere left to go."""
    path, hole = bench.start(), await bench.black_hole()
    service = path.serve(hole)
    assert service.balancer is not None
    client = await bench.connect(service)
    await harness.until(lambda: path.dials == 1, "the dial waits")
    path.data_path.shut(service.listener)
    service.balancer.close()
    await clients.is_reset(client)
    assert service.ended == {halfclose.NO_ENDPOINTS: 1}


async def test_no_endpoint_is_tried_twice_while_an_untried_one_is_left(
    bench: harness.Harness,
) -> None:
    """D11. And the client's affinity goes to the one that answered."""
    path = bench.start()
    dead = [bench.place(), bench.place(), bench.place()]
    alive = bench.backend()
    service = path.serve(*dead, alive, affinity_seconds=100)
    await clients.exchanges(bench, await bench.connect(service), alive)
    assert sum(service.dial_failures.values()) <= 3
    failed = service.dial_failures
    for _ in range(5):
        await clients.exchanges(bench, await bench.connect(service), alive)
    assert service.dial_failures == failed, "affinity was bound anew"


async def test_a_backend_that_resets_after_the_handshake_is_not_replaced_by_another(
    bench: harness.Harness,
) -> None:
    """D12. Bytes may have been consumed."""
    path, crashing, other = bench.start(), bench.backend(), bench.backend()
    service = path.serve_by(harness.Scripted(crashing.address, other.address))
    for _ in range(20):
        client, backend = await bench.pair(service, crashing)
        backend.reset()
        await clients.is_reset(client)
    assert other.waiting() == 0
    assert service.ended == {halfclose.BACKEND_RESET: 20}


async def test_a_dial_that_meets_itself_counts_as_refused(bench: harness.Harness) -> None:
    """D13. The kernel may give a dial the very port that it dials: it would talk to itself."""
    path, closed, alive = bench.start(), bench.place(ephemeral=True), bench.backend()
    service = path.serve_by(harness.Scripted(closed.address, alive.address))

    def meet_itself(sock: faulty.FaultySocket) -> None:
        path.kernel.prepare_dial = None
        closed.close()  # not earlier: the kernel could give its port to another socket
        sock.bind(closed.address)

    path.kernel.prepare_dial = meet_itself
    client = await bench.connect(service)
    await clients.exchanges(bench, client, alive)
    assert service.dial_failures == {"ECONNREFUSED": 1}
    assert client.waiting() == 0, "the client got its own bytes back"


async def test_a_service_without_endpoints_that_still_listens_resets_its_clients(
    bench: harness.Harness,
) -> None:
    """D16. Nothing listens where there are no endpoints; this is the moment before that."""
    path = bench.start()
    service = path.serve()
    await clients.is_turned_away(bench, service)
    assert service.ended == {halfclose.NO_ENDPOINTS: 1}
    place = bench.backend()
    assert service.balancer is not None
    service.balancer.update([place.address])
    await clients.exchanges(bench, await bench.connect(service), place)


async def test_a_closed_listener_refuses(bench: harness.Harness) -> None:
    """D16. What a service without endpoints looks like to its clients."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    path.data_path.shut(service.listener)
    with pytest.raises(ConnectionRefusedError):
        await bench.connect(service)


async def test_a_storm_of_cancelled_dials_leaks_nothing(bench: harness.Harness) -> None:
    """D18. Resets arrive around the moment when the first rung of the ladder ends."""
    path, hole = bench.start(), await bench.black_hole()
    service = path.serve(hole)
    crowd = [await bench.connect(service) for _ in range(300)]
    await harness.until(lambda: path.dials == 300, "the dials wait")
    async with harness.within("the storm is over"):
        for step, client in enumerate(crowd):
            client.reset()
            if step % 20 == 0:
                await asyncio.sleep(0.015)
    await harness.until(path.is_quiet, "everything is let go of")
    assert sum(service.ended.values()) == 300


async def test_a_client_that_resets_during_the_dial_ends_it(bench: harness.Harness) -> None:
    path, hole = bench.start(), await bench.black_hole()
    service = path.serve(hole)
    client = await bench.connect(service)
    await client.send(b"never to be delivered")
    await harness.until(lambda: path.dials == 1, "the dial waits")
    client.reset()
    await harness.until(path.is_quiet, "the dial is over")
    assert service.ended == {halfclose.CLIENT_LEFT_DIAL: 1}
    assert service.dial_failures == {}


async def test_a_fin_during_the_dial_is_no_abort_and_the_bytes_before_it_arrive(
    bench: harness.Harness,
) -> None:
    path, hole, alive = bench.start(), await bench.black_hole(), bench.backend()
    service = path.serve_by(harness.Scripted(hole.address, alive.address))
    client = await bench.connect(service)
    await client.send(b"all I have to say")
    client.shut_write()
    backend = await bench.accept(alive)
    async with harness.within("the request arrives, and its end"):
        assert await backend.receive_exactly(17) == b"all I have to say"
        assert await backend.receive_to_end() is actor.End.FIN
    await backend.send(b"an answer")
    backend.close()
    async with harness.within("the answer arrives, and its end"):
        assert await client.receive_exactly(9) == b"an answer"
        assert await client.receive_to_end() is actor.End.FIN


async def test_a_hundred_dials_finish_in_any_order(bench: harness.Harness) -> None:
    """Some endpoints refuse, some swallow, one answers: every client is served."""
    path, alive = bench.start(), bench.backend()
    dead = [bench.place(), await bench.black_hole()]
    orders = itertools.cycle(itertools.permutations([*dead, alive]))
    services = [
        path.serve_by(harness.Scripted(*[p.address for p in next(orders)])) for _ in range(6)
    ]
    works = [bench.connect(services[i % 6]) for i in range(100)]
    await registry.together(*works)
    await harness.until(lambda: alive.waiting() == 100, "all are served")
    await harness.until(lambda: path.dials == 0, "no dial is left")
