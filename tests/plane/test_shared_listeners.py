"""Frontends that share a listening socket, in a data plane here and in another process.

Any socket on all addresses will do for that: an accepted socket's own address is the one that its
client connected to.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from kproxy import events, turns
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding, names
from kproxy.plane import in_process, plane
from tests import isolation
from tests.datapath.rig import harness
from tests.ops import surfaces
from tests.plane import remote
from tests.reconcile import builders

WEB, DB = builders.port_of("web"), builders.port_of("db")
PATIENCE = 10.0
NAME = "IPv4"
LIMITS = data_path.Limits(max_connections=2)


def in_this_process(feed: events.Feed) -> plane.DataPlane:
    return in_process.InProcessPlane(LIMITS, feed=feed)


def in_another_process(feed: events.Feed) -> plane.DataPlane:
    return remote.RemotePlane(LIMITS, feed=feed)


@pytest.fixture(params=[in_this_process, in_another_process])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[plane.DataPlane]:
    make: Callable[[events.Feed], plane.DataPlane] = request.param
    made = make(events.Feed())
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """What a portal would make."""
    with socket.create_server(("0.0.0.0", 0)) as made:
        yield made


class Backend:
    """Says its name to each client, then waits for its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = addresses.SocketAddress("127.0.0.1", 0)
        self._talks: set[tuple[asyncio.StreamWriter, asyncio.Event]] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = writer, asyncio.Event()
        self._talks.add(talk)
        writer.write(self.name.encode())
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        talk[1].set()

    async def end(self) -> None:
        for writer, is_over in self._talks:
            writer.close()
            await is_over.wait()


@pytest.fixture
async def backends() -> AsyncIterator[dict[names.ServicePortName, Backend]]:
    made = {WEB: Backend("web"), DB: Backend("db")}
    async with contextlib.AsyncExitStack() as stack:
        for each in made.values():
            server = await asyncio.start_server(each.talk, "127.0.0.1", 0)
            stack.push_async_callback(each.end)
            stack.callback(server.close)
            each.address = addresses.SocketAddress(*server.sockets[0].getsockname())
        yield made


def at(listener: socket.socket, last: int) -> forwarding.PortalAddress:
    """A virtual address whose clients come to the socket."""
    host = f"127.{isolation.octet()}.8.{last}"
    return forwarding.PortalAddress(host, listener.getsockname()[1])


class Reports:
    """What the data plane has answered."""

    def __init__(self, served: plane.DataPlane) -> None:
        self.heard: list[forwarding.Report] = []
        served.subscribe(self.heard.append)

    async def next(self) -> forwarding.Report:
        await surfaces.until(lambda: bool(self.heard))
        return self.heard.pop(0)


def opening(
    name: names.ServicePortName, address: forwarding.PortalAddress, of: str = NAME
) -> forwarding.OpenFrontend:
    frontend = forwarding.Frontend(
        forwarding.FrontendKind.CLUSTER_IP, address.address, address.port
    )
    shared = forwarding.SharedListener(of, address.socket_address)
    return forwarding.OpenFrontend(name, frontend, address, shared)


def balance(served: plane.DataPlane, backends: dict[names.ServicePortName, Backend]) -> None:
    for name, backend in backends.items():
        pool = forwarding.Pool(forwarding.Scope.CLUSTER, addresses.Family.IPV4, (backend.address,))
        served.send(forwarding.SetBackends(name, forwarding.Policy(), (pool,)))


async def greeting(address: forwarding.PortalAddress) -> str:
    """What a client reads; its connection is ended."""
    async with asyncio.timeout(PATIENCE):
        try:
            reader, writer = await asyncio.open_connection(*address.socket_address)
            with contextlib.closing(writer):
                return (await reader.read(100)).decode()
        except ConnectionResetError:  # asyncio may see it with the connect already
            return "reset"


@pytest.fixture
async def reports(
    served: plane.DataPlane,
    listener: socket.socket,
    backends: dict[names.ServicePortName, Backend],
) -> Reports:
    """The answers of a data plane that has the socket and knows the backends."""
    made = Reports(served)
    spare = os.dup(listener.fileno())
    served.share(NAME, spare)
    os.close(spare)  # the data plane has a duplicate
    balance(served, backends)
    return made


async def test_the_address_of_its_socket_says_what_a_client_wants(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    one, two = at(listener, 1), at(listener, 2)
    served.send(opening(WEB, one))
    served.send(opening(DB, two))
    assert [await reports.next(), await reports.next()] == [
        forwarding.Opened(one),
        forwarding.Opened(two),
    ]

    assert await greeting(one) == "web"
    assert await greeting(two) == "db"

    await served.refresh(plane.Part.PORTS, turns.Turns())
    for name in (WEB, DB):
        seen = served.service_port(name)
        assert seen is not None
        assert (seen.accepted, seen.listen_drops) == (1, 0)


async def test_a_client_whose_frontend_is_not_there_is_reset(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    one, two = at(listener, 1), at(listener, 2)
    served.send(opening(WEB, one))
    await reports.next()
    assert await greeting(two) == "reset"
    assert await greeting(one) == "web"

    served.send(forwarding.CloseFrontend(one))
    served.send(opening(DB, two))
    await reports.next()
    assert await greeting(two) == "db"

    async def is_reset() -> bool:  # as soon as the queue has been empty
        return await greeting(one) == "reset"

    await surfaces.until(is_reset)


async def test_an_address_changes_hands(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    one = at(listener, 1)
    served.send(opening(WEB, one))
    await reports.next()
    assert await greeting(one) == "web"

    served.send(forwarding.CloseFrontend(one))
    served.send(opening(DB, one))
    await reports.next()

    assert await greeting(one) == "db"
    assert await greeting(one) == "db"


async def test_a_listener_that_was_never_shared_is_an_error_in_words(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    served.send(opening(WEB, at(listener, 1), of="IPv6"))
    answer = await reports.next()
    assert isinstance(answer, forwarding.OpenFailed)
    assert "no shared listener IPv6" in answer.reason


async def test_a_connection_is_shown_where_its_client_connected_and_drained(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    one = at(listener, 1)
    served.send(opening(WEB, one))
    await reports.next()
    reader, writer = await asyncio.open_connection(*one.socket_address)
    assert await reader.read(100) == b"web"

    await served.refresh(plane.Part.CONNECTIONS, turns.Turns())
    (view,) = filter(None, served.connections(lambda _: True))
    assert view.frontend == one.socket_address
    assert await served.drain(0.0) == 1

    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_clients_beyond_the_limit_wait_for_their_turn(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    """Whichever frontend they want."""
    one, two = at(listener, 1), at(listener, 2)
    for name, address in ((WEB, one), (DB, two)):
        served.send(opening(name, address))
        await reports.next()
    first = [await asyncio.open_connection(*one.socket_address) for _ in range(2)]
    for reader, _ in first:
        assert await reader.read(100) == b"web"
    waiting = [await asyncio.open_connection(*two.socket_address) for _ in range(2)]

    async with asyncio.timeout(PATIENCE):
        for (_, writer), (reader, _) in zip(first, waiting, strict=True):
            writer.close()
            assert await reader.read(100) == b"db"
    for _, writer in waiting:
        writer.close()


async def test_it_costs_no_descriptor(
    served: plane.DataPlane, listener: socket.socket, reports: Reports
) -> None:
    if isinstance(served, remote.RemotePlane):
        pytest.skip("its descriptors are in another process")
    before = harness.descriptors()
    for last in range(1, 101):
        served.send(opening(WEB, at(listener, last)))
        assert isinstance(await reports.next(), forwarding.Opened)
    assert harness.descriptors() <= before


async def test_ipv6_clients_are_known_by_their_address(
    served: plane.DataPlane, backends: dict[names.ServicePortName, Backend]
) -> None:
    reports = Reports(served)
    with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
        served.share("IPv6", listener.fileno())
        port = listener.getsockname()[1]
    pool = forwarding.Pool(
        forwarding.Scope.CLUSTER, addresses.Family.IPV6, (backends[WEB].address,)
    )
    served.send(forwarding.SetBackends(WEB, forwarding.Policy(), (pool,)))
    address = forwarding.PortalAddress("::1", port)
    frontend = forwarding.Frontend(
        forwarding.FrontendKind.CLUSTER_IP, "::1", port, family=addresses.Family.IPV6
    )
    shared = forwarding.SharedListener("IPv6", address.socket_address)
    served.send(forwarding.OpenFrontend(WEB, frontend, address, shared))
    assert await reports.next() == forwarding.Opened(address)
    assert await greeting(address) == "web"
