"""Datagrams pass whole, one by one, in both families, and answers come from the frontend.

Cases: U01 and U05 of docs/faults.md; row 40 of docs/behaviour.md.
"""

import pytest

from tests.datapath.rig import harness
from tests.datapath.udp import rig

SIZES = (0, 1, 511, 1472, 4096, 4097, 9000, 65000)
HOSTS = {"IPv4": ("127.0.0.1", ""), "IPv6": ("::1", "::1")}
LARGEST = 65507


@pytest.mark.parametrize("family", HOSTS)
async def test_u01_datagrams_of_every_size_come_back_as_they_were(
    udp: rig.Rig, family: str
) -> None:
    host, at = HOSTS[family]
    server, client = udp.server(host), udp.client(host)
    service = udp.serve(server, at=at)
    own = f"{server.address.port} ".encode()
    for size in SIZES:
        sent = bytes(n % 251 for n in range(size))
        assert await client.ask(sent, service.address) == own + sent
    assert [len(each) for each in server.taken] == list(SIZES)


async def test_the_largest_datagram_there_is(udp: rig.Rig) -> None:
    sink, client = udp.sink(), udp.client()
    service = udp.serve(sink)
    sent = bytes(n % 251 for n in range(LARGEST))
    await client.send(sent, service.address)
    await harness.until(lambda: sink.taken == [sent], "it arrives")
    flow = socket_address(sink)
    answer = sent[::-1]
    await sink.send(answer, ("127.0.0.1", flow))
    assert await client.receive() == (answer, service.address)


def socket_address(sink: rig.Sink) -> int:
    (port,) = sink.clients
    return port


async def test_datagrams_that_are_sent_at_once_keep_their_bounds(udp: rig.Rig) -> None:
    sink, client = udp.sink(), udp.client()
    service = udp.serve(sink)
    sent = [bytes([n]) * (n * 7 % 300) for n in range(100)]
    for each in sent:
        await client.send(each, service.address)
    await harness.until(lambda: len(sink.taken) == len(sent), "all arrive")
    assert sink.taken == sent


async def test_several_answers_to_one_datagram(udp: rig.Rig) -> None:
    sink, client = udp.sink(), udp.client()
    service = udp.serve(sink)
    await client.send(b"all of it", service.address)
    await harness.until(lambda: sink.taken, "it arrives")
    for n in range(40):
        await sink.send(bytes([n]), ("127.0.0.1", socket_address(sink)))
    for n in range(40):
        assert await client.receive() == (bytes([n]), service.address)


async def test_u05_each_answer_comes_from_the_frontend_that_was_asked(udp: rig.Rig) -> None:
    server, client = udp.server(), udp.client()
    services = [udp.serve(server) for _ in range(3)]
    for service in services:
        await client.send(b"x", service.address)
    sources = {(await client.receive())[1] for _ in services}
    assert sources == {tuple(service.address) for service in services}


async def test_another_socket_cannot_answer_for_the_backend(udp: rig.Rig) -> None:
    sink, stranger, client = udp.sink(), udp.client(), udp.client()
    service = udp.serve(sink)
    await client.send(b"x", service.address)
    await harness.until(lambda: sink.taken, "it arrives")
    flow = ("127.0.0.1", socket_address(sink))
    await stranger.send(b"forged", flow)
    await sink.send(b"answer", flow)
    assert await client.receive() == (b"answer", service.address)
