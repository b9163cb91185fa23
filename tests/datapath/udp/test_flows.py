"""A client's datagrams stay with one backend, and flows are counted, shown and told of.

Behaviour: row 40 of docs/behaviour.md.
"""

from kproxy import events
from kproxy.datapath.udp import endings
from tests.datapath.rig import harness
from tests.datapath.udp import rig


async def test_row_40_a_clients_port_stays_and_others_take_turns(udp: rig.Rig) -> None:
    servers = [udp.server() for _ in range(3)]
    service = udp.serve(*servers)
    clients = [udp.client() for _ in range(6)]
    for _ in range(3):
        for client in clients:
            await client.ask(b"x", service.address)
    assert [len(server.taken) for server in servers] == [6, 6, 6]
    assert [len(server.clients) for server in servers] == [2, 2, 2]


async def test_a_client_with_affinity_stays_with_its_backend_over_its_ports(udp: rig.Rig) -> None:
    servers = [udp.server() for _ in range(3)]
    service = udp.serve(*servers, affinity_seconds=60)
    clients = [udp.client(host) for host in ("127.0.0.1", "127.0.0.2") for _ in range(4)]
    answers = [(await client.ask(b"", service.address)).split()[0] for client in clients]
    assert len(set(answers[:4])) == len(set(answers[4:])) == 1
    assert answers[0] != answers[4]


async def test_one_client_at_two_frontends_has_two_flows(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    first, second = udp.serve(server), udp.serve(server)
    for service in (first, second, first, second):
        await client.ask(b"x", service.address)
    assert udp.data_path.flows == len(server.clients) == 2


async def test_flows_are_counted_like_connections(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(server)
    for _ in range(3):
        await client.ask(b"12345", service.address)
    answered = 3 * (len(f"{server.address.port} ") + 5)
    counters = service.target.counters
    for _ in udp.data_path.count_bytes():
        pass
    assert (counters.active, counters.accepted) == (1, 1)
    assert (counters.bytes_from_clients, counters.bytes_from_backends) == (15, answered)
    tally = counters.endpoints[server.address]
    assert (tally.total, tally.active, tally.dial_failures) == (1, 1, 0)
    assert udp.data_path.counters.datagrams == 6

    udp.data_path.shut(service.front)

    assert service.ended == {endings.FRONTEND_CLOSED: 1}
    assert (counters.active, counters.accepted, tally.active) == (0, 1, 0)
    assert (counters.bytes_from_clients, counters.bytes_from_backends) == (15, answered)


async def test_flows_are_shown_beside_connections(udp: rig.Rig) -> None:
    server, sink = udp.server(), udp.sink()
    answering, silent = udp.serve(server), udp.serve(sink)
    client = udp.client()
    await client.ask(b"123", answering.address)
    await client.send(b"12", silent.address)
    await harness.until(lambda: sink.taken, "it arrives")
    views = {view.service: view for view in udp.views()}
    view = views[answering.target.name]
    assert (view.client, view.client_port) == client.address
    assert (view.frontend, view.backend) == (answering.address, server.address)
    answer = len(f"{server.address.port} 123")
    assert (view.state, view.bytes_from_client, view.bytes_from_backend) == ("answered", 3, answer)
    view = views[silent.target.name]
    assert (view.state, view.bytes_from_client, view.bytes_from_backend) == ("unanswered", 2, 0)


async def test_facts_cover_a_flow_from_its_first_datagram_to_its_end(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    service = udp.serve(udp.dead(), server)
    subscription = udp.subscribe()
    await client.ask(b"123", service.address)
    udp.data_path.shut(service.front)
    told = []
    while (fact := subscription.take()) is not None:
        told.append(fact)
    kinds = [type(fact) for fact in told]
    assert kinds == [
        *(events.ConnectionAccepted, events.Dialled, events.DialFailed, events.Dialled),
        events.ConnectionEnded,
    ]
    failed, dialled, ended = told[2:]
    assert isinstance(failed, events.DialFailed)
    assert (failed.reason, failed.attempt) == ("ECONNREFUSED", 1)
    assert isinstance(dialled, events.Dialled)
    assert (dialled.client, dialled.endpoint) == (client.address, server.address)
    assert isinstance(ended, events.ConnectionEnded)
    assert (ended.result, ended.why) == ("F/X", "its frontend was closed")
    answer = len(f"{server.address.port} 123")
    assert (ended.bytes_from_client, ended.bytes_from_endpoint) == (3, answer)
