"""The data plane of this process, over a real data path and real sockets on loopback."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
import structlog

from kproxy import events
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import services
from kproxy.plane import in_process
from tests.reconcile import builders

WEB, DB = builders.port_of("web"), builders.port_of("db")
SCOPE = forwarding.Scope
CLUSTER_IP = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", 80)
NODE_PORT = forwarding.Frontend(forwarding.FrontendKind.NODE_PORT, "", 30080, SCOPE.LOCAL)
STICKY = forwarding.Policy(affinity_seconds=60)
PATIENCE = 15.0
"""Seconds within which everything here must happen: far more than it takes."""


def free_address(host: str) -> addresses.SocketAddress:
    """An address of 127/8 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return addresses.SocketAddress(*probe.getsockname())


@pytest.fixture
def address() -> addresses.SocketAddress:
    return free_address("127.81.0.1")


@pytest.fixture
def other_address() -> addresses.SocketAddress:
    return free_address("127.81.0.2")


@pytest.fixture
async def plane() -> AsyncIterator[in_process.InProcessPlane]:
    """A data plane; closed at the end, when no connection may be left."""
    made = in_process.InProcessPlane(rng=random.Random(1))
    try:
        yield made
        assert await made.drain(PATIENCE) == 0
    finally:
        made.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say which backend this is, then echo until the client ends."""
    writer.write(f"{writer.get_extra_info('sockname')[1]}\n".encode())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def backends() -> AsyncIterator[tuple[addresses.SocketAddress, ...]]:
    """Four backends that greet with their own port number."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(4):
            server = await asyncio.start_server(greet, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
            found.append(addresses.SocketAddress(*server.sockets[0].getsockname()))
        yield tuple(found)


class Client:
    """A connection to a frontend, and the backend it reached."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.backend = addresses.SocketAddress("127.0.0.1", port)

    async def echoes(self, data: bytes) -> bool:
        """Whether `data` comes back."""
        self._writer.write(data)
        return await self._reader.readexactly(len(data)) == data


def opens(
    name: names.ServicePortName, frontend: forwarding.Frontend, at: addresses.SocketAddress
) -> forwarding.OpenFrontend:
    return forwarding.OpenFrontend(name, frontend, forwarding.PortalAddress(*at), at)


def closes(at: addresses.SocketAddress) -> forwarding.CloseFrontend:
    return forwarding.CloseFrontend(forwarding.PortalAddress(*at))


@contextlib.asynccontextmanager
async def connected(
    address: addresses.SocketAddress, client: str = "127.0.0.1"
) -> AsyncIterator[Client]:
    """Connect from the address `client`; closed at the end."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address, local_addr=(client, 0))
        try:
            yield Client(reader, writer, int(await reader.readline()))
            writer.write_eof()
            assert await reader.read() == b""
        finally:
            writer.close()
            await writer.wait_closed()


async def reached(
    address: addresses.SocketAddress, client: str = "127.0.0.1"
) -> addresses.SocketAddress:
    async with connected(address, client) as connection:
        return connection.backend


async def is_refused(address: addresses.SocketAddress) -> bool:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    return True


def sets(
    cluster: tuple[addresses.SocketAddress, ...],
    local: tuple[addresses.SocketAddress, ...] = (),
    policy: forwarding.Policy | None = None,
) -> forwarding.SetBackends:
    return forwarding.SetBackends(WEB, policy or forwarding.Policy(), pools(cluster, local))


def pools(
    cluster: tuple[addresses.SocketAddress, ...], local: tuple[addresses.SocketAddress, ...] = ()
) -> tuple[forwarding.Pool, ...]:
    """Of IPv4; empty ones are left out."""
    sides = {forwarding.Scope.CLUSTER: cluster, forwarding.Scope.LOCAL: local}
    return tuple(
        forwarding.Pool(scope, addresses.Family.IPV4, backends)
        for scope, backends in sides.items()
        if backends
    )


async def test_a_frontend_is_refused_until_opened_and_once_closed(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:1]))
    assert await is_refused(address)
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert await reached(address) == backends[0]
    plane.send(closes(address))
    assert await is_refused(address)
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert await reached(address) == backends[0]


async def test_an_address_can_change_hands_at_once(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:1]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert await reached(address) == backends[0]
    plane.send(closes(address))
    plane.send(forwarding.SetBackends(DB, forwarding.Policy(), pools(backends[1:2])))
    plane.send(opens(DB, CLUSTER_IP, address))
    plane.send(forwarding.Forget(WEB))
    assert await reached(address) == backends[1]


async def test_a_frontend_balances_over_the_backends_of_its_scope(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    other_address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:3], backends[3:]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    plane.send(opens(WEB, NODE_PORT, other_address))
    assert {await reached(address) for _ in range(3)} == set(backends[:3])
    assert {await reached(other_address) for _ in range(2)} == set(backends[3:])


async def test_setting_backends_again_keeps_the_rotation(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:3]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    seen = [await reached(address)]
    plane.send(sets(backends[:3]))
    seen.append(await reached(address))
    plane.send(sets(backends))
    after = [await reached(address) for _ in range(4)]
    assert {*seen, after[0]} == set(backends[:3])
    assert set(after) == set(backends)


async def test_setting_backends_again_keeps_clients_where_they_are(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:2], policy=STICKY))
    plane.send(opens(WEB, CLUSTER_IP, address))
    clients = [f"127.0.0.{last}" for last in range(2, 5)]
    homes = {client: await reached(address, client) for client in clients}
    plane.send(sets(backends, policy=STICKY))
    plane.send(closes(address))
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert {client: await reached(address, client) for client in clients} == homes


async def test_a_policy_takes_effect_on_the_next_connection(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends))
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert len({await reached(address) for _ in range(4)}) == 4
    plane.send(sets(backends, policy=STICKY))
    assert len({await reached(address) for _ in range(4)}) == 1
    state = plane.port(WEB)
    assert state is not None
    assert {each.policy for each in state.balancers.values()} == {STICKY}
    plane.send(sets(backends, policy=forwarding.Policy(services.Strategy.ROUND_ROBIN)))
    assert len({await reached(address) for _ in range(4)}) == 4


async def test_counters_survive_everything_but_being_forgotten(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    other_address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    def accepted() -> int | None:
        state = plane.port(WEB)
        return state.counters.accepted if state else None

    assert accepted() is None
    plane.send(sets(backends[:1], backends[:1]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    plane.send(opens(WEB, NODE_PORT, other_address))
    assert accepted() == 0
    await reached(address)
    await reached(other_address)
    assert accepted() == 2
    plane.send(sets(backends, policy=STICKY))
    plane.send(closes(address))
    plane.send(closes(other_address))
    plane.send(opens(WEB, CLUSTER_IP, address))
    await reached(address)
    assert accepted() == 3
    plane.send(closes(address))
    plane.send(forwarding.Forget(WEB))
    assert accepted() is None
    plane.send(sets(backends))
    assert accepted() == 0


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_connections_outlive_the_frontend_they_came_in_by(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
    is_forgotten: bool,
) -> None:
    """Fault-catalogue C05 and docs/behaviour.md row 45."""
    plane.send(sets(backends[:1]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    async with connected(address) as client:
        assert await client.echoes(b"before")
        plane.send(closes(address))
        if is_forgotten:
            plane.send(forwarding.Forget(WEB))
        assert await is_refused(address)
        assert await client.echoes(b"after")


async def test_a_connection_outlives_its_endpoint_and_new_ones_go_elsewhere(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    plane.send(sets(backends[:1]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    async with connected(address) as client:
        plane.send(sets(backends[1:2]))
        assert await client.echoes(b"still here")
        assert await reached(address) == backends[1]


@contextlib.contextmanager
def held(address: addresses.SocketAddress) -> Iterator[None]:
    """Another program listens there."""
    with socket.socket() as holder:
        holder.bind(address)
        holder.listen()
        yield


async def test_an_address_that_is_taken_is_reported_and_can_be_opened_once_it_is_free(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    other_address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    reports: list[forwarding.Report] = []
    plane.subscribe(reports.append)
    plane.send(sets(backends[:1], backends[:1]))
    with held(address):
        plane.send(opens(WEB, CLUSTER_IP, address))
        plane.send(opens(WEB, NODE_PORT, other_address))
        assert await reached(other_address) == backends[0]
    plane.send(closes(address))
    plane.send(opens(WEB, CLUSTER_IP, address))
    assert await reached(address) == backends[0]
    assert reports == [
        forwarding.OpenFailed(forwarding.PortalAddress(*address), "Address already in use"),
        forwarding.Opened(forwarding.PortalAddress(*other_address)),
        forwarding.Opened(forwarding.PortalAddress(*address)),
    ]


async def test_a_forgotten_port_leaves_nothing_to_probe(
    plane: in_process.InProcessPlane, backends: tuple[addresses.SocketAddress, ...]
) -> None:
    plane.send(sets(backends))
    assert plane.box.fail(backends[0], 0.0)
    plane.send(forwarding.Forget(WEB))
    assert len(plane.box) == 0
    assert not plane.box.fail(backends[0], 0.0)


async def is_reset(address: addresses.SocketAddress) -> bool:
    """Whether a new client is reset without an answer."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            reader, writer = await asyncio.open_connection(*address)
            try:
                assert await reader.read() == b""
            finally:
                writer.close()
            return False
    return True


async def test_services_that_point_at_each_other_are_not_dialled(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    other_address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    """H15. In whatever order they come; and what is not ours is served."""
    with structlog.testing.capture_logs() as log:
        plane.send(sets((other_address,)))
        plane.send(forwarding.SetBackends(DB, forwarding.Policy(), pools((address,))))
        plane.send(opens(WEB, CLUSTER_IP, address))
        plane.send(opens(DB, CLUSTER_IP, other_address))
        assert await is_reset(address)
        assert await is_reset(other_address)
    for name in (WEB, DB):
        state = plane.port(name)
        assert state is not None
        assert state.counters.accepted == 1
        assert not state.counters.dial_failures
    told = [line for line in log if line["event"].startswith("endpoint is one of kproxy's own")]
    assert [(line["service"], line["endpoints"]) for line in told] == [
        (str(DB), [f"{address} of {WEB}"]),
        (str(WEB), [f"{other_address} of {DB}"]),
    ]

    plane.send(sets((other_address, backends[0])))
    assert {await reached(address) for _ in range(3)} == {backends[0]}


async def test_an_address_that_was_given_back_may_be_an_endpoint(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    own = backends[0]
    state = plane.port(WEB)
    plane.send(sets(backends[:1]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    plane.send(forwarding.Bar(own, "a test"))
    assert await is_reset(address)
    state = plane.port(WEB)
    assert state is not None
    assert not state.is_used(own)
    plane.box.unbar(own)
    assert state.is_used(own)
    assert await reached(address) == own


async def test_connections_are_counted_by_endpoint(
    plane: in_process.InProcessPlane,
    address: addresses.SocketAddress,
    other_address: addresses.SocketAddress,
    backends: tuple[addresses.SocketAddress, ...],
) -> None:
    dead = other_address
    plane.send(sets((backends[0], dead)))
    plane.send(opens(WEB, CLUSTER_IP, address))
    state = plane.port(WEB)
    assert state is not None
    counted = state.counters.endpoints
    async with connected(address), connected(address):
        assert (counted[backends[0]].total, counted[backends[0]].active) == (2, 2)
        assert counted[dead].dial_failures == 1
        assert counted[dead].total == 0
        plane.send(sets(backends[1:2]))
        assert set(counted) == {backends[0]}, "it has connections"
    assert counted[backends[0]].active == 0
    plane.send(sets(backends[1:3]))
    assert set(counted) == set()
    assert {await reached(address) for _ in range(4)} == set(backends[1:3])
    assert [counted[backend].total for backend in backends[1:3]] == [2, 2]


async def test_changes_of_a_service_port_are_facts(
    address: addresses.SocketAddress, backends: tuple[addresses.SocketAddress, ...]
) -> None:
    feed = events.Feed()
    told = feed.subscribe()
    plane = in_process.InProcessPlane(rng=random.Random(1), feed=feed)
    try:
        plane.send(sets(backends[:2], backends[:1]))
        plane.send(opens(WEB, CLUSTER_IP, address))
        plane.send(opens(WEB, NODE_PORT, backends[0]))
        plane.send(sets(backends[1:3], policy=STICKY))
        plane.send(sets(backends[1:3], policy=STICKY))
        plane.send(closes(address))
        plane.send(forwarding.Forget(WEB))
    finally:
        plane.close()
    web = str(WEB)
    expected = [
        events.ServiceChanged(0.0, web, "added"),
        events.EndpointsChanged(0.0, web, tuple(sorted(backends[:2])), (), 2),
        events.FrontendOpened(0.0, web, address),
        events.FrontendFailed(0.0, web, backends[0], "Address already in use"),
        events.ServiceChanged(0.0, web, "changed"),
        events.EndpointsChanged(0.0, web, backends[2:3], backends[:1], 2),
        events.FrontendClosed(0.0, web, address),
        events.ServiceChanged(0.0, web, "removed"),
    ]
    seen = []
    while (fact := told.take()) is not None:
        seen.append(msgspec.structs.replace(fact, at=0.0))
    assert seen == expected


async def test_a_fact_names_the_first_endpoints_and_counts_the_others() -> None:
    """Facts are kept: those about a Service of many endpoints must stay small."""
    feed = events.Feed()
    many = tuple(
        addresses.SocketAddress(f"10.{high}.0.{low}", 80)
        for high in range(20)
        for low in range(100)
    )
    plane = in_process.InProcessPlane(rng=random.Random(1), feed=feed)
    try:
        plane.send(sets(many[::-1], many[:50]))
        plane.send(sets(many[5:]))
        plane.send(sets(many[5:]))
    finally:
        plane.close()
    made, added, removed = feed.recent()
    assert isinstance(made, events.ServiceChanged)
    web, first = str(WEB), tuple(sorted(many)[: events.NAMED])
    assert added == events.EndpointsChanged(added.at, web, first, (), 2000, 2000 - events.NAMED)
    assert removed == events.EndpointsChanged(removed.at, web, (), many[:5], 1995)


LEAST = forwarding.Policy(services.Strategy.LEAST_CONNECTIONS)


async def test_least_connections_goes_by_the_open_connections(
    plane: in_process.InProcessPlane,
    backends: tuple[addresses.SocketAddress, ...],
    address: addresses.SocketAddress,
) -> None:
    plane.send(sets(backends[:2], policy=LEAST))
    plane.send(opens(WEB, CLUSTER_IP, address))
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(address)) for _ in range(4)]
        assert sorted(each.backend for each in opened) == sorted([*backends[:2]] * 2)
        plane.send(sets(backends[:3], policy=LEAST))
        for _ in range(2):
            new = await stack.enter_async_context(connected(address))
            assert new.backend == backends[2]
    # All have ended: those that begin take turns again.
    async with contextlib.AsyncExitStack() as stack:
        several = [await stack.enter_async_context(connected(address)) for _ in range(3)]
        assert {each.backend for each in several} == set(backends[:3])


async def test_connections_are_counted_from_when_the_strategy_is_set(
    plane: in_process.InProcessPlane,
    backends: tuple[addresses.SocketAddress, ...],
    address: addresses.SocketAddress,
) -> None:
    plane.send(sets(backends[:2]))
    plane.send(opens(WEB, CLUSTER_IP, address))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(connected(address))
        plane.send(sets(backends[:2], policy=LEAST))
        first = await stack.enter_async_context(connected(address))
        second = await stack.enter_async_context(connected(address))
        assert {first.backend, second.backend} == set(backends[:2])
        plane.send(sets(backends[:2]))
        await stack.enter_async_context(connected(address))


async def test_dials_that_fail_or_are_given_up_are_not_counted_for_ever(
    plane: in_process.InProcessPlane,
    backends: tuple[addresses.SocketAddress, ...],
    address: addresses.SocketAddress,
) -> None:
    dead = free_address("127.81.0.9")
    plane.send(sets((dead, *backends[:2]), policy=LEAST))
    plane.send(opens(WEB, CLUSTER_IP, address))
    for _ in range(6):
        await reached(address)
    state = plane.port(WEB)
    assert state is not None
    assert state.terms.loads is not None
    counted = {each: state.loads.of(each).count for each in (dead, *backends[:2])}
    assert set(counted.values()) == {0}


async def test_weights_split_the_connections(
    plane: in_process.InProcessPlane,
    backends: tuple[addresses.SocketAddress, ...],
    address: addresses.SocketAddress,
) -> None:
    family = addresses.Family.IPV4
    pool = forwarding.Pool(SCOPE.CLUSTER, family, tuple(sorted(backends[:3])), (3, 1, 0))
    plane.send(forwarding.SetBackends(WEB, forwarding.Policy(), (pool,)))
    plane.send(opens(WEB, CLUSTER_IP, address))
    met = [await reached(address) for _ in range(8)]
    assert [met.count(each) for each in pool.backends] == [6, 2, 0]
    assert not plane.endpoint(WEB, pool.backends[2]).is_used


async def test_flows_of_datagrams_are_counted_as_connections_are(
    plane: in_process.InProcessPlane,
) -> None:
    name = names.ServicePortName(WEB.service, WEB.port, names.Protocol.UDP)
    with contextlib.ExitStack() as stack:

        def bound(host: str) -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made.bind((host, 0))
            made.setblocking(False)
            return made

        servers = [bound("127.81.1.1"), bound("127.81.1.2")]
        at = [addresses.SocketAddress(*each.getsockname()) for each in servers]
        with bound("127.81.1.3") as free:
            front = addresses.SocketAddress(*free.getsockname())
        pools_of_both = pools(tuple(at), ())
        plane.send(forwarding.SetBackends(name, LEAST, pools_of_both))
        frontend = forwarding.Frontend(
            forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", 53, protocol=names.Protocol.UDP
        )
        where = forwarding.PortalAddress(*front, names.Protocol.UDP)
        plane.send(forwarding.OpenFrontend(name, frontend, where, front))
        clients = [bound("127.0.0.1") for _ in range(6)]
        loop = asyncio.get_running_loop()
        for client in clients:
            await loop.sock_sendto(client, b"x", front)
        async with asyncio.timeout(PATIENCE):
            for server in servers:
                for _ in range(3):
                    assert await loop.sock_recv(server, 10) == b"x"
        state = plane.port(name)
        assert state is not None
        held = [state.loads.of(each) for each in at]
        assert [each.count for each in held] == [3, 3]
        plane.send(forwarding.CloseFrontend(where))
        plane.send(forwarding.Forget(name))
        assert [each.count for each in held] == [0, 0]
