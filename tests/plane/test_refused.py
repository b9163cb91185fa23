"""Clients that the data plane of this process turns away, as a Gateway's pool says."""

import asyncio
import collections
import contextlib
import random
import socket
from collections.abc import AsyncIterator

import pytest
import structlog.testing

from kproxy.datapath import episodes
from kproxy.model import addresses, forwarding, names
from kproxy.plane import in_process
from tests.datapath.rig import harness
from tests.datapath.udp import rig

EDGE = names.ServicePortName(names.NamespacedName("default", "gateway/edge"), "tcp")
FRONTEND = forwarding.Frontend(forwarding.FrontendKind.NODE_PORT, "127.0.0.1", 9300)
RESET = "reset"
PATIENCE = 10.0


class Stage:
    """A data plane with one open frontend, and a backend that greets."""

    def __init__(self, plane: in_process.InProcessPlane, backend: addresses.SocketAddress) -> None:
        self._plane = plane
        self._backend = backend
        with socket.socket() as probe:
            probe.bind(("127.83.0.1", 0))
            self.place = addresses.SocketAddress(*probe.getsockname())

    def balance(self, weight: int, refused: int) -> None:
        """Set the weights of the backend, and of the clients that are turned away."""
        scope, family = forwarding.Scope.CLUSTER, addresses.Family.IPV4
        pool = forwarding.Pool(scope, family, (self._backend,), (weight,), refused)
        self._plane.send(forwarding.SetBackends(EDGE, forwarding.Policy(), (pool,)))

    def open(self) -> None:
        """Open the frontend."""
        at = forwarding.PortalAddress(*self.place)
        self._plane.send(forwarding.OpenFrontend(EDGE, FRONTEND, at, self.place))

    def close(self) -> None:
        """Close the frontend."""
        self._plane.send(forwarding.CloseFrontend(forwarding.PortalAddress(*self.place)))

    async def met(self, clients: int) -> dict[str, int]:
        """What so many clients meet."""
        met: collections.Counter[str] = collections.Counter()
        for _ in range(clients):
            try:
                reader, writer = await asyncio.open_connection(*self.place)
                with contextlib.closing(writer):
                    met[(await reader.read()).decode()] += 1
            except ConnectionResetError:
                met[RESET] += 1
        return dict(met)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()

    plane = in_process.InProcessPlane(rng=random.Random(1))
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        made = Stage(plane, addresses.SocketAddress(*server.sockets[0].getsockname()))
        yield made
        assert await plane.drain(PATIENCE) == 0
    finally:
        plane.close()
        server.close()
        await server.wait_closed()


async def test_the_share_changes_while_the_frontend_is_open(stage: Stage) -> None:
    stage.balance(3, 1)
    stage.open()
    with structlog.testing.capture_logs() as logs:
        assert await stage.met(40) == {"hello": 30, RESET: 10}
    assert [each["event"] for each in logs] == [episodes.TURNED_AWAY.began]
    stage.balance(1, 0)
    assert await stage.met(10) == {"hello": 10}
    stage.balance(1, 4)
    assert await stage.met(50) == {"hello": 10, RESET: 40}


async def test_a_frontend_that_is_closed_and_opened_again_has_its_share(stage: Stage) -> None:
    stage.balance(1, 1)
    stage.open()
    stage.close()
    stage.open()
    stage.balance(1, 3)
    assert await stage.met(40) == {"hello": 10, RESET: 30}


async def test_datagrams_of_a_flow_are_all_dropped_or_none(stage: Stage) -> None:
    server = rig.Server()
    plane = in_process.InProcessPlane(rng=random.Random(1))
    udp = EDGE._replace(protocol=names.Protocol.UDP)
    scope, family = forwarding.Scope.CLUSTER, addresses.Family.IPV4

    def balance(refused: int) -> None:
        pool = forwarding.Pool(scope, family, (server.address,), (1,), refused)
        plane.send(forwarding.SetBackends(udp, forwarding.Policy(), (pool,)))

    balance(3)
    frontend = forwarding.Frontend(
        FRONTEND.kind, FRONTEND.address, FRONTEND.port, protocol=names.Protocol.UDP
    )
    place = forwarding.PortalAddress(*stage.place, names.Protocol.UDP)
    plane.send(forwarding.OpenFrontend(udp, frontend, place, stage.place))
    clients = [rig.Peer() for _ in range(12)]
    try:
        for number in range(4):
            for client in clients:
                client.sock.sendto(b"%d" % number, stage.place)
        answers: dict[rig.Peer, list[bytes]] = {client: [] for client in clients}
        async with harness.within("the answers to three clients"):
            while sum(map(len, answers.values())) < 12:
                for client, found in answers.items():
                    if client.waiting():
                        found.append((await client.receive())[0])
                await asyncio.sleep(0)
        every = [b"%d %d" % (server.address.port, number) for number in range(4)]
        assert sorted(answers.values()) == [[]] * 9 + [every] * 3
        assert len(server.taken) == 12
        balance(0)
        for client in clients:
            assert await client.ask(b"now", stage.place) == b"%d now" % server.address.port
    finally:
        for each in (*clients, server):
            each.close()
        plane.close()
