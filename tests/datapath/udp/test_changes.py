"""What becomes of flows when backends and frontends change. Cases U03 and U07 of docs/faults.md.

Behaviour: row 40 of docs/behaviour.md.
"""

import pytest

from kproxy.datapath.tcp import connection
from kproxy.datapath.udp import endings
from kproxy.model import names
from tests.datapath.rig import harness
from tests.datapath.udp import rig


async def test_row_40_u03_a_flow_leaves_a_removed_endpoint_at_once(udp: rig.Rig) -> None:
    gone, left = udp.server(), udp.server()
    service, client = udp.serve(gone, left), udp.client()
    await client.ask(b"1", service.address)
    assert gone.taken == [b"1"]
    udp.change(service, left)
    assert (await client.ask(b"2", service.address)) == b"%d 2" % left.address.port
    assert gone.taken == [b"1"]
    assert udp.data_path.flows == 1


async def test_flows_of_endpoints_that_stay_do_not_move(udp: rig.Rig) -> None:
    servers = [udp.server() for _ in range(3)]
    service = udp.serve(*servers)
    clients = [udp.client() for _ in range(6)]
    before = [(await client.ask(b"", service.address)) for client in clients]
    udp.change(service, *servers, udp.server(), udp.server())
    assert [(await client.ask(b"", service.address)) for client in clients] == before
    assert [len(server.clients) for server in servers] == [2, 2, 2]


async def test_affinity_holds_for_a_client_whose_endpoint_stays(udp: rig.Rig) -> None:
    servers = [udp.server() for _ in range(3)]
    service = udp.serve(*servers, affinity_seconds=60)
    first = await udp.client().ask(b"", service.address)
    udp.change(service, *servers, udp.server())
    assert await udp.client().ask(b"", service.address) == first


async def test_a_flow_without_an_endpoint_ends_and_begins_anew(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(server)
    await client.ask(b"1", service.address)
    udp.change(service)
    await client.send(b"2", service.address)
    await udp.until_flows(0)
    assert service.ended == {endings.NO_ENDPOINTS: 1}
    assert udp.data_path.counters.datagrams_lost == 1
    udp.change(service, server)
    assert (await client.ask(b"3", service.address)).endswith(b" 3")


async def test_row_45_u07_a_closed_front_ends_its_flows_and_its_port_is_free_at_once(
    udp: rig.Rig,
) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(server)
    await client.ask(b"1", service.address)
    udp.data_path.shut(service.front)
    assert udp.data_path.flows == 0

    again = udp.data_path.open_datagrams(service.address, service.target)
    assert (await client.ask(b"2", again.address)).endswith(b" 2")
    assert len(server.clients) == 2
    udp.data_path.shut(again)

    client.sock.connect(service.address)
    client.sock.send(b"3")
    with pytest.raises(ConnectionRefusedError):  # an ICMP error: nothing listens
        await client.receive()


async def test_row_6_tcp_and_udp_on_one_port(bench: harness.Harness, udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(server)
    path, place = bench.start(), bench.backend()
    name = names.ServicePortName(names.NamespacedName("test", "tcp"))
    opened = path.data_path.open(
        service.address, connection.Target(name, harness.Scripted(place.address))
    )
    stream = await bench.connect(opened.address)
    far = await bench.accept(place)
    assert (await client.ask(b"datagram", service.address)).endswith(b" datagram")
    await stream.send(b"stream")
    async with harness.within("bytes arrive"):
        assert await far.receive_exactly(6) == b"stream"
    udp.data_path.shut(service.front)
    await stream.send(b"goes on")
    async with harness.within("bytes arrive"):
        assert await far.receive_exactly(7) == b"goes on"


async def test_who_is_not_admitted_is_dropped_and_that_can_change(udp: rig.Rig) -> None:
    server = udp.server()
    service = udp.serve(server, admitted=("127.0.0.2/32",))
    admitted, other = udp.client("127.0.0.2"), udp.client("127.0.0.1")
    await other.send(b"no", service.address)
    assert (await admitted.ask(b"yes", service.address)).endswith(b" yes")
    assert server.taken == [b"yes"]
    await harness.until(lambda: service.front.drops == 1, "it is dropped")
    service.front.admit(())
    await admitted.send(b"no", service.address)
    await harness.until(lambda: service.front.drops == 2, "it is dropped, too")
    service.front.admit(None)
    assert (await other.ask(b"now", service.address)).endswith(b" now")
    assert server.taken == [b"yes", b"now"]
