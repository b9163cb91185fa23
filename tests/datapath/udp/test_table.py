"""The table of flows: when flows end, and which of them, and what that costs.

Case U04 of docs/faults.md.
"""

import errno
import gc
from collections.abc import AsyncIterator

import pytest

from kproxy.datapath import data_path, descriptors
from kproxy.datapath.udp import endings
from tests.datapath.rig import harness
from tests.datapath.udp import rig

SOON = 0.01


@pytest.fixture
async def small(bench: harness.Harness) -> AsyncIterator[rig.Rig]:  # closed after it
    """A table of eight flows."""
    made = rig.Rig(data_path.Limits(max_flows=8))
    yield made
    made.close()


async def test_an_idle_flow_ends_earlier_if_it_was_never_answered(udp: rig.Rig) -> None:
    server, sink = udp.server(), udp.sink()
    answering, silent = udp.serve(server), udp.serve(sink)
    await udp.client().ask(b"x", answering.address)
    await udp.client().send(b"x", silent.address)
    await udp.until_flows(2)
    udp.clock.ahead += 10 + SOON
    await udp.until_flows(1)
    assert (answering.ended, silent.ended) == ({}, {endings.IDLE: 1})
    udp.clock.ahead += 20
    await udp.until_flows(0)
    assert answering.ended == {endings.IDLE: 1}


async def test_datagrams_in_either_direction_keep_a_flow(udp: rig.Rig) -> None:
    sink, server = udp.sink(), udp.server()
    service, idle = udp.serve(sink), udp.serve(server)
    client = udp.client()
    await client.send(b"x", service.address)
    await harness.until(lambda: sink.taken, "it arrives")
    flow = ("127.0.0.1", next(iter(sink.clients)))
    for n in range(4):
        await udp.client().ask(b"x", idle.address)
        udp.clock.ahead += 9
        if n % 2:
            await client.send(b"x", service.address)
            await harness.until(lambda n=n: len(sink.taken) == 1 + (n + 1) // 2, "it arrives")  # type: ignore[misc]  # a default binds it
        else:
            await sink.send(b"x", flow)
            await client.receive()
    udp.clock.ahead += 25
    await harness.until(lambda: idle.ended.get(endings.IDLE) == 4, "the others end")
    assert service.ended == {}


@pytest.mark.parametrize("seconds", [0.25, 60.0])
async def test_row_40_one_timeout_for_all_can_be_asked_for(
    bench: harness.Harness,
    seconds: float,
) -> None:
    udp = rig.Rig(data_path.Limits(udp_timeout=seconds))
    try:
        server, sink = udp.server(), udp.sink()
        answering, silent = udp.serve(server), udp.serve(sink)
        udp.clock.ahead += 1000
        await udp.client().ask(b"x", answering.address)
        await udp.client().send(b"x", silent.address)
        await harness.until(lambda: sink.taken, "it arrives")
        udp.clock.ahead += seconds + SOON
        await udp.until_flows(0)
        assert answering.ended == silent.ended == {endings.IDLE: 1}
    finally:
        udp.close()


async def test_u04_the_least_recently_used_flow_makes_way(small: rig.Rig) -> None:
    server = small.server()
    service = small.serve(server)
    clients = [small.client() for _ in range(9)]
    for client in clients[:8]:
        await client.ask(b"x", service.address)
    await clients[0].ask(b"x", service.address)
    await clients[8].ask(b"x", service.address)
    assert small.data_path.flows == small.data_path.max_flows == 8
    shown = {view.client_port for view in small.views()}
    assert shown == {client.address.port for client in clients} - {clients[1].address.port}
    assert service.ended == {endings.MADE_WAY: 1}


async def test_u04_a_flood_of_clients_ends_its_own_flows(small: rig.Rig) -> None:
    server = small.server()
    quiet, flooded = small.serve(server), small.serve(server)
    kept = [small.client() for _ in range(4)]
    for client in kept:
        await client.ask(b"x", quiet.address)
    before = set(server.clients)
    for _ in range(50):
        await small.client().ask(b"x", flooded.address)
    assert small.data_path.flows == 8
    assert quiet.ended == {}
    after = set(server.clients)
    for client in kept:
        await client.ask(b"y", quiet.address)
    assert before <= after == server.clients


async def test_a_newcomer_gets_its_share_of_a_full_table(small: rig.Rig) -> None:
    server = small.server()
    first, second = small.serve(server), small.serve(server)
    for _ in range(8):
        await small.client().ask(b"x", first.address)
    for _ in range(8):
        await small.client().ask(b"x", second.address)
    assert (len(first.front.flows), len(second.front.flows)) == (4, 4)


async def test_u04_thousands_of_clients_cost_a_bounded_number_of_files_and_no_garbage(
    small: rig.Rig,
) -> None:
    server = small.server()
    service = small.serve(server)

    async def many(count: int) -> None:
        for _ in range(count):
            client = rig.Peer()
            await client.ask(b"x", service.address)
            client.close()

    empty = harness.open_files()
    await many(200)
    gc.collect()
    gc.disable()
    try:
        objects = len(gc.get_objects())
        await many(2000)
        assert harness.open_files() <= empty + 8 + 8, "flows, and sockets that rest between two"
        assert len(gc.get_objects()) - objects < 200
    finally:
        gc.enable()
    assert service.ended[endings.MADE_WAY] >= 2000


async def test_flows_leave_files_to_connections(bench: harness.Harness) -> None:
    with harness.open_files_limit(1024):
        udp = rig.Rig(data_path.Limits(max_flows=100))
        before = udp.data_path.max_connections
        service = udp.serve(udp.server())
        left = descriptors.free(1024) - 1 - 100
        resting = left // 8
        assert udp.data_path.max_connections == (left - resting) // 2
        udp.data_path.shut(service.front)
        assert udp.data_path.max_connections == before
        udp.close()


async def test_without_a_file_a_flow_takes_the_place_of_another(udp: rig.Rig) -> None:
    service = udp.serve(udp.server())
    await udp.client().ask(b"x", service.address)
    shared = udp.data_path._shared
    held = shared.connections
    shared.connections = 1 << 20
    try:
        await udp.client().ask(b"y", service.address)
        assert udp.data_path.flows == 1
        with pytest.raises(OSError, match="files") as refused:
            udp.serve(udp.server())
        assert refused.value.errno == errno.EMFILE
    finally:
        shared.connections = held
    assert service.ended == {endings.MADE_WAY: 1}
