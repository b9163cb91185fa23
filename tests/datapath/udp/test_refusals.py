"""ICMP errors move flows and box endpoints; silence does neither. Case U02 of docs/faults.md."""

import errno

import pytest

from kproxy.datapath.udp import endings
from tests.datapath.rig import harness
from tests.datapath.udp import rig


async def test_u02_a_dead_endpoint_costs_no_client_a_datagram(udp: rig.Rig) -> None:
    server, dead = udp.server(), udp.dead()
    service = udp.serve(dead, server)
    for n in range(10):
        client = udp.client()
        assert (await client.ask(b"%d" % n, service.address)).endswith(b" %d" % n)
    assert dead in udp.box
    assert service.target.counters.dial_failures == {"ECONNREFUSED": 1}
    assert service.target.counters.endpoints[dead].dial_failures == 1
    assert udp.data_path.counters.datagrams_lost == 0


async def test_several_dead_endpoints_are_tried_in_turn(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    dead = [udp.dead() for _ in range(3)]
    service = udp.serve(*dead, server)
    assert (await client.ask(b"x", service.address)).endswith(b" x")
    assert server.taken == [b"x"]
    assert all(each in udp.box for each in dead)


async def test_an_empty_first_datagram_moves_on_too(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(udp.dead(), server)
    assert await client.ask(b"", service.address) == b"%d " % server.address.port


async def test_when_all_refuse_datagrams_are_lost_and_counted_until_one_is_back(
    udp: rig.Rig,
) -> None:
    dead, client = udp.dead(), udp.client()
    service = udp.serve(dead)
    for n in range(1, 4):
        await client.send(b"x", service.address)
        await harness.until(lambda n=n: udp.data_path.counters.datagrams_lost == n, "it is lost")  # type: ignore[misc]  # a default binds it
    assert udp.data_path.flows == 1
    server = udp.server(port=dead.port)
    assert (await client.ask(b"again", service.address)).endswith(b" again")
    assert server.taken == [b"again"]
    assert len(udp.box) == 0, "it has answered"


async def test_a_flow_leaves_the_endpoint_that_begins_to_refuse(udp: rig.Rig) -> None:
    servers = [udp.server(), udp.server()]
    service, client = udp.serve(*servers), udp.client()
    await client.ask(b"", service.address)
    first, other = sorted(servers, key=lambda server: not server.taken)
    first.close()
    await client.send(b"lost: it had been answered before", service.address)
    await harness.until(lambda: first.address in udp.box, "the endpoint is boxed")
    assert (await client.ask(b"x", service.address)) == b"%d x" % other.address.port
    tallies = service.target.counters.endpoints
    assert (tallies[first.address].active, tallies[other.address].active) == (0, 1)


async def test_other_flows_leave_a_boxed_endpoint_before_it_refuses_them(udp: rig.Rig) -> None:
    servers = [udp.server(), udp.server()]
    service = udp.serve(*servers)
    clients = [udp.client() for _ in range(4)]
    for client in clients:
        await client.ask(b"", service.address)
    going, staying = servers
    going.close()
    for client in clients:
        await client.send(b"x", service.address)
    await harness.until(lambda: going.address in udp.box, "it is boxed")
    await harness.until(lambda: len(staying.taken) >= 2, "the others arrive")
    for client in clients:
        await client.ask(b"y", service.address)
    assert service.target.counters.dial_failures["ECONNREFUSED"] <= 2


async def test_silence_does_not_count(udp: rig.Rig) -> None:
    sink, client = udp.sink(), udp.client()
    service = udp.serve(sink, udp.dead())
    for _ in range(20):
        await client.send(b"x", service.address)
    await harness.until(lambda: len(sink.taken) == 20, "all arrive")
    assert len(udp.box) == 0


async def test_a_boxed_endpoint_is_on_parole_ever_later_until_it_answers(udp: rig.Rig) -> None:
    dead, server = udp.dead(), udp.server()
    service = udp.serve(dead, server)
    waits = []
    for _ in range(3):
        while dead not in udp.box:
            await udp.client().ask(b"", service.address)
        waits.append((udp.box.until(dead) or 0) - udp.clock.monotonic())
        udp.clock.ahead += waits[-1]
        await harness.until(lambda: dead not in udp.box, "its penalty is over")
    assert [round(each) for each in waits] == [1, 2, 4]
    assert udp.facts == ["boxed", "free"] * 3

    back = udp.server(port=dead.port)
    await harness.until(lambda: len(udp.box.paroled) == 1, "it is on parole")
    while not back.taken:
        await udp.client().ask(b"", service.address)
    assert not udp.box.paroled


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EAGAIN, errno.ENOBUFS])
async def test_a_shortage_here_is_not_the_endpoints_fault(
    udp: rig.Rig, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(server)

    def fails(_: object) -> None:
        raise OSError(code, "as asked")

    with monkeypatch.context() as patched:
        patched.setattr(udp.data_path._kernel, "datagram_socket", fails)
        await client.send(b"x", service.address)
        await harness.until(lambda: udp.data_path.counters.datagrams_lost == 1, "it is lost")
    assert service.ended == {endings.NO_RESOURCES: 1}
    assert len(udp.box) == 0
    assert (await client.ask(b"y", service.address)).endswith(b" y")
