"""Clients that come through a proxy in front, which says who they are by a PROXY header."""

import asyncio
import socket
from collections.abc import Sequence

import pytest
import structlog

from kproxy import events
from kproxy.datapath import data_path, proxy_protocol
from kproxy.datapath.tcp import halfclose
from kproxy.datapath.tcp.accept import intake
from kproxy.model import addresses, lifetimes
from tests.datapath.rig import clients, faulty, harness
from tests.relay import actor, registry

pytestmark = pytest.mark.xdist_group("time")

LISTED = data_path.Limits(proxy_protocol_from=("127.0.0.0/8",))
OTHERS_LISTED = data_path.Limits(proxy_protocol_from=("192.0.2.0/24", "2001:db8::/32"))

ENDS = proxy_protocol.Ends(
    addresses.SocketAddress("203.0.113.7", 4711), addresses.SocketAddress("198.51.100.1", 443)
)
V1 = proxy_protocol.build_v1(ENDS)
V2 = proxy_protocol.build_v2(ENDS)
LOCAL_V2 = V2[:12] + b"\x20\x00\x00\x00"


class Asked(harness.Scripted):
    """A picker that remembers which clients it was asked for."""

    def __init__(self, *backends: addresses.SocketAddress) -> None:
        super().__init__(*backends)
        self.clients: list[str] = []

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        self.clients.append(client)
        return super().pick(client, now)


async def exactly(end: actor.Actor, expected: bytes) -> None:
    async with harness.within(f"{expected!r} arrives at {end}"):
        assert await end.receive_exactly(len(expected)) == expected


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_the_client_is_the_one_that_the_header_names(
    bench: harness.Harness, header: bytes
) -> None:
    path, place = bench.start(LISTED), bench.backend()
    picker = Asked(place.address)
    service = path.serve_by(picker)
    client = await bench.connect(service)
    await client.send(header + b"hello")
    backend = await bench.accept(place)
    await exactly(backend, b"hello")
    await backend.send(b"world")
    await exactly(client, b"world")

    (view,) = path.views()
    assert (view.client, view.client_port, view.state) == ("203.0.113.7", 4711, "open")
    assert view.frontend == service.listener.address
    assert (view.bytes_from_client, view.bytes_from_backend) == (5, 5)
    assert picker.clients == ["203.0.113.7"]


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_a_header_may_come_in_any_two_pieces(bench: harness.Harness, header: bytes) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    for cut in range(1, len(header)):
        client = await bench.connect(service)
        await client.send(header[:cut])
        await harness.until(lambda: path.data_path.connections == 1, "the client is accepted")
        await client.send(header[cut:] + b"!")
        backend = await bench.accept(place)
        await exactly(backend, b"!")
        client.close()
        backend.close()
        await harness.until(path.is_quiet, "the connection ends")
    assert service.ended == {halfclose.CLIENT_CLOSED: len(header) - 1}
    assert service.target.counters.bytes_from_clients == len(header) - 1


async def test_a_header_may_come_byte_by_byte_and_the_end_with_its_last(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    for byte in V2:
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    client.shut_write()
    backend = await bench.accept(place)
    async with harness.within("the backend meets the end"):
        assert await backend.receive_to_end() is actor.End.FIN
    backend.close()
    async with harness.within("the client meets the end"):
        assert await client.receive_to_end() is actor.End.FIN


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", LOCAL_V2], ids=["UNKNOWN", "LOCAL"])
async def test_without_addresses_the_proxy_in_front_is_the_client(
    bench: harness.Harness, header: bytes
) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    await client.send(header + b"x")
    await exactly(await bench.accept(place), b"x")

    (view,) = path.views()
    assert (view.client, view.client_port) == client.sock.getsockname()


async def test_many_bytes_behind_the_header_arrive_all(bench: harness.Harness) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    body = bytes(range(256)) * 4096
    async with registry.alongside(client.send(V2 + body)):
        await exactly(await bench.accept(place), body)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a request"),
        pytest.param(b"PROXY TCP4 203.0.113.7\r\n", id="a broken header"),
        pytest.param(V2[:13] + b"\x31" + V2[14:], id="a Unix socket's"),
    ],
)
async def test_a_listed_address_that_sends_no_header_is_reset_with_one_line_for_all(
    bench: harness.Harness, sent: bytes
) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            client = await bench.connect(service)
            await client.send(sent)
            await clients.is_reset(client)
    assert service.ended == {halfclose.BAD_HEADER: 3}
    assert service.target.counters.bytes_from_clients == 0
    assert place.waiting() == 0
    (line,) = [each for each in logs if each["log_level"] == "warning"]
    assert "--proxy-protocol-from" in line["event"]
    assert (line["proxy"], line["service"]) == ("127.0.0.1", service.target.text)


async def test_a_header_that_is_not_whole_in_time_costs_its_sender_the_connection(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "TIMEOUT", 0.2)
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    silent, slow = await bench.connect(service), await bench.connect(service)
    await slow.send(V2[:20])
    await clients.is_reset(silent)
    await clients.is_reset(slow)
    assert service.ended == {halfclose.HEADER_TIMEOUT: 2}
    client = await bench.connect(service)
    await client.send(V1 + b"x")
    await exactly(await bench.accept(place), b"x")


async def test_a_connection_that_waits_is_seen_and_ends_with_its_proxy(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    leaving, cut = await bench.connect(service), await bench.connect(service)
    await leaving.send(V2[:20])
    await harness.until(lambda: path.data_path.connections == 2, "both are accepted")
    states = {view.state for view in path.views()}
    assert states == {"awaiting-proxy-header"}
    leaving.close()
    await harness.until(
        lambda: service.ended == {halfclose.LEFT_HEADER: 1}, "the one that left is gone"
    )
    assert path.data_path.abort_all() == 1
    await clients.is_reset(cut)
    assert service.ended == {halfclose.LEFT_HEADER: 1, halfclose.KILLED: 1}


async def test_an_address_that_is_not_listed_is_not_believed(bench: harness.Harness) -> None:
    path, place = bench.start(OTHERS_LISTED), bench.backend()
    service = path.serve(place)
    client = await bench.connect(service)
    await client.send(V1)
    await exactly(await bench.accept(place), V1)
    (view,) = path.views()
    assert view.client == "127.0.0.1"


async def test_affinity_goes_by_the_client_behind_the_proxy(bench: harness.Harness) -> None:
    path, places = bench.start(LISTED), [bench.backend() for _ in range(3)]
    service = path.serve(*places, affinity_seconds=600)
    for count in range(1, 7):
        client = await bench.connect(service)
        await client.send(V1)
        await harness.until(
            lambda: sum(place.waiting() for place in places) == count,  # noqa: B023
            "the connection reaches an endpoint",
        )
    assert sorted(place.waiting() for place in places) == [0, 0, 6]


async def test_a_subscriber_gets_both_addresses(bench: harness.Harness) -> None:
    path, place = bench.start(LISTED), bench.backend()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    subscription = feed.subscribe()
    service = path.serve(place)
    client = await bench.connect(service)
    await client.send(V1)
    await bench.accept(place)

    def take() -> Sequence[events.Fact]:
        return list(iter(subscription.take, None))

    _, named, dialled = take()
    via = client.sock.getsockname()
    assert named == events.ClientNamed(named.at, service.target.text, ENDS.source, via)
    assert isinstance(dialled, events.Dialled)
    assert dialled.client == ENDS.source


@pytest.mark.parametrize("version", lifetimes.ProxyProtocol)
async def test_a_header_goes_before_the_first_byte(
    bench: harness.Harness, version: lifetimes.ProxyProtocol
) -> None:
    """Also if the backend speaks first: it waits for the header."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    service.target.terms.build_header = proxy_protocol.BUILDERS[version]
    client, backend = await bench.pair(service, place)
    source = addresses.SocketAddress(*client.sock.getsockname())
    header = proxy_protocol.BUILDERS[version](proxy_protocol.Ends(source, service.listener.address))
    await exactly(backend, header)
    await backend.send(b"220 ready")
    await exactly(client, b"220 ready")
    await client.send(b"HELO")
    await exactly(backend, b"HELO")
    (view,) = path.views()
    assert view.bytes_from_client == 4


async def test_the_header_and_the_first_bytes_are_one_segment(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    service.target.terms.build_header = proxy_protocol.build_v2
    with socket.create_connection(service.listener.address) as sock:
        client = actor.Actor(sock, "the client")
        sock.sendall(b"GET /")  # both before the data path has its turn
        harness.settled(lambda: client.in_flight() == 0, "the kernel has the bytes")
        backend = await bench.accept(place)
        await harness.until(lambda: backend.waiting() > 0, "something has arrived")
        assert backend.waiting() == 28 + len(b"GET /")


async def test_every_endpoint_that_is_tried_gets_the_header_anew(bench: harness.Harness) -> None:
    path, refusing, hole, place = (
        bench.start(),
        bench.place(),
        await bench.black_hole(),
        bench.backend(),
    )
    service = path.serve_by(harness.Scripted(refusing.address, hole.address, place.address))
    service.target.terms.build_header = proxy_protocol.build_v1
    client = await bench.connect(service)
    await client.send(b"hello")
    backend = await bench.accept(place)
    source = addresses.SocketAddress(*client.sock.getsockname())
    ends = proxy_protocol.Ends(source, service.listener.address)
    await exactly(backend, proxy_protocol.build_v1(ends) + b"hello")
    assert service.dial_failures == {"ECONNREFUSED": 1, "timeout": 1}


async def test_a_client_that_says_nothing_and_ends_has_its_header_and_its_end_passed_on(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    service.target.terms.build_header = proxy_protocol.build_v1
    client = await bench.connect(service)
    client.shut_write()
    backend = await bench.accept(place)
    source = addresses.SocketAddress(*client.sock.getsockname())
    ends = proxy_protocol.Ends(source, service.listener.address)
    await exactly(backend, proxy_protocol.build_v1(ends))
    async with harness.within("the end arrives"):
        assert await backend.receive_to_end() is actor.End.FIN


async def test_what_the_proxy_in_front_says_is_passed_on(bench: harness.Harness) -> None:
    """In the other version too, and the address that the client connected to with it."""
    path, place = bench.start(LISTED), bench.backend()
    service = path.serve(place)
    service.target.terms.build_header = proxy_protocol.build_v2
    client = await bench.connect(service)
    await client.send(V1 + b"x")
    await exactly(await bench.accept(place), V2 + b"x")


@pytest.mark.parametrize("version", lifetimes.ProxyProtocol)
async def test_headers_of_ipv6(bench: harness.Harness, version: lifetimes.ProxyProtocol) -> None:
    """From a proxy in front over IPv6 to a backend over IPv4, and of kproxy's own client."""
    path, place = bench.start(data_path.Limits(proxy_protocol_from=("::1/128",))), bench.backend()
    target = path.serve(place).target
    target.terms.build_header = build = proxy_protocol.BUILDERS[version]
    opened = path.data_path.open(addresses.SocketAddress("::1", 0), target)
    ends = proxy_protocol.Ends(
        addresses.SocketAddress("2001:db8::7", 4711), addresses.SocketAddress("2001:db8::1", 443)
    )
    for sent, expected in ((V2[:12] + b"\x20\x00\x00\x00", None), (build(ends), build(ends))):
        with socket.create_connection(opened.address) as client:
            client.sendall(sent + b"x")
            own = proxy_protocol.Ends(
                addresses.SocketAddress(*client.getsockname()[:2]), opened.address
            )
            await exactly(await bench.accept(place), (expected or build(own)) + b"x")


@pytest.mark.parametrize("seed", range(5))
async def test_headers_pass_through_a_kernel_of_short_reads_and_writes(
    bench: harness.Harness, seed: int
) -> None:
    path = bench.start(LISTED, faulty.FaultyKernel(faulty.ROUGH, seed))
    place = bench.backend()
    service = path.serve(place)
    service.target.terms.build_header = proxy_protocol.build_v2
    for _ in range(20):
        try:
            client = await bench.connect(service)
            await client.send(V1 + b"hello")
            backend = await bench.accept(place)
        except ConnectionError:  # this kernel loses clients at accept
            continue
        await exactly(backend, V2 + b"hello")
